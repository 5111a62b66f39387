//! Failures after which a request goes to the next backend, and those after which it does not.

use std::time::{Duration, Instant};

use e2e::{cases, chat_request, east_and_west, simulate, Gateway, Response};
use serde_json::json;
use simulator::{Behaviour, Failure, Simulator};

const SECOND: Duration = Duration::from_secs(1);

fn attempts(answer: &Response) -> &str {
    answer.header("x-aoai-attempts").unwrap_or("missing")
}

/// Sends requests until one starts at `backend`, at most one round of them.
fn chat_starting_at(gateway: &Gateway, azure: &Simulator, backend: &str) -> Response {
    for _ in 0..azure.backends().len() {
        let before = azure.backend(backend).count();
        let answer = gateway.chat(&chat_request());
        if azure.backend(backend).count() > before {
            return answer;
        }
    }
    panic!("no request came to {backend}");
}

cases! {
    fn case_08_three_failing_backends_are_called_once_each(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error());
        }
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 500);
        assert_eq!(answer.json()["error"]["code"], "InternalServerError", "the last real answer");
        assert_eq!(attempts(&answer), "3");
        for backend in azure.backends() {
            assert_eq!(backend.count(), 1, "{}", backend.name());
        }
        let last = azure.requests().last().unwrap().service.clone();
        assert_eq!(answer.header("x-aoai-backend"), Some(last.as_str()));
    }

    fn a_client_that_envoy_trusts_cannot_have_a_backend_asked_twice(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .rewrite(
                "use_remote_address: true",
                "use_remote_address: true\n        internal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.1, prefix_len: 32}]}",
            )
            .start();
        let chat = chat_request();
        // If Envoy obeyed these headers, it would retry even the best answer.
        let words = [("x-envoy-retriable-header-names", "content-type")];
        let answer = gateway.client().send("POST", &chat.path, &words, &chat.bytes()).unwrap();
        assert_eq!((answer.status, azure.upstream_calls()), (200, 1));
        azure.reset();
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error());
        }
        let words = [("x-envoy-retry-on", "5xx"), ("x-envoy-max-retries", "5")];
        let answer = gateway.client().send("POST", &chat.path, &words, &chat.bytes()).unwrap();
        assert_eq!((answer.status, attempts(&answer)), (500, "2"));
        assert_eq!(azure.upstream_calls(), 2);
    }

    fn case_09_two_backends_allow_two_attempts(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error());
        }
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (500, "2"));
        assert_eq!(azure.upstream_calls(), 2);
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.no_retry.backends_exhausted") == Some(1),
            3 * SECOND,
            "the reason to be counted",
        );
    }

    fn max_attempts_is_exact_and_counts_the_first(engine) {
        for max_attempts in 1..=4 {
            let azure = simulate(&["a", "b", "c", "d", "e"]);
            let gateway = Gateway::builder()
                .simulator(&azure)
                .engine(engine)
                .plugin(move |p| p["retry"] = json!({"max_attempts": max_attempts}))
                .start();
            for backend in azure.backends() {
                backend.set(Behaviour::internal_error());
            }
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 500);
            assert_eq!(azure.upstream_calls(), max_attempts);
        }
    }

    fn case_10_the_clients_own_errors_are_not_retried(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for behaviour in [
            Behaviour::status(400),
            Behaviour::error(Failure::coded(403, "unsupported", "Not with this request.")),
            Behaviour::status(409),
            Behaviour::status(413),
            Behaviour::status(422),
            Behaviour::content_filter(),
            Behaviour::context_length(),
        ] {
            for backend in azure.backends() {
                backend.set(behaviour.clone());
                backend.clear_requests();
            }
            let answer = gateway.chat(&chat_request());
            assert!((400..500).contains(&answer.status));
            assert!(answer.json()["error"]["code"].is_string());
            assert_eq!(attempts(&answer), "1");
            assert_eq!(azure.upstream_calls(), 1, "status {}", answer.status);
        }
    }

    fn case_10_retriable_statuses_are_retried(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        for status in [408, 429, 500, 502, 503, 504, 529] {
            azure.backend("east").set(Behaviour::status(status));
            let answer = chat_starting_at(&gateway, &azure, "east");
            assert_eq!(answer.status, 200, "after {status}");
            assert_eq!(answer.header("x-aoai-backend"), Some("west"));
            assert_eq!(attempts(&answer), "2");
        }
    }

    fn case_34_an_answer_that_envoy_would_not_retry_is_retried(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        let limited = ("x-envoy-ratelimited", "true");
        for behaviour in [
            Behaviour::throttled_with(&[limited, ("retry-after", "7")]),
            Behaviour::status(503).with_header(limited.0, limited.1),
            Behaviour::deployment_not_found().with_header(limited.0, limited.1),
            Behaviour::permission_denied().with_header(limited.0, limited.1),
        ] {
            azure.backend("east").set(behaviour.clone());
            let answer = chat_starting_at(&gateway, &azure, "east");
            assert_eq!((answer.status, attempts(&answer)), (200, "2"), "{behaviour:?}");
            assert_eq!(answer.header(limited.0), None);
        }
        assert!(!gateway.log().contains("the router made no attempt"));

        for backend in azure.backends() {
            backend.set(Behaviour::throttled_with(&[limited]));
        }
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (429, "2"));
        assert_eq!(answer.header(limited.0), Some("true"), "as the backend sent it");
        azure.backend("west").stop();
        let answer = chat_starting_at(&gateway, &azure, "east");
        assert_eq!((answer.status, answer.header("x-aoai-backend")), (429, Some("east")));
        assert_eq!(answer.header(limited.0), Some("true"), "as the backend sent it");
    }

    fn a_backends_headers_about_its_health_are_ignored(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let words = [
            ("x-envoy-immediate-health-check-fail", "true"),
            ("x-envoy-degraded", "1"),
            ("x-envoy-overloaded", "true"),
        ];
        azure.backend("east").set(Behaviour::normal_with(&words));
        // Another Envoy in front of this one would take it for the failing one.
        let failing = |answer: &Response| answer.header(words[0].0).is_some();
        for _ in 0..10 {
            let answer = gateway.chat(&chat_request());
            assert_eq!((answer.status, attempts(&answer), failing(&answer)), (200, "1", false));
        }
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (5, 5));
        // Such a header does not keep Envoy's router on this backend either.
        let mut limited = Behaviour::throttled(7);
        for (name, value) in words {
            limited = limited.with_header(name, value);
        }
        azure.backend("east").set(limited.clone());
        let answer = chat_starting_at(&gateway, &azure, "east");
        assert_eq!((answer.status, attempts(&answer), failing(&answer)), (200, "2", false));
        azure.backend("east").clear();
        azure.backend("west").set(limited);
        azure.backend("east").stop();
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, failing(&answer)), (429, false));
    }

    fn case_10_only_a_404_for_a_missing_deployment_is_retried(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::deployment_not_found());
        let answer = chat_starting_at(&gateway, &azure, "east");
        assert_eq!((answer.status, attempts(&answer)), (200, "2"));

        for backend in azure.backends() {
            backend.clear();
            backend.clear_requests();
        }
        let answer = gateway.client().send("GET", "/openai/nothing/here", &[], b"").unwrap();
        assert_eq!((answer.status, attempts(&answer)), (404, "1"));
        assert_eq!(answer.json()["error"]["code"], "404", "the backend's own body");
        assert_eq!(azure.upstream_calls(), 1);
    }

    fn the_configuration_sets_the_retried_statuses(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["retry"] = json!({"statuses": [418]}))
            .start();
        azure.backend("east").set(Behaviour::status(418));
        assert_eq!(chat_starting_at(&gateway, &azure, "east").status, 200);
        azure.backend("east").set(Behaviour::status(503));
        assert_eq!(chat_starting_at(&gateway, &azure, "east").status, 503);
    }

    fn case_11_a_stale_token_is_renewed_once_for_the_same_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        assert_eq!(azure.imds().count(), 1);
        azure.imds().revoke_all();
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (200, "2"), "{}", answer.text());
        assert_eq!(azure.imds().count(), 2, "one new token");
        assert_eq!(azure.backend("west").count(), 2, "the same backend again");
        assert_eq!(azure.backend("east").count(), 1);
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (200, "1"), "the new token is everyone's");
        assert_eq!(azure.imds().count(), 2);
    }

    fn case_11_without_a_newer_token_the_next_backend_is_tried(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::unauthorized_token());
        // While a token is fresh, IMDS returns the same one again, which the backend refused.
        let answer = chat_starting_at(&gateway, &azure, "east");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-aoai-backend"), Some("west"));
        assert_eq!(azure.imds().count(), 2);
        // Further requests fetch no token: a new token does not cure every 401.
        for _ in 0..6 {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        assert_eq!(azure.imds().count(), 2);
    }

    fn case_11_after_a_missing_role_the_token_stays(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::permission_denied());
        let answer = chat_starting_at(&gateway, &azure, "east");
        assert_eq!((answer.status, attempts(&answer)), (200, "2"));
        assert_eq!(azure.imds().count(), 1);
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.backend.east.outcome.permission_denied") == Some(1),
            3 * SECOND,
            "the missing role to be counted",
        );
    }

    fn case_12_a_refused_connection_is_retried(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").stop();
        azure.backend("west").stop();
        for _ in 0..6 {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.header("x-aoai-backend"), Some("north"));
        }
    }

    fn case_12_a_reset_or_close_before_the_headers_is_retried(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for behaviour in [Behaviour::reset(), Behaviour::close()] {
            azure.backend("east").set(behaviour);
            let answer = chat_starting_at(&gateway, &azure, "east");
            assert_eq!((answer.status, attempts(&answer)), (200, "2"), "{}", answer.text());
        }
    }

    fn case_12_a_per_try_timeout_is_retried(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["retry"] = json!({"per_try_timeout": "500ms"}))
            .start();
        azure.backend("east").set(Behaviour::hang());
        let started = Instant::now();
        let answer = chat_starting_at(&gateway, &azure, "east");
        assert_eq!((answer.status, attempts(&answer)), (200, "2"), "{}", answer.text());
        assert!(started.elapsed() < 3 * SECOND);
        azure.backend("west").set(Behaviour::hang());
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (504, "2"));
        assert_eq!(answer.json()["error"]["code"], "backend_timeout");
    }

    fn no_reachable_backend_is_a_503_in_openais_shape(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.stop();
        }
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (503, "2"));
        assert_eq!(answer.json()["error"]["code"], "backend_unavailable");
        assert_eq!(answer.header("x-aoai-backend"), None, "none answered");
    }

    fn a_real_answer_is_kept_over_a_later_failed_connection(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::throttled(7));
        azure.backend("west").stop();
        let answer = gateway.chat(&chat_request());
        assert_eq!((answer.status, attempts(&answer)), (429, "2"), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("7"));
        assert_eq!(answer.header("x-aoai-backend"), Some("east"));
    }

    fn case_16_a_body_above_the_replay_limit_has_one_attempt(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["retry"] = json!({"replay_limit": "64KiB"}))
            .start();
        let chat = chat_request().padded(200_000);
        assert_eq!(gateway.chat(&chat).status, 200);
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error());
        }
        let answer = gateway.chat(&chat);
        assert_eq!((answer.status, attempts(&answer)), (500, "1"));
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.no_retry.body_too_large") == Some(1),
            3 * SECOND,
            "the reason to be counted",
        );
    }

    fn a_large_body_is_retried_byte_for_byte(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        let chat = chat_request().padded(3_000_000);
        for _ in 0..2 {
            assert_eq!(gateway.chat(&chat).status, 200);
        }
        let expected = azure.backend("east").requests()[0].body_sha256.clone();
        for request in azure.requests().iter().filter(|request| request.method == "POST") {
            assert_eq!(request.body_len, chat.bytes().len() as u64);
            assert_eq!(request.body_sha256, expected);
        }
        assert_eq!(azure.backend("west").count(), 2);
    }

    fn an_early_answer_to_a_request_of_known_size_is_retried(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::early(429));
        let chat = chat_request();
        for _ in 0..4 {
            let answer = gateway.chat(&chat);
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        for request in azure.backend("west").requests() {
            assert_eq!(&request.body[..], &chat.bytes()[..]);
        }
        assert_eq!(azure.backend("west").count(), 4);
    }

    fn an_upload_of_unknown_size_is_retried_once_it_is_complete(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        let body = chat_request().bytes();
        assert_uploads_are_retried(&azure, &gateway, &body.chunks(10).collect::<Vec<_>>(), Duration::from_millis(5));
    }

    fn a_tls_failure_is_retried(engine) {
        let azure = e2e::simulate_tls(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set_certificate_for("elsewhere.example").unwrap();
        assert_all_served_by(&gateway, "west");
        // This closes its open connections.
        azure.backend("west").stop();
        azure.backend("west").set_tls_failure(true).unwrap();
        azure.backend("west").restart().unwrap();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 503, "{}", answer.text());
    }

    fn get_and_delete_are_retried_too(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::internal_error());
        for _ in 0..2 {
            let answer = gateway
                .client()
                .send("GET", "/openai/models?api-version=2024-10-21", &[], b"")
                .unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

mod filter_engine_alone {
    use super::*;

    e2e::cases! { filter:
    fn a_backend_whose_name_does_not_resolve_is_skipped(engine) {
        let (_azure, gateway) = east_and_west(engine);
        let gateway = gateway.fleet(|fleet| fleet.backends[1].address = "nowhere.invalid".to_owned()).start();
        // Envoy answers for a cluster without a host before it has read a byte of the body.
        assert_all_served_by(&gateway, "east");
    }

    fn an_early_answer_ends_an_upload_of_unknown_size(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let chat = chat_request();
        // While there is no token, an upload is held until its next chunk. This client sends no further chunk.
        assert_eq!(gateway.chat(&chat).status, 200);
        for backend in azure.backends() {
            backend.set(Behaviour::early(429));
        }
        let mut upload = gateway.client().upload("POST", &chat.path, &[]).unwrap();
        upload.chunk(&chat.bytes()[..20]).unwrap();
        let answer = upload.answer().unwrap().read_to_end();
        assert_eq!((answer.status, attempts(&answer)), (429, "1"));
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.no_retry.request_incomplete") == Some(1),
            3 * SECOND,
            "the reason to be counted",
        );
    }

    fn a_cluster_envoy_does_not_have_is_named_and_the_others_serve(engine) {
        let (_azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["cluster"] = json!("aoai_nowhere")).start();
        assert_all_served_by(&gateway, "west");
        assert!(gateway.log().contains("aoai_nowhere"), "the log names the cluster");
    }
    }
}

