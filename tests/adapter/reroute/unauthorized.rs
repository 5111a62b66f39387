//! 401 behind the router: the answer is held until there is a newer token.

use mock_host::{Action, Stream};

use super::*;

/// A request whose first attempt was refused for its token.
fn refused(gateway: &Gateway) -> Routed {
    let request = gateway.send();
    answer(&request.attempt(), 401, &error("401"));
    request
}

#[test]
fn a_refused_answer_is_held_until_a_newer_token_is_there() {
    let gateway = gateway();
    let request = refused(&gateway);
    let first = request.attempt();
    assert_eq!(first.action(), Action::Pause);
    gateway.host.advance(millis(1100));
    assert!(!first.ended());
    give_token(&gateway.vm, SECOND_TOKEN);
    assert!(first.ended());
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_east");
    assert_eq!(
        sent(&second, "authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    assert_eq!(
        sent(&second, ":authority").as_deref(),
        Some("east.openai.azure.com")
    );
    assert_eq!(second.sent().unwrap().body, BODY.as_bytes());
    answer(&second, 200, "welcome");
    assert_eq!(outcome(&request), is(200, "east", "2", "welcome"));
    drop(request);
    assert_eq!(gateway.counted("aoai.identity.fetches"), 2);
    assert_eq!(
        gateway
            .host
            .statistic("aoai.backend.east.outcome.bad_token"),
        1
    );
    assert_quiet(&gateway.host);
}

#[test]
fn a_newer_token_is_asked_for_at_once() {
    let gateway = gateway();
    gateway.host.advance(millis(1500));
    let _request = refused(&gateway);
    gateway.host.advance(millis(5));
    assert_eq!(fetches(&gateway.vm).len(), 1);
}

#[test]
fn a_wait_behind_the_router_leaves_no_timer_running_there() {
    let gateway = gateway();
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

/// Another worker, which has the same token, and a request there that was refused for it.
fn refused_elsewhere(gateway: &Gateway) -> (Vm, Stream) {
    let other = gateway.host.vm(CONFIG);
    gateway.host.advance(millis(20));
    let stream = send(&other);
    respond(&stream, 401, &error("401"));
    (other, stream)
}

#[test]
fn a_token_that_another_worker_has_renewed_is_used_at_once() {
    let gateway = gateway();
    let request = gateway.send();
    let (other, _stream) = refused_elsewhere(&gateway);
    // Only the other worker's time passes: this one still has the old token.
    other.tick();
    give_token(&other, SECOND_TOKEN);
    answer(&request.attempt(), 401, &error("401"));
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_east");
    assert_eq!(
        sent(&second, "authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    assert_eq!(fetches(&gateway.vm), []);
}

#[test]
fn a_renewal_by_another_worker_reaches_the_answer_that_is_held() {
    let gateway = gateway();
    let request = refused(&gateway);
    let (other, _stream) = refused_elsewhere(&gateway);
    for vm in [&other, &gateway.vm] {
        vm.tick();
        for fetch in fetches(vm) {
            let body = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
            vm.answer(&fetch, 200, [], body);
        }
    }
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_east");
    assert_eq!(
        sent(&second, "authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
}

#[test]
fn when_no_newer_token_is_to_be_had_the_next_backend_is_tried() {
    let gateway = gateway();
    let request = refused(&gateway);
    gateway.host.advance(millis(1100));
    gateway.vm.answer(&fetch(&gateway.vm), 500, [], "");
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_west");
    assert_eq!(
        sent(&second, "authorization").as_deref(),
        Some("Bearer TOKEN-ONE")
    );
    assert_eq!(
        sent(&second, ":authority").as_deref(),
        Some("west.openai.azure.com")
    );
    answer(&second, 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
}

#[test]
fn a_renewal_that_takes_too_long_leads_to_the_next_backend() {
    let gateway = gateway();
    let request = refused(&gateway);
    gateway.host.advance(millis(4900));
    assert_eq!(request.attempts().len(), 1);
    gateway.host.advance(millis(1300));
    assert_eq!(request.attempt().cluster(), "aoai_west");
}

#[test]
fn a_renewed_token_that_is_refused_too_leads_to_the_next_backend() {
    let gateway = gateway();
    let request = refused(&gateway);
    gateway.host.advance(millis(1100));
    give_token(&gateway.vm, SECOND_TOKEN);
    answer(&request.attempt(), 401, &error("401"));
    let third = request.attempt();
    assert_eq!(third.cluster(), "aoai_west");
    assert_eq!(
        sent(&third, "authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    gateway.host.advance(seconds(1));
    assert_eq!(fetches(&gateway.vm), [], "one renewal for a request");
}

#[test]
fn a_refusal_of_the_last_attempt_is_the_clients() {
    let gateway = Gateway::ready(routing_to(3, serde_json::json!({"max_attempts": 1})));
    let request = refused(&gateway);
    assert_eq!(outcome(&request), is(401, "east", "1", &error("401")));
}

#[test]
fn when_the_backend_fails_after_the_renewal_the_next_one_is_tried() {
    let gateway = gateway();
    let request = refused(&gateway);
    gateway.host.advance(millis(1100));
    give_token(&gateway.vm, SECOND_TOKEN);
    request.attempt().fail();
    let third = request.attempt();
    assert_eq!(third.cluster(), "aoai_west");
    assert_eq!(
        sent(&third, ":authority").as_deref(),
        Some("west.openai.azure.com")
    );
    third.fail();
    assert_eq!(outcome(&request), is(401, "east", "3", &error("401")));
}

#[test]
fn an_attempt_whose_time_is_up_while_its_answer_is_held_leads_to_the_next_backend() {
    let gateway = gateway();
    let request = refused(&gateway);
    request.attempt().time_out();
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_west");
    assert_eq!(
        sent(&second, ":authority").as_deref(),
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
fn a_refusal_larger_than_64_kib_is_held_however_much_more_comes() {
    for trailers in [false, true] {
        let gateway = gateway();
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
            sent(&second, "authorization").as_deref(),
            Some("Bearer TOKEN-TWO")
        );
    }
}

#[test]
fn a_refusal_larger_than_64_kib_that_becomes_the_clients_is_whole() {
    let gateway = Gateway::ready(routing_to(1, serde_json::json!({})));
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
fn when_the_token_was_just_renewed_in_vain_the_next_backend_is_tried_at_once() {
    let gateway = gateway();
    let request = refused(&gateway);
    gateway.host.advance(millis(1100));
    gateway.vm.answer(&fetch(&gateway.vm), 500, [], "");
    assert_eq!(request.attempt().cluster(), "aoai_west");
    let second = refused(&gateway);
    let clusters = second.clusters();
    assert_eq!(clusters.len(), 2, "{clusters:?}");
}

#[test]
fn it_is_the_token_of_the_last_attempt_that_was_refused() {
    let gateway = gateway();
    let request = gateway.send();
    gateway.host.advance(seconds(3301));
    give_token(&gateway.vm, SECOND_TOKEN);
    answer(&request.attempt(), 429, "busy");
    let second = request.attempt();
    assert_eq!(
        sent(&second, "authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    answer(&second, 401, &error("401"));
    assert!(!second.ended(), "a third token is awaited");
    gateway.host.advance(millis(1100));
    give_token(&gateway.vm, "TOKEN-THREE");
    let third = request.attempt();
    assert_eq!(third.cluster(), "aoai_west");
    assert_eq!(
        sent(&third, "authorization").as_deref(),
        Some("Bearer TOKEN-THREE")
    );
}

#[test]
fn many_refusals_at_once_fetch_one_token() {
    let gateway = gateway();
    let requests: Vec<_> = (0..20).map(|_| refused(&gateway)).collect();
    gateway.host.advance(millis(1100));
    give_token(&gateway.vm, SECOND_TOKEN);
    for (index, request) in requests.iter().enumerate() {
        let attempt = request.attempt();
        assert_eq!(attempt.cluster(), CLUSTERS[index % 3]);
        assert_eq!(
            sent(&attempt, "authorization").as_deref(),
            Some("Bearer TOKEN-TWO")
        );
        answer(&attempt, 200, "ok");
        assert_eq!(request.answer().status, 200);
    }
    gateway.host.advance(seconds(1));
    assert_eq!(fetches(&gateway.vm), []);
}

#[test]
fn an_attempt_has_one_outcome_even_if_its_time_is_up_while_its_answer_is_held() {
    let gateway = gateway();
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

#[test]
fn those_that_wait_for_one_token_cost_one_look_a_tick() {
    let reads = |waiting: usize| {
        let gateway = gateway();
        let _requests: Vec<_> = (0..waiting).map(|_| refused(&gateway)).collect();
        gateway.host.advance(millis(100));
        gateway.host.clear_counts();
        gateway.host.advance(millis(400));
        gateway.host.counts()["proxy_get_shared_data"].calls
    };
    assert_eq!(reads(1), reads(200));
}
