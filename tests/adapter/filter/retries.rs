//! Further attempts as calls: the filter's decisions, and the clients' answers.

use mock_host::{status, Action, Fault, LogLevel, Setup};
use serde_json::json;

use super::*;

#[test]
fn an_attempt_that_succeeds_is_the_only_one() {
    let (host, vm) = ready();
    let stream = send(&vm);
    assert_eq!(routed_to(&stream), "aoai_east");
    assert_eq!(
        stream.respond(200, [("x-ms-region", "East US")], false),
        Action::Continue
    );
    assert_eq!(
        stream.response_body("data: 1\n\n", false),
        Some(Action::Continue)
    );
    assert_eq!(stream.answered().unwrap().text(), "data: 1\n\n", "at once");
    stream.response_body("data: [DONE]\n\n", true);
    let answer = stream.answer();
    assert_eq!(answer.text(), "data: 1\n\ndata: [DONE]\n\n");
    assert_eq!(answer.headers.get("x-ms-region"), Some("East US"));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("1"));
    assert_eq!(vm.calls(), []);
    assert_quiet(&host);
}

#[test]
fn a_retry_is_made_from_the_original_request() {
    let (_host, vm) = ready();
    let mut headers = chat_of(BODY.len());
    headers.add("ocp-apim-subscription-key", CLIENT_KEY);
    headers.add("connection", "keep-alive");
    headers.add("te", "trailers");
    headers.add("x-envoy-expected-rq-timeout-ms", "15000");
    headers.add("x-aoai-cluster", "forged");
    let stream = vm.request(headers, false);
    stream.body(BODY, true);
    assert_eq!(stream.respond(500, [], true), Action::Pause);
    let call = vm.call();
    assert_eq!(call.cluster, "aoai_west");
    assert_eq!(call.body, BODY.as_bytes());
    assert_eq!(call.timeout, seconds(300));
    assert_eq!(
        call.headers,
        [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "west.openai.azure.com"),
            (":path", PATH),
            ("content-type", "application/json"),
            ("x-stainless-lang", "python"),
            ("authorization", "Bearer TOKEN-ONE"),
        ]
        .into()
    );
}

#[test]
fn the_answer_to_a_retry_replaces_the_first_one() {
    let (host, vm) = ready();
    let stream = send(&vm);
    stream.respond(500, [("x-first", "yes")], false);
    assert_eq!(stream.response_body("first", false), Some(Action::Pause));
    assert_eq!(stream.answered(), None);
    let headers = [
        ("content-type", "application/json"),
        ("content-length", "6"),
        ("transfer-encoding", "chunked"),
        ("x-ms-region", "West US"),
    ];
    vm.answer(&vm.call(), 200, headers, "second");
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (200, "second"));
    assert_eq!(answer.details, "aoai_reissued");
    assert_eq!(answer.headers.get("x-ms-region"), Some("West US"));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("west"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("2"));
    assert_eq!(answer.headers.get("x-first"), None);
    let lengths = answer
        .headers
        .names()
        .filter(|name| *name == "content-length");
    assert_eq!(lengths.count(), 1);
    assert_eq!(answer.headers.get("transfer-encoding"), None);
    assert_eq!(stream.response_body("rest", true), None, "no one wants it");
    assert_eq!(stream.answer().text(), "second");
    drop(stream);
    assert_eq!(counted(&host, "aoai.backend.west.retries"), 1);
    assert_eq!(counted(&host, "aoai.backend.west.outcome.success"), 1);
    assert_eq!(counted(&host, "aoai.client_gone"), 0);
    assert_quiet(&host);
}

#[test]
fn without_another_backend_the_routers_answer_passes() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 429, "from east");
    vm.answer_locally(&vm.call(), 503);
    vm.fail(&vm.call());
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (429, "from east"));
    assert_eq!(answer.details, "via_upstream");
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
}

#[test]
fn the_routers_real_answer_is_whole_however_late_it_comes() {
    const FRAMES: [&str; 4] = ["one ", "two ", "three ", "four"];
    for before in 0..=FRAMES.len() {
        let (_host, vm) = ready();
        let stream = send(&vm);
        stream.respond(429, [], false);
        for (index, frame) in FRAMES.into_iter().enumerate() {
            if index == before {
                vm.answer_locally(&vm.call(), 503);
                vm.answer_locally(&vm.call(), 503);
            }
            stream.response_body(frame, index + 1 == FRAMES.len());
        }
        if before == FRAMES.len() {
            vm.answer_locally(&vm.call(), 503);
            vm.answer_locally(&vm.call(), 503);
        }
        let answer = stream.answer();
        assert_eq!(
            answer.text(),
            FRAMES.concat(),
            "{before} frames before the resume"
        );
    }
}

#[test]
fn an_early_429_waits_for_the_rest_of_the_request() {
    let (_host, vm) = ready();
    let stream = vm.request(chat(), false);
    stream.body("first ", false);
    assert_eq!(stream.respond(429, [], false), Action::Pause);
    assert_eq!(stream.response_body("too many", false), Some(Action::Pause));
    assert_eq!(vm.calls(), []);
    stream.body("second ", false);
    assert_eq!(vm.calls(), []);
    stream.body("third", true);
    let call = vm.call();
    assert_eq!(call.body, b"first second third");
    vm.answer(&call, 200, [], "done");
    assert_eq!(stream.answer().text(), "done");
}