mod router_engine_alone {
    use super::*;

    e2e::cases! { router:
    fn a_name_that_does_not_resolve_costs_the_requests_in_turn(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.fleet(|fleet| fleet.backends[1].address = "nowhere.invalid".to_owned()).start();
        assert_eq!(gateway.chat_statuses(4), [200, 200, 503, 503], "documented: Envoy does not retry what it could not route");
        azure.backend("east").set(Behaviour::throttled(7));
        let answers: Vec<_> = (0..2).map(|_| gateway.chat(&chat_request())).collect();
        let throttled = answers.iter().find(|answer| answer.status == 429).expect("the last real answer");
        assert_eq!(throttled.header("retry-after"), Some("7"));
        assert_eq!(throttled.header("x-aoai-backend"), Some("east"));
        assert_eq!(throttled.header("x-aoai-retry"), None);
    }

    fn an_early_answer_to_an_upload_is_retried_with_all_of_it(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::early(429));
        let body = chat_request().bytes();
        assert_uploads_are_retried(&azure, &gateway, &[&body[..20], &body[20..]], Duration::from_millis(100));
    }

    fn a_cluster_envoy_does_not_have_is_named(engine) {
        let (_azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["cluster"] = json!("aoai_nowhere")).start();
        assert_eq!(gateway.chat_statuses(4), [200, 200, 503, 503]);
        assert!(gateway.log().contains("aoai_nowhere"), "the log names the cluster");
    }

