//! Findings about backends, and the log lines about them.

use serde_json::{json, Value};

use super::*;
use crate::adapter::budget::host_calls;

cases! {
    fn successes_count_for_the_share_of_failures(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        let cooldowns_if_one_fails_in = |n: usize| {
            for index in 0..60 {
                answer(
                    &gateway.get().attempt(),
                    if index % n == 0 { 500 } else { 200 },
                    "x",
                );
            }
            gateway.counted("aoai.backend.east.cooldowns.failing")
        };
        assert_eq!(cooldowns_if_one_fails_in(3), 0);
        gateway.host.advance(seconds(20));
        assert_eq!(cooldowns_if_one_fails_in(2), 1);
    }

    fn the_tick_writes_down_successes_that_matter(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        let key = host_key(&gateway.host, "aoai.health.");
        answer(&gateway.get().attempt(), 500, "x");
        // The first success ends the row of failures, so it is written down.
        gateway.served_by(30);
        let before = gateway.host.shared(&key).unwrap();
        gateway.host.advance(seconds(2));
        assert_ne!(gateway.host.shared(&key).unwrap(), before);
        gateway.host.advance(seconds(10));
        let before = gateway.host.shared(&key).unwrap();
        gateway.served_by(30);
        gateway.host.advance(seconds(2));
        assert_eq!(
            gateway.host.shared(&key).unwrap(),
            before,
            "nothing is written while all is well"
        );
    }

    fn a_failure_among_others_is_written_down_once(engine) {
        let gateway = engine.fleet(1, json!({"retry": {"max_attempts": 1}}));
        let writes = || {
            gateway.host.clear_counts();
            answer(&gateway.get().attempt(), 500, "x");
            host_calls(&gateway.host).remove("proxy_set_shared_data")
        };
        assert_eq!(
            writes(),
            Some(3),
            "turn, health, and the edition: a success would be news now"
        );
        assert_eq!(writes(), Some(2));
    }

    fn a_missing_deployment_is_not_requested_again(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.send();
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        answer(&request.attempt(), 200, "fine");
        for _ in 0..4 {
            let request = gateway.send();
            assert_eq!(request.attempt().cluster(), WEST);
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(
            gateway
                .served_by(2)
                .iter()
                .filter(|cluster| *cluster == EAST)
                .count(),
            1
        );
        assert_eq!(gateway.counted("aoai.backend.east.missing_deployments"), 1);
        let loud = loud(&gateway.host);
        assert_eq!(loud.len(), 1);
        assert!(
            loud[0].contains(r#"backend east: has no deployment "gpt-4o""#),
            "{loud:?}"
        );
        gateway.host.advance(seconds(300));
        let to_east = (0..2).filter(|_| gateway.send().attempt().cluster() == EAST);
        assert_eq!(to_east.count(), 1, "it may be there by now");
    }

    fn a_deployments_name_cannot_forge_a_log_line(engine) {
        let gateway = engine.fleet(2, json!({}));
        let path = format!(
            "/openai/deployments/a\nbackend west: \"\u{1b}[31m{}/chat",
            "x".repeat(500)
        );
        let headers = [
            (":method", "GET"),
            (":authority", "a"),
            (":path", path.as_str()),
        ];
        let request = gateway.request(headers, true);
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        let loud = loud(&gateway.host);
        assert_eq!(loud.len(), 1);
        assert!(
            loud[0].len() < 300 && !loud[0].contains(['\n', '\u{1b}']),
            "{loud:?}"
        );
    }

    fn a_backend_that_refuses_the_identity_goes_into_cooldown(engine) {
        for (status, error_code) in [(401, "PermissionDenied"), (403, "403")] {
            let gateway = engine.fleet(2, json!({}));
            let request = gateway.get();
            answer(&request.attempt(), status, &error(error_code));
            answer(&request.attempt(), 200, "fine");
            assert_eq!(gateway.served_by(4), [WEST; 4]);
            assert_eq!(gateway.counted("aoai.backend.east.state"), 3);
            assert_eq!(
                gateway
                    .host
                    .statistic("aoai.backend.east.cooldowns.misconfigured"),
                1
            );
            let loud = loud(&gateway.host);
            assert!(
                loud.len() == 1 && loud[0].contains("Cognitive Services OpenAI User"),
                "{loud:?}"
            );
        }
    }

    fn a_missing_right_keeps_a_serving_backend_available(engine) {
        let gateway = engine.fleet(2, json!({}));
        let idle = engine.beside(&gateway, 2, json!({}));
        let ask_for_too_much = |gateway: &Gateway| {
            let request = gateway.get();
            answer(&request.attempt(), 401, &error("PermissionDenied"));
            answer(&request.attempt(), 401, &error("PermissionDenied"));
            assert_eq!(request.answer().status, 401);
        };
        gateway.served_by(2);
        ask_for_too_much(&gateway);
        assert_eq!(gateway.served_by(2).len(), 2, "at once");
        gateway.host.advance(seconds(2));
        // A worker that has served no request knows this too.
        ask_for_too_much(&idle);
        gateway.host.advance(seconds(30));
        ask_for_too_much(&idle);
        assert_eq!(
            gateway.counted("aoai.backend.east.cooldowns.misconfigured"),
            0
        );
        assert_quiet(&gateway.host);
        // A backend that has not served for a while is misconfigured at once.
        gateway.host.advance(seconds(61));
        ask_for_too_much(&idle);
        assert_eq!(
            gateway.counted("aoai.backend.east.cooldowns.misconfigured"),
            1
        );
    }

    fn weights_priorities_and_quotas_count(engine) {
        let backends = |fields: [Value; 3]| {
            let mut config: Value = serde_json::from_str(CONFIG).unwrap();
            for (backend, fields) in config["backends"]
                .as_array_mut()
                .unwrap()
                .iter_mut()
                .zip(fields)
            {
                for (key, value) in fields.as_object().unwrap() {
                    backend[key] = value.clone();
                }
            }
            config["backends"].clone()
        };
        let weights = backends([
            json!({"weight": 2}),
            json!({"weight": 1}),
            json!({"priority": 1}),
        ]);
        let gateway = engine.fleet(3, json!({ "backends": weights }));
        assert_eq!(gateway.served_by(6), [EAST, WEST, EAST, EAST, WEST, EAST]);

        let gateway = engine.fleet(2, json!({"policy": "least_throttled"}));
        let answer_all = |requests: usize| {
            let to_east = (0..requests).filter(|_| {
                let request = gateway.get();
                let east = request.attempt().cluster() == EAST;
                let left = if east { "7000" } else { "1000" };
                request
                    .attempt()
                    .respond(200, [("x-ratelimit-remaining-tokens", left)], true);
                east
            });
            to_east.count()
        };
        answer_all(20);
        let to_east = answer_all(800);
        assert!(to_east.abs_diff(700) < 10, "{to_east}");
        let request = gateway.get();
        request
            .attempt()
            .respond(200, [("x-ratelimit-remaining-tokens", "junk")], true);
        assert!(answer_all(80).abs_diff(70) < 5);
    }

    fn a_client_that_is_too_slow_is_no_failure_of_the_backend(engine) {
        let gateway = engine.fleet(1, json!({}));
        for _ in 0..5 {
            // The request has an unknown length, so it is sent on at once. Then the client stalls, and the listener's
            // own limit ends it.
            let request = gateway.request(chat(), false);
            request.body("the beginning", false);
            request.answer_locally(408, "stream_idle_timeout");
            assert_eq!(request.answer().status, 408);
        }
        assert_eq!(gateway.served_by(1), [EAST]);
        assert_eq!(gateway.counted("aoai.backend.east.outcome.unavailable"), 0);
    }

    fn failures_without_an_answer_count(engine) {
        let gateway = engine.fleet(
            2,
            json!({"cooldown": {"consecutive_failures": 2, "failing": "30s"}}),
        );
        for _ in 0..4 {
            let request = gateway.send();
            if request.attempt().cluster() == EAST {
                request.attempt().fail();
            }
            answer(&request.attempt(), 200, "fine");
        }
        assert_eq!(gateway.served_by(4), [WEST; 4]);
    }
}
