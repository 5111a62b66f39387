//! Failures of backends: those that count, and the behaviour when every breaker is open.

use serde_json::json;

use super::*;

/// A worker whose backends' breakers are all open.
fn all_failing(engine: Engine, count: usize) -> Gateway {
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}, "retry": {"max_attempts": 1}});
    let gateway = engine.fleet(count, rules);
    for _ in 0..count {
        answer(&gateway.get().attempt(), 500, "x");
    }
    gateway
}

cases! {
    fn when_all_are_failing_open_breakers_are_ignored(engine) {
        let gateway = all_failing(engine, 2);
        for _ in 0..3 {
            let requests: Vec<_> = (0..2).map(|_| gateway.get()).collect();
            let clusters: Vec<_> = requests
                .iter()
                .map(|request| request.attempt().cluster())
                .collect();
            assert_eq!(clusters, [EAST, WEST], "in their order");
            for request in requests {
                answer(&request.attempt(), 500, "the real answer");
                let (status, _, attempts, body) = outcome(&request);
                assert_eq!(
                    (status, attempts.as_str(), body.as_str()),
                    (500, "1", "the real answer")
                );
            }
            gateway.host.advance(seconds(1));
        }
        assert_eq!(gateway.counted("aoai.backend.east.panic"), 3);
        assert_eq!(gateway.host.statistic("aoai.refused.unavailable"), 0);
        assert_eq!(gateway.host.statistic("aoai.backend.east.state"), 2);
        assert_eq!(
            gateway
                .host
                .statistic("aoai.backend.east.cooldowns.failing"),
            1
        );
        assert!(gateway.host.statistic("aoai.backend.east.cooldown_seconds") > 40);

        let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}});
        let gateway = engine.fleet(1, rules);
        for _ in 0..4 {
            let request = gateway.send();
            answer(&request.attempt(), 500, "the real answer");
            assert_eq!(outcome(&request), is(500, "east", "1", "the real answer"));
        }
        assert_eq!(gateway.counted("aoai.backend.east.panic"), 3);
        assert_eq!(gateway.host.statistic("aoai.refused.unavailable"), 0);
    }

    fn a_failing_backend_that_answers_recovers_at_once(engine) {
        let gateway = all_failing(engine, 1);
        gateway.host.advance(millis(10));
        answer(&gateway.get().attempt(), 200, "fine");
        assert_eq!(gateway.counted("aoai.backend.east.state"), 4);
        let requests: Vec<_> = (0..3).map(|_| gateway.get()).collect();
        for request in &requests {
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(gateway.counted("aoai.backend.east.state"), 0);
        assert_eq!(gateway.host.statistic("aoai.backend.east.panic"), 1);
        assert_eq!(gateway.host.statistic("aoai.backend.east.probes"), 3);
    }

    fn a_request_that_fails_everywhere_counts_against_one_backend(engine) {
        let mut backends: Value = serde_json::from_str(CONFIG).unwrap();
        backends["backends"][1]["priority"] = json!(1);
        backends["backends"][2]["priority"] = json!(2);
        let gateway = engine.fleet(3, json!({"backends": backends["backends"]}));
        for index in 0..5 {
            let request = gateway.get();
            // One backend answers, and the next does not.
            for (attempt, cluster) in CLUSTERS.into_iter().enumerate() {
                assert_eq!(request.attempt().cluster(), cluster);
                match (index + attempt) % 2 {
                    0 => answer(&request.attempt(), 500, "x"),
                    _ => request.attempt().fail(),
                }
            }
            assert_eq!(request.attempts().len(), 3);
            assert_eq!(request.answer().status, 500);
        }
        assert_eq!(gateway.served_by(4), [WEST; 4]);
        for (backend, cooldowns) in [("east", 1), ("west", 0), ("north", 0)] {
            let counter = |name| gateway.counted(&format!("aoai.backend.{backend}.{name}"));
            assert_eq!(counter("outcome.unavailable"), 5, "{backend}");
            assert_eq!(counter("cooldowns.failing"), cooldowns, "{backend}");
        }
    }

    fn a_request_that_is_refused_everywhere_throttles_one_backend(engine) {
        let gateway = engine.fleet(3, json!({}));
        let request = gateway.get();
        throttle(&request.attempt(), "60");
        throttle(&request.attempt(), "60");
        throttle(&request.attempt(), "60");
        assert_eq!(request.answer().status, 429);
        let served = gateway.served_by(20);
        assert!(!served.contains(&EAST.to_owned()), "{served:?}");
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.throttled"), 1);
        assert_eq!(
            gateway
                .host
                .statistic("aoai.backend.west.cooldowns.throttled"),
            0
        );
        assert_eq!(gateway.host.statistic("aoai.refused.throttled"), 0);
    }

    fn the_backend_with_the_shortest_advice_is_tried(engine) {
        let gateway = engine.fleet(3, json!({}));
        let request = gateway.get();
        throttle(&request.attempt(), "60");
        throttle(&request.attempt(), "40");
        throttle(&request.attempt(), "20");
        drop(request);
        for _ in 0..3 {
            let request = gateway.get();
            assert_eq!(request.attempt().cluster(), NORTH);
            request.disconnect();
        }
        assert_eq!(gateway.counted("aoai.backend.north.soft"), 3);
        gateway.host.advance(seconds(19));
        assert_eq!(gateway.served_by(4), [NORTH; 4], "it is free");
        assert_eq!(gateway.counted("aoai.backend.north.soft"), 3);
        gateway.host.advance(seconds(20));
        let served = gateway.served_by(4);
        assert!(served.contains(&WEST.to_owned()), "free too: {served:?}");
    }

    fn a_backend_with_advice_is_preferred_to_a_failing_one(engine) {
        // A failure and a 429 of one request both count in full, so the second 429 is advice.
        let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}});
        let gateway = engine.fleet(3, rules);
        let request = gateway.get();
        answer(&request.attempt(), 500, "x");
        throttle(&request.attempt(), "60");
        throttle(&request.attempt(), "60");
        drop(request);
        assert_eq!(gateway.get().attempt().cluster(), NORTH);
        // A failing backend is preferred to a trial.
        let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}});
        let other = engine.fleet(2, rules);
        let request = other.get();
        answer(&request.attempt(), 500, "x");
        throttle(&request.attempt(), "60");
        drop(request);
        for _ in 0..3 {
            let request = other.get();
            assert_eq!(request.attempt().cluster(), EAST);
            request.disconnect();
        }
        assert_eq!(other.counted("aoai.backend.east.panic"), 3);
        assert_eq!(other.host.statistic("aoai.backend.west.trials"), 0);
        assert_eq!(gateway.counted("aoai.backend.north.soft"), 1);
    }

    fn a_backend_that_refuses_two_new_tokens_is_misconfigured(engine) {
        let gateway = engine.fleet(2, json!({}));
        let first = gateway.get();
        answer(&first.attempt(), 401, &error("401"));
        gateway.renew(SECOND_TOKEN);
        answer(&first.attempt(), 401, &error("401"));
        answer(&first.attempt(), 200, "fine");
        assert_eq!(outcome(&first), is(200, "west", "3", "fine"));
        // The next request has the new token already, and no newer one is fetched.
        let second = loop {
            let request = gateway.get();
            if request.attempt().cluster() == EAST {
                break request;
            }
            answer(&request.attempt(), 200, "fine");
        };
        answer(&second.attempt(), 401, &error("401"));
        answer(&second.attempt(), 200, "fine");
        assert_eq!(outcome(&second), is(200, "west", "2", "fine"));
        assert_eq!(gateway.served_by(10), [WEST; 10]);
        assert_eq!(gateway.counted("aoai.backend.east.state"), 3);
        assert_eq!(
            gateway
                .host
                .statistic("aoai.backend.east.cooldowns.misconfigured"),
            1
        );
        assert_eq!(gateway.host.statistic("aoai.identity.fetches"), 2);
        assert_eq!(loud(&gateway.host).len(), 1);
    }

    fn the_log_distinguishes_refused_tokens_and_missing_roles(engine) {
        let gateway = engine.fleet(1, json!({}));
        for token in [SECOND_TOKEN, TOKEN] {
            let request = gateway.get();
            answer(&request.attempt(), 401, &error("401"));
            gateway.renew(token);
            answer(&request.attempt(), 401, &error("401"));
            assert_eq!(request.answer().status, 401);
            // From then on a refusal renews the token again.
            gateway.host.advance(seconds(40));
        }
        let lines = gateway.host.logged(mock_host::LogLevel::Error);
        assert!(
            matches!(&lines[..], [line] if line.starts_with("backend east: refuses a token that was just fetched (401)")),
            "{lines:?}"
        );
    }

    fn an_old_token_that_is_not_renewed_blames_no_backend(engine) {
        let gateway = engine.fleet(2, json!({}));
        for _ in 0..4 {
            let request = gateway.get();
            if request.attempt().cluster() == WEST {
                answer(&request.attempt(), 200, "fine");
                continue;
            }
            answer(&request.attempt(), 401, &error("401"));
            gateway.host.advance(millis(5));
            // The token service is down.
            for fetch in fetches(&gateway.vm) {
                gateway.vm.answer(&fetch, 500, [], "");
            }
            gateway.host.advance(millis(25));
            answer(&request.attempt(), 200, "fine");
            assert_eq!(request.answer().status, 200);
        }
        assert_eq!(
            gateway.counted("aoai.backend.east.cooldowns.misconfigured"),
            0
        );
    }

    fn during_a_token_outage_the_log_claims_no_new_token(engine) {
        let gateway = engine.fleet(2, json!({}));
        for _ in 0..4 {
            let request = gateway.get();
            answer(&request.attempt(), 401, &error("401"));
            gateway.host.advance(millis(5));
            // The token service is down.
            for fetch in fetches(&gateway.vm) {
                gateway.vm.answer(&fetch, 500, [], "");
            }
            gateway.host.advance(millis(25));
            if let [_, second] = &request.attempts()[..] {
                answer(second, 401, &error("401"));
            }
            assert_eq!(request.answer().status, 401);
            gateway.host.advance(seconds(2));
        }
        let lines = gateway.host.logged(mock_host::LogLevel::Error);
        let of_tokens = lines.iter().filter(|line| line.contains("(401)"));
        let of_tokens: Vec<_> = of_tokens.collect();
        assert!(!of_tokens.is_empty(), "{lines:?}");
        for line in of_tokens {
            assert!(line.contains("no newer token is available yet"), "{line}");
        }
    }
}
