//! Further attempts: what they carry, how many there are, and whose answer the client gets.

use mock_host::{status, Action, Fault, Host, LogLevel, Setup};
use serde_json::json;

use super::support::*;

const UNREACHABLE: &str = "upstream_reset_before_response_started{connection_failure}";

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
fn the_first_attempt_carries_the_token_and_none_of_the_clients_credentials() {
    let (_host, vm) = ready();
    let mut headers = chat_of(BODY.len());
    headers.add("ocp-apim-subscription-key", CLIENT_KEY);
    headers.add("x-aoai-cluster", "forged");
    let stream = vm.request(headers, false);
    stream.body(BODY, true);
    let forwarded = stream.forwarded().unwrap();
    let headers = forwarded.headers;
    assert_eq!(headers.get("authorization"), Some("Bearer TOKEN-ONE"));
    assert_eq!(headers.get(":authority"), Some("east.openai.azure.com"));
    assert_eq!(headers.get("x-aoai-cluster"), Some("aoai_east"));
    assert_eq!(headers.get(":path"), Some(PATH));
    assert_eq!(headers.get("x-stainless-lang"), Some("python"));
    assert!(!format!("{headers:?}").contains("CLIENT"));
    for (name, value) in headers.iter() {
        assert!(
            !value.starts_with(b"CLIENT") && value != b"forged",
            "{name}"
        );
    }
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
fn a_clients_key_in_the_query_reaches_no_backend() {
    let (_host, vm) = ready();
    let headers = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "gateway.internal"),
        (":path", "/openai/models?api-key=CLIENT-KEY&api-version=1"),
    ];
    let stream = vm.request(headers, true);
    let forwarded = stream.forwarded().unwrap();
    assert_eq!(
        forwarded.headers.get(":path"),
        Some("/openai/models?api-version=1")
    );
    respond(&stream, 503, "");
    let call = vm.call();
    assert_eq!(
        call.headers.get(":path"),
        Some("/openai/models?api-version=1")
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
fn three_attempts_are_made_and_the_last_real_answer_is_the_clients() {
    let (host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 500, "from east");
    vm.answer(&vm.call(), 503, [], "from west");
    let call = vm.call();
    assert_eq!(call.cluster, "aoai_north");
    vm.answer(&call, 429, [("retry-after", "7")], "from north");
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (429, "from north"));
    assert_eq!(answer.headers.get("retry-after"), Some("7"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
    assert_eq!(vm.calls(), []);
    drop(stream);
    assert_eq!(counted(&host, "aoai.no_retry.attempts_exhausted"), 1);
}

#[test]
fn a_backends_answer_wins_over_a_later_failure_to_reach_one() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 500, "");
    vm.answer(&vm.call(), 429, [("retry-after", "7")], "from west");
    vm.answer_locally(&vm.call(), 503);
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (429, "from west"));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("west"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
}

#[test]
fn the_routers_real_answer_is_the_clients_when_no_other_backend_can_be_reached() {
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
fn a_backend_that_cannot_be_reached_is_passed_over() {
    let (host, vm) = ready();
    let stream = send(&vm);
    stream.respond_locally(503, UNREACHABLE);
    assert_eq!(stream.answered(), None);
    vm.answer(&vm.call(), 200, [], "from west");
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (200, "from west"));
    drop(stream);
    assert_eq!(counted(&host, "aoai.backend.east.outcome.unavailable"), 1);
}

#[test]
fn when_no_backend_can_be_reached_the_gateway_says_so() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    stream.respond_locally(503, UNREACHABLE);
    vm.answer_locally(&vm.call(), 503);
    vm.fail(&vm.call());
    let answer = stream.answer();
    assert_eq!(answer.status, 503);
    assert_eq!(code(answer.text()), "backend_unavailable");
    assert!(!answer.text().contains("connect error"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
    assert_eq!(answer.headers.get("x-aoai-backend"), None);
}

#[test]
fn when_the_last_backend_did_not_answer_in_time_the_gateway_says_504() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    stream.respond_locally(504, "response_timeout");
    vm.answer_locally(&vm.call(), 504);
    vm.answer_locally(&vm.call(), 504);
    let answer = stream.answer();
    assert_eq!(answer.status, 504);
    assert_eq!(code(answer.text()), "backend_timeout");
}

