//! Limits per client.

use std::sync::{Arc, Barrier};
use std::thread;

use mock_host::{status, Fault, Host, LogLevel};
use serde_json::{json, Value};

use super::engines::*;

const CHAT: &str = "/openai/v1/chat/completions";
const MESSAGES: &str = "/anthropic/v1/messages";

/// A body of 40 bytes, whose estimate is 10 tokens.
const ASK: &str = r#"{"model":"gpt-4o","messages":[]        }"#;

/// A gateway with these limits per client.
fn limited(engine: Engine, limits: Value) -> Gateway {
    engine.fleet(3, config(limits))
}

fn config(limits: Value) -> Value {
    json!({"headers": {"client": "x-client"}, "limits": limits})
}

/// A chat of this client, complete.
fn ask(gateway: &Gateway, client: &str) -> Request {
    ask_at(gateway, client, CHAT)
}

fn ask_at(gateway: &Gateway, client: &str, path: &str) -> Request {
    let headers = request_of("POST", path, ASK).with("x-client", client);
    let request = gateway.request(headers, false);
    if request.answered().is_none() {
        request.body(ASK, true);
    }
    request
}

/// An answer that reports this many tokens.
fn answer_of(prompt: u32, completion: u32) -> String {
    json!({"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}).to_string()
}

/// A backend serves the request with an answer that reports this many tokens.
fn serve(request: Request, prompt: u32, completion: u32) {
    let attempt = request.attempt();
    attempt.respond(200, [("content-type", "application/json")], false);
    attempt.response_body(answer_of(prompt, completion), true);
    assert_eq!(request.answer().status, 200);
}

/// The exceeded limits, from the details of the answer; `None` if the request was sent on.
fn refused(request: &Request) -> Option<String> {
    let answer = request.answered()?;
    assert!(request.attempts().is_empty(), "{answer:?}");
    assert_eq!(answer.status, 429);
    Some(answer.details)
}

const OVER_MINUTE: &str = "client_over_tokens_per_minute";
const OVER_DAY: &str = "client_over_tokens_per_day";
const OVER_REQUESTS: &str = "client_over_requests_per_minute";

cases! {
    fn a_client_over_its_tokens_is_refused_without_a_backend(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_minute": 600}}));
        serve(ask(&gateway, "team-a"), 500, 700);
        gateway.host.clear_counts();
        let request = ask(&gateway, "team-a");
        let answer = request.answer();
        assert_eq!(refused(&request).as_deref(), Some(OVER_MINUTE));
        let body: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(body["error"]["code"], "rate_limit_exceeded");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(
            body["error"]["message"],
            "This gateway limits client team-a to 600 tokens per minute, which are used up. Try again in 1m."
        );
        for (name, value) in [
            ("retry-after", Some("61")),
            ("retry-after-ms", Some("60100")),
            ("x-ratelimit-limit-tokens", Some("600")),
            ("x-ratelimit-remaining-tokens", Some("0")),
            ("x-ratelimit-reset-tokens", Some("2m")),
            ("x-ratelimit-limit-requests", None),
            ("x-aoai-attempts", Some("0")),
            ("x-aoai-backend", None),
            ("x-should-retry", Some("false")),
        ] {
            assert_eq!(answer.headers.get(name), value, "{name}");
        }
        // Another client passes, and so does this one after its debt is paid back.
        serve(ask(&gateway, "team-b"), 5, 5);
        gateway.host.advance(millis(60_099));
        assert!(refused(&ask(&gateway, "team-a")).is_some());
        gateway.host.advance(millis(1));
        serve(ask(&gateway, "team-a"), 5, 5);
        assert_eq!(gateway.counted("aoai.refused.limited"), 2);
        assert_eq!(gateway.host.statistic("aoai.client.team-a.limited.tokens_per_minute"), 2);
        let attempts = ["east", "west", "north"].map(|name| gateway.host.statistic(&format!("aoai.backend.{name}.attempts")));
        assert_eq!(attempts.iter().sum::<u64>(), 3);
        let lines = gateway.host.logged(LogLevel::Info);
        let lines: Vec<_> = lines.iter().filter(|line| line.contains("used up")).collect();
        assert_eq!(lines.len(), 2, "once a minute: {lines:?}");
        assert_eq!(lines[0], "client team-a: 600 tokens per minute are used up; requests are answered 429 for at least 1m");
    }

    fn anthropics_clients_are_refused_in_their_shape(engine) {
        let backends = json!([{"name": "east", "cluster": EAST, "host": "east.services.ai.azure.com"}]);
        let mut config = config(json!({"default": {"requests_per_minute": 1}}));
        config["backends"] = backends;
        let gateway = engine.fleet(1, config);
        serve(ask_at(&gateway, "team-a", MESSAGES), 5, 5);
        let request = ask_at(&gateway, "team-a", MESSAGES);
        assert_eq!(refused(&request).as_deref(), Some(OVER_REQUESTS));
        let answer = request.answer();
        let body: Value = serde_json::from_str(answer.text()).unwrap();
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(answer.headers.get("retry-after"), Some("60"));
    }

    fn a_request_counts_once_whatever_its_attempts(engine) {
        let gateway = limited(engine, json!({"default": {"requests_per_minute": 3, "tokens_per_minute": 1000}}));
        let request = ask(&gateway, "team-a");
        answer(&request.attempt(), 503, "busy");
        answer(&request.attempt(), 429, "busy");
        serve(request, 100, 100);
        for _ in 0..2 {
            serve(ask(&gateway, "team-a"), 100, 100);
        }
        let request = ask(&gateway, "team-a");
        assert_eq!(refused(&request).as_deref(), Some(OVER_REQUESTS));
        let answer = request.answer();
        for (name, value) in [
            ("x-ratelimit-limit-requests", "3"),
            ("x-ratelimit-remaining-requests", "0"),
            ("x-ratelimit-reset-requests", "1m"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "400"),
            ("x-ratelimit-reset-tokens", "36s"),
            ("retry-after", "20"),
        ] {
            assert_eq!(answer.headers.get(name), Some(value), "{name}");
        }
        assert_eq!(answer.headers.get("x-should-retry"), None);
    }

    fn prompts_count_while_they_are_answered(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_minute": 20}}));
        // Each request is estimated at 10 tokens.
        let requests = [ask(&gateway, "team-a"), ask(&gateway, "team-a")];
        assert_eq!(refused(&ask(&gateway, "team-a")).as_deref(), Some(OVER_MINUTE));
        for request in requests {
            serve(request, 1, 1);
        }
        // The answers report 4 tokens.
        serve(ask(&gateway, "team-a"), 1, 1);
    }

    fn a_request_that_is_not_served_costs_no_tokens(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_minute": 10}}));
        for status in [400, 404, 500, 429] {
            let request = ask(&gateway, "team-a");
            while request.answered().is_none() {
                answer(&request.attempt(), status, "x");
            }
            assert_eq!(request.answer().status, status);
        }
        // All backends are throttled or failing, or there is no token.
        for _ in 0..3 {
            let request = ask(&gateway, "team-a");
            if request.answered().is_none() {
                answer(&request.attempt(), 404, "x");
            }
            assert_ne!(request.answer().details, OVER_MINUTE);
        }
        gateway.host.advance(seconds(120));
        drop(ask(&gateway, "team-b"));
        let request = ask(&gateway, "team-b");
        assert_eq!(refused(&request).as_deref(), Some(OVER_MINUTE), "its client left while it was served");
    }

    fn unknown_tokens_count_as_estimated(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_minute": 10}}));
        let request = ask(&gateway, "team-a");
        answer(&request.attempt(), 200, r#"{"choices":[]}"#);
        drop(request);
        assert_eq!(refused(&ask(&gateway, "team-a")).as_deref(), Some(OVER_MINUTE));
        assert_eq!(gateway.counted("aoai.usage.unknown"), 1);
        let request = ask(&gateway, "team-b");
        let attempt = request.attempt();
        attempt.respond(200, [("content-type", "text/event-stream")], false);
        attempt.response_body("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", false);
        request.disconnect();
        assert_eq!(refused(&ask(&gateway, "team-b")).as_deref(), Some(OVER_MINUTE));
    }

    fn a_streams_tokens_count_at_its_end(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_minute": 600}}));
        let request = ask(&gateway, "team-a");
        let attempt = request.attempt();
        attempt.respond(200, [("content-type", "text/event-stream")], false);
        attempt.response_body("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n", false);
        let other = ask(&gateway, "team-a");
        assert!(other.answered().is_none(), "nothing of the answer is known yet");
        let last = json!({"choices": [], "usage": {"prompt_tokens": 400, "completion_tokens": 800}});
        attempt.response_body(format!("data: {last}\n\ndata: [DONE]\n\n"), true);
        let request = ask(&gateway, "team-a");
        assert_eq!(refused(&request).as_deref(), Some(OVER_MINUTE));
        // 1200 tokens of the stream, and 10 of the other request.
        assert_eq!(request.answer().headers.get("retry-after-ms"), Some("61100"));
    }

    fn a_day_ends_at_midnight(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_day": 1000}}));
        let day = 24 * 60 * 60;
        let left = day - gateway.host.now().as_secs() % day;
        serve(ask(&gateway, "team-a"), 900, 300);
        let request = ask(&gateway, "team-a");
        assert_eq!(refused(&request).as_deref(), Some(OVER_DAY));
        let answer = request.answer();
        let wait: u64 = answer.headers.get("retry-after").unwrap().parse().unwrap();
        assert!(wait.abs_diff(left) <= 2, "{wait} {left}");
        assert_eq!(answer.headers.get("x-ratelimit-limit-tokens"), Some("1000"));
        assert_eq!(answer.headers.get("x-should-retry"), Some("false"));
        assert!(answer.text().contains("to 1000 tokens per day (UTC), which are used up"), "{}", answer.text());
    }

    fn lists_and_sockets_count_as_requests_alone(engine) {
        let gateway = limited(engine, json!({"default": {"tokens_per_minute": 10, "requests_per_minute": 3}}));
        serve(ask(&gateway, "team-a"), 100, 100);
        let list = || gateway.request(listing().with("x-client", "team-a"), true);
        answer(&list().attempt(), 200, "[]");
        let socket = request_of("GET", "/openai/realtime?api-version=1&deployment=gpt-4o", "")
            .with("connection", "upgrade")
            .with("upgrade", "websocket")
            .with("x-client", "team-a");
        let request = gateway.request(socket.clone(), false);
        answer(&request.attempt(), 101, "");
        assert_eq!(refused(&list()).as_deref(), Some(OVER_REQUESTS));
        assert_eq!(refused(&gateway.request(socket, false)).as_deref(), Some(OVER_REQUESTS));
    }

    fn clients_have_limits_of_their_own_or_none(engine) {
        let gateway = limited(engine, json!({
            "default": {"requests_per_minute": 1},
            "clients": {"team-a": {"requests_per_minute": 3}, "batch": null},
        }));
        for (client, most) in [("team-a", 3), ("batch", 20), ("team-b", 1), ("team_c", 1), ("team.c", 0)] {
            let passed = (0..20).filter(|_| refused(&ask(&gateway, client)).is_none());
            assert_eq!(passed.count(), most, "{client}");
        }
        let nameless = || gateway.request(request_of("POST", CHAT, ASK), false);
        assert_eq!(refused(&nameless()), None);
        let request = nameless();
        assert_eq!(refused(&request).as_deref(), Some(OVER_REQUESTS));
        assert!(request.answer().text().contains("all clients without a name together"), "{}", request.answer().text());
    }

    fn a_limit_lasts_over_a_new_configuration(engine) {
        let gateway = limited(engine, json!({"default": {"requests_per_minute": 2}}));
        for _ in 0..2 {
            assert_eq!(refused(&ask(&gateway, "team-a")), None);
        }
        let more = config(json!({"default": {"requests_per_minute": 3}}));
        let next = engine.beside(&gateway, 2, more);
        assert_eq!(refused(&ask(&next, "team-a")), None);
        assert_eq!(refused(&ask(&next, "team-a")).as_deref(), Some(OVER_REQUESTS));
    }

    fn without_shared_data_requests_pass(engine) {
        let gateway = limited(engine, json!({"default": {"requests_per_minute": 1}}));
        gateway.host.inject(Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH));
        for _ in 0..3 {
            assert_eq!(refused(&ask(&gateway, "team-a")), None);
        }
        let warnings = gateway.host.logged(LogLevel::Warn);
        assert!(warnings.iter().any(|line| line.contains("a request passes unchecked")), "{warnings:?}");
    }

    fn limits_cost_two_host_calls_at_each_end(engine) {
        let calls = |mut more: Value| {
            // Requesting the tokens of streams costs further calls.
            more["usage"] = json!({"streams": "asked"});
            let gateway = engine.fleet(3, more);
            // Until the worker is sure that no other worker changes the account.
            for _ in 0..10 {
                serve(ask(&gateway, "team-a"), 5, 5);
            }
            gateway.host.clear_counts();
            serve(ask(&gateway, "team-a"), 5, 5);
            let counts = gateway.host.counts();
            let calls = counts.iter().filter(|(name, _)| !name.starts_with("proxy_on_"));
            calls.map(|(_, count)| count.calls).sum::<u64>()
        };
        let off = calls(json!({"headers": {"client": "x-client"}}));
        let free = calls(config(json!({"clients": {"team-a": null}, "default": {"tokens_per_day": 1}})));
        let on = calls(config(json!({"default": {"tokens_per_minute": 1000, "requests_per_minute": 60}})));
        assert_eq!([free, on], [off, off + 4]);
    }
}

#[test]
fn a_limit_is_exact_over_workers_on_threads_of_their_own() {
    const WORKERS: usize = 4;
    const REQUESTS: usize = 500;
    let own = config(json!({"default": {"requests_per_minute": 700}}));
    let own = Engine::Filter.config(3, own);
    let (host, _first) = ready_with(mock_host::Setup::new(own.clone()));
    let start = Arc::new(Barrier::new(WORKERS));
    let threads: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (host, start, own): (Host, _, _) = (host.clone(), Arc::clone(&start), own.clone());
            thread::spawn(move || {
                let vm = host.vm(&own);
                start.wait();
                let asks = (0..REQUESTS).map(|n| {
                    let client = ["team-a", "team-b"][n % 2];
                    let stream = vm.request(listing().with("x-client", client), true);
                    (client, stream.forwarded().is_some())
                });
                let passed = asks.filter(|(_, passed)| *passed);
                passed.filter(|(client, _)| *client == "team-a").count()
            })
        })
        .collect();
    let passed: usize = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .sum();
    assert_eq!(passed, 700);
    assert_quiet(&host);
}
