//! The rest of Azure OpenAI's surface with the router engine, as far as it differs: who changes what on the way.

use super::*;
use crate::adapter::surface::{aliased, request as headers, tag};

fn with(more: Value) -> Gateway {
    let mut config = routing(json!({}));
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Gateway::ready(Setup::new(config.to_string()))
}

/// A client's request, complete, with its body in two parts.
fn ask(gateway: &Gateway, method: &str, path: &str, body: &str) -> Routed {
    let request = gateway
        .router
        .request(headers(method, path, body), body.is_empty());
    if !body.is_empty() {
        let (one, other) = body.split_at(body.len() / 2);
        request.body(one, false);
        request.body(other, true);
    }
    request
}

/// What reached the backend: cluster, path, body, whose length was announced.
fn reached(attempt: &Attempt) -> (String, String, String) {
    let message = attempt.sent().expect("it left");
    let header = |name| message.headers.get(name).unwrap_or_default().to_owned();
    let body = message.text().to_owned();
    if !body.is_empty() {
        assert_eq!(header("content-length"), body.len().to_string());
    }
    (attempt.cluster().to_owned(), header(":path"), body)
}

const V1_CHAT: &str = "/openai/v1/chat/completions";

#[test]
fn the_model_in_a_body_is_each_backends_own_name() {
    let gateway = with(aliased());
    let body = r#"{"messages":[{"model":"gpt","n":1.0}],"model" : "gpt"}"#;
    let request = ask(&gateway, "POST", V1_CHAT, body);
    let named = |own: &str| body.replace(r#": "gpt""#, &format!(r#": "{own}""#));
    for (cluster, own) in [
        ("aoai_east", "gpt-4o-east"),
        ("aoai_west", "g"),
        ("aoai_north", "gpt"),
    ] {
        let attempt = request.attempt();
        assert_eq!(
            reached(&attempt),
            (cluster.into(), V1_CHAT.into(), named(own))
        );
        answer(&attempt, 500, "x");
    }
    assert_eq!(outcome(&request), is(500, "north", "3", "x"));
}

#[test]
fn what_all_backends_take_is_not_read() {
    let gateway = with(json!({}));
    let headers = headers("POST", V1_CHAT, "x").replaced("content-length", "5000000");
    let request = gateway.router.request(headers, false);
    assert!(request.forwarded().is_some(), "nothing in it decides");
    gateway.host.clear_counts();
    request.body("much", false);
    let calls = crate::adapter::budget::host_calls(&gateway.host);
    assert!(calls.is_empty(), "{calls:?}");
}

#[test]
fn what_is_made_on_a_backend_is_found_there_again() {
    let gateway = with(aliased());
    answer(&gateway.send().attempt(), 200, "fine");
    let request = ask(
        &gateway,
        "POST",
        "/openai/v1/responses",
        r#"{"model":"gpt"}"#,
    );
    let attempt = request.attempt();
    assert_eq!(attempt.cluster(), "aoai_west");
    attempt.respond(200, [("content-type", "text/event-stream")], false);
    attempt.response_body(
        "event: response.created\ndata: {\"response\":{\"id\":\"resp",
        false,
    );
    attempt.response_body("_1\"}}\n\n", true);
    let id = format!("resp_1{}", tag("west"));
    assert_eq!(
        outcome(&request),
        is(
            200,
            "west",
            "1",
            &format!("event: response.created\ndata: {{\"response\":{{\"id\":\"{id}\"}}}}\n\n")
        )
    );

    let body = format!(r#"{{"previous_response_id":"{id}","model":"gpt"}}"#);
    let request = ask(&gateway, "POST", "/openai/v1/responses", &body);
    let sent = r#"{"previous_response_id":"resp_1","model":"g"}"#;
    let expected = (
        "aoai_west".into(),
        "/openai/v1/responses".into(),
        sent.into(),
    );
    assert_eq!(reached(&request.attempt()), expected);
    answer(&request.attempt(), 429, "x");
    assert_eq!(request.attempts().len(), 1, "no other backend knows it");
    assert_eq!(outcome(&request).0, 429);
    let path = format!("/openai/v1/responses/{id}");
    for _ in 0..2 {
        let request = ask(&gateway, "GET", &path, "");
        assert_eq!(request.attempt().cluster(), "aoai_west");
        request.attempt().respond(429, [], true);
        assert_eq!(outcome(&request).0, 429);
    }
    let request = ask(&gateway, "GET", &path, "");
    assert!(request.attempts().is_empty());
    assert_eq!(outcome(&request).0, 429);
}

#[test]
fn ids_in_an_answer_to_a_retry_are_tagged_for_the_backend_that_gave_it() {
    let gateway = with(json!({}));
    let request = ask(&gateway, "POST", "/openai/v1/files", "{}");
    answer(&request.attempt(), 429, "x");
    answer(&request.attempt(), 200, r#"{"id":"file-1"}"#);
    let body = format!(r#"{{"id":"file-1{}"}}"#, tag("west"));
    assert_eq!(outcome(&request), is(200, "west", "2", &body));
}

#[test]
fn the_router_is_told_what_must_not_be_done_twice() {
    let gateway = with(json!({}));
    for (path, body, client, told) in [
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
        let mut headers = headers("POST", path, body);
        if let Some(client) = client {
            headers.add("x-envoy-retry-on", client);
        }
        let request = gateway.router.request(headers, false);
        request.body(body, true);
        let forwarded = request.forwarded().expect("it went on").headers;
        assert_eq!(
            forwarded.get("x-envoy-retry-on"),
            told,
            "{path} {body} {client:?}"
        );
    }
    let request = ask(&gateway, "POST", "/openai/v1/batches", "{}");
    answer(&request.attempt(), 500, "x");
    assert_eq!(request.attempts().len(), 1);
    assert_eq!(outcome(&request).0, 500);
    drop(request);
    assert_eq!(gateway.counted("aoai.no_retry.not_repeatable"), 1);
}

#[test]
fn a_session_is_named_in_the_query() {
    let gateway = with(aliased());
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
        let headers = headers("GET", path, "").with("upgrade", "websocket").with(
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.KEY",
        );
        let request = gateway.router.request(headers, false);
        let forwarded = request.forwarded().expect("it went on").headers;
        assert_eq!(forwarded.get(":path"), Some(own));
        assert_eq!(forwarded.get("sec-websocket-protocol"), Some("realtime"));
        assert_eq!(forwarded.get("x-envoy-max-retries"), Some("0"));
    }
}

#[test]
fn a_request_that_is_refused_reaches_no_router() {
    let gateway = with(json!({}));
    let request = ask(&gateway, "GET", "/health", "");
    assert!(request.attempts().is_empty());
    assert_eq!(request.answer().status, 404);
}
