//! Tokens that answers report: counted by backend and client, and set for the access log.

use serde_json::{json, Value};

use super::engines::*;

pub(super) const STREAM: [(&str, &str); 1] = [("content-type", "text/event-stream")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
pub(super) const FIRST: &str =
    "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}\n\n";
pub(super) const CONTENT: &str =
    "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":\"}}],\"usage\":null}\n\n";
pub(super) const DONE: &str = "data: [DONE]\n\n";

fn chat_usage() -> Value {
    json!({
        "prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 8},
    })
}

fn chat_answer() -> String {
    json!({"choices": [{"message": {"content": "Hi"}}], "usage": chat_usage(), "z": "fp"})
        .to_string()
}

/// The last event of a chat's stream with content.
pub(super) fn last() -> String {
    format!(
        "data: {}\n\n",
        json!({"choices": [], "usage": chat_usage()})
    )
}

pub(super) fn named(engine: Engine, more: Value) -> Gateway {
    let mut config = json!({"headers": {"client": "x-aoai-client"}});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    engine.fleet(3, config)
}

/// A chat of `app-1`.
fn ask(gateway: &Gateway) -> Request {
    gateway.request(chat().with("x-aoai-client", "app-1"), true)
}

/// The backend answers with a stream whose content comes after three seconds, and its end a second later.
fn answer_with_late_stream(gateway: &Gateway, request: &Request) {
    let attempt = request.attempt();
    attempt.respond(200, STREAM, false);
    attempt.response_body(FIRST, false);
    gateway.host.advance(seconds(3));
    attempt.response_body(CONTENT, false);
    gateway.host.advance(seconds(1));
    attempt.response_body(last(), false);
    attempt.response_body(DONE, true);
    gateway.host.advance(seconds(1));
}

/// The counts of tokens of a backend, and of `app-1`.
pub(super) fn counts(gateway: &Gateway, backend: &str) -> [u64; 6] {
    [
        format!("aoai.backend.{backend}.tokens.prompt"),
        format!("aoai.backend.{backend}.tokens.completion"),
        format!("aoai.backend.{backend}.tokens.cached"),
        format!("aoai.backend.{backend}.tokens.reasoning"),
        "aoai.client.app-1.tokens.prompt".to_owned(),
        "aoai.client.app-1.tokens.completion".to_owned(),
    ]
    .map(|name| {
        match name.starts_with("aoai.client") && gateway.counted("aoai.client.app-1.requests") == 0
        {
            true => 0,
            false => gateway.counted(&name),
        }
    })
}

/// The tokens in the access log.
pub(super) fn logged(request: &Request) -> [Option<String>; 2] {
    ["aoai_input_tokens", "aoai_output_tokens"].map(|name| {
        let value = request.property(name)?;
        Some(String::from_utf8(value).unwrap())
    })
}

pub(super) fn tokens(input: &str, output: &str) -> [Option<String>; 2] {
    [input, output].map(|tokens| (!tokens.is_empty()).then(|| tokens.to_owned()))
}

pub(super) const ONCE: [u64; 6] = [100, 20, 64, 8, 100, 20];

cases! {
    fn a_json_answers_tokens_are_counted_and_logged(engine) {
        let gateway = named(engine, json!({}));
        let request = ask(&gateway);
        answer(&request.attempt(), 200, &chat_answer());
        assert_eq!(outcome(&request), is(200, "east", "1", &chat_answer()));
        assert_eq!(logged(&request), tokens("100", "20"));
        drop(request);
        assert_eq!(counts(&gateway, "east"), ONCE);
        assert_eq!(gateway.counted("aoai.usage.unknown"), 0);
    }

    fn a_frame_is_read_once_and_the_last_costs_nothing(engine) {
        let gateway = named(engine, json!({}));
        let request = ask(&gateway);
        let attempt = request.attempt();
        gateway.host.clear_counts();
        attempt.respond(200, JSON, false);
        attempt.response_body(chat_answer(), false);
        attempt.response_body("", true);
        assert_eq!(gateway.host.counts()["proxy_get_buffer_bytes"].calls, 1);
        assert_eq!(gateway.host.counts()["proxy_set_property"].calls, 2);
        assert_eq!(logged(&request), tokens("100", "20"));
    }

    fn a_streams_tokens_are_counted_and_its_start_is_read_once(engine) {
        for trailers in [false, true] {
            let gateway = named(engine, json!({}));
            let request = ask(&gateway);
            let attempt = request.attempt();
            gateway.host.clear_counts();
            attempt.respond(200, STREAM, false);
            for frame in [FIRST, CONTENT, CONTENT, &last(), DONE] {
                attempt.response_body(frame, false);
            }
            match trailers {
                true => drop(attempt.response_trailers([("x", "y")])),
                false => drop(attempt.response_body("", true)),
            }
            let whole = format!("{FIRST}{CONTENT}{CONTENT}{}{DONE}", last());
            assert_eq!(outcome(&request), is(200, "east", "1", &whole));
            assert_eq!(gateway.host.counts()["proxy_get_buffer_bytes"].calls, 5);
            assert_eq!(logged(&request), tokens("100", "20"));
            drop(request);
            assert_eq!(counts(&gateway, "east"), ONCE);
            assert_eq!(gateway.counted("aoai.usage.unknown"), 0);
        }
    }

    fn a_stream_may_be_cut_anywhere(engine) {
        let whole = format!("{FIRST}{}{}{DONE}", CONTENT.repeat(200), last());
        for size in [1, 100, 5000, 8192, 9000] {
            let gateway = named(engine, json!({}));
            let request = ask(&gateway);
            let attempt = request.attempt();
            attempt.respond(200, STREAM, false);
            for frame in whole.as_bytes().chunks(size) {
                attempt.response_body(frame, false);
            }
            attempt.response_body("", true);
            drop(request);
            assert_eq!(counts(&gateway, "east"), ONCE, "{size}");
        }
    }

    fn a_late_stream_is_counted_too(engine) {
        let gateway = named(engine, json!({}));
        let request = ask(&gateway);
        answer_with_late_stream(&gateway, &request);
        assert_eq!(logged(&request), tokens("100", "20"));
        drop(request);
        assert_eq!(counts(&gateway, "east"), ONCE);
    }

    fn a_retried_answer_counts_once_for_its_backend(engine) {
        let bodies = [(JSON, chat_answer()), (STREAM, format!("{FIRST}{CONTENT}{}{DONE}", last()))];
        for (headers, body) in bodies {
            let gateway = named(engine, json!({}));
            let request = ask(&gateway);
            throttle(&request.attempt(), "5");
            let attempt = request.attempt();
            attempt.respond(200, headers, false);
            attempt.response_body(&body, true);
            assert_eq!(outcome(&request), is(200, "west", "2", &body));
            assert_eq!(logged(&request), tokens("100", "20"));
            drop(request);
            assert_eq!(counts(&gateway, "west"), ONCE);
            assert_eq!(counts(&gateway, "east")[..4], [0; 4]);
            assert_eq!(gateway.counted("aoai.usage.unknown"), 0);
        }
    }

    fn each_apis_names_of_tokens_are_read(engine) {
        let response = json!({"id": "resp_1", "usage": {
            "input_tokens": 7, "input_tokens_details": {"cached_tokens": 2},
            "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 16,
        }, "user": null, "metadata": {}});
        let completed = format!(
            "event: response.completed\ndata: {}\n\n",
            json!({"type": "response.completed", "response": response})
        );
        let created = "event: response.created\ndata: {\"response\":{\"id\":\"resp_1\",\"usage\":null}}\n\n";
        let embedding = json!({"data": [], "usage": {"prompt_tokens": 7, "total_tokens": 7}});
        let image = json!({"data": [{"b64_json": "A".repeat(20_000)}], "usage": {"input_tokens": 7, "output_tokens": 9}});
        let sound = json!({"text": "Hi", "usage": {"type": "tokens", "input_tokens": 7, "output_tokens": 9}});
        for (path, headers, frames, expected, counted) in [
            ("responses", JSON, vec![response.to_string()], tokens("7", "9"), [7, 9, 2, 4]),
            ("responses", STREAM, vec![created.to_owned(), completed], tokens("7", "9"), [7, 9, 2, 4]),
            ("embeddings", JSON, vec![embedding.to_string()], tokens("7", ""), [7, 0, 0, 0]),
            ("images/generations", JSON, vec![image.to_string()], tokens("7", "9"), [7, 9, 0, 0]),
            ("audio/transcriptions", JSON, vec![sound.to_string()], tokens("7", "9"), [7, 9, 0, 0]),
        ] {
            let gateway = named(engine, json!({}));
            let request = gateway.ask("POST", &format!("/openai/v1/{path}"), r#"{"model":"gpt","input":"x"}"#);
            let attempt = request.attempt();
            attempt.respond(200, headers, false);
            for frame in frames {
                attempt.response_body(frame, false);
            }
            attempt.response_body("", true);
            assert_eq!(logged(&request), expected, "{path}");
            drop(request);
            assert_eq!(counts(&gateway, "east")[..4], counted, "{path}");
            assert_eq!(gateway.counted("aoai.usage.unknown"), 0, "{path}");
        }
    }

    fn a_claude_streams_tokens_are_counted(engine) {
        let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":\
            {\"input_tokens\":9,\"cache_read_input_tokens\":3,\"output_tokens\":1}}}\n\n";
        let content = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"text\":\"Hi\"}}\n\n";
        let end = "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":40}}\n\n";
        for retried in [false, true] {
            for start_limit in ["0s", "1s"] {
                let mut config: Value = serde_json::from_str(&engine.config(2, json!({}))).unwrap();
                config["retry"]["stream_start"] = json!(start_limit);
                for backend in config["backends"].as_array_mut().unwrap() {
                    backend["apis"] = json!(["messages"]);
                }
                let gateway = engine.ready(mock_host::Setup::new(config.to_string()));
                let request = gateway.ask("POST", "/anthropic/v1/messages", r#"{"model":"claude","stream":true}"#);
                if retried {
                    answer(&request.attempt(), 529, "{}");
                }
                let attempt = request.attempt();
                attempt.respond(200, STREAM, false);
                for frame in [start, &content.repeat(100), content, end] {
                    attempt.response_body(frame, false);
                }
                attempt.response_body("", true);
                assert_eq!(logged(&request), tokens("12", "40"), "{retried} {start_limit}");
                drop(request);
                let backend = if retried { "west" } else { "east" };
                assert_eq!(counts(&gateway, backend)[..4], [12, 40, 3, 0]);
            }
        }
    }

    fn answers_that_report_no_tokens_are_not_read(engine) {
        for (method, path, body, status) in [
            ("GET", "/openai/v1/models", "", 200),
            ("GET", "/openai/v1/files/file-1/content", "", 200),
            ("POST", "/openai/v1/audio/speech", r#"{"model":"tts"}"#, 200),
            ("POST", "/openai/v1/embeddings", r#"{"model":"gpt"}"#, 400),
            ("POST", "/openai/v1/embeddings", r#"{"model":"gpt"}"#, 202),
        ] {
            let gateway = named(engine, json!({}));
            let request = gateway.ask(method, path, body);
            let attempt = request.attempt();
            attempt.respond(status, JSON, false);
            gateway.host.clear_counts();
            attempt.response_body(chat_answer(), status >= 400);
            let read = gateway.host.counts().contains_key("proxy_get_buffer_bytes");
            assert!(!read || status >= 400, "{path}");
            drop(request);
            assert_eq!(counts(&gateway, "east"), [0; 6], "{path}");
            assert_eq!(gateway.counted("aoai.usage.unknown"), 0, "{path}");
        }
    }

    fn unreadable_answers_are_counted_as_unknown(engine) {
        let streams = |frames: &[&str]| frames.iter().map(|frame| frame.as_bytes().to_vec()).collect::<Vec<_>>();
        for (headers, frames) in [
            // The client did not request the tokens.
            (STREAM, streams(&[FIRST, CONTENT, DONE])),
            (JSON, vec![gzip(&chat_answer()), b"\"usage\":{\"prompt_tokens\":1}".to_vec()]),
            (JSON, streams(&["{}"])),
        ] {
            let gateway = named(engine, json!({}));
            let request = ask(&gateway);
            let attempt = request.attempt();
            attempt.respond(200, headers, false);
            for frame in frames {
                attempt.response_body(frame, false);
            }
            attempt.response_body("", true);
            assert_eq!(logged(&request), tokens("", ""));
            drop(request);
            assert_eq!(counts(&gateway, "east"), [0; 6]);
            assert_eq!(gateway.counted("aoai.usage.unknown"), 1);
        }
    }

    fn reported_tokens_of_a_broken_answer_are_counted(engine) {
        let reported = last();
        for (frames, begins) in [
            (vec![FIRST, CONTENT], false),
            (vec![FIRST, CONTENT, &reported], true),
            (vec![FIRST], false),
        ] {
            for gone in [false, true] {
                let gateway = named(engine, json!({}));
                let request = ask(&gateway);
                let attempt = request.attempt();
                attempt.respond(200, STREAM, false);
                for frame in &frames {
                    attempt.response_body(frame, false);
                }
                // The router retries a stream that breaks off before its content.
                if frames.len() == 1 && !gone {
                    continue;
                }
                match gone {
                    true => request.disconnect(),
                    false => request.break_off(),
                }
                drop(attempt);
                let expected = if begins { ONCE } else { [0; 6] };
                assert_eq!(counts(&gateway, "east"), expected);
                assert_eq!(gateway.counted("aoai.usage.cut"), u64::from(!begins));
            }
        }
    }

    fn tokens_are_counted_by_deployment_too(engine) {
        for (path, body, deployment) in [
            ("/openai/deployments/GPT-4.1/chat/completions?api-version=2024-10-21", "{}", "gpt-4_1"),
            // The body is not read for that.
            ("/openai/v1/chat/completions", r#"{"model":"gpt-4o"}"#, "_unread"),
        ] {
            let gateway = named(engine, json!({}));
            let request = gateway.ask("POST", path, body);
            answer(&request.attempt(), 200, &chat_answer());
            assert_eq!(logged(&request), tokens("100", "20"));
            drop(request);
            let counted = ["prompt", "completion", "cached", "reasoning"].map(|kind| {
                gateway.counted(&format!("aoai.backend.east.deployment.{deployment}.tokens.{kind}"))
            });
            assert_eq!(counted, [100, 20, 64, 8], "{path}");
        }
    }

    fn costs_are_counted_in_millionths(engine) {
        let price = json!({"prompt": 2.5, "cached": "1.25", "completion": 10});
        let usage = json!({"prices": {"gpt-4o": price, "embed": {"prompt": 1}}});
        let gateway = named(engine, json!({"usage": usage}));
        // 36 tokens at 2.5, 64 at 1.25 and 20 at 10.
        const COST: u64 = 90 + 80 + 200;
        let ask = |path: &str, body: &str| {
            let headers = chat().with(":path", path).with("x-aoai-client", "app-1");
            let headers = headers.with("content-length", body.len().to_string());
            let request = gateway.request(headers, false);
            request.body(body, true);
            let attempt = request.attempt();
            let backend = attempt.cluster();
            answer(&attempt, 200, &chat_answer());
            assert_eq!(request.answer().status, 200);
            backend
        };
        let first = ask("/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21", "{}");
        let second = ask("/openai/v1/chat/completions", r#"{"model":"GPT-4o"}"#);
        // One deployment has no price, and another has none for completions.
        ask("/openai/v1/chat/completions", r#"{"model":"gpt-5"}"#);
        ask("/openai/v1/chat/completions", r#"{"model":"embed"}"#);
        assert_ne!(first, second);
        for backend in [first, second] {
            let backend = backend.trim_start_matches("aoai_");
            assert_eq!(gateway.counted(&format!("aoai.backend.{backend}.cost_micros")), COST);
            assert_eq!(gateway.counted(&format!("aoai.backend.{backend}.deployment.gpt-4o.cost_micros")), COST);
        }
        assert_eq!(gateway.counted("aoai.client.app-1.cost_micros"), 2 * COST);
        assert_eq!(gateway.counted("aoai.client.app-1.tokens.cached"), 4 * 64);
        assert_eq!(gateway.counted("aoai.usage.unpriced"), 2);
    }

    fn a_body_is_not_held_for_its_price(engine) {
        let usage = json!({"prices": {"gpt-4o": {"prompt": 1, "completion": 1}}});
        let gateway = named(engine, json!({"usage": usage, "retry": {"replay_limit": "1KiB"}}));
        let headers = chat().with(":path", "/openai/v1/chat/completions").with("content-length", "2000");
        let request = gateway.request(headers, false);
        let attempt = request.attempt();
        request.body(format!(r#"{{"model":"gpt-4o","a":"{}"}}"#, "x".repeat(1975)), true);
        answer(&attempt, 200, &chat_answer());
        drop(request);
        assert_eq!(gateway.counted("aoai.backend.east.tokens.prompt"), 100);
        assert_eq!(gateway.counted("aoai.usage.unpriced"), 1);
    }

    fn the_pace_of_a_stream_is_measured_from_its_first_content(engine) {
        let gateway = named(engine, json!({}));
        let request = ask(&gateway);
        request.began_at(gateway.host.now() - millis(250));
        let attempt = request.attempt();
        attempt.respond(200, STREAM, false);
        attempt.response_body(FIRST, false);
        gateway.host.advance(millis(50));
        attempt.response_body(CONTENT, false);
        gateway.host.advance(millis(400));
        attempt.response_body(last(), false);
        attempt.response_body(DONE, true);
        drop(request);
        assert_eq!(gateway.counted("aoai.backend.east.first_content_ms"), 300);
        // A completion of 20 tokens.
        assert_eq!(gateway.counted("aoai.backend.east.tokens_per_second"), 50);
    }

    fn the_content_of_a_late_stream_is_its_next_frame(engine) {
        let gateway = named(engine, json!({}));
        let request = ask(&gateway);
        request.began_at(gateway.host.now());
        answer_with_late_stream(&gateway, &request);
        drop(request);
        // The frame is held for a moment: see `Gate`.
        assert_eq!(gateway.counted("aoai.backend.east.first_content_ms"), 3050);
        assert_eq!(gateway.counted("aoai.backend.east.tokens_per_second"), 21);
    }

    fn without_usage_no_answer_is_read(engine) {
        let gateway = named(engine, json!({"usage": false}));
        let request = ask(&gateway);
        let attempt = request.attempt();
        attempt.respond(200, JSON, false);
        gateway.host.clear_counts();
        attempt.response_body(chat_answer(), true);
        assert!(!gateway.host.counts().contains_key("proxy_get_buffer_bytes"));
        assert_eq!(logged(&request), tokens("", ""));
        drop(request);
        assert_eq!(counts(&gateway, "east"), [0; 6]);
        assert_eq!(gateway.counted("aoai.usage.unknown"), 0);
    }

    fn tagged_answers_are_read_once_for_both(engine) {
        let gateway = named(engine, json!({}));
        let request = gateway.ask("POST", "/openai/v1/responses", r#"{"model":"gpt","input":"x"}"#);
        let attempt = request.attempt();
        attempt.respond(200, JSON, false);
        gateway.host.clear_counts();
        let body = r#"{"id":"resp_1","usage":{"input_tokens":7,"output_tokens":9}}"#;
        attempt.response_body(body, true);
        assert_eq!(gateway.host.counts()["proxy_get_buffer_bytes"].calls, 1);
        assert_eq!(logged(&request), tokens("7", "9"));
        assert!(request.answer().text().contains("resp_1.b"));
    }
}
