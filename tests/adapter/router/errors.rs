//! Answers behind the router whose body is awaited.

use mock_host::{Action, Fault};

use super::*;

#[test]
fn a_failure_over_64_kib_is_retried_at_64_kib() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let first = request.attempt();
    first.respond(500, [], false);
    first.response_body("x".repeat(64 * 1024), false);
    assert_eq!(request.attempts().len(), 1);
    first.response_body("x", false);
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_west");
    // Only a part of the answer had arrived, and no client gets a part.
    second.fail();
    request.attempt().fail();
    let answer = request.answer();
    assert_eq!(answer.status, 503);
    assert_eq!(code(answer.text()), "backend_unavailable");
}

#[test]
fn the_last_failure_is_delivered_whole_if_over_64_kib() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    request.attempt().fail();
    request.attempt().fail();
    let last = request.attempt();
    last.respond(500, [], false);
    for _ in 0..3 {
        last.response_body("x".repeat(40_000), false);
    }
    last.response_body("", true);
    let answer = request.answer();
    assert_eq!((answer.status, answer.body.len()), (500, 120_000));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("north"));
}

#[test]
fn an_answer_that_can_be_neither_read_nor_replaced_passes() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let host = &gateway.host;
    host.inject(Fault::of("proxy_get_header_map_value").on(":status"));
    host.inject(Fault::of("proxy_send_local_response"));
    let attempt = request.attempt();
    assert_eq!(attempt.respond(200, [], false), Some(Action::Continue));
    attempt.response_body("hello", true);
    assert_eq!(request.answer().text(), "hello");
}
