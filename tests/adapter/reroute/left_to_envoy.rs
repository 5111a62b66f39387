//! What Envoy's configuration does in the filter's place, the filter does not.

use super::health::throttle;
use super::*;

/// A worker with three backends and a token, whose route and clusters do all that they can.
fn leaving() -> Gateway {
    let mut config = routing(json!({}));
    config["left_to_envoy"] = json!(["timeout", "host", "answer_headers"]);
    Gateway::ready(Setup::new(config.to_string()))
}

#[test]
fn no_attempt_is_told_its_host_or_its_time_limit() {
    let gateway = leaving();
    let request = gateway.send();
    answer(&request.attempt(), 429, "busy");
    answer(&request.attempt(), 200, "hello");
    let client = chat().get(":authority").unwrap().to_owned();
    for attempt in request.attempts() {
        assert_eq!(sent(&attempt, ":authority"), Some(client.clone()));
        let limit = sent(&attempt, "x-envoy-upstream-rq-per-try-timeout-ms");
        assert_eq!(limit, None);
    }
}

#[test]
fn the_answer_to_the_first_attempt_was_signed_by_its_cluster() {
    let gateway = leaving();
    let request = gateway.send();
    let signed = [("x-aoai-backend", "east"), ("x-aoai-attempts", "1")];
    request.attempt().respond(200, signed, false);
    request.attempt().response_body("hello", true);
    assert_eq!(outcome(&request), is(200, "east", "1", "hello"));

    let request = gateway.send();
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "", "", "hello"));
}

#[test]
fn later_answers_are_signed_as_ever() {
    let gateway = leaving();
    let request = gateway.send();
    answer(&request.attempt(), 503, "out");
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
}

#[test]
fn a_429_still_says_how_long_to_wait() {
    let mut config = routing(json!({"max_attempts": 1}));
    config["left_to_envoy"] = json!(["answer_headers"]);
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    let waits = ["60", "20", "40"].map(|wait| {
        let request = gateway.send();
        throttle(&request.attempt(), wait);
        let answer = request.answer();
        assert_eq!(answer.headers.get("x-aoai-backend"), None);
        answer.headers.get("retry-after").map(str::to_owned)
    });
    // The last one's client is told of the backend that will be free first.
    assert_eq!(waits.map(Option::unwrap), ["60", "20", "20"]);
}

#[test]
fn a_client_cannot_pass_its_first_attempt_off_as_a_later_one() {
    let gateway = leaving();
    let forged = chat().with("x-aoai-attempted", "1");
    let request = gateway.router.request(forged, true);
    let attempt = request.attempt();
    assert_eq!(attempt.cluster(), "aoai_east");
    assert_eq!(sent(&attempt, "x-aoai-attempted"), None);
}
