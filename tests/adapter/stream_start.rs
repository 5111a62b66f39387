//! Errors inside an event stream, before its first content and after it.

use mock_host::Action;
use serde_json::json;

use super::engines::*;

const STREAM: [(&str, &str); 2] = [
    ("content-type", "text/event-stream"),
    ("x-ms-region", "east"),
];
const RESPONSES: &str = "/openai/v1/responses";
const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n";
const FILTERS: &str = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
const CONTENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"H\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn chat_error(code: &str) -> String {
    format!(
        "data: {{\"error\":{{\"code\":\"{code}\",\"message\":\"Please try again in 7s.\"}}}}\n\n"
    )
}

fn failed(code: &str) -> String {
    format!(
        "event: response.failed\ndata: {{\"type\":\"response.failed\",\"response\":{{\"error\":\
         {{\"code\":\"{code}\",\"message\":\"Please try again in 7s.\"}}}}}}\n\n"
    )
}

/// The stream of a backend that serves a chat.
fn whole() -> String {
    format!("{FILTERS}{CONTENT}{DONE}")
}

/// The backend answers the attempt with a whole stream.
fn stream(attempt: &Attempt, text: &str) {
    attempt.respond(200, STREAM, false);
    attempt.response_body(text, true);
}

/// A gateway with this many backends. The first backend has three seconds for its first content.
fn limited(engine: Engine, count: usize) -> Gateway {
    let mut config: serde_json::Value =
        serde_json::from_str(&engine.config(count, json!({}))).unwrap();
    config["backends"][0]["first_byte_timeout"] = json!("3s");
    engine.ready(mock_host::Setup::new(config.to_string()))
}

fn outcomes(gateway: &Gateway, name: &str) -> u64 {
    gateway.counted(&format!("aoai.backend.east.outcome.{name}"))
}

/// The number of times that a body was read.
fn reads(gateway: &Gateway) -> u64 {
    let counts = gateway.host.counts();
    counts
        .get("proxy_get_buffer_bytes")
        .map_or(0, |count| count.calls)
}

/// The number of streams that were cut off.
fn closed(gateway: &Gateway) -> u64 {
    let counts = gateway.host.counts();
    counts
        .get("proxy_close_stream")
        .map_or(0, |count| count.calls)
}

