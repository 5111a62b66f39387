//! The router engine's needs around the filter, and its log lines if they are missing.

use std::io::{Read, Write};
use std::net::TcpListener;

use e2e::{
    cases, chat_request, east_and_west, load, simulate, simulate_tls, Engine, EnvoyVersion,
    Gateway, GatewayBuilder, Upstream,
};
use simulator::Behaviour;

mod router_engine_alone {
    use super::*;

    cases! { router:
    fn an_envoy_before_1_39_is_refused(engine) {
        for version in [EnvoyVersion::V1_36_4, EnvoyVersion::V1_38_2] {
            let azure = simulate(&["east", "west"]);
            let refused = Gateway::builder()
                .simulator(&azure)
                .engine(engine)
                .version(version)
                .try_start()
                .unwrap_err();
            let wanted = r#"retry.engine: "router" is not allowed with Envoy 1.3"#;
            assert!(refused.log.contains(wanted), "{}", refused.log);
        }
    }

    fn a_missing_upstream_filter_is_named(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).without_upstream_filter().start();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-aoai-attempts"), Some("1"));
        assert!(gateway.log().contains("came through a cluster without the upstream filter"));
    }

    fn an_upstream_filter_in_another_vm_is_named(engine) {
        let (_azure, gateway) = east_and_west(engine);
        let gateway = gateway.rewrite_clusters("vm_id: azure_openai_balancer", "vm_id: another").start();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 503, "never a silent fallback");
        assert!(gateway.log().contains("came through the upstream filter without its request"));
    }

    fn a_route_without_the_matcher_is_named(engine) {
        let (_azure, gateway) = east_and_west(engine);
        let gateway = gateway.rewrite("key: wasm.aoai_next", "key: wasm.something_else").start();
        let answer = gateway.chat(&chat_request());
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert!(gateway.log().contains("add the matcher cluster specifier on filter state wasm.aoai_next to the route"));
    }

    fn a_backends_own_mark_leads_to_the_next_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::normal_with(&[("x-aoai-retry", "1")]));
        let answer = gateway.chat(&chat_request());
        let signed = (answer.header("x-aoai-backend"), answer.header("x-aoai-attempts"));
        assert_eq!((answer.status, signed), (200, (Some("west"), Some("2"))));
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (1, 1));
    }

    fn a_route_that_does_not_refresh_the_cluster_is_named(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.rewrite("refresh_cluster_on_retry: true", "refresh_cluster_on_retry: false").start();
        azure.backend("east").set(Behaviour::throttled(7));
        let statuses = gateway.chat_statuses(2);
        assert!(statuses.contains(&429), "the last real answer: {statuses:?}");
        assert!(gateway.log().contains("a retry went to another cluster than planned"));
        for request in azure.backend("east").requests() {
            assert_eq!(request.authority, "contoso-east.openai.azure.com");
        }
    }

    fn a_router_that_does_not_retry_is_counted_and_the_mark_removed(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.rewrite("name: x-aoai-retry", "name: x-something-else").start();
        azure.backend("east").set(Behaviour::throttled(7));
        let answers: Vec<_> = (0..2).map(|_| gateway.chat(&chat_request())).collect();
        let passed: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
        assert_eq!(passed.len(), 1);
        assert_eq!(passed[0].header("x-aoai-retry"), None);
        assert_eq!(passed[0].header("x-aoai-backend"), Some("east"));
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.no_retry.router_declined") == Some(1),
            std::time::Duration::from_secs(3),
            "the refusal to be counted",
        );
        assert!(gateway.log().contains("x-aoai-retry"), "the log says what the route lacks");
    }

    fn an_interim_answer_ends_envoys_retries_which_is_named(engine) {
        let azure = simulate(&["west"]);
        let interim = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = interim.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in interim.incoming() {
                let mut client = client.unwrap();
                let mut read = [0; 65536];
                while client.read(&mut read).is_ok_and(|size| size > 0) {
                    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n";
                    client.write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        let gateway = Gateway::builder()
            .upstream(Upstream {
                name: "east".to_owned(),
                host: "contoso-east.openai.azure.com".to_owned(),
                address,
                ca_file: None,
            })
            .simulator(&azure)
            .engine(engine)
            .start();
        assert_eq!(gateway.chat_statuses(2), [200, 429]);
        assert!(gateway.log().contains("100 Continue"), "the log names the cause");
    }

    // Envoy decides on a retry at an answer's headers, and resets an unfinished answer. Over HTTP/1.1 that costs a
    // connection for every 429. So the upstream filter holds the headers until the answer is complete.
    fn a_retried_429_costs_no_connection_over_http_1(engine) {
        let connections = connections_of_200_retries(engine, "HTTP/1.1", |gateway| gateway);
        assert!(connections <= 16, "{connections} connections for 200 answers of 429");
    }

    fn a_retried_429_costs_no_connection_over_http_2(engine) {
        let connections = connections_of_200_retries(engine, "HTTP/2.0", |gateway| {
            gateway
                .rewrite_clusters(
                    "explicit_http_config:\n          http_protocol_options: {}",
                    "auto_config:\n          http_protocol_options: {}\n          http2_protocol_options: {}",
                )
                .rewrite_clusters("alpn_protocols: [\"http/1.1\"]", "alpn_protocols: [\"h2\", \"http/1.1\"]")
        });
        assert!(connections <= 4, "{connections} connections for 200 answers of 429");
    }

    fn stock_envoys_retry_costs_one_each(engine) {
        let azure = simulate_tls(&["east", "west"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .log_level("info")
            .without_upstream_filter()
            .rewrite("retry_on: connect-failure,refused-stream,retriable-headers", "retry_on: 5xx")
            .start();
        azure.backend("east").set(Behaviour::status(503));
        let result = load(&gateway, 8, 100, &chat_request());
        // Nothing leads the router to another backend. So each of 50 requests meets its 503 three times, with two
        // retries.
        assert_eq!(result.status(503), 50, "{result:?}");
        assert_eq!(azure.backend("east").count(), 150);
        let connections = azure.backend("east").connections();
        assert!(connections >= 100, "{connections} connections for 100 retried answers");
    }

    fn an_upgrade_is_not_retried(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        for backend in azure.backends() {
            backend.set(Behaviour::throttled(1));
        }
        // Only an ordinary request may wait for the first token.
        assert_eq!(gateway.chat(&chat_request()).status, 429);
        for backend in azure.backends() {
            backend.clear_requests();
        }
        let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
        let path = "/openai/realtime?api-version=2024-10-01-preview&deployment=d";
        let answer = gateway.client().send("GET", path, &headers, b"").unwrap();
        assert_eq!((answer.status, answer.header("x-aoai-attempts")), (429, Some("1")));
        let calls: u64 = azure.backends().iter().map(|backend| backend.count()).sum();
        assert_eq!(calls, 1);
    }
    }
}

/// Sends 400 requests over 8 connections to a gateway whose `east` answers 429 over TLS. Returns the number of
/// connections to `east`.
fn connections_of_200_retries(
    engine: Engine,
    version: &str,
    options: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
) -> u64 {
    let azure = simulate_tls(&["east", "west"]);
    let gateway = Gateway::builder()
        .simulator(&azure)
        .engine(engine)
        .without_cooldowns()
        .log_level("info");
    let gateway = options(gateway).start();
    let east = azure.backend("east");
    east.set(Behaviour::throttled(1));
    let result = load(&gateway, 8, 400, &chat_request());
    assert_eq!(result.status(200), 400, "{result:?}");
    assert_eq!(east.count(), 200);
    assert_eq!(east.requests()[0].http_version, version);
    east.connections()
}
