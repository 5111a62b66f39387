//! Paths of unknown operations.

use e2e::{cases, east_and_west, simulate, uneven, Gateway};
use serde_json::{json, Value};
use simulator::{Behaviour, TokenCheck};

cases! {
    fn an_unknown_path_goes_in_turn_and_is_not_retried(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).without_cooldowns().start();
        gateway.warm_up(&azure);
        for path in ["/openai/v1/novelties", "/openai/v1/novelties/new_1/runs?a=b", "/openai/new-thing?api-version=2024-10-21"] {
            for backend in azure.backends() {
                backend.clear_requests();
                backend.set(Behaviour::internal_error());
            }
            for (method, body) in [("GET", Value::Null), ("POST", json!({"model": "gpt-4o"})), ("PATCH", json!({}))] {
                let answer = gateway.call(method, path, &body);
                assert_eq!((answer.status, answer.header("x-aoai-attempts")), (500, Some("1")), "{path}");
            }
            for backend in azure.backends() {
                let requests = backend.requests();
                assert_eq!(requests.len(), 1, "{} {path}", backend.name());
                assert!(requests[0].token.passes(), "with its own credential");
            }
        }
    }

    fn an_unknown_path_with_an_id_goes_to_the_objects_backend(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for _ in 0..3 {
            let made = gateway.call("POST", "/openai/v1/responses", &json!({"model": "gpt-4o", "input": "x"}));
            let id = made.json()["id"].as_str().unwrap().to_owned();
            let answer = gateway.call("GET", &format!("/openai/v1/responses/{id}/new-part"), &Value::Null);
            assert_eq!(answer.status, 404);
            assert_eq!(answer.header("x-sim-backend"), made.header("x-sim-backend"));
        }
        assert_eq!(azure.upstream_calls(), 6);
    }

    fn a_path_outside_openai_is_refused(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for path in ["/", "/sim/echo", "/openaix/v1/chat/completions", "/v1/chat/completions", "/healthz?x=/openai/v1"] {
            for method in ["GET", "POST"] {
                let answer = gateway.call(method, path, &json!({"model": "m"}));
                assert_eq!(answer.status, 404, "{path}: {}", answer.text());
                assert_eq!(answer.json()["error"]["code"], "path_not_served");
                assert_eq!(answer.header("x-aoai-attempts"), Some("0"));
            }
        }
        assert_eq!(azure.upstream_calls(), 0);
        let headers = [("connection", "upgrade"), ("upgrade", "websocket")];
        let answer = gateway.client().send("GET", "/socket", &headers, b"").unwrap();
        assert_eq!((answer.status, azure.upstream_calls()), (404, 0));
    }

    fn a_path_outside_openai_can_be_passed(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["other_paths"] = json!(["/sim/"])).start();
        let client = [("api-key", "CLIENT-SECRET"), ("authorization", "Bearer CLIENT-SECRET")];
        for _ in 0..2 {
            let answer = gateway.client().send("POST", "/sim/echo?a=b", &client, b"body").unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let echo = answer.json();
            assert_eq!((&echo["path"], &echo["body"]), (&json!("/sim/echo?a=b"), &json!("body")));
        }
        let answer = gateway.client().send("POST", "/health", &client, b"body").unwrap();
        assert_eq!(answer.status, 404, "{}", answer.text());
        for backend in azure.backends() {
            let requests = backend.requests();
            assert_eq!(requests.len(), 1, "in turn");
            assert_eq!(requests[0].token, TokenCheck::NotChecked);
            assert!(!format!("{requests:?}").contains("CLIENT-SECRET"));
        }
    }
}
