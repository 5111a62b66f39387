//! Clients that leave, at every stage.

use serde_json::json;

use super::*;

/// Whether the module knows the request `id`: one more attempt of it finds it.
fn is_known(gateway: &Gateway, id: u32) -> bool {
    let next = format!("aoai_east {id:08x}");
    let properties = [
        ("xds\0cluster_name", &b"aoai_east"[..]),
        ("aoai_next", next.as_bytes()),
    ];
    let stream = gateway.upstream.request_with(&properties, chat(), true);
    let refused = stream.answered();
    refused.is_none_or(|answer| answer.details != "aoai_no_request")
}

/// Nothing is left of the request: nobody knows it, nothing is done for it, and it was counted once.
fn assert_forgotten(gateway: &Gateway, id: u32, gone: u64) {
    let calm = |gateway: &Gateway| {
        for fetch in fetches(&gateway.vm) {
            let body = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
            gateway.vm.answer(&fetch, 200, [], body);
        }
        gateway.host.advance(seconds(2));
    };
    calm(gateway);
    calm(gateway);
    gateway.host.clear_counts();
    gateway.host.advance(seconds(10));
    let counts = gateway.host.counts();
    for name in [
        "proxy_continue_stream",
        "proxy_send_local_response",
        "proxy_set_effective_context",
        "proxy_replace_header_map_value",
    ] {
        assert!(!counts.contains_key(name), "{name}: {counts:?}");
    }
    assert_quiet(&gateway.host);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), gone);
    assert!(!is_known(gateway, id), "the request is still registered");
}

#[test]
fn a_request_in_flight_is_known_and_a_finished_one_is_not() {
    let gateway = gateway();
    let request = gateway.send();
    let id = request.id();
    answer(&request.attempt(), 200, "hello");
    drop(request);
    assert_forgotten(&gateway, id, 0);
    assert!(is_known(&gateway, gateway.send().id()));
}

#[test]
fn a_client_that_leaves_while_it_waits_for_the_first_token_is_forgotten() {
    let gateway = Gateway::start(routing_to(3, json!({})), Setup::new(UPSTREAM));
    let request = gateway.send();
    let id = request.id();
    request.disconnect();
    gateway.host.advance(millis(1));
    assert_forgotten(&gateway, id, 1);
    assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 0);
}

#[test]
fn a_client_that_leaves_before_its_request_is_complete_is_forgotten() {
    let gateway = gateway();
    let request = gateway.router.request(chat_of(100), false);
    request.body("begin", false);
    let id = request.id();
    request.disconnect();
    assert_forgotten(&gateway, id, 1);
}

#[test]
fn a_client_that_leaves_before_there_is_an_answer_is_forgotten() {
    for failures in 0..=2 {
        let gateway = gateway();
        let request = gateway.send();
        for _ in 0..failures {
            answer(&request.attempt(), 429, "busy");
        }
        let id = request.id();
        request.disconnect();
        assert_forgotten(&gateway, id, 1);
        let unavailable = gateway.host.statistics().into_iter();
        let unavailable = unavailable.filter(|(name, _)| name.ends_with("outcome.unavailable"));
        assert_eq!(
            unavailable.count(),
            0,
            "its leaving is no failure of a backend's"
        );
    }
}

#[test]
fn a_client_that_leaves_while_an_error_is_read_is_forgotten() {
    for frame in [None, Some("begin")] {
        let gateway = gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(404, [], false);
        if let Some(frame) = frame {
            attempt.response_body(frame, false);
        }
        let id = request.id();
        request.disconnect();
        assert_forgotten(&gateway, id, 1);
    }
}

#[test]
fn a_client_that_leaves_while_its_token_is_renewed_is_forgotten() {
    let gateway = gateway();
    let request = gateway.send();
    answer(&request.attempt(), 401, &error("401"));
    let id = request.id();
    request.disconnect();
    assert_forgotten(&gateway, id, 1);
    assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 1);
}

#[test]
fn a_client_that_leaves_within_its_answer_is_forgotten() {
    let gateway = gateway();
    let request = gateway.send();
    let attempt = request.attempt();
    attempt.respond(200, [], false);
    attempt.response_body("data: 1\n\n", false);
    let id = request.id();
    request.disconnect();
    assert_forgotten(&gateway, id, 1);
    assert_eq!(gateway.host.statistic("aoai.stream_broken"), 0);
}

#[test]
fn answers_of_the_gateways_own_leave_nothing_behind() {
    let gateway = gateway();
    let request = gateway.send();
    let id = request.id();
    for _ in 0..3 {
        request.attempt().fail();
    }
    assert_eq!(request.answer().status, 503);
    drop(request);
    assert_forgotten(&gateway, id, 0);
}

#[test]
fn attempts_that_failed_while_held_leave_nothing_behind() {
    let gateway = gateway();
    let request = gateway.send();
    let id = request.id();
    let first = request.attempt();
    first.respond(404, [], false);
    first.fail();
    answer(&request.attempt(), 401, &error("401"));
    request.attempt().fail();
    answer(&request.attempt(), 200, "hello");
    assert_eq!(outcome(&request), is(200, "north", "3", "hello"));
    drop(request);
    assert_forgotten(&gateway, id, 0);
}
