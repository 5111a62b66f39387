//! Requests that wait for a backend when all are unavailable.

use serde_json::json;

use super::*;

fn config(longest: &str) -> Value {
    json!({"cooldown": {"wait_timeout": longest}})
}

/// A worker whose only backend is throttled for two seconds, and refused a trial; requests may wait for `longest`.
fn throttled(longest: &str) -> (Host, Vm) {
    let (host, vm, trial) = with_trial(longest);
    throttle(&trial, "2");
    (host, vm)
}

/// A worker whose only backend is throttled for two seconds, with a trial under way.
fn with_trial(longest: &str) -> (Host, Vm, Stream) {
    let (host, vm) = fleet(1, config(longest));
    // As large as any request here.
    let stream = vm.request(chat_of(10), false);
    stream.body("0123456789", true);
    throttle(&stream, "2");
    host.advance(millis(10));
    let trial = vm.request(chat_of(10), false);
    trial.body("0123456789", true);
    assert!(trial.forwarded().is_some());
    (host, vm, trial)
}

#[test]
fn a_request_waits_for_a_backend_and_loses_nothing() {
    for (pieces, complete) in [(1, true), (3, true), (3, false)] {
        let (host, vm) = throttled("5s");
        let text = "0123456789".repeat(30);
        let stream = vm.request(chat_of(text.len()), false);
        let frames: Vec<_> = text.as_bytes().chunks(text.len() / pieces).collect();
        let held = if complete {
            frames.len()
        } else {
            frames.len() - 1
        };
        for (index, frame) in frames.iter().enumerate().take(held) {
            stream.body(frame, index + 1 == frames.len());
        }
        host.advance(millis(1900));
        assert!(stream.forwarded().is_none() && stream.answered().is_none());
        host.advance(millis(200));
        for frame in frames.iter().skip(held) {
            stream.body(frame, true);
        }
        let forwarded = stream.forwarded().expect("the wait is over");
        assert_eq!(forwarded.body, text.as_bytes(), "{pieces} {complete}");
        respond(&stream, 200, "fine");
        assert_eq!(stream.answer().status, 200);
    }
}

#[test]
fn a_body_that_comes_while_its_request_waits_stays_with_it() {
    let (host, vm) = throttled("5s");
    // Of unknown length, so it is not held for its own sake.
    let stream = vm.request(chat(), false);
    for frame in ["one ", "two ", "three "] {
        stream.body(frame, false);
        assert!(stream.forwarded().is_none());
    }
    host.advance(millis(2100));
    stream.body("four", true);
    assert_eq!(stream.forwarded().unwrap().body, b"one two three four");
    respond(&stream, 200, "fine");
    assert_eq!(stream.answer().status, 200);
}

#[test]
fn a_wait_that_is_too_long_or_an_upgrade_is_refused_at_once() {
    let (_host, vm) = throttled("1s");
    assert_eq!(refused(&send(&vm)).0, 429);

    let (_host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    let realtime = || {
        let headers = [
            (":method", "GET"),
            (":authority", "gateway.internal"),
            (":path", "/openai/realtime?deployment=gpt-4o"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ];
        vm.request(headers, true)
    };
    throttle(&realtime(), "2");
    let _trial = realtime();
    assert_eq!(refused(&realtime()).0, 429);
}

#[test]
fn those_that_wait_are_sent_when_the_wait_is_over() {
    let (host, vm) = throttled("3s");
    let waiting: Vec<_> = (0..5).map(|_| send(&vm)).collect();
    host.advance(millis(1900));
    assert!(waiting.iter().all(|stream| stream.forwarded().is_none()));
    host.advance(millis(200));
    for stream in &waiting {
        assert!(stream.forwarded().is_some(), "nobody else is free");
        respond(stream, 200, "fine");
    }
}

#[test]
fn nobody_waits_beyond_the_configured_time() {
    let (host, vm) = throttled("3s");
    let waiting: Vec<_> = (0..5).map(|_| send(&vm)).collect();
    host.advance(millis(1500));
    let trial = send(&vm);
    throttle(&trial, "2");
    assert_eq!(trial.answer().status, 429);
    // Two more seconds would be too long.
    host.advance(millis(600));
    for stream in &waiting {
        assert_eq!(refused(stream).0, 429);
    }
}

#[test]
fn a_served_trial_resumes_those_that_wait_on_every_worker() {
    let (host, vm, trial) = with_trial("5s");
    let other = host.vm(&fleet_config(1, config("5s")));
    host.advance(millis(30));
    let waiting: Vec<_> = [&vm, &other]
        .map(|vm| (0..3).map(|_| send(vm)))
        .into_iter()
        .flatten()
        .collect();
    host.advance(millis(30));
    assert!(waiting.iter().all(|stream| stream.forwarded().is_none()));
    respond(&trial, 200, "fine");
    host.advance(millis(20));
    for stream in &waiting {
        assert!(stream.forwarded().is_some(), "long before the wait is over");
        respond(stream, 200, "fine");
    }
}

#[test]
fn a_trial_that_is_not_refused_resumes_those_that_wait() {
    let (host, vm, _trial) = with_trial("5s");
    let waiting = send(&vm);
    host.advance(millis(450));
    assert!(waiting.forwarded().is_none());
    host.advance(millis(100));
    assert!(waiting.forwarded().is_some());
}

#[test]
fn those_that_wait_make_no_trial() {
    let (host, vm) = throttled("5s");
    let waiting: Vec<_> = (0..5).map(|_| send(&vm)).collect();
    host.advance(millis(1900));
    assert!(waiting.iter().all(|stream| stream.forwarded().is_none()));
    assert_eq!(counted(&host, "aoai.backend.east.trials"), 1);
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten() {
    let (host, vm) = throttled("5s");
    send(&vm).disconnect();
    host.advance(seconds(3));
    assert_eq!(host.statistic("aoai.client_gone"), 1);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 2);
    assert_eq!(served_by(&vm, 1), [EAST]);
}
