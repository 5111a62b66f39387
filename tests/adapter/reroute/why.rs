//! The header that explains an answer, with the router engine.

use super::*;

fn explaining(count: usize, retry: Value) -> Gateway {
    let mut config = routing(retry);
    config["backends"].as_array_mut().unwrap().truncate(count);
    config["headers"] = json!({"why": "x-why"});
    Gateway::ready(Setup::new(config.to_string()))
}

fn why(request: &Routed) -> Option<String> {
    request.answer().headers.get("x-why").map(str::to_owned)
}

#[test]
fn each_attempt_is_explained() {
    let gateway = explaining(3, json!({}));
    let request = gateway.send();
    answer(&request.attempt(), 429, &error("429"));
    answer(&request.attempt(), 500, &error("500"));
    answer(&request.attempt(), 200, "fine");
    let all = "east free throttled; west free unavailable; north free success";
    assert_eq!(why(&request).as_deref(), Some(all));
}

#[test]
fn an_error_that_is_passed_on_says_why_it_was_not_retried() {
    let gateway = explaining(2, json!({}));
    let request = gateway.send();
    answer(&request.attempt(), 500, &error("500"));
    answer(&request.attempt(), 500, &error("500"));
    assert_eq!(request.answer().status, 500);
    assert_eq!(
        why(&request).as_deref(),
        Some("east free unavailable; west free unavailable; not retried: backends_exhausted")
    );
}

#[test]
fn a_refusal_says_how_each_backend_stands() {
    let gateway = explaining(2, json!({"max_attempts": 1}));
    for _ in 0..2 {
        let request = gateway.send();
        request
            .attempt()
            .respond(429, [("retry-after", "30")], true);
        assert_eq!(request.answer().status, 429);
    }
    gateway.host.advance(millis(500));
    let trials = [gateway.send(), gateway.send()];
    let request = gateway.send();
    assert_eq!(request.answer().status, 429);
    assert_eq!(
        why(&request).as_deref(),
        Some("east throttled 30s; west throttled 30s")
    );
    drop(trials);
}