/// A stream that passes because its content did not come in time.
fn late_stream(gateway: &Gateway) -> (Request, Attempt) {
    let request = gateway.ask("POST", RESPONSES, r#"{"model":"gpt","stream":true}"#);
    let attempt = request.attempt();
    attempt.respond(200, STREAM, false);
    attempt.response_body(CREATED, false);
    gateway.host.advance(millis(1_100));
    (request, attempt)
}

/// The first backend gets no chats for about seven seconds, the wait in the message of [`chat_error`], and then again.
fn assert_east_is_throttled_for_seven_seconds(gateway: &Gateway) {
    let is_served = || {
        let clusters = [(); 3].map(|()| {
            let request = gateway.send();
            let attempt = request.attempt();
            answer(&attempt, 200, "fine");
            attempt.cluster()
        });
        clusters.contains(&EAST.to_owned())
    };
    gateway.host.advance(millis(6_800));
    assert!(!is_served());
    gateway.host.advance(millis(1_500));
    assert!(is_served());
}

cases! {
    fn an_error_before_content_leads_to_the_next_backend(engine) {
        for (code, name) in [("rate_limit_exceeded", "throttled"), ("server_error", "unavailable")] {
            let gateway = engine.gateway();
            let request = gateway.send();
            let attempt = request.attempt();
            assert_eq!(attempt.respond(200, STREAM, false), Some(Action::Pause));
            assert_eq!(attempt.response_body(FILTERS, false), Some(Action::Pause));
            attempt.response_body(chat_error(code), false);
            assert_eq!((request.answered(), request.attempts().len()), (None, 1));
            attempt.response_body(DONE, true);
            let second = request.attempt();
            assert_eq!(second.cluster(), WEST);
            stream(&second, &whole());
            assert_eq!(outcome(&request), is(200, "west", "2", &whole()));
            drop(request);
            assert_eq!(outcomes(&gateway, name), 1, "{code}");
            assert_eq!(outcomes(&gateway, "success"), 0);
            assert_eq!(gateway.counted("aoai.stream_failed"), 1);
        }
    }

    fn a_failed_response_is_retried_however_it_is_cut(engine) {
        let first = format!("{CREATED}event: response.in_progress\r\ndata: {{}}\r\n\r\n{}", failed("too_many_requests"));
        for size in [1, 7, 1000] {
            let gateway = engine.gateway();
            let request = gateway.ask("POST", RESPONSES, r#"{"model":"gpt","stream":true}"#);
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            for chunk in first.as_bytes().chunks(size) {
                attempt.response_body(chunk, false);
            }
            attempt.response_body("", true);
            let served = format!("{CREATED}event: response.output_item.added\ndata: {{}}\n\n");
            stream(&request.attempt(), &served);
            assert_eq!(outcome(&request), is(200, "west", "2", &served));
        }
    }

    fn an_overloaded_claude_leads_to_the_next_backend(engine) {
        let gateway = engine.fleet(2, json!({"backends": [
            {"name": "east", "cluster": EAST, "host": "east.services.ai.azure.com"},
            {"name": "west", "cluster": WEST, "host": "west.services.ai.azure.com"},
        ]}));
        let request = gateway.ask("POST", "/anthropic/v1/messages", r#"{"model":"claude","stream":true}"#);
        let begin = "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n";
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
        stream(&request.attempt(), &format!("{begin}{error}"));
        let served = format!("{begin}event: content_block_start\ndata: {{}}\n\n");
        stream(&request.attempt(), &served);
        assert_eq!(outcome(&request), is(200, "west", "2", &served));
    }

    fn the_deployment_is_throttled_for_as_long_as_the_message_says(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        stream(&request.attempt(), &chat_error("429"));
        stream(&request.attempt(), &whole());
        assert_eq!(request.answer().text(), whole());
        assert_east_is_throttled_for_seven_seconds(&gateway);
    }

    fn content_and_later_errors_pass_at_once(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        attempt.response_body(FILTERS, false);
        assert_eq!(request.answered(), None);
        assert_eq!(attempt.response_body(CONTENT, false), Some(Action::Continue));
        assert_eq!(request.answered().unwrap().text(), format!("{FILTERS}{CONTENT}"));
        let error = chat_error("server_error");
        attempt.response_body(&error, true);
        assert_eq!(outcome(&request), is(200, "east", "1", &format!("{FILTERS}{CONTENT}{error}")));
        drop(request);
        assert_eq!(outcomes(&gateway, "success"), 1);
        assert_eq!(gateway.counted("aoai.stream_failed"), 0);
    }

    fn an_error_after_content_teaches_like_one_before_it(engine) {
        for (code, reason) in [("rate_limit_exceeded", "throttled"), ("server_error", "failing")] {
            for size in [1000, 40, 1] {
                let gateway = engine.gateway();
                let mut failed = 0;
                for _ in 0..40 {
                    let request = gateway.send();
                    let attempt = request.attempt();
                    let is_first = attempt.cluster() == EAST;
                    failed += u64::from(is_first);
                    let end = if is_first { chat_error(code) } else { String::new() };
                    attempt.respond(200, STREAM, false);
                    let text = format!("{FILTERS}{CONTENT}{end}{DONE}");
                    for chunk in text.as_bytes().chunks(size) {
                        attempt.response_body(chunk, false);
                    }
                    attempt.response_body("", true);
                    assert_eq!(request.answer().text(), text);
                }
                assert!(failed > 0);
                assert_eq!(gateway.counted("aoai.backend.east.stream_failed"), failed);
                assert_eq!(gateway.counted(&format!("aoai.backend.east.cooldowns.{reason}")), 1, "{code}");
                assert_eq!(outcomes(&gateway, "success"), failed);
            }
        }
    }

    fn a_wait_in_an_error_after_content_is_kept_for_that_deployment(engine) {
        let gateway = engine.gateway();
        stream(&gateway.send().attempt(), &format!("{CONTENT}{}", chat_error("429")));
        assert_east_is_throttled_for_seven_seconds(&gateway);
    }

    fn errors_of_the_request_after_content_teach_nothing(engine) {
        let gateway = engine.gateway();
        for end in [chat_error("content_filter"), String::new()] {
            stream(&gateway.send().attempt(), &format!("{CONTENT}{end}{DONE}"));
        }
        for name in ["stream_failed", "cooldowns.throttled", "cooldowns.failing"] {
            assert_eq!(gateway.counted(&format!("aoai.backend.east.{name}")), 0);
        }
    }

    fn without_usage_no_frame_after_content_is_read(engine) {
        let gateway = engine.fleet(2, json!({"usage": false}));
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        attempt.response_body(CONTENT, false);
        let read = reads(&gateway);
        attempt.response_body(chat_error("429"), true);
        assert_eq!(reads(&gateway), read);
        assert_eq!(gateway.counted("aoai.backend.east.stream_failed"), 0);
    }

    fn a_silent_stream_is_cut_off_and_counts_against_its_backend(engine) {
        let config = json!({"retry": {"stream_idle_timeout": "10s"}, "cooldown": {"consecutive_failures": 1}});
        let gateway = engine.fleet(2, config);
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        for _ in 0..4 {
            attempt.response_body(CONTENT, false);
            gateway.host.advance(millis(9_000));
            assert_eq!(closed(&gateway), 0);
        }
        gateway.host.advance(millis(3_000));
        assert_eq!(closed(&gateway), 1);
        gateway.host.advance(millis(30_000));
        assert_eq!(closed(&gateway), 1);
        drop(request);
        assert_eq!(gateway.counted("aoai.backend.east.stream_idle"), 1);
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.failing"), 1);
        assert_eq!((outcomes(&gateway, "success"), gateway.counted("aoai.stream_broken")), (1, 0));
        assert_eq!(gateway.counted("aoai.client_gone"), 0);
    }

    fn a_backend_may_have_a_limit_of_silence_of_its_own(engine) {
        let mut config: serde_json::Value = serde_json::from_str(&engine.config(2, json!({}))).unwrap();
        config["backends"][0]["stream_idle_timeout"] = json!("2s");
        let gateway = engine.ready(mock_host::Setup::new(config.to_string()));
        let requests = [gateway.send(), gateway.send()];
        for request in &requests {
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            attempt.response_body(CONTENT, false);
        }
        gateway.host.advance(millis(60_000));
        assert_eq!(closed(&gateway), 1);
        assert_eq!(gateway.counted("aoai.backend.east.stream_idle"), 1);
    }

    fn only_open_streams_have_a_limit_of_silence(engine) {
        let gateway = engine.fleet(2, json!({"retry": {"stream_idle_timeout": "1s"}}));
        // The stream is complete, and its client reads slowly.
        let whole_stream = gateway.send();
        stream(&whole_stream.attempt(), &whole());
        let list = gateway.ask("GET", "/openai/v1/files", "");
        list.attempt().respond(200, [], false);
        list.attempt().response_body("{", false);
        let held = gateway.send();
        gateway.host.advance(millis(60_000));
        assert_eq!(closed(&gateway), 0);
        drop((whole_stream, list, held));
    }

    fn a_watched_stream_that_ends_is_forgotten(engine) {
        let gateway = engine.fleet(2, json!({"retry": {"stream_idle_timeout": "1s"}}));
        for is_left in [false, true] {
            let request = gateway.send();
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            attempt.response_body(CONTENT, !is_left);
            drop(request);
        }
        gateway.host.advance(millis(10_000));
        assert_eq!(closed(&gateway), 0);
        assert_eq!(gateway.counted("aoai.backend.east.stream_idle"), 0);
    }

    fn an_error_of_the_request_passes(engine) {
        for code in ["content_filter", "context_length_exceeded", "novelty"] {
            let gateway = engine.gateway();
            let request = gateway.send();
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            let error = chat_error(code);
            assert_eq!(attempt.response_body(&error, false), Some(Action::Continue));
            attempt.response_body(DONE, true);
            assert_eq!(outcome(&request), is(200, "east", "1", &format!("{error}{DONE}")));
            drop(request);
            assert_eq!(outcomes(&gateway, "client_error"), 1);
        }
    }

    fn a_stream_without_content_passes_when_its_time_is_up(engine) {
        for frames in 0..2 {
            let gateway = engine.gateway();
            let request = gateway.send();
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            if frames > 0 {
                attempt.response_body(": keep-alive\n\n", false);
            }
            gateway.host.advance(millis(900));
            assert_eq!(request.answered(), None);
            gateway.host.advance(millis(200));
            let begin = if frames > 0 { ": keep-alive\n\n" } else { "" };
            assert_eq!(request.answered().unwrap().text(), begin);
            let error = chat_error("server_error");
            attempt.response_body(&error, false);
            gateway.host.advance(millis(60));
            assert_eq!(request.answered().unwrap().text(), format!("{begin}{error}"));
            gateway.host.advance(seconds(60));
            attempt.response_body(DONE, true);
            gateway.host.advance(millis(5));
            assert_eq!(outcome(&request), is(200, "east", "1", &format!("{begin}{error}{DONE}")));
            drop(request);
            assert_eq!(outcomes(&gateway, "success"), 1);
        }
    }

    /// Envoy loses a frame that follows an early resume, if the frame passes in its own callback.
    fn frames_of_a_late_stream_come_in_order_and_none_is_lost(engine) {
        let frames: Vec<_> = (0..6).map(|number| format!("data: {{\"id\":\"file-{number}\"}}\n\n")).collect();
        // The time between two frames, in milliseconds.
        for gap in [0, 10, 200] {
            let gateway = engine.gateway();
            let (request, attempt) = late_stream(&gateway);
            assert_eq!(request.answered().unwrap().text(), CREATED);
            for (number, frame) in frames.iter().enumerate() {
                attempt.response_body(frame, number == 5);
                gateway.host.advance(millis(gap));
            }
            gateway.host.advance(millis(60));
            let answer = request.answer();
            let expected = format!("{CREATED}{}", frames.concat());
            // Each id was tagged exactly once.
            let tag = answer.text().split("file-0").nth(1).unwrap().split('"').next().unwrap();
            assert_eq!(tag.len(), 8, "{tag}");
            assert_eq!(answer.text().replace(tag, ""), expected, "{gap}");
            assert_eq!(answer.text().matches(tag).count(), 6);
        }
    }

    fn the_trailers_of_a_late_stream_bring_its_last_frame(engine) {
        let gateway = engine.gateway();
        let (request, attempt) = late_stream(&gateway);
        attempt.response_body("data: {\"id\":\"file-0\"}\n\n", false);
        attempt.response_trailers([("x-end", "1")]);
        let answer = request.answer();
        assert!(answer.text().contains("\"file-0.b"), "{}", answer.text());
        gateway.host.advance(millis(100));
        assert_quiet(&gateway.host);
    }

    fn overdue_content_leads_to_the_next_backend(engine) {
        let gateway = limited(engine, 2);
        let request = gateway.send();
        let attempt = request.attempt();
        gateway.host.advance(millis(1_000));
        attempt.respond(200, STREAM, false);
        attempt.response_body(FILTERS, false);
        gateway.host.advance(millis(1_850));
        assert_eq!((request.answered(), request.attempts().len()), (None, 1));
        gateway.host.advance(millis(250));
        let second = request.attempt();
        assert_eq!(second.cluster(), WEST);
        stream(&second, &whole());
        assert_eq!(outcome(&request), is(200, "west", "2", &whole()));
        drop(request);
        assert_eq!(outcomes(&gateway, "unavailable"), 1);
    }

    fn content_that_is_not_overdue_passes(engine) {
        let gateway = limited(engine, 2);
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        gateway.host.advance(millis(2_850));
        attempt.response_body(CONTENT, false);
        assert_eq!(request.answered().unwrap().text(), CONTENT);
        gateway.host.advance(seconds(10));
        attempt.response_body(DONE, true);
        assert_eq!(outcome(&request), is(200, "east", "1", &format!("{CONTENT}{DONE}")));
    }

    fn an_overdue_stream_passes_where_no_other_backend_is_left(engine) {
        let gateway = limited(engine, 1);
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        attempt.response_body(FILTERS, false);
        gateway.host.advance(millis(3_100));
        assert_eq!(request.answered().unwrap().text(), FILTERS);
        attempt.response_body(CONTENT, false);
        attempt.response_body(DONE, true);
        assert_eq!(outcome(&request), is(200, "east", "1", &whole()));
    }

    fn a_retry_does_not_wait_for_the_end_of_a_failed_stream(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        attempt.response_body(chat_error("server_error"), false);
        gateway.host.advance(millis(250));
        let second = request.attempt();
        assert_eq!(second.cluster(), WEST);
        stream(&second, &whole());
        assert_eq!(outcome(&request), is(200, "west", "2", &whole()));
    }

    fn the_last_failed_stream_is_delivered_whole(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.send();
        let (first, last) = (chat_error("server_error"), format!("{FILTERS}{}{DONE}", chat_error("500")));
        stream(&request.attempt(), &first);
        stream(&request.attempt(), &last);
        assert_eq!(outcome(&request), is(200, "west", "2", &last));
        let headers = request.answer().headers;
        assert_eq!(headers.get("content-type"), Some("text/event-stream"));
        assert_eq!(headers.get("x-ms-region"), Some("east"));
    }

    fn a_failed_stream_is_delivered_where_no_other_backend_answers(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.send();
        let first = format!("{FILTERS}{}", chat_error("server_error"));
        stream(&request.attempt(), &first);
        request.attempt().fail();
        assert_eq!(outcome(&request), is(200, "east", "2", &first));
    }

    fn the_ids_of_a_failed_stream_are_tagged_once(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.ask("POST", RESPONSES, r#"{"stream":true}"#);
        let failed = failed("server_error").replace("{\"error\"", "{\"id\":\"resp_1\",\"error\"");
        stream(&request.attempt(), &failed);
        request.attempt().fail();
        let answer = request.answer();
        let (before, after) = failed.split_once("resp_1").unwrap();
        let text = answer.text();
        let tagged = text.strip_prefix(before).and_then(|text| text.strip_suffix(after));
        let tag = tagged.and_then(|text| text.strip_prefix("resp_1.b")).expect(text);
        assert_eq!(tag.len(), 6, "{text}");
    }

    fn the_only_backends_failed_stream_is_delivered(engine) {
        for end in [true, false] {
            let gateway = engine.fleet(1, json!({}));
            let request = gateway.send();
            let attempt = request.attempt();
            let error = chat_error("server_error");
            attempt.respond(200, STREAM, false);
            attempt.response_body(&error, end);
            gateway.host.advance(millis(300));
            assert_eq!(outcome(&request), is(200, "east", "1", &error));
        }
    }

    fn the_rule_can_be_switched_off(engine) {
        let gateway = engine.fleet(3, json!({"retry": {"stream_start": "0s"}}));
        let request = gateway.send();
        let attempt = request.attempt();
        assert_eq!(attempt.respond(200, STREAM, false), Some(Action::Continue));
        attempt.response_body(chat_error("server_error"), true);
        assert_eq!(outcome(&request), is(200, "east", "1", &chat_error("server_error")));
    }

    fn only_streams_of_models_that_can_be_read_are_held(engine) {
        let encoded = [("content-type", "text/event-stream"), ("content-encoding", "gzip")];
        let plain = [("content-type", "application/json")];
        for (path, headers) in [
            (PATH, &encoded[..]),
            (PATH, &plain[..]),
            (PATH, &[]),
            ("/openai/v1/embeddings", &STREAM[..]),
            ("/openai/v1/responses/resp_1/cancel", &STREAM[..]),
        ] {
            let gateway = engine.gateway();
            let request = gateway.ask("POST", path, "{}");
            let attempt = request.attempt();
            assert_eq!(attempt.respond(200, headers, false), Some(Action::Continue), "{path}");
            attempt.response_body(chat_error("server_error"), true);
            assert_eq!(request.answer().status, 200);
            assert_eq!(request.attempts().len(), 1, "{path}");
        }
    }

    fn an_answer_to_a_request_without_stream_is_not_read(engine) {
        for (body, action) in [(r#"{"stream":true}"#, Action::Pause), ("{}", Action::Continue)] {
            let gateway = engine.gateway();
            let request = gateway.ask("POST", RESPONSES, body);
            let attempt = request.attempt();
            assert_eq!(attempt.respond(200, STREAM, false), Some(action), "{body}");
        }
    }

    fn ambiguous_background_responses_are_not_repeated(engine) {
        let gateway = engine.gateway();
        let request = gateway.ask("POST", RESPONSES, r#"{"model":"gpt","background":true,"stream":true}"#);
        let error = format!("{CREATED}{}", failed("server_error"));
        stream(&request.attempt(), &error);
        assert_eq!(outcome(&request), is(200, "east", "1", &error));
        drop(request);
        assert_eq!(gateway.counted("aoai.no_retry.not_repeatable"), 1);
    }

    fn a_client_that_leaves_while_a_stream_is_held_is_counted(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        request.attempt().respond(200, STREAM, false);
        request.attempt().response_body(FILTERS, false);
        request.disconnect();
        assert_eq!(gateway.counted("aoai.client_gone"), 1);
        gateway.host.advance(seconds(2));
        assert_quiet(&gateway.host);
    }
}

#[test]
fn the_router_engine_holds_no_stream_of_an_incomplete_request() {
    let gateway = Engine::Router.gateway();
    let request = gateway.request(chat_of(5 << 20), false);
    request.body("{", false);
    let attempt = request.attempt();
    assert_eq!(attempt.respond(200, STREAM, false), Some(Action::Continue));
}

#[test]
fn streams_pass_where_envoy_hides_their_bodies() {
    for limit in ["300s", "5s"] {
        let config = Engine::Filter.config(3, json!({}));
        let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
        for backend in config["backends"].as_array_mut().unwrap() {
            backend["first_byte_timeout"] = json!(limit);
        }
        let setup = mock_host::Setup::new(config.to_string());
        let gateway = Engine::Filter.ready(setup.allow_on_headers_stop_iteration(false));
        let request = gateway.get();
        answer(&request.attempt(), 200, "fine");
        drop(request);
        for (round, held) in [(1, true), (2, true), (3, true), (4, false)] {
            let request = gateway.request(chat(), true);
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            attempt.response_body(CONTENT, false);
            assert_eq!(request.answered().is_none(), held, "{round}");
            gateway.host.advance(millis(1_100));
            assert_eq!(request.answered().unwrap().text(), CONTENT, "{round}");
            attempt.response_body(DONE, true);
            assert_eq!(request.answer().text(), format!("{CONTENT}{DONE}"));
        }
    }
}
