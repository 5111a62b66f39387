//! 401 behind the router: the answer is held until a newer token arrives.

use mock_host::Action;

use super::*;

/// A request whose first attempt was refused for its token.
fn refused(gateway: &Gateway) -> Request {
    let request = gateway.send();
    answer(&request.attempt(), 401, &error("401"));
    request
}

#[test]
fn a_wait_behind_the_router_leaves_no_timer_running_there() {
    let gateway = Engine::Router.gateway();
    let request = refused(&gateway);
    gateway.host.advance(millis(1100));
    give_token(&gateway.vm, SECOND_TOKEN);
    answer(&request.attempt(), 200, "welcome");
    drop(request);
    gateway.host.advance(seconds(2));
    gateway.host.clear_counts();
    gateway.host.advance(seconds(10));
    let ticks = gateway.host.counts()["proxy_on_tick"].calls;
    assert!(ticks <= 11, "{ticks} ticks in ten calm seconds");
}

#[test]
fn a_timeout_while_an_answer_is_held_leads_to_the_next() {
    let gateway = Engine::Router.gateway();
    let request = refused(&gateway);
    request.attempt().time_out();
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_west");
    assert_eq!(
        second.header(":authority").as_deref(),
        Some("west.openai.azure.com")
    );
    gateway.host.advance(millis(1100));
    for fetch in fetches(&gateway.vm) {
        let body = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
        gateway.vm.answer(&fetch, 200, [], body);
    }
    assert!(!second.ended(), "the wait is over with its attempt");
    answer(&second, 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
}

#[test]
fn a_refusal_over_64_kib_is_held_at_any_size() {
    for trailers in [false, true] {
        let gateway = Engine::Router.gateway();
        let request = gateway.send();
        let first = request.attempt();
        first.respond(401, [], false);
        for _ in 0..3 {
            let action = first.response_body("x".repeat(70_000), false);
            assert_eq!(action, Some(Action::Pause));
        }
        if trailers {
            first.response_trailers([("x-trailer", "1")]);
        }
        assert_eq!((request.answered(), request.attempts().len()), (None, 1));
        gateway.host.advance(millis(1100));
        give_token(&gateway.vm, SECOND_TOKEN);
        first.response_body("end", true);
        let second = request.attempt();
        assert_eq!(second.cluster(), "aoai_east");
        assert_eq!(
            second.header("authorization").as_deref(),
            Some("Bearer TOKEN-TWO")
        );
    }
}

#[test]
fn a_refusal_over_64_kib_that_is_passed_on_is_whole() {
    let gateway = Engine::Router.fleet(1, json!({"retry": {}}));
    let request = gateway.send();
    let attempt = request.attempt();
    attempt.respond(401, [], false);
    attempt.response_body("x".repeat(70_000), false);
    gateway.host.advance(millis(1100));
    gateway.vm.answer(&fetch(&gateway.vm), 500, [], "");
    attempt.response_body("y".repeat(70_000), false);
    attempt.response_body("end", true);
    let answer = request.answer();
    assert_eq!((answer.status, answer.body.len()), (401, 140_003));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
}

#[test]
fn a_timeout_while_an_answer_is_held_is_no_second_outcome() {
    let gateway = Engine::Router.gateway();
    let request = refused(&gateway);
    request.attempt().time_out();
    answer(&request.attempt(), 200, "hello");
    drop(request);
    let unavailable = gateway.counted("aoai.backend.east.outcome.unavailable");
    let bad_token = gateway
        .host
        .statistic("aoai.backend.east.outcome.bad_token");
    assert_eq!(unavailable + bad_token, 1, "{unavailable} + {bad_token}");
}
