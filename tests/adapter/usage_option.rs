//! `stream_options.include_usage`: the filter adds it to streams of chats, and removes its effects from the answers.

use serde_json::{json, Value};

use super::engines::*;
use super::usage::{counts, last, logged, named, tokens, CONTENT, DONE, FIRST, ONCE, STREAM};

const V1_CHAT: &str = "/openai/v1/chat/completions";
const NEW_CHAT: &str = "/openai/deployments/gpt/chat/completions?api-version=2024-10-21";
/// A chat whose client requests a stream without its tokens.
const PLAIN: &str = r#"{"model":"gpt","stream": true ,"messages":[{"role":"user"}]}"#;
/// The chat at a backend, with the option.
const ASKING: &str = r#"{"model":"gpt","stream": true,"stream_options":{"include_usage":true} ,"messages":[{"role":"user"}]}"#;

/// The answers of models that do not know the option.
const REFUSALS: [(u16, &str); 3] = [
    (
        400,
        r#"{"error":{"code":"BadRequest","message":"Validation error at #/stream_options: Extra inputs are not permitted"}}"#,
    ),
    (
        400,
        r#"{"error":{"message":"Unrecognized request argument supplied: stream_options","type":"invalid_request_error"}}"#,
    ),
    (
        422,
        r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}"#,
    ),
];

fn always() -> Value {
    json!({"usage": {"streams": "always"}})
}

/// The body of the current attempt.
fn sent(request: &Request) -> String {
    request.attempt().sent().unwrap().text().to_owned()
}

fn stream(request: &Request, text: &str) {
    let attempt = request.attempt();
    attempt.respond(200, STREAM, false);
    attempt.response_body(text, true);
}

