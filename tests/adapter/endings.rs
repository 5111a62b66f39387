//! Streams that end early leave nothing behind.

use mock_host::{Host, Vm};

use super::support::*;

/// Nothing waits, nothing is called, nothing went wrong: the worker ticks once a second.
fn assert_calm(host: &Host, vm: &Vm) {
    host.advance(seconds(2));
    assert_eq!(vm.calls(), []);
    assert_eq!(vm.tick_period(), Some(seconds(1)));
    assert_quiet(host);
}

#[test]
fn a_client_that_leaves_while_waiting_for_a_token_is_forgotten() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let (gone, stays) = (get(&vm), get(&vm));
    host.advance(millis(1));
    gone.disconnect();
    give_token(&vm, TOKEN);
    assert!(stays.forwarded().is_some());
    drop(stays);
    assert_calm(&host, &vm);
    // The one that left took no turn.
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 1);
    assert_eq!(host.statistic("aoai.backend.west.attempts"), 0);
}

#[test]
fn a_client_that_leaves_before_its_wait_is_over_is_not_answered() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    get(&vm).disconnect();
    host.advance(seconds(6));
    assert_eq!(host.statistic("aoai.identity.unavailable"), 0);
    assert_eq!(host.statistic("aoai.client_gone"), 1);
}

#[test]
fn a_client_that_leaves_while_a_call_is_out_is_forgotten() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 500, "");
    let call = vm.call();
    stream.disconnect();
    // Envoy does not cancel a call: it belongs to the root context.
    vm.answer(&call, 500, [], "too late");
    assert_calm(&host, &vm);
    assert_eq!(host.statistic("aoai.client_gone"), 1);
    assert_eq!(host.statistic("aoai.backend.north.attempts"), 0);
}

#[test]
fn a_client_that_leaves_while_a_call_made_for_it_by_the_worker_is_out_is_forgotten() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    host.advance(millis(1));
    give_token(&vm, SECOND_TOKEN);
    let call = vm.call();
    stream.disconnect();
    vm.answer(&call, 200, [], "too late");
    assert_calm(&host, &vm);
    assert_eq!(host.statistic("aoai.client_gone"), 1);
}

#[test]
fn a_client_that_leaves_while_its_token_is_renewed_is_forgotten() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 401, &error("401"));
    stream.disconnect();
    host.advance(millis(1));
    give_token(&vm, SECOND_TOKEN);
    assert_calm(&host, &vm);
    assert_eq!(host.statistic("aoai.client_gone"), 1);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 1);
}

#[test]
fn a_client_that_leaves_before_its_request_is_complete_is_forgotten() {
    for headers in [chat(), chat_of(1000)] {
        let (host, vm) = ready();
        let stream = vm.request(headers, false);
        stream.body("only the beginning", false);
        stream.disconnect();
        assert_calm(&host, &vm);
        assert_eq!(host.statistic("aoai.client_gone"), 1);
    }
}

#[test]
fn a_client_that_leaves_while_an_error_is_read_is_forgotten() {
    let (host, vm) = ready();
    let stream = send(&vm);
    stream.respond(404, [], false);
    stream.disconnect();
    host.advance(seconds(3));
    assert_calm(&host, &vm);
    assert_eq!(host.statistic("aoai.client_gone"), 1);
}

#[test]
fn a_client_that_leaves_mid_stream_is_counted() {
    let (host, vm) = ready();
    let stream = send(&vm);
    stream.respond(200, [], false);
    stream.response_body("data: 1\n\n", false);
    stream.disconnect();
    assert_calm(&host, &vm);
    assert_eq!(host.statistic("aoai.client_gone"), 1);
    assert_eq!(host.statistic("aoai.stream_broken"), 0);
}

#[test]
fn an_answer_that_the_upstream_breaks_off_is_counted_and_not_retried() {
    let (host, vm) = ready();
    let stream = send(&vm);
    stream.respond(200, [], false);
    stream.response_body("data: 1\n\n", false);
    assert_eq!(stream.answered().unwrap().text(), "data: 1\n\n");
    stream.break_off();
    assert_calm(&host, &vm);
    assert_eq!(host.statistic("aoai.stream_broken"), 1);
    assert_eq!(host.statistic("aoai.client_gone"), 0);
}

#[test]
fn a_complete_answer_ends_without_a_trace() {
    for trailers in [false, true] {
        let (host, vm) = ready();
        let stream = send(&vm);
        stream.respond(200, [], false);
        stream.response_body("ok", !trailers);
        if trailers {
            stream.response_trailers([("x-trailer", "1")]);
        }
        stream.end();
        assert_calm(&host, &vm);
        assert_eq!(host.statistic("aoai.client_gone"), 0);
        assert_eq!(host.statistic("aoai.stream_broken"), 0);
    }
}

#[test]
fn an_answer_of_the_gateways_own_counts_no_one_as_gone() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    let stream = get(&vm);
    host.advance(seconds(6));
    assert_eq!(stream.answer().status, 503);
    stream.end();
    host.advance(seconds(2));
    assert_eq!(host.statistic("aoai.client_gone"), 0);
}