#[test]
fn a_clients_own_error_is_not_retried() {
    for status in [400, 403, 413, 422] {
        let (_host, vm) = ready();
        let stream = send(&vm);
        respond(&stream, status, "your fault");
        assert_eq!(vm.calls(), []);
        assert_eq!(stream.answer().status, status);
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
fn an_upgrade_is_not_retried() {
    let (host, vm) = ready();
    let stream = vm.request(
        [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "gateway.internal"),
            (":path", "/openai/realtime?api-version=1&deployment=gpt-4o"),
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
        ],
        false,
    );
    assert_eq!(routed_to(&stream), "aoai_east");
    respond(&stream, 503, "overloaded");
    assert_eq!(vm.calls(), []);
    assert_eq!(stream.answer().text(), "overloaded");
    drop(stream);
    assert_eq!(counted(&host, "aoai.no_retry.upgrade"), 1);
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
fn a_cluster_that_envoy_does_not_have_is_passed_over() {
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
fn when_envoy_takes_no_call_at_all_the_first_answer_is_the_clients() {
    let (host, vm) = ready();
    host.inject(Fault::of("proxy_http_call").status(status::INTERNAL_FAILURE));
    let stream = send(&vm);
    respond(&stream, 500, "from east");
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (500, "from east"));
}

#[test]
fn with_one_attempt_there_is_no_retry() {
    let setup = Setup::new(config_with("retry", json!({"max_attempts": 1})));
    let (_host, vm) = ready_with(setup);
    let stream = send(&vm);
    respond(&stream, 500, "failed");
    assert_eq!(vm.calls(), []);
    assert_eq!(stream.answer().text(), "failed");
}

#[test]
fn response_headers_can_be_switched_off() {
    let setup = Setup::new(config_with(
        "headers",
        json!({"backend": null, "attempts": null}),
    ));
    let (_host, vm) = ready_with(setup);
    let first = send(&vm);
    respond(&first, 200, "ok");
    let second = send(&vm);
    respond(&second, 500, "");
    vm.answer(&vm.call(), 200, [], "ok");
    for stream in [first, second] {
        let answer = stream.answer();
        assert_eq!(answer.status, 200);
        assert!(answer
            .headers
            .names()
            .all(|name| !name.starts_with("x-aoai")));
    }
}

#[test]
fn requests_are_dealt_in_turn() {
    let (_host, vm) = ready();
    let clusters: Vec<_> = (0..6).map(|_| routed_to(&send(&vm))).collect();
    let turn = ["aoai_east", "aoai_west", "aoai_north"];
    assert_eq!(clusters, [turn, turn].concat());
}

#[test]
fn without_a_token_there_is_no_retry() {
    let host = Host::new();
    let vm = host.vm(CONFIG);
    host.advance(millis(1));
    give_token_for(&vm, TOKEN, seconds(10));
    let stream = send(&vm);
    host.advance(seconds(11));
    respond(&stream, 500, "from east");
    let retries = vm.calls().into_iter().filter(|c| c.cluster != "imds");
    assert_eq!(retries.count(), 0);
    let answer = stream.answer();
    assert_eq!(answer.text(), "from east");
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
}

#[test]
fn a_call_that_envoy_does_not_take_counts_as_an_attempt_that_failed() {
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
fn a_timeout_is_told_from_a_failure_by_the_last_attempt() {
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
fn a_single_attempt_that_takes_too_long_ends_with_504() {
    let setup = Setup::new(config_with("retry", json!({"max_attempts": 1})));
    let (_host, vm) = ready_with(setup);
    let stream = send(&vm);
    stream.respond_locally(504, "response_timeout");
    let answer = stream.answer();
    assert_eq!(answer.status, 504);
    assert_eq!(code(answer.text()), "backend_timeout");
}

#[test]
fn a_route_whose_cluster_envoy_does_not_have_is_said_once_and_passed_over() {
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
fn an_answer_that_is_over_before_the_request_is_cannot_be_retried() {
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

/// Answers that an answer of Envoy's own could not be like: headers and body.
const BARE: [(&[(&str, &str)], &str); 4] = [
    (&[("x-ms-region", "West US")], "no type"),
    // To a HEAD, or 304.
    (&[("content-length", "1234")], ""),
    (&[("content-type", "text/html")], ""),
    (
        &[("set-cookie", "b"), ("x-a", "1"), ("set-cookie", "a")],
        "x",
    ),
];

fn names(headers: &mock_host::Headers) -> Vec<(String, Vec<u8>)> {
    let pairs = headers.iter();
    pairs
        .filter(|(name, _)| !name.starts_with("x-aoai-"))
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

#[test]
fn a_later_answer_that_envoy_would_change_replaces_the_first() {
    for (headers, body) in BARE {
        for first in ["", "first"] {
            if first.is_empty() && !body.is_empty() {
                continue;
            }
            let (host, vm) = ready();
            let stream = send(&vm);
            let gone = [("content-type", "application/json"), ("retry-after", "7")];
            stream.respond(503, gone, first.is_empty());
            if !first.is_empty() {
                stream.response_body(first, true);
            }
            vm.answer(&vm.call(), 200, headers, body);
            let answer = stream.answer();
            assert_eq!((answer.status, answer.text()), (200, body));
            assert_eq!(answer.details, "via_upstream");
            let mut expected = vec![(":status".to_owned(), b"200".to_vec())];
            expected.extend(
                headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())),
            );
            assert_eq!(names(&answer.headers), expected);
            assert_eq!(answer.headers.get("x-aoai-backend"), Some("west"));
            assert_eq!(answer.headers.get("x-aoai-attempts"), Some("2"));
            drop(stream);
            assert_eq!(counted(&host, "aoai.stream_broken"), 0);
            assert_eq!(host.statistic("aoai.client_gone"), 0);
            assert_quiet(&host);
        }
    }
}

#[test]
fn where_there_is_no_room_for_it_envoy_answers() {
    let long = "x".repeat(64 * 1024 + 1);
    // The first answer is not complete; it has no body; it ends with trailers; the body is long.
    for (case, body) in ["no type", "no type", "no type", long.as_str()]
        .into_iter()
        .enumerate()
    {
        let (_host, vm) = ready();
        let stream = send(&vm);
        stream.respond(503, [], case == 1);
        match case {
            0 => drop(stream.response_body("first", false)),
            1 => {}
            2 => {
                stream.response_body("first", false);
                stream.response_trailers([("x-trailer", "1")]);
            }
            _ => drop(stream.response_body("first", true)),
        }
        vm.answer(&vm.call(), 200, [("x-ms-region", "West US")], body);
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (200, body), "case {case}");
        assert_eq!(answer.details, "aoai_reissued", "case {case}");
    }
}

#[test]
fn where_envoy_refuses_to_put_it_there_envoy_answers() {
    for function in ["proxy_set_buffer_bytes", "proxy_set_header_map_pairs"] {
        let (host, vm) = ready();
        let stream = send(&vm);
        respond(&stream, 503, "first");
        host.inject(Fault::of(function));
        vm.answer(&vm.call(), 200, [("x-ms-region", "West US")], "no type");
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (200, "no type"));
        assert_eq!(answer.details, "aoai_reissued");
    }
}

#[test]
fn envoys_time_of_the_call_does_not_reach_the_client() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 503, "first");
    let headers = [
        ("content-type", "text/html"),
        ("x-envoy-upstream-service-time", "12"),
    ];
    vm.answer(&vm.call(), 503, headers, "last");
    vm.fail(&vm.call());
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (503, "last"));
    assert_eq!(answer.headers.get("x-envoy-upstream-service-time"), None);
}
