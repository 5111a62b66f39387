//! Bodies that the filter copies for its further attempts.

use mock_host::{Action, Setup, Stream, Vm};
use serde_json::json;

use super::*;
use crate::adapter::bodies::{across_a_token, frames};
use crate::adapter::budget::host_calls;
use crate::adapter::engines::Engine;

/// The backend fails, and the next backend gets the body too.
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
fn a_small_body_of_known_length_is_read_in_one_piece() {
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
fn a_request_without_room_for_its_body_gets_one_attempt() {
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

#[test]
fn a_body_is_whole_where_held_bodies_are_hidden() {
    for before in 0..=4 {
        let setup = Setup::new(CONFIG).allow_on_headers_stop_iteration(false);
        across_a_token(Engine::Filter, setup, false, before);
    }
}

#[test]
fn a_body_that_grows_over_the_limit_gets_one_attempt() {
    let limited = Setup::new(config_with("retry", json!({"replay_limit": "8B"})));
    let (host, vm) = ready_with(limited);
    let stream = vm.request(chat(), false);
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
