//! Attempts without an answer: the next backend is tried, and an earlier real answer is kept.

use serde_json::json;

use super::engines::*;

/// The client gets the gateway's own answer.
fn assert_local(request: &Request, status: u16, error: &str, attempts: &str) {
    let answer = request.answer();
    assert_eq!(
        (answer.status, code(answer.text()).as_str()),
        (status, error)
    );
    assert!(!answer.text().contains("connect error"));
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some(attempts));
    assert_eq!(answer.headers.get("x-aoai-backend"), None);
    assert_eq!(answer.headers.get("content-type"), Some("application/json"));
}

cases! {
    fn after_failed_connections_the_next_backends_are_tried(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        for _ in 0..2 {
            request.attempt().fail();
            assert_eq!(request.answered(), None);
        }
        let third = request.attempt();
        assert_eq!(third.cluster(), NORTH);
        assert_eq!(
            third.header(":authority").as_deref(),
            Some("north.openai.azure.com")
        );
        assert_eq!(third.sent().unwrap().body, BODY.as_bytes());
        answer(&third, 200, "hello");
        assert_eq!(outcome(&request), is(200, "north", "3", "hello"));
        drop(request);
        for backend in ["east", "west"] {
            let name = format!("aoai.backend.{backend}.outcome.unavailable");
            assert_eq!(gateway.counted(&name), 1);
        }
        assert_quiet(&gateway.host);
    }

    fn when_no_backend_can_be_reached_the_client_gets_503(engine) {
        for (backends, attempts, reason) in [
            (3, "3", "attempts"),
            (2, "2", "backends"),
            (1, "1", "backends"),
        ] {
            let gateway = engine.fleet(backends, json!({"retry": {"max_attempts": 3}}));
            let request = gateway.send();
            for _ in 0..backends {
                request.attempt().fail();
            }
            assert_eq!(
                request.clusters(),
                CLUSTERS[..backends],
                "nothing more leaves"
            );
            assert_local(&request, 503, "backend_unavailable", attempts);
            drop(request);
            let name = format!("aoai.no_retry.{reason}_exhausted");
            assert_eq!(gateway.counted(&name), 1, "{name}");
            assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
            assert_quiet(&gateway.host);
        }
    }

    fn when_no_backend_answers_in_time_the_client_gets_504(engine) {
        for (backends, attempts) in [(3, "3"), (2, "2"), (1, "1")] {
            let retry = json!({"max_attempts": 3, "per_try_timeout": "10s"});
            let gateway = engine.fleet(backends, json!({"retry": retry}));
            let request = gateway.send();
            for _ in 0..backends {
                gateway.host.advance(seconds(10));
                request.attempt().time_out();
            }
            assert_local(&request, 504, "backend_timeout", attempts);
        }
    }

    fn with_one_attempt_the_client_gets_504_or_503_too(engine) {
        let retry = json!({"max_attempts": 1, "per_try_timeout": "10s"});
        let gateway = engine.fleet(3, json!({"retry": retry}));
        let request = gateway.send();
        gateway.host.advance(seconds(10));
        request.attempt().time_out();
        assert_local(&request, 504, "backend_timeout", "1");
        let request = gateway.send();
        request.attempt().fail();
        assert_local(&request, 503, "backend_unavailable", "1");
    }

    fn a_real_answer_is_kept_over_a_later_failure_to_connect(engine) {
        for backends in [2, 3] {
            let gateway = engine.fleet(backends, json!({"retry": {"max_attempts": 3}}));
            let request = gateway.send();
            let first = request.attempt();
            first.respond(429, [("retry-after", "7"), ("content-length", "4")], false);
            first.response_body("busy", true);
            for _ in 1..backends {
                request.attempt().fail();
            }
            let attempts = backends.to_string();
            assert_eq!(outcome(&request), is(429, "east", &attempts, "busy"));
            assert_eq!(request.answer().headers.get("retry-after"), Some("7"));
            assert_eq!(request.clusters().len(), backends);
        }
    }

    fn a_real_answer_without_a_body_is_kept_too(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 429, "");
        request.attempt().fail();
        request.attempt().fail();
        assert_eq!(outcome(&request), is(429, "east", "3", ""));
    }

    fn the_last_of_several_real_answers_is_kept(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 500, "first");
        let second = request.attempt();
        second.respond(429, [("retry-after", "7")], false);
        second.response_body("second", true);
        request.attempt().fail();
        assert_eq!(outcome(&request), is(429, "west", "3", "second"));
        assert_eq!(request.answer().headers.get("retry-after"), Some("7"));
    }

    fn the_last_real_answer_is_delivered_as_the_backend_sent_it(engine) {
        for (headers, body) in [
            (&[("x-ms-region", "East US")][..], "no type"),
            (&[("content-length", "1234")], ""),
            (&[("content-type", "text/html")], ""),
            (
                &[("set-cookie", "b"), ("x-a", "1"), ("set-cookie", "a")],
                "x",
            ),
        ] {
            let gateway = engine.gateway();
            let request = gateway.send();
            let first = request.attempt();
            first.respond(429, headers, body.is_empty());
            if !body.is_empty() {
                first.response_body(body, true);
            }
            request.attempt().fail();
            request.attempt().fail();
            assert_eq!(outcome(&request), is(429, "east", "3", body));
            let answer = request.answer();
            let mut pairs: Vec<_> = answer.headers.iter().collect();
            pairs.retain(|(name, _)| {
                !name.starts_with("x-aoai-") && !name.starts_with("x-envoy-") && *name != ":status"
            });
            let expected = headers
                .iter()
                .map(|(name, value)| (*name, value.as_bytes()));
            assert_eq!(pairs, expected.collect::<Vec<_>>());
        }
    }

    fn an_expired_token_is_sent_to_no_further_backend(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway.host.advance(millis(1));
        give_token_for(&gateway.vm, TOKEN, seconds(10));
        let request = gateway.send();
        gateway.host.advance(seconds(11));
        answer(&request.attempt(), 500, "from east");
        assert_eq!(request.clusters(), [EAST]);
        assert_eq!(outcome(&request), is(500, "east", "1", "from east"));
    }
}
