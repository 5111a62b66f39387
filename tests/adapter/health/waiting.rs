//! Requests that wait for a backend when all are out.

use serde_json::json;

use super::*;

#[test]
fn a_request_waits_for_a_backend_and_loses_nothing() {
    for (pieces, complete) in [(1, true), (3, true), (3, false)] {
        let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
        throttle(&get(&vm), "2");
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
    let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "2");
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
    let (_host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "6");
    assert_eq!(refused(&get(&vm)).0, 429);
    let (_host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "2");
    let headers = [
        (":method", "GET"),
        (":authority", "gateway.internal"),
        (":path", "/openai/realtime"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    assert_eq!(refused(&vm.request(headers, true)).0, 429);
}

#[test]
fn those_that_wait_are_not_all_sent_at_once_and_not_kept_beyond_their_time() {
    let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "3s"}}));
    throttle(&get(&vm), "2");
    let waiting: Vec<_> = (0..5).map(|_| get(&vm)).collect();
    host.advance(millis(2100));
    let sent: Vec<_> = waiting
        .iter()
        .filter(|stream| stream.forwarded().is_some())
        .collect();
    assert_eq!(sent.len(), 1, "the probe");
    throttle(sent[0], "2");
    host.advance(millis(1500));
    for stream in &waiting {
        assert_eq!(stream.answer().status, 429);
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten() {
    let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "2");
    get(&vm).disconnect();
    host.advance(seconds(3));
    assert_eq!(host.statistic("aoai.client_gone"), 1);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 1);
    assert_eq!(served_by(&vm, 1), [EAST]);
}
