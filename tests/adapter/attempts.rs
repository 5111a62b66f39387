//! Attempts: their headers, their number, and the answer for the client.

use serde_json::json;

use super::engines::*;

cases! {
    fn the_first_attempt_carries_the_token_and_no_clients_key(engine) {
        let gateway = engine.gateway();
        let headers = chat_of(BODY.len())
            .with("ocp-apim-subscription-key", CLIENT_KEY)
            .with("x-aoai-cluster", "forged");
        let request = gateway.request(headers, false);
        request.body(BODY, true);
        let attempt = request.attempt();
        assert_eq!(attempt.cluster(), EAST);
        let sent = attempt.sent().unwrap();
        for (name, value) in [
            ("authorization", "Bearer TOKEN-ONE"),
            (":authority", "east.openai.azure.com"),
            (":path", PATH),
            ("x-stainless-lang", "python"),
        ] {
            assert_eq!(sent.headers.get(name), Some(value), "{name}");
        }
        assert!(!format!("{:?}", sent.headers).contains("CLIENT"));
        for (name, value) in sent.headers.iter() {
            assert!(!value.starts_with(b"CLIENT"), "{name}");
        }
        assert_eq!((sent.text(), sent.complete), (BODY, true));
    }

    fn a_throttled_request_is_sent_to_the_next_backend(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let first = request.attempt();
        answer(&first, 429, &error("429"));
        assert!(first.ended());
        let second = request.attempt();
        assert_eq!(second.cluster(), WEST);
        let sent = second.sent().unwrap();
        for (name, value) in [
            ("authorization", "Bearer TOKEN-ONE"),
            (":authority", "west.openai.azure.com"),
            (":path", PATH),
            ("x-stainless-lang", "python"),
        ] {
            assert_eq!(sent.headers.get(name), Some(value), "{name}");
        }
        assert_eq!((sent.text(), sent.complete), (BODY, true));
        assert_eq!(request.answered(), None, "the client sees nothing of it");
        answer(&second, 200, "hello");
        assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
        drop(request);
        assert_eq!(gateway.counted("aoai.backend.east.outcome.throttled"), 1);
        for name in ["attempts", "retries", "outcome.success"] {
            let name = format!("aoai.backend.west.{name}");
            assert_eq!(gateway.host.statistic(&name), 1, "{name}");
        }
        assert_eq!(gateway.host.statistic("aoai.backend.east.retries"), 0);
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
        assert_quiet(&gateway.host);
    }

    fn a_clients_key_in_the_query_reaches_no_backend(engine) {
        let gateway = engine.gateway();
        let request = gateway.ask("GET", "/openai/models?api-key=CLIENT-KEY&api-version=1", "");
        for status in [503, 200] {
            let path = request.attempt().header(":path");
            assert_eq!(path.as_deref(), Some("/openai/models?api-version=1"));
            answer(&request.attempt(), status, "");
        }
    }

    fn each_of_three_backends_is_tried_once(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        for (status, cluster) in [(429, EAST), (500, WEST)] {
            assert_eq!(request.attempt().cluster(), cluster);
            answer(&request.attempt(), status, &error(cluster));
        }
        let last = request.attempt();
        assert_eq!(last.cluster(), NORTH);
        last.respond(503, [("retry-after", "7")], false);
        last.response_body("from north", true);
        assert_eq!(outcome(&request), is(503, "north", "3", "from north"));
        assert_eq!(request.answer().headers.get("retry-after"), Some("7"));
        assert_eq!(request.clusters(), CLUSTERS);
        drop(request);
        assert_eq!(gateway.counted("aoai.no_retry.attempts_exhausted"), 1);
        assert_eq!(gateway.host.statistic("aoai.no_retry.router_declined"), 0);
        assert_quiet(&gateway.host);
    }

    fn two_backends_are_tried_once_each_whatever_the_maximum(engine) {
        let gateway = engine.fleet(2, json!({"retry": {"max_attempts": 3}}));
        let request = gateway.send();
        answer(&request.attempt(), 429, &error("first"));
        answer(&request.attempt(), 429, &error("second"));
        assert_eq!(outcome(&request), is(429, "west", "2", &error("second")));
        assert_eq!(request.clusters(), [EAST, WEST]);
        drop(request);
        assert_eq!(gateway.counted("aoai.no_retry.backends_exhausted"), 1);
    }

    fn with_one_attempt_there_is_no_retry(engine) {
        for status in [429, 500] {
            let gateway = engine.fleet(3, json!({"retry": {"max_attempts": 1}}));
            let request = gateway.send();
            answer(&request.attempt(), status, "failed");
            assert_eq!(request.attempts().len(), 1);
            assert_eq!(outcome(&request), is(status, "east", "1", "failed"));
        }
    }

    fn a_clients_own_error_is_not_retried(engine) {
        for status in [400, 403, 413, 422] {
            let gateway = engine.gateway();
            let request = gateway.send();
            answer(&request.attempt(), status, "your fault");
            assert_eq!(request.attempts().len(), 1);
            assert_eq!(outcome(&request), is(status, "east", "1", "your fault"));
        }
    }

    fn an_upgrade_is_sent_once(engine) {
        let gateway = engine.gateway();
        let headers = request_of(
            "GET",
            "/openai/realtime?api-version=1&deployment=gpt-4o",
            "",
        )
        .with("connection", "upgrade")
        .with("upgrade", "websocket");
        let request = gateway.request(headers, false);
        assert_eq!(request.attempt().cluster(), EAST);
        answer(&request.attempt(), 503, "overloaded");
        assert_eq!(request.attempts().len(), 1);
        assert_eq!(outcome(&request), is(503, "east", "1", "overloaded"));
        drop(request);
        assert_eq!(gateway.counted("aoai.no_retry.upgrade"), 1);
    }

    fn backends_take_turns(engine) {
        let gateway = engine.gateway();
        let requests: Vec<_> = (0..6).map(|_| gateway.send()).collect();
        let clusters: Vec<_> = requests
            .iter()
            .map(|request| request.attempt().cluster())
            .collect();
        assert_eq!(clusters, [CLUSTERS, CLUSTERS].concat());
    }

    fn interleaved_requests_do_not_mix(engine) {
        let gateway = engine.fleet(3, json!({"cooldown": null}));
        let requests: Vec<_> = (0..6).map(|_| gateway.send()).collect();
        for request in &requests {
            request.attempt().respond(429, [], false);
        }
        let firsts: Vec<_> = requests
            .iter()
            .map(|request| request.attempts().remove(0))
            .collect();
        for first in firsts.iter().rev() {
            first.response_body("busy", true);
        }
        let seconds: Vec<_> = requests.iter().map(Request::attempt).collect();
        for (index, attempt) in seconds.iter().enumerate() {
            let host = attempt.cluster().replace("aoai_", "") + ".openai.azure.com";
            assert_eq!(attempt.header(":authority"), Some(host));
            match index % 2 {
                0 => answer(attempt, 200, &format!("answer {index}")),
                _ => attempt.fail(),
            }
        }
        for (index, request) in requests.iter().enumerate() {
            let clusters = request.clusters();
            if index % 2 == 1 {
                assert_eq!(clusters.len(), 3);
                answer(&request.attempt(), 200, &format!("answer {index}"));
            }
            let backend = clusters.last().unwrap().replace("aoai_", "");
            let attempts = clusters.len().to_string();
            let expected = is(200, &backend, &attempts, &format!("answer {index}"));
            assert_eq!(outcome(request), expected);
        }
        assert_quiet(&gateway.host);
    }

    fn response_headers_can_be_switched_off(engine) {
        let gateway = engine.fleet(3, json!({"headers": {"backend": null, "attempts": null}}));
        let first = gateway.send();
        answer(&first.attempt(), 200, "ok");
        let second = gateway.send();
        answer(&second.attempt(), 500, "");
        answer(&second.attempt(), 200, "ok");
        for request in [first, second] {
            let answer = request.answer();
            assert_eq!(answer.status, 200);
            assert!(answer
                .headers
                .names()
                .all(|name| !name.starts_with("x-aoai")));
        }
    }
}
