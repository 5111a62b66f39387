//! Further parts of Azure OpenAI's API, where the router engine differs: the place of each change to a request.

use super::*;
use crate::adapter::surface::{aliased, V1_CHAT};

#[test]
fn the_router_repeats_no_creation_after_a_reset() {
    let gateway = Engine::Router.fleet(3, json!({}));
    for (path, body, client, wanted) in [
        (V1_CHAT, "{}", None, None),
        (V1_CHAT, "{}", Some("5xx"), Some("reset")),
        ("/openai/v1/files", "{}", None, Some("connect-failure")),
        (
            "/openai/v1/files",
            "{}",
            Some("5xx"),
            Some("connect-failure"),
        ),
        (
            "/openai/v1/responses",
            r#"{"background":true}"#,
            None,
            Some("connect-failure"),
        ),
        ("/openai/v1/responses", "{}", None, None),
    ] {
        let mut headers = request_of("POST", path, body);
        if let Some(client) = client {
            headers.add("x-envoy-retry-on", client);
        }
        let request = gateway.request(headers, false);
        request.body(body, true);
        let forwarded = request.forwarded().expect("it went on").headers;
        assert_eq!(
            forwarded.get("x-envoy-retry-on"),
            wanted,
            "{path} {body} {client:?}"
        );
    }
    let request = gateway.ask("POST", "/openai/v1/batches", "{}");
    answer(&request.attempt(), 500, "x");
    assert_eq!(request.attempts().len(), 1);
    assert_eq!(outcome(&request).0, 500);
    drop(request);
    assert_eq!(gateway.counted("aoai.no_retry.not_repeatable"), 1);
}

#[test]
fn a_sessions_deployment_is_renamed_in_the_query() {
    let gateway = Engine::Router.fleet(3, aliased());
    for (path, own) in [
        (
            "/openai/v1/realtime?model=gpt",
            "/openai/v1/realtime?model=gpt-4o-east",
        ),
        (
            "/openai/realtime?api-version=1&deployment=gpt",
            "/openai/realtime?api-version=1&deployment=g",
        ),
    ] {
        let headers = request_of("GET", path, "")
            .with("upgrade", "websocket")
            .with(
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.KEY",
            );
        let request = gateway.request(headers, false);
        let forwarded = request.forwarded().expect("it went on").headers;
        assert_eq!(forwarded.get(":path"), Some(own));
        assert_eq!(forwarded.get("sec-websocket-protocol"), Some("realtime"));
        assert_eq!(forwarded.get("x-envoy-max-retries"), Some("0"));
    }
}
