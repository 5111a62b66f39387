//! 429 is of one quota, that of a backend's deployment, with the router engine too.

use serde_json::json;

use super::*;

const V1_EMBEDDINGS: &str = "/openai/v1/embeddings";
const V1_CHAT: &str = "/openai/v1/chat/completions";

/// A request to `path` whose body names `model`, complete.
fn ask(gateway: &Gateway, path: &str, model: &str) -> Routed {
    let body = json!({"model": model, "input": []}).to_string();
    let headers = post(path).with("content-length", body.len().to_string());
    let request = gateway.router.request(headers, false);
    request.body(body, true);
    request
}

fn single_attempts(count: usize) -> Gateway {
    Gateway::ready(routing_to(count, json!({"max_attempts": 1})))
}

#[test]
fn a_throttled_deployment_stops_no_other() {
    let gateway = single_attempts(2);
    let dated =
        |deployment| format!("/openai/deployments/{deployment}/chat/completions?api-version=1");
    for _ in 0..2 {
        throttle(&ask(&gateway, &dated("embed"), "embed").attempt(), "30");
    }
    let _trials = [0, 1].map(|_| ask(&gateway, &dated("embed"), "embed"));
    for _ in 0..4 {
        assert_eq!(ask(&gateway, &dated("embed"), "embed").answer().status, 429);
        let request = ask(&gateway, &dated("gpt-4o"), "gpt-4o");
        answer(&request.attempt(), 200, "fine");
        assert_eq!(outcome(&request).2, "1");
    }
    assert_eq!(gateway.counted("aoai.refused.throttled"), 4);
}

#[test]
fn a_429_of_a_name_that_was_not_read_is_advice() {
    let gateway = single_attempts(1);
    throttle(&ask(&gateway, V1_EMBEDDINGS, "embed").attempt(), "30");
    gateway.host.advance(millis(10));
    let request = ask(&gateway, V1_CHAT, "gpt-4o");
    answer(&request.attempt(), 200, "fine");
    // Now the name is read, and the 429 is that deployment's.
    throttle(&ask(&gateway, V1_EMBEDDINGS, "embed").attempt(), "30");
    let _trial = ask(&gateway, V1_EMBEDDINGS, "embed");
    for _ in 0..4 {
        assert_eq!(ask(&gateway, V1_EMBEDDINGS, "embed").answer().status, 429);
        let request = ask(&gateway, V1_CHAT, "gpt-4o");
        answer(&request.attempt(), 200, "fine");
        assert_eq!(outcome(&request).2, "1");
    }
    assert_eq!(gateway.counted("aoai.refused.throttled"), 4);
    let counter = |name| gateway.host.statistic(&format!("aoai.backend.east.{name}"));
    assert_eq!(counter("soft"), 0);
    assert_eq!(counter("cooldowns.throttled"), 1);
}

#[test]
fn after_a_429_of_an_unread_name_names_are_read_for_a_while() {
    let gateway = Gateway::ready(routing_to(2, json!({"replay_limit": "1KiB"})));
    // Too long to be held for a retry, so only its name can be a reason to hold it.
    let long = "x".repeat(2048);
    let is_held = || {
        let body = format!(r#"{{"model": "gpt-4o", "input": "{long}"}}"#);
        let headers = post(V1_CHAT).with("content-length", body.len().to_string());
        let request = gateway.router.request(headers, false);
        let (begin, end) = body.split_at(100);
        request.body(begin, false);
        let held = request.forwarded().is_none();
        request.body(end, true);
        answer(&request.attempt(), 200, "fine");
        held
    };
    assert!(!is_held(), "nothing is known yet");
    let request = ask(&gateway, V1_EMBEDDINGS, "embed");
    throttle(&request.attempt(), "1");
    answer(&request.attempt(), 200, "fine");
    assert!(is_held());
    gateway.host.advance(seconds(620));
    assert!(!is_held(), "it is long ago");
}
