//! `allow_on_headers_stop_iteration`: without it Envoy hides held bodies. The filter finds that out, and logs it once.

use mock_host::{Action, Host, LogLevel, Setup, Vm};

use super::*;

fn hiding() -> (Host, Vm) {
    ready_with(Setup::new(CONFIG).allow_on_headers_stop_iteration(false))
}

fn complaints(host: &Host) -> usize {
    let errors = host.logged(LogLevel::Error).into_iter();
    errors
        .filter(|text| text.contains("allow_on_headers_stop_iteration: true"))
        .count()
}

#[test]
fn a_missing_setting_is_found_in_two_seconds_and_logged_once() {
    let (host, vm) = hiding();
    let stream = get(&vm);
    stream.respond(404, [], false);
    stream.response_body(error("DeploymentNotFound"), true);
    assert_eq!(stream.answered(), None);
    host.advance(millis(2100));
    let answer = stream.answer();
    assert_eq!(answer.status, 404);
    assert_eq!(code(answer.text()), "DeploymentNotFound");
    assert_eq!(complaints(&host), 1);
    let next = get(&vm);
    assert_eq!(
        next.respond(404, [], false),
        Action::Continue,
        "not held any more"
    );
    next.response_body("body", true);
    assert_eq!(next.answer().text(), "body");
    host.advance(seconds(10));
    assert_eq!(complaints(&host), 1);
}

#[test]
fn streams_that_find_it_missing_at_once_are_all_released() {
    let (host, vm) = hiding();
    let streams: Vec<_> = (0..5).map(|_| get(&vm)).collect();
    for stream in &streams {
        stream.respond(404, [], false);
        stream.response_body("missing", true);
    }
    host.advance(millis(2100));
    for stream in &streams {
        assert_eq!(stream.answer().text(), "missing");
    }
    assert_eq!(complaints(&host), 1);
}

#[test]
fn a_request_is_served_although_its_body_is_hidden() {
    let (host, vm) = hiding();
    let stream = send(&vm);
    host.advance(millis(2100));
    let forwarded = stream.forwarded().expect("it went on");
    assert_eq!(
        (forwarded.body.as_slice(), forwarded.complete),
        (BODY.as_bytes(), true)
    );
    let second = send(&vm);
    assert!(second.forwarded().unwrap().complete, "at once from now on");
    for stream in [stream, second] {
        respond(&stream, 500, "");
        let call = vm.call();
        assert_eq!(call.body, BODY.as_bytes());
        vm.answer(&call, 200, [], "ok");
        assert_eq!(stream.answer().text(), "ok");
    }
    assert_eq!(complaints(&host), 1);
}

#[test]
fn without_the_setting_a_status_alone_is_still_retried() {
    let (_host, vm) = hiding();
    let stream = get(&vm);
    respond(&stream, 503, "overloaded");
    vm.answer(&vm.call(), 200, [], "ok");
    assert_eq!(stream.answer().text(), "ok");
}

#[test]
fn without_the_setting_the_held_answer_is_delivered_whole() {
    let (_host, vm) = hiding();
    let stream = get(&vm);
    stream.respond(503, [], false);
    stream.response_body("one ", false);
    vm.answer_locally(&vm.call(), 503);
    stream.response_body("two ", false);
    vm.answer_locally(&vm.call(), 503);
    stream.response_body("three", true);
    assert_eq!(stream.answer().text(), "one two three");
}

#[test]
fn a_slow_client_is_not_taken_for_a_missing_setting() {
    let (host, vm) = ready();
    let stream = vm.request(chat_of(BODY.len()), false);
    host.advance(seconds(10));
    stream.body(BODY, true);
    assert_eq!(stream.forwarded().unwrap().body, BODY.as_bytes());
    assert_eq!(complaints(&host), 0);
    let next = get(&vm);
    respond(&next, 404, &error("DeploymentNotFound"));
    assert_eq!(next.answered(), None, "error codes are still read");
}

#[test]
fn a_slow_backend_is_not_taken_for_a_missing_setting() {
    let (host, vm) = ready();
    let stream = get(&vm);
    stream.respond(404, [], false);
    host.advance(seconds(10));
    stream.response_body(error("DeploymentNotFound"), true);
    assert_eq!(complaints(&host), 0);
    let next = get(&vm);
    respond(&next, 404, &error("DeploymentNotFound"));
    assert_eq!(next.answered(), None, "error codes are still read");
}

#[test]
fn one_slow_body_does_not_hide_that_the_setting_is_there() {
    let (host, vm) = ready();
    let slow = get(&vm);
    slow.respond(404, [], false);
    let quick = get(&vm);
    respond(&quick, 404, "not here");
    assert_eq!(quick.answer().text(), "not here");
    host.advance(seconds(3));
    let next = get(&vm);
    respond(&next, 404, &error("DeploymentNotFound"));
    assert_eq!(next.answered(), None, "error codes are still read");
}

#[test]
fn a_client_that_pauses_within_its_body_is_waited_for() {
    let (host, vm) = ready();
    let stream = vm.request(chat_of(BODY.len()), false);
    let (first, second) = BODY.split_at(10);
    stream.body(first, false);
    host.advance(seconds(10));
    assert_eq!(stream.forwarded(), None);
    stream.body(second, true);
    assert_eq!(stream.forwarded().unwrap().body, BODY.as_bytes());
    assert_eq!(complaints(&host), 0);
}

#[test]
fn a_body_that_was_shown_once_ends_the_doubt() {
    let (host, vm) = ready();
    let first = get(&vm);
    respond(&first, 404, "not here");
    host.advance(seconds(10));
    let second = get(&vm);
    respond(&second, 404, &error("DeploymentNotFound"));
    assert_eq!(vm.call().cluster, "aoai_north");
    assert_eq!(complaints(&host), 0);
}

#[test]
fn a_token_that_expires_during_a_wait_for_a_body_is_not_sent() {
    let host = Host::new();
    let setup = Setup::new(CONFIG).allow_on_headers_stop_iteration(false);
    let vm = host.start(setup).unwrap();
    host.advance(millis(1));
    give_token_for(&vm, TOKEN, seconds(2));
    let stream = send(&vm);
    assert_eq!(stream.forwarded(), None);
    host.advance(millis(2100));
    assert_eq!(stream.forwarded(), None);
    assert_eq!(stream.answered(), None, "it waits for the next token");
    host.advance(millis(5100));
    assert_eq!(stream.answer().status, 503);
}

#[test]
fn a_stalled_error_is_decided_while_the_request_continues() {
    let (host, vm) = ready();
    // A request without an announced size passes while it arrives.
    let stream = vm.request(chat(), false);
    stream.body("{", false);
    stream.respond(404, [], false);
    stream.response_body("{\"error\":", false);
    host.advance(millis(1000));
    stream.body("}", true);
    host.advance(millis(1100));
    let answer = stream.answer();
    assert_eq!(
        (answer.status, code(answer.text())),
        (404, "incomplete_error".to_owned())
    );
}
