//! Behind the router, without `allow_on_headers_stop_iteration`: Envoy hides the bodies of held answers.

use mock_host::{Action, LogLevel};
use serde_json::json;

use super::*;

fn hiding() -> Gateway {
    let upstream = Setup::new(UPSTREAM).allow_on_headers_stop_iteration(false);
    let gateway = Gateway::routed(
        Host::new()
            .start(Setup::new(Engine::Router.config(3, json!({}))))
            .unwrap(),
        upstream,
    );
    gateway.host.advance(millis(1));
    give_token(&gateway.vm, TOKEN);
    gateway
}

fn complaints(gateway: &Gateway) -> usize {
    let errors = gateway.host.logged(LogLevel::Error).into_iter();
    errors
        .filter(|text| text.contains("allow_on_headers_stop_iteration: true"))
        .count()
}

#[test]
fn a_hidden_body_is_awaited_for_two_seconds() {
    let gateway = hiding();
    let request = gateway.send();
    let attempt = request.attempt();
    assert_eq!(attempt.respond(404, [], false), Some(Action::Pause));
    assert_eq!(
        attempt.response_body(error("DeploymentNotFound"), true),
        None
    );
    gateway.host.advance(millis(1900));
    assert_eq!(request.answered(), None);
    gateway.host.advance(millis(1200));
    assert_eq!(request.answer().status, 404);
    assert_eq!(code(request.answer().text()), "incomplete_error");
}

#[test]
fn a_status_alone_is_still_retried() {
    let gateway = hiding();
    let request = gateway.send();
    answer(&request.attempt(), 429, "busy");
    gateway.host.advance(millis(3100));
    assert_eq!(request.attempt().cluster(), "aoai_west");
}

#[test]
fn after_three_misses_no_answer_is_held_any_more() {
    let gateway = hiding();
    for miss in 1..=3 {
        assert_eq!(complaints(&gateway), 0, "before miss {miss}");
        let request = gateway.send();
        answer(&request.attempt(), 404, "missing");
        assert_eq!(request.answered(), None, "miss {miss}");
        gateway.host.advance(millis(3100));
        assert_eq!(code(request.answer().text()), "incomplete_error");
    }
    assert_eq!(complaints(&gateway), 1);
    for _ in 0..3 {
        let request = gateway.send();
        let attempt = request.attempt();
        assert_eq!(attempt.respond(404, [], false), Some(Action::Continue));
        attempt.response_body("missing", true);
        assert_eq!(request.answer().text(), "missing");
    }
    gateway.host.advance(seconds(10));
    assert_eq!(complaints(&gateway), 1);
}

#[test]
fn one_shown_body_ends_the_doubt() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    answer(&request.attempt(), 404, "missing");
    assert_eq!(request.answer().status, 404);
    for _ in 0..4 {
        let slow = gateway.send();
        let attempt = slow.attempt();
        attempt.respond(404, [], false);
        gateway.host.advance(millis(2100));
        assert_eq!(code(slow.answer().text()), "incomplete_error");
    }
    assert_eq!(complaints(&gateway), 0);
}

#[test]
fn the_first_body_of_a_worker_that_stalls_is_given_up() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let attempt = request.attempt();
    attempt.respond(404, [], false);
    gateway.host.advance(millis(2100));
    assert_eq!(code(request.answer().text()), "incomplete_error");
}

#[test]
fn an_early_answer_is_never_held() {
    for (status, attempts) in [(403, 1), (404, 1), (429, 3), (500, 3)] {
        let gateway = Engine::Router.gateway();
        let request = gateway.request(chat(), false);
        request.body(vec![b'x'; 600_000], false);
        for made in 1..=attempts {
            let attempt = request.attempt();
            assert_eq!(attempt.respond(status, [], false), Some(Action::Continue));
            assert_eq!(request.attempts().len(), attempts.min(made + 1), "{status}");
        }
        request.attempt().response_body("refused", true);
        assert_eq!(request.answer().status, status);
    }
}

#[test]
fn after_an_early_401_the_next_attempt_waits_for_a_newer_token() {
    let gateway = Engine::Router.gateway();
    let request = gateway.request(chat(), false);
    request.body(vec![b'x'; 600_000], false);
    let first = request.attempt();
    assert_eq!(first.respond(401, [], false), Some(Action::Continue));
    let second = request.attempt();
    assert_eq!(second.sent(), None);
    request.body("y", false);
    request.body("z", true);
    gateway.host.advance(millis(1100));
    assert_eq!(second.sent(), None);
    give_token(&gateway.vm, SECOND_TOKEN);
    assert_eq!(second.cluster(), "aoai_east");
    assert_eq!(
        second.header("authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    let body = second.sent().unwrap().body;
    assert_eq!((body.len(), body.ends_with(b"xyz")), (600_002, true));
    answer(&second, 200, "welcome");
    assert_eq!(outcome(&request), is(200, "east", "2", "welcome"));
}

#[test]
fn a_request_that_may_be_retried_leaves_when_it_is_complete() {
    let gateway = Engine::Router.gateway();
    let request = gateway.request(chat_of(900_000), false);
    assert!(request.is_held());
    request.body(vec![b'x'; 899_999], false);
    assert_eq!(request.forwarded(), None);
    request.body("x", true);
    answer(&request.attempt(), 429, "busy");
    assert_eq!(request.attempt().cluster(), "aoai_west");
}

#[test]
fn a_body_of_unknown_length_is_held_up_to_512_kib() {
    let gateway = Engine::Router.gateway();
    let request = gateway.request(chat(), false);
    request.body(vec![b'x'; 512 * 1024], false);
    assert_eq!(request.forwarded(), None);
    request.body("x", false);
    assert!(request.forwarded().is_some());
    request.body("x", true);
    answer(&request.attempt(), 429, "busy");
    assert_eq!(request.attempt().cluster(), "aoai_west");
}

#[test]
fn after_a_413_of_envoy_requests_are_held_up_to_512_kib() {
    let gateway = Engine::Router.gateway();
    let large = gateway.request(chat_of(600_000), false);
    assert_eq!(large.forwarded(), None);
    large.answer_locally(413, "request_payload_too_large");
    drop(large);
    assert!(gateway
        .host
        .logged(LogLevel::Error)
        .iter()
        .any(|line| line.contains("per_connection_buffer_limit_bytes")));
    assert!(gateway
        .request(chat_of(600_000), false)
        .forwarded()
        .is_some());
    assert_eq!(gateway.request(chat_of(500_000), false).forwarded(), None);
}