    fn five_megabytes_are_retried_without_entering_the_module(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .log_level("trace")
            .plugin(|p| p["retry"] = json!({"replay_limit": "16MiB"}))
            .start();
        azure.backend("east").set(Behaviour::internal_error());
        let chat = chat_request().padded(5_000_000);
        for _ in 0..2 {
            assert_eq!(gateway.chat(&chat).status, 200);
        }
        let sent = azure.backend("east").requests()[0].clone();
        for request in azure.backend("west").requests() {
            assert_eq!((request.body_len, &request.body_sha256), (chat.bytes().len() as u64, &sent.body_sha256));
        }
        // The trace names every host call. The module reads bodies of errors only.
        let log = gateway.log();
        let read = log.lines().filter(|line| line.contains("[vm->host] env.proxy_get_buffer_bytes(0,"));
        assert_eq!(read.count(), 0, "the request body was read");
    }

    fn more_than_three_retries_at_once_are_all_made(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::throttled(1));
        azure.backend("west").set(Behaviour::normal().after_ms(300));
        let answers = e2e::parallel(40, |_| gateway.chat(&chat_request()));
        for answer in answers {
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
    }
}

/// Sends two chats in these pieces, with a pause after each: `west` serves both, and receives all of them.
fn assert_uploads_are_retried(
    azure: &Simulator,
    gateway: &Gateway,
    pieces: &[&[u8]],
    pause: Duration,
) {
    let path = chat_request().path;
    for _ in 0..2 {
        let mut upload = gateway.client().upload("POST", &path, &[]).unwrap();
        for piece in pieces {
            upload.chunk(piece).unwrap();
            std::thread::sleep(pause);
        }
        let answer = upload.finish().unwrap().read_to_end();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let received = azure.backend("west").requests();
    assert_eq!(received.len(), 2);
    for request in received {
        assert_eq!(&request.body[..], pieces.concat());
    }
}

/// Sends four chats: this backend serves them all.
fn assert_all_served_by(gateway: &Gateway, backend: &str) {
    for _ in 0..4 {
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("x-aoai-backend"), Some(backend));
    }
}
