//! Requests before the first token, during a renewal, and without a token.

use mock_host::{Fault, LogLevel, Setup};

use serde_json::json;

use super::engines::*;

cases! {
    fn a_request_before_the_first_token_waits_for_it(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let request = gateway.get();
        gateway.host.advance(millis(100));
        assert_eq!(request.forwarded(), None);
        give_token(&gateway.vm, TOKEN);
        let forwarded = request.forwarded().expect("it goes on at once");
        assert_eq!(
            forwarded.headers.get("authorization"),
            Some("Bearer TOKEN-ONE")
        );
        assert!(forwarded.complete);
        assert_quiet(&gateway.host);
    }

    fn the_first_tick_asks_the_token_service(engine) {
        let gateway = engine.tokenless(3, json!({}));
        assert_eq!(gateway.vm.calls(), []);
        gateway.host.advance(millis(1));
        let fetch = gateway.vm.call();
        assert_eq!(fetch.cluster, "imds");
        assert_eq!(fetch.headers.get("metadata"), Some("true"));
        assert_eq!(fetch.headers.get(":authority"), Some("169.254.169.254"));
        assert_eq!(fetch.timeout, seconds(5));
        gateway.host.advance(seconds(4));
        assert_eq!(
            gateway.vm.calls().len(),
            1,
            "and no one asks while it is asked"
        );
    }

    fn a_wait_for_the_token_ends_with_503(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let request = gateway.get();
        gateway.host.advance(millis(4900));
        assert_eq!(request.answered(), None);
        gateway.host.advance(millis(200));
        let answer = request.answer();
        assert_eq!(answer.status, 503);
        assert_eq!(code(answer.text()), "identity_unavailable");
        assert_eq!(answer.details, "identity_unavailable");
        assert!(answer.headers.get("retry-after").is_some());
        assert!(answer.headers.get("retry-after-ms").is_some());
        assert_eq!(answer.headers.get("x-aoai-backend"), None);
        assert_eq!(request.attempts().len(), 0);
        drop(request);
        assert_eq!(gateway.counted("aoai.identity.unavailable"), 1);
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
    }

    fn a_clock_set_back_holds_no_request_and_keeps_no_token_away(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let request = gateway.get();
        gateway.host.advance(millis(100));
        fetch(&gateway.vm);
        gateway.host.set_clock_back(seconds(3600));
        gateway.host.advance(millis(100));
        assert_eq!(request.answer().status, 503);
        let [_lost, fetch] = &fetches(&gateway.vm)[..] else {
            panic!("the service is asked again");
        };
        let token = token_answer(&gateway.host, TOKEN, seconds(3600));
        gateway.vm.answer(fetch, 200, [], token);
        assert!(gateway.get().forwarded().is_some());
        gateway.host.set_clock_back(seconds(3600));
        gateway.host.advance(seconds(2));
        assert_eq!(gateway.counted("aoai.requests"), 2, "and is handed over");
    }

    fn a_request_is_answered_at_once_if_no_token_can_come_in_time(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway.host.advance(millis(1));
        let refusal = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
        gateway.vm.answer(&fetch(&gateway.vm), 400, [], refusal);
        let request = gateway.get();
        let answer = request.answer();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers.get("retry-after"), Some("60"));
        assert_eq!(request.attempts().len(), 0);
        let errors = gateway.host.logged(LogLevel::Error);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("Identity not found"), "{errors:?}");
    }

    fn after_a_transient_failure_the_service_is_asked_again(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let request = gateway.get();
        gateway.host.advance(millis(1));
        gateway.vm.answer(&fetch(&gateway.vm), 500, [], "");
        gateway.host.advance(millis(900));
        assert_eq!(fetches(&gateway.vm), []);
        gateway.host.advance(millis(200));
        give_token(&gateway.vm, TOKEN);
        assert!(request.forwarded().is_some());
        assert_eq!(gateway.counted("aoai.identity.fetches"), 2);
        assert_eq!(gateway.counted("aoai.identity.failures"), 1);
    }

    fn no_answer_of_the_token_service_is_a_transient_failure(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway.host.advance(millis(1));
        gateway.vm.fail(&fetch(&gateway.vm));
        gateway.host.advance(millis(1100));
        give_token(&gateway.vm, TOKEN);
        assert!(gateway.get().forwarded().is_some());
    }

    fn the_old_token_serves_while_the_next_one_is_fetched(engine) {
        let gateway = engine.gateway();
        gateway.host.advance(seconds(3301));
        let refresh = fetch(&gateway.vm);
        let request = gateway.get();
        let forwarded = request.forwarded().expect("no one waits");
        assert_eq!(
            forwarded.headers.get("authorization"),
            Some("Bearer TOKEN-ONE")
        );
        let body = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
        gateway.vm.answer(&refresh, 200, [], body);
        let forwarded = gateway.get().forwarded().unwrap();
        assert_eq!(
            forwarded.headers.get("authorization"),
            Some("Bearer TOKEN-TWO")
        );
    }

    fn an_expired_token_is_never_sent(engine) {
        let gateway = engine.gateway();
        while gateway.host.now().as_secs() < 1_700_000_000 + 3601 {
            for fetch in fetches(&gateway.vm) {
                gateway.vm.answer(&fetch, 503, [], "");
            }
            gateway.host.advance(seconds(1));
        }
        let request = gateway.get();
        assert_eq!(request.forwarded(), None);
    }

    fn app_service_takes_endpoint_and_secret_from_the_environment(engine) {
        let identity = json!({"source": "app_service", "cluster": "imds"});
        let config = engine.config(3, json!({"identity": identity}));
        let setup = Setup::new(config)
            .env("IDENTITY_ENDPOINT", "http://localhost:42356/msi/token")
            .env("IDENTITY_HEADER", "S3CRET-HEADER");
        let gateway = engine.start(setup);
        gateway.host.advance(millis(1));
        let fetch = fetch(&gateway.vm);
        assert_eq!(
            fetch.headers.get("x-identity-header"),
            Some("S3CRET-HEADER")
        );
        assert_eq!(fetch.headers.get(":authority"), Some("localhost:42356"));
        give_token(&gateway.vm, TOKEN);
        assert!(gateway.get().forwarded().is_some());
        let logs = format!("{:?}", gateway.host.logs());
        assert!(!logs.contains("S3CRET"), "{logs}");
    }

    fn no_secret_is_in_any_log_line(engine) {
        // A run with every event that makes the module log.
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 401, &error("401"));
        for (status, body) in [
            (500, r#"{"error":"overloaded"}"#),
            (410, ""),
            (403, r#"{"error":"x","access_token":"TOKEN-ODD"}"#),
            (200, r#"{"access_token":"TOKEN-ODD"}"#),
            (200, r#"{"access_token":"TOKEN ODD","expires_in":60}"#),
        ] {
            while fetches(&gateway.vm).is_empty() {
                gateway.host.advance(seconds(1));
            }
            gateway.vm.answer(&fetch(&gateway.vm), status, [], body);
            for attempt in request.attempts().into_iter().skip(1) {
                if !attempt.ended() {
                    attempt.fail();
                }
            }
        }
        drop(request);
        while fetches(&gateway.vm).is_empty() {
            gateway.host.advance(seconds(1));
        }
        give_token(&gateway.vm, SECOND_TOKEN);
        gateway
            .host
            .inject(Fault::of("proxy_replace_header_map_value").on("authorization"));
        drop(gateway.send());
        gateway.host.advance(seconds(4000));
        let host = gateway.host.clone();
        drop(gateway);
        let logs = host.logs();
        assert!(logs.len() >= 7, "{logs:#?}");
        for log in logs {
            let text = log.text.to_uppercase();
            for secret in [TOKEN, SECOND_TOKEN, CLIENT_KEY, "TOKEN-ODD", "BEARER"] {
                assert!(!text.contains(secret), "{secret}: {log:?}");
            }
        }
    }

    fn the_same_failure_is_logged_once_until_there_was_a_token(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let fail_five_times = || {
            for _ in 0..5 {
                while fetches(&gateway.vm).is_empty() {
                    gateway.host.advance(millis(500));
                }
                gateway.vm.answer(&fetch(&gateway.vm), 500, [], "");
            }
        };
        fail_five_times();
        assert_eq!(gateway.host.logged(LogLevel::Warn).len(), 1);
        while fetches(&gateway.vm).is_empty() {
            gateway.host.advance(millis(500));
        }
        give_token(&gateway.vm, TOKEN);
        gateway.host.advance(seconds(3302));
        fail_five_times();
        assert_eq!(gateway.host.logged(LogLevel::Warn).len(), 2);
    }

    fn the_number_of_waiting_requests_is_limited(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let waiting: Vec<_> = (0..10_000).map(|_| gateway.get()).collect();
        assert_eq!(gateway.get().answer().status, 503);
        gateway.host.advance(millis(1));
        give_token(&gateway.vm, TOKEN);
        assert!(waiting.iter().all(|request| request.forwarded().is_some()));
    }

    fn a_token_that_expires_while_a_body_is_awaited_costs_no_turn(engine) {
        let gateway = engine.tokenless(1, json!({}));
        gateway.host.advance(millis(1));
        give_token_for(&gateway.vm, TOKEN, seconds(60));
        gateway.host.advance(millis(58_500));
        for fetch in fetches(&gateway.vm) {
            gateway.vm.answer(&fetch, 500, [], "");
        }
        // The body of the first request is late, so the request is sent on without it.
        let request = gateway.request(chat_of(BODY.len()), false);
        gateway.host.advance(millis(2100));
        while fetches(&gateway.vm).is_empty() {
            gateway.host.advance(millis(500));
        }
        give_token(&gateway.vm, SECOND_TOKEN);
        request.body(BODY, true);
        assert_eq!(request.answered(), None);
        assert_eq!(request.attempt().cluster(), EAST);
    }
}
