//! Without `allow_on_headers_stop_iteration` behind the router the bodies of held answers are hidden.

use mock_host::{Action, LogLevel};
use serde_json::json;

use super::*;

fn hiding() -> Gateway {
    let upstream = Setup::new(UPSTREAM).allow_on_headers_stop_iteration(false);
    let gateway = Gateway::start(routing_to(3, json!({})), upstream);
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
fn a_hidden_body_is_waited_for_two_seconds_and_the_answer_delivered_whole() {
    let gateway = hiding();
    let request = gateway.send();
    let attempt = request.attempt();
    assert_eq!(attempt.respond(404, [], false), Action::Pause);
    assert_eq!(
        attempt.response_body(error("DeploymentNotFound"), true),
        None
    );
    gateway.host.advance(millis(1900));
    assert_eq!(request.answered(), None);
    gateway.host.advance(millis(1200));
    assert_eq!(
        outcome(&request),
        is(404, "east", "1", &error("DeploymentNotFound"))
    );
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
fn after_three_misses_no_answer_is_held_any_more_and_it_is_said_once() {
    let gateway = hiding();
    for miss in 1..=3 {
        assert_eq!(complaints(&gateway), 0, "before miss {miss}");
        let request = gateway.send();
        answer(&request.attempt(), 404, "missing");
        assert_eq!(request.answered(), None, "miss {miss}");
        gateway.host.advance(millis(3100));
        assert_eq!(request.answer().text(), "missing");
    }
    assert_eq!(complaints(&gateway), 1);
    for _ in 0..3 {
        let request = gateway.send();
        let attempt = request.attempt();
        assert_eq!(attempt.respond(404, [], false), Action::Continue);
        attempt.response_body("missing", true);
        assert_eq!(request.answer().text(), "missing");
    }
    gateway.host.advance(seconds(10));
    assert_eq!(complaints(&gateway), 1);
}

#[test]
fn one_body_that_was_seen_ends_the_watch() {
    let gateway = gateway();
    let request = gateway.send();
    answer(&request.attempt(), 404, "missing");
    assert_eq!(request.answer().status, 404);
    for _ in 0..4 {
        let slow = gateway.send();
        let attempt = slow.attempt();
        attempt.respond(404, [], false);
        gateway.host.advance(seconds(4));
        assert_eq!(slow.answered(), None, "it is waited for");
        attempt.response_body(error("DeploymentNotFound"), true);
        assert!(attempt.ended(), "and the next backend is tried");
    }
    assert_eq!(complaints(&gateway), 0);
}

#[test]
fn a_slow_body_that_was_given_up_is_delivered_whole() {
    let gateway = gateway();
    let request = gateway.send();
    let attempt = request.attempt();
    attempt.respond(404, [], false);
    gateway.host.advance(millis(3100));
    attempt.response_body("mis", false);
    attempt.response_body("sing", true);
    assert_eq!(outcome(&request), is(404, "east", "1", "missing"));
}

#[test]
fn a_body_that_has_begun_is_waited_for() {
    let gateway = gateway();
    let request = gateway.send();
    let attempt = request.attempt();
    attempt.respond(404, [], false);
    let body = error("DeploymentNotFound");
    let (begin, end) = body.split_at(10);
    attempt.response_body(begin, false);
    gateway.host.advance(seconds(4));
    assert_eq!(request.answered(), None);
    attempt.response_body(end, true);
    assert_eq!(request.attempt().cluster(), "aoai_west");
}