cases! {
    fn unasked_streams_are_counted_and_reach_the_client_unchanged(engine) {
        let whole = format!("{FIRST}{CONTENT}{CONTENT}{}{DONE}", last());
        let without = format!("{FIRST}{CONTENT}{CONTENT}{DONE}").replace(",\"usage\":null", "");
        for path in [V1_CHAT, NEW_CHAT] {
            for size in [1, 7, 100, 5000] {
                for retried in [false, true] {
                    let gateway = named(engine, always());
                    let request = gateway.ask("POST", path, PLAIN);
                    if retried {
                        throttle(&request.attempt(), "5");
                    }
                    let attempt = request.attempt();
                    let sent = attempt.sent().unwrap();
                    assert_eq!(sent.text(), ASKING);
                    assert_eq!(sent.headers.get("content-length"), Some(ASKING.len().to_string().as_str()));
                    attempt.respond(200, STREAM, false);
                    for frame in whole.as_bytes().chunks(size) {
                        attempt.response_body(frame, false);
                    }
                    attempt.response_body("", true);
                    let (backend, attempts) = if retried { ("west", "2") } else { ("east", "1") };
                    assert_eq!(outcome(&request), is(200, backend, attempts, &without), "{size}");
                    assert_eq!(logged(&request), tokens("100", "20"));
                    drop(request);
                    assert_eq!(counts(&gateway, backend)[..4], ONCE[..4]);
                }
            }
        }
    }

    fn the_option_is_added_only_where_that_is_safe(engine) {
        let old = NEW_CHAT.replace("2024-10-21", "2024-06-01");
        let asked = PLAIN.replace("}]", "}],\"stream_options\":{\"include_usage\":true}");
        let options = PLAIN.replace("}]", "}],\"stream_options\":null");
        let always = json!({"streams": "always"});
        for (usage, path, body) in [
            (json!(true), V1_CHAT, PLAIN),
            (json!({"streams": "asked"}), V1_CHAT, PLAIN),
            (always.clone(), old.as_str(), PLAIN),
            (always.clone(), V1_CHAT, asked.as_str()),
            (always.clone(), V1_CHAT, options.as_str()),
            (always.clone(), V1_CHAT, &PLAIN.replace("true", "false")),
            (always.clone(), V1_CHAT, &PLAIN.replace("}]", "}],\"data_sources\":[]")),
            (always.clone(), V1_CHAT, &PLAIN.replace("\"messages\"", "messages")),
            (always.clone(), "/openai/v1/responses", PLAIN),
            (always, "/openai/v1/completions", PLAIN),
        ] {
            let gateway = named(engine, json!({"usage": usage}));
            let request = gateway.ask("POST", path, body);
            let attempt = request.attempt();
            assert_eq!(attempt.sent().unwrap().text(), body, "{path}");
            let stream = format!("{FIRST}{CONTENT}{}{DONE}", last());
            attempt.respond(200, STREAM, false);
            attempt.response_body(&stream, true);
            assert_eq!(outcome(&request), is(200, "east", "1", &stream), "{path} {body}");
        }
    }

    fn a_backends_api_version_decides_about_the_option(engine) {
        let config = json!({"usage": {"streams": "always"}, "headers": {"client": "x-aoai-client"}});
        let mut config: Value = serde_json::from_str(&engine.config(2, config)).unwrap();
        config["backends"][0]["api_version"] = json!("2024-06-01");
        let gateway = engine.ready(mock_host::Setup::new(config.to_string()));
        let request = gateway.ask("POST", NEW_CHAT, PLAIN);
        assert_eq!(request.attempt().sent().unwrap().text(), PLAIN);
        throttle(&request.attempt(), "5");
        let attempt = request.attempt();
        assert_eq!(attempt.sent().unwrap().text(), ASKING);
        attempt.respond(200, STREAM, false);
        attempt.response_body(format!("{CONTENT}{}{DONE}", last()), true);
        let without = format!("{CONTENT}{DONE}").replace(",\"usage\":null", "");
        assert_eq!(outcome(&request), is(200, "west", "2", &without));
    }

    fn an_error_to_a_request_with_the_option_passes(engine) {
        let gateway = named(engine, always());
        let request = gateway.ask("POST", V1_CHAT, PLAIN);
        let error = r#"{"error":{"code":"content_filter","usage":null}}"#;
        answer(&request.attempt(), 400, error);
        assert_eq!(outcome(&request), is(400, "east", "1", error));
    }


    fn a_refused_option_is_left_out_unseen_by_the_client(engine) {
        for (status, error) in REFUSALS {
            let gateway = named(engine, always());
            let request = gateway.ask("POST", V1_CHAT, PLAIN);
            assert_eq!(sent(&request), ASKING);
            answer(&request.attempt(), status, error);
            // The request goes to the same backend.
            let attempt = request.attempt();
            let again = attempt.sent().unwrap();
            assert_eq!(again.text(), PLAIN, "{error}");
            assert_eq!(again.headers.get(":authority"), Some("east.openai.azure.com"));
            assert_eq!(again.headers.get("content-length"), Some(PLAIN.len().to_string().as_str()));
            let text = format!("{CONTENT}{DONE}");
            stream(&request, &text);
            assert_eq!(outcome(&request), is(200, "east", "2", &text), "{error}");
            drop(request);
            assert_eq!(gateway.counted("aoai.usage.refused"), 1);
            assert_eq!(gateway.counted("aoai.usage.unknown"), 1);
        }
    }

    fn a_deployment_that_refused_the_option_gets_it_no_more(engine) {
        let gateway = named(engine, always());
        let request = gateway.ask("POST", V1_CHAT, PLAIN);
        answer(&request.attempt(), 422, REFUSALS[2].1);
        stream(&request, DONE);
        drop(request);
        let other = |body: &str| body.replace("gpt", "other");
        // The turns are west, north and east.
        let mut bodies = Vec::new();
        for body in [PLAIN, PLAIN, PLAIN] {
            let request = gateway.ask("POST", V1_CHAT, body);
            bodies.push(sent(&request));
            stream(&request, DONE);
        }
        assert_eq!(bodies, [ASKING, ASKING, PLAIN]);
        let three = [PLAIN, PLAIN, &other(PLAIN)].map(|body| {
            let request = gateway.ask("POST", V1_CHAT, body);
            let sent = sent(&request);
            stream(&request, DONE);
            sent
        });
        assert_eq!(three, [ASKING.to_owned(), ASKING.to_owned(), other(ASKING)]);
    }

    fn after_a_refusal_no_backend_gets_the_option(engine) {
        let gateway = named(engine, always());
        let request = gateway.ask("POST", V1_CHAT, PLAIN);
        answer(&request.attempt(), 422, REFUSALS[2].1);
        throttle(&request.attempt(), "5");
        assert_eq!(sent(&request), PLAIN);
        stream(&request, DONE);
        assert_eq!(outcome(&request), is(200, "west", "3", DONE));
    }

    fn a_refused_option_at_the_last_attempt_is_passed_on(engine) {
        let gateway = named(engine, json!({"usage": {"streams": "always"}, "retry": {"max_attempts": 2}}));
        let (status, error) = REFUSALS[0];
        let request = gateway.ask("POST", V1_CHAT, PLAIN);
        throttle(&request.attempt(), "60");
        answer(&request.attempt(), status, error);
        assert_eq!(outcome(&request), is(status, "west", "2", error));
        drop(request);
        // No backend has served the request without the option, so nothing is remembered.
        let bodies = [(); 2].map(|()| {
            let request = gateway.ask("POST", V1_CHAT, PLAIN);
            let sent = sent(&request);
            stream(&request, DONE);
            sent
        });
        assert_eq!(bodies, [ASKING, ASKING]);
    }

    fn an_error_that_only_names_the_option_is_not_remembered(engine) {
        let gateway = named(engine, always());
        let error = r#"{"error":{"message":"Unrecognized request argument supplied: stream_options_x"}}"#;
        let request = gateway.ask("POST", V1_CHAT, PLAIN);
        for _ in 0..2 {
            answer(&request.attempt(), 400, error);
        }
        assert_eq!(outcome(&request), is(400, "east", "2", error));
        drop(request);
        for _ in 0..3 {
            let request = gateway.ask("POST", V1_CHAT, PLAIN);
            assert_eq!(sent(&request), ASKING);
            stream(&request, DONE);
        }
    }

    fn a_refusal_of_the_clients_own_option_passes(engine) {
        let own = PLAIN.replace("}]", "}],\"stream_options\":{\"x\":1}");
        for (status, error) in REFUSALS {
            let gateway = named(engine, always());
            let request = gateway.ask("POST", V1_CHAT, &own);
            answer(&request.attempt(), status, error);
            assert_eq!(outcome(&request), is(status, "east", "1", error));
            assert_eq!(gateway.counted("aoai.usage.refused"), 0);
        }
    }

    fn prices_and_limits_of_tokens_count_all_streams(engine) {
        let limited = json!({"limits": {"default": {"tokens_per_minute": 100_000}}});
        let priced = json!({"usage": {"prices": {"gpt": {"prompt": 1}}}});
        let asked = json!({"usage": {"streams": "asked", "prices": {"gpt": {"prompt": 1}}}});
        let requests = json!({"limits": {"default": {"requests_per_minute": 100}}});
        for (config, body) in [(limited, ASKING), (priced, ASKING), (asked, PLAIN), (requests, PLAIN), (json!({}), PLAIN)] {
            let gateway = named(engine, config.clone());
            let request = gateway.ask("POST", V1_CHAT, PLAIN);
            assert_eq!(sent(&request), body, "{config}");
        }
    }
}
