//! Request bodies: copied byte for byte whichever way they come, and given up when they are too large.

use mock_host::{Action, Host, Setup, Stream, Vm};
use serde_json::json;

use super::budget::host_calls;
use super::support::*;

/// Frames whose bytes are all different from their neighbours', so that a lost or doubled one shows.
fn frames(sizes: &[usize]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut next = 0_u32;
    let frames: Vec<Vec<u8>> = sizes
        .iter()
        .map(|size| {
            let frame = (0..*size).map(|_| {
                next = next.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (next >> 24) as u8
            });
            frame.collect()
        })
        .collect();
    let whole = frames.concat();
    (frames, whole)
}

/// The backend fails, and the body arrives at the next one too.
fn assert_replayed(vm: &Vm, stream: &Stream, body: &[u8]) {
    respond(stream, 500, "");
    assert!(vm.call().body == body, "the copy is not the body");
}

#[test]
fn a_body_of_unknown_length_passes_frame_by_frame_and_is_copied() {
    let (_host, vm) = ready();
    let (frames, body) = frames(&[1, 16_384, 0, 7]);
    let stream = vm.request(chat(), false);
    let mut passed = 0;
    for (frame, end) in frames.iter().zip([false, false, false, true]) {
        assert_eq!(stream.body(frame, end), Some(Action::Continue));
        passed += frame.len();
        assert_eq!(stream.forwarded().unwrap().body.len(), passed, "at once");
    }
    assert!(stream.forwarded().unwrap().body == body);
    assert_replayed(&vm, &stream, &body);
}

#[test]
fn a_small_body_of_known_length_is_read_once_whatever_frames_it_comes_in() {
    let (host, vm) = ready();
    let (frames, body) = frames(&[1000, 1, 3000]);
    host.clear_counts();
    let stream = vm.request(chat_of(body.len()), false);
    for (frame, end) in frames.iter().zip([false, false, true]) {
        stream.body(frame, end);
    }
    let forwarded = stream.forwarded().unwrap();
    assert!(forwarded.complete && forwarded.body == body);
    assert_eq!(host_calls(&host)["proxy_get_buffer_bytes"], 1);
    assert_replayed(&vm, &stream, &body);
}

#[test]
fn the_end_may_come_in_an_empty_frame() {
    for headers in [chat(), chat_of(4)] {
        let (_host, vm) = ready();
        let stream = vm.request(headers, false);
        stream.body("body", false);
        stream.body("", true);
        let forwarded = stream.forwarded().unwrap();
        assert_eq!(
            (forwarded.body.as_slice(), forwarded.complete),
            (&b"body"[..], true)
        );
        assert_replayed(&vm, &stream, b"body");
    }
}

/// A request that begins without a token, gets `before` frames in, then the token, then the rest.
fn across_a_token(setup: Setup, announced: bool, before: usize) {
    let (frames, body) = frames(&[5000, 1, 300, 20]);
    let host = Host::new();
    let vm = host.start(setup).unwrap();
    let headers = if announced {
        chat_of(body.len())
    } else {
        chat()
    };
    let stream = vm.request(headers, false);
    for (index, frame) in frames.iter().enumerate() {
        if index == before {
            host.advance(millis(1));
            give_token(&vm, TOKEN);
        }
        stream.body(frame, index + 1 == frames.len());
    }
    if before == frames.len() {
        assert_eq!(stream.forwarded(), None);
        host.advance(millis(1));
        give_token(&vm, TOKEN);
    }
    let forwarded = stream.forwarded().expect("the request went on");
    assert!(forwarded.complete);
    assert_eq!(
        forwarded.body.len(),
        body.len(),
        "{before} frames before the token"
    );
    assert!(forwarded.body == body);
    assert_replayed(&vm, &stream, &body);
    assert_quiet(&host);
}

#[test]
fn a_body_of_known_length_is_whole_whenever_the_token_comes() {
    for before in 0..=4 {
        across_a_token(Setup::new(CONFIG), true, before);
    }
}

#[test]
fn a_body_of_unknown_length_is_whole_whenever_the_token_comes() {
    for before in 0..=4 {
        across_a_token(Setup::new(CONFIG), false, before);
    }
}

#[test]
fn a_body_is_whole_in_an_envoy_that_loses_no_frames_too() {
    for before in 0..=4 {
        for announced in [false, true] {
            across_a_token(Setup::new(CONFIG).loses_frames(false), announced, before);
        }
    }
}

#[test]
fn a_body_is_whole_where_held_bodies_are_hidden() {
    for before in 0..=4 {
        let setup = Setup::new(CONFIG).allow_on_headers_stop_iteration(false);
        across_a_token(setup, false, before);
    }
}

#[test]
fn a_body_ended_by_trailers_is_replayed_with_them() {
    for headers in [chat(), chat_of(4)] {
        let (_host, vm) = ready();
        let stream = vm.request(headers, false);
        stream.body("body", false);
        stream.trailers([("x-checksum", "1234"), ("api-key", "CLIENT-KEY")]);
        let forwarded = stream.forwarded().unwrap();
        assert!(forwarded.complete);
        assert_eq!(forwarded.trailers.unwrap().get("api-key"), None);
        respond(&stream, 500, "");
        let call = vm.call();
        assert_eq!(call.body, b"body");
        assert_eq!(call.trailers.get("x-checksum"), Some("1234"));
        assert_eq!(call.trailers.get("api-key"), None);
    }
}

#[test]
fn a_request_for_which_there_is_no_room_gets_one_attempt_until_there_is_room_again() {
    const MIB: usize = 1 << 20;
    let retry = json!({"replay_limit": "64MiB", "replay_memory": "64MiB"});
    let (host, vm) = ready_with(Setup::new(config_with("retry", retry)));
    let large = vm.request(chat_of(60 * MIB), false);
    large.body("the beginning", false);
    let body = "x".repeat(5 * MIB);
    let fails = |body: &str| {
        let stream = vm.request(chat_of(body.len()), false);
        stream.body(body, true);
        assert_eq!(stream.forwarded().unwrap().body, body.as_bytes());
        respond(&stream, 500, "failed");
        stream
    };
    assert_eq!(fails(&body).answer().text(), "failed");
    assert_eq!(vm.calls(), []);
    assert_eq!(counted(&host, "aoai.no_retry.replay_memory_full"), 1);
    large.disconnect();
    let _retried = fails(&body);
    assert_eq!(vm.call().body, body.as_bytes());
}

fn limited() -> Setup {
    Setup::new(config_with("retry", json!({"replay_limit": "8B"})))
}

#[test]
fn a_body_over_the_limit_gets_one_attempt_and_the_reason_is_counted() {
    for headers in [chat(), chat_of(9)] {
        let (host, vm) = ready_with(limited());
        let stream = vm.request(headers, false);
        stream.body("12345", false);
        stream.body("6789", true);
        assert_eq!(stream.forwarded().unwrap().body, b"123456789");
        respond(&stream, 500, "failed");
        assert_eq!(vm.calls(), []);
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (500, "failed"));
        assert_eq!(answer.headers.get("x-aoai-attempts"), Some("1"));
        assert_eq!(counted(&host, "aoai.no_retry.body_too_large"), 1);
    }
}

#[test]
fn a_body_at_the_limit_is_replayed() {
    let (_host, vm) = ready_with(limited());
    let stream = vm.request(chat(), false);
    stream.body("12345678", true);
    assert_replayed(&vm, &stream, b"12345678");
}
