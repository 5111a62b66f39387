//! Requests whose bodies are encoded, with the router engine.

use super::*;
use crate::adapter::encodings::{encoded, GZIP};
use crate::adapter::surface::{aliased, request as headers};

const V1_CHAT: &str = "/openai/v1/chat/completions";

fn with(more: Value) -> Gateway {
    let mut config = routing(json!({}));
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Gateway::ready(Setup::new(config.to_string()))
}

#[test]
fn an_encoded_body_that_would_decide_is_refused_at_once() {
    for (config, path) in [
        (aliased(), V1_CHAT),
        (json!({}), "/openai/v1/responses"),
        (json!({}), "/openai/v1/batches"),
    ] {
        let gateway = with(config);
        let request = gateway.router.request(encoded(path, "gzip"), false);
        let answer = request.answer();
        assert_eq!(
            (answer.status, code(answer.text())),
            (415, "content_encoding_not_supported".into())
        );
        assert_eq!(answer.headers.get("accept-encoding"), Some("identity"));
        assert!(request.forwarded().is_none() && request.attempts().is_empty());
        drop(request);
        assert_eq!(gateway.counted("aoai.refused.not_served"), 1);
        assert_eq!(gateway.counted("aoai.client_gone"), 0);
    }
}

#[test]
fn an_encoded_body_that_decides_nothing_passes_untouched() {
    for (config, path) in [(json!({}), V1_CHAT), (aliased(), PATH)] {
        let gateway = with(config);
        let request = gateway.router.request(encoded(path, "gzip"), false);
        request.body(GZIP, true);
        for status in [500, 200] {
            let attempt = request.attempt();
            let sent = attempt.sent().expect("it left");
            assert_eq!(sent.body, GZIP);
            assert_eq!(sent.headers.get("content-encoding"), Some("gzip"));
            answer(&attempt, status, "x");
        }
        assert_eq!(outcome(&request).0, 200);
    }
}

#[test]
fn an_encoded_body_passes_while_a_missing_model_is_remembered() {
    let gateway = with(json!({}));
    let body = r#"{"model":"m"}"#;
    let request = gateway
        .router
        .request(headers("POST", V1_CHAT, body), false);
    request.body(body, true);
    answer(&request.attempt(), 404, &error("DeploymentNotFound"));
    answer(&request.attempt(), 200, "fine");
    let read = gateway
        .router
        .request(headers("POST", V1_CHAT, body), false);
    assert!(read.forwarded().is_none(), "bodies are read now");
    let request = gateway.router.request(encoded(V1_CHAT, "gzip"), false);
    request.body(GZIP, true);
    assert_eq!(request.attempt().sent().unwrap().body, GZIP);
}