#[test]
fn bytes_after_an_upgrade_pass_both_ways() {
    let (_host, vm) = ready();
    let mut headers = chat();
    headers.add("upgrade", "websocket");
    let stream = vm.request(headers, false);
    stream.respond(101, [], false);
    assert_eq!(stream.body(b"\x81\x05", false), Some(Action::Continue));
    assert_eq!(
        stream.response_body(b"\x81\xff", false),
        Some(Action::Continue)
    );
    assert_eq!(stream.forwarded().unwrap().body, b"\x81\x05");
    assert_eq!(stream.answered().unwrap().body, b"\x81\xff");
}

#[test]
fn a_header_that_is_not_text_passes_but_is_not_replayed() {
    let (host, vm) = ready();
    let headers = chat_of(BODY.len()).with("x-name", *b"caf\xe9");
    let stream = vm.request(headers, false);
    stream.body(BODY, true);
    let forwarded = stream.forwarded().unwrap();
    assert!(forwarded
        .headers
        .iter()
        .any(|(_, value)| value == b"caf\xe9"));
    respond(&stream, 500, "failed");
    assert_eq!(stream.answer().text(), "failed");
    drop(stream);
    assert_eq!(counted(&host, "aoai.no_retry.headers_not_replayable"), 1);
}

#[test]
fn a_cluster_that_envoy_does_not_have_is_skipped() {
    for refusal in [status::BAD_ARGUMENT, status::INTERNAL_FAILURE] {
        let (host, vm) = ready();
        host.inject(Fault::of("proxy_http_call").on("aoai_west").status(refusal));
        let stream = send(&vm);
        respond(&stream, 500, "");
        let call = vm.call();
        assert_eq!(call.cluster, "aoai_north");
        vm.answer(&call, 200, [], "from north");
        let answer = stream.answer();
        assert_eq!(answer.text(), "from north");
        assert_eq!(answer.headers.get("x-aoai-backend"), Some("north"));
    }
}

#[test]
fn if_envoy_refuses_all_calls_the_first_answer_passes() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_http_call").status(status::INTERNAL_FAILURE));
    let stream = send(&vm);
    respond(&stream, 500, "from east");
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (500, "from east"));
}

#[test]
fn a_call_that_envoy_refuses_is_a_failed_attempt() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_http_call").on("aoai_north"));
    let stream = get(&vm);
    stream.respond_locally(504, "response_timeout");
    vm.answer_locally(&vm.call(), 504);
    let answer = stream.answer();
    assert_eq!(
        code(answer.text()),
        "backend_unavailable",
        "the last one did not time out"
    );
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
    assert_eq!(counted(&host, "aoai.backend.north.attempts"), 1);
    assert_eq!(counted(&host, "aoai.backend.north.outcome.unavailable"), 1);
}

#[test]
fn a_cluster_that_envoy_does_not_have_is_named_in_the_log_once() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_http_call").on("aoai_north"));
    for _ in 0..2 {
        let stream = get(&vm);
        respond(&stream, 500, "");
        while let Some(call) = vm.calls().first() {
            vm.answer(call, 500, [], "");
        }
        assert_eq!(stream.answer().status, 500);
    }
    let complaints = host.logged(LogLevel::Error);
    assert_eq!(complaints.len(), 1, "once: {complaints:?}");
    assert!(complaints[0].contains("aoai_north"), "{complaints:?}");
}

#[test]
fn the_last_attempt_decides_between_503_and_504() {
    for (first, second, third, expected) in [
        (503, 503, 504, "backend_timeout"),
        (504, 504, 503, "backend_unavailable"),
    ] {
        let (_host, vm) = ready();
        let stream = get(&vm);
        stream.respond_locally(first, "upstream_per_try_timeout");
        vm.answer_locally(&vm.call(), second);
        vm.answer_locally(&vm.call(), third);
        assert_eq!(code(stream.answer().text()), expected);
    }
}

#[test]
fn a_missing_cluster_is_logged_once_and_skipped() {
    let (host, vm) = ready();
    for _ in 0..4 {
        let stream = get(&vm);
        if routed_to(&stream) == "aoai_east" {
            stream.respond_locally(503, "cluster_not_found");
            vm.answer(&vm.call(), 200, [], "ok");
        } else {
            respond(&stream, 200, "ok");
        }
        assert_eq!(stream.answer().text(), "ok");
    }
    let complaints = host.logged(LogLevel::Error);
    assert_eq!(complaints.len(), 1, "once: {complaints:?}");
    assert!(complaints[0].contains("aoai_east"), "{complaints:?}");
}

#[test]
fn an_answer_that_ends_before_its_request_is_not_retried() {
    for trailers in [false, true] {
        let (host, vm) = ready();
        let stream = vm.request(chat(), false);
        stream.body("first ", false);
        stream.respond(429, [("retry-after", "7")], false);
        if trailers {
            stream.response_body("too many", false);
            stream.response_trailers([("x-trailer", "1")]);
        } else {
            stream.response_body("too many", true);
        }
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (429, "too many"));
        assert_eq!(vm.calls(), []);
        drop(stream);
        assert_eq!(counted(&host, "aoai.no_retry.request_incomplete"), 1);
    }
}

#[test]
fn a_single_attempt_that_takes_too_long_ends_with_504() {
    let setup = Setup::new(config_with("retry", json!({"max_attempts": 1})));
    let (_host, vm) = ready_with(setup);
    let stream = send(&vm);
    stream.respond_locally(504, "response_timeout");
    let answer = stream.answer();
    assert_eq!(answer.status, 504);
    assert_eq!(code(answer.text()), "backend_timeout");
}
