//! Refused configurations, and the service that continues after a refusal.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use e2e::{cases, chat_request, east_and_west, load, simulate, Gateway, Update};
use serde_json::json;
use simulator::Behaviour;

const SECOND: Duration = Duration::from_secs(1);

cases! {
    fn case_24_a_wrong_configuration_is_refused_and_the_last_serves(engine) {
        let azure = simulate(&["east", "west"]);
        let mut gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let good = gateway.plugin();
        for (pointer, value, problem) in [
            ("/backends", json!([]), "backends: [] is not allowed; use a list with at least one backend"),
            ("/backends/0/name", json!("west"), r#"backends[1].name: "west" is used twice; use a different name for each backend"#),
            ("/backends/0/cluster", json!(7), "backends[0].cluster: 7 is not allowed; use the name of an Envoy cluster"),
            ("/retry", json!({"max_attempts": 9}), "retry.max_attempts: 9 is not allowed; use a whole number from 1 to 5"),
            ("/retries", json!({}), "retries: unknown field; use one of backends, identity, "),
            ("/identity", json!("imds"), r#"identity: "imds" is not allowed; use an object"#),
        ] {
            let mut wrong = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            wrong.pointer_mut(parent).unwrap()[key] = value;
            match gateway.update(wrong) {
                Update::Rejected(reason) => assert!(reason.contains(problem), "{pointer}: {reason}"),
                Update::Accepted => panic!("{pointer} was accepted"),
            }
            assert_eq!(gateway.chat(&chat_request()).status, 200, "the last good one serves");
        }
        let mut changed = good;
        changed["retry"] = json!({"max_attempts": 1});
        assert_eq!(gateway.update(changed), Update::Accepted);
        azure.backend("east").set(Behaviour::internal_error());
        azure.backend("west").set(Behaviour::internal_error());
        assert_eq!(gateway.chat(&chat_request()).header("x-aoai-attempts"), Some("1"));
    }

    fn case_24_envoy_does_not_start_with_invalid_json(engine) {
        let azure = simulate(&["east"]);
        let refused = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| *p = json!("backends: []"))
            .try_start()
            .unwrap_err();
        assert!(refused.log.contains("the plugin configuration is not JSON"), "{}", refused.log);
    }

    fn a_reload_under_load_loses_no_request_and_fetches_no_token(engine) {
        let azure = simulate(&["east", "west"]);
        let mut gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let mut changed = gateway.plugin();
        changed["retry"] = json!({"max_attempts": 2});
        let address = gateway.address();
        let reloaded = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let client = e2e::Client::new(address);
                let chat = chat_request();
                let mut after = 0;
                while after < 100 {
                    after += usize::from(reloaded.load(Ordering::Relaxed));
                    let answer = client.send("POST", &chat.path, &[], &chat.bytes()).unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            });
            gateway.wait_for(|_| azure.upstream_calls() >= 100, 10 * SECOND, "a load");
            assert_eq!(gateway.update(changed), Update::Accepted);
            reloaded.store(true, Ordering::Relaxed);
        });
        assert_eq!(azure.imds().count(), 1, "the token is shared with the new configuration");
    }

    fn a_configuration_may_be_given_as_a_protobuf_struct(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["retry"] = json!({"max_attempts": 2, "statuses": [418, 503]}))
            .rewrite("type.googleapis.com/google.protobuf.StringValue", "type.googleapis.com/google.protobuf.Struct")
            .rewrite("value: |", "value:")
            .start();
        azure.backend("east").set(Behaviour::status(418));
        let result = load(&gateway, 1, 8, &chat_request());
        assert_eq!(result.status(200), 8, "{result:?}");
        azure.backend("east").set(Behaviour::status(500));
        assert_eq!(load(&gateway, 1, 10, &chat_request()).status(500), 5, "500 is not in the list");
    }
}

mod filter_engine_alone {
    use super::*;

    e2e::cases! { filter:
    fn the_filter_serves_without_held_bodies(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .rewrite("allow_on_headers_stop_iteration: true", "allow_on_headers_stop_iteration: false")
            .start();
        let first = gateway.chat(&chat_request());
        assert_eq!(first.status, 200);
        assert!(first.elapsed < 4 * SECOND, "found out once, within a bounded time: {:?}", first.elapsed);
        assert!(gateway.log().contains("set `allow_on_headers_stop_iteration: true`"));
        azure.backend("east").set(Behaviour::internal_error());
        let started = std::time::Instant::now();
        for _ in 0..4 {
            let answer = gateway.chat(&chat_request());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
        azure.backend("east").set(Behaviour::deployment_not_found());
        let statuses: Vec<u16> = (0..4).map(|_| gateway.chat(&chat_request()).status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 404).count(), 2, "a 404 is passed on: {statuses:?}");
        assert!(started.elapsed() < 2 * SECOND, "no other request waits");
    }
    }
}
