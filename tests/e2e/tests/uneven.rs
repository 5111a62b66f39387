//! Backends that differ: each has its own names for deployments, versions and paths.

use std::time::Duration;

use e2e::{
    cases, chat_request, east_and_west, load, simulate, simulate_with, Gateway, GatewayBuilder,
    Response,
};
use serde_json::json;
use simulator::{Behaviour, ImdsBehaviour, RecordedRequest, Simulator, TokenCheck};

const KEY: &str = "EAST-SECRET";

/// Path, query and body of the last request at a backend.
fn last(azure: &Simulator, backend: &str) -> (String, Vec<u8>) {
    let requests = azure.backend(backend).requests();
    let request = requests
        .last()
        .unwrap_or_else(|| panic!("nothing came to {backend}"));
    (request.path.clone(), request.body.to_vec())
}

/// A simulator whose backend `east` needs a key, and a gateway that has the key.
fn keyed(names: &[&str]) -> (Simulator, GatewayBuilder) {
    let azure = simulate_with(names, |settings| {
        settings.backends[0].api_key = Some(KEY.to_owned())
    });
    let gateway = Gateway::builder()
        .simulator(&azure)
        .secret("EAST_KEY", KEY)
        .plugin(|p| p["backends"][0]["api_key_env"] = json!("EAST_KEY"));
    (azure, gateway)
}

/// The backend got its own credential and no other.
fn assert_shown(request: &RecordedRequest) {
    let credentials = [request.header("api-key"), request.header("authorization")];
    match request.service.as_str() {
        "east" => {
            assert_eq!(request.token, TokenCheck::Key);
            assert_eq!(credentials, [Some(KEY), None]);
        }
        _ => {
            assert_eq!(request.token, TokenCheck::Valid);
            assert_eq!(credentials[0], None);
        }
    }
    assert!(!format!("{request:?}").contains("CLIENT"), "{request:?}");
}

fn send(gateway: &Gateway, path: &str) -> Response {
    let chat = chat_request();
    gateway
        .client()
        .send("POST", path, &[], &chat.bytes())
        .unwrap()
}

cases! {
    fn case_19_each_attempt_changes_the_deployments_segment_alone(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| {
                p["backends"][0]["deployments"] = json!({"gpt-4o": "gpt4o-east"});
                p["backends"][1]["deployments"] = json!({"gpt-4o": "a-longer-name-in-the-west"});
            })
            .start();
        let paths = [
            ("east", "/openai/deployments/gpt4o-east/chat/completions?api-version=2024-10-21&q=gpt-4o"),
            ("west", "/openai/deployments/a-longer-name-in-the-west/chat/completions?api-version=2024-10-21&q=gpt-4o"),
            ("north", "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21&q=gpt-4o"),
        ];
        let path = paths[2].1;
        for backend in azure.backends() {
            backend.set(Behaviour::internal_error());
        }
        for _ in 0..3 {
            assert_eq!(send(&gateway, path).status, 500);
            for (name, expected) in paths {
                assert_eq!(last(&azure, name), (expected.to_owned(), chat_request().bytes()));
            }
        }
        assert_eq!(azure.upstream_calls(), 9);
    }

    fn case_20_a_backends_api_version_applies_to_the_dated_api(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["api_version"] = json!("2025-04-01-preview")).start();
        azure.backend("east").set(Behaviour::internal_error().times(3));
        for (path, east) in [
            (
                "/openai/deployments/d/embeddings?api-version=2024-10-21",
                "/openai/deployments/d/embeddings?api-version=2025-04-01-preview",
            ),
            ("/openai/responses?api-version=2024-10-21&x=1", "/openai/responses?api-version=2025-04-01-preview&x=1"),
            ("/openai/v1/chat/completions?api-version=preview", "/openai/v1/chat/completions?api-version=preview"),
        ] {
            for _ in 0..2 {
                send(&gateway, path);
            }
            assert_eq!(last(&azure, "east").0, east);
            assert_eq!(last(&azure, "west").0, path, "after a retry too");
        }
    }

    fn a_base_path_stands_at_the_start_of_paths_only(engine) {
        let azure = simulate(&["foundry", "plain"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["backends"][0]["base_path"] = json!("/api/projects/contoso"))
            .start();
        azure.backend("foundry").set(Behaviour::internal_error());
        for _ in 0..2 {
            send(&gateway, "/openai/v1/chat/completions");
        }
        assert_eq!(last(&azure, "foundry").0, "/api/projects/contoso/openai/v1/chat/completions");
        assert_eq!(last(&azure, "plain").0, "/openai/v1/chat/completions");
    }

    fn a_backend_gets_no_request_for_a_deployment_it_lacks(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| {
                for (index, deployments) in [json!({"gpt-4o": "gpt-4o"}), json!({"gpt-4o": "own", "o3": "o3"})].into_iter().enumerate() {
                    p["backends"][index]["deployments"] = deployments;
                    p["backends"][index]["unlisted_deployments"] = json!("refuse");
                }
                p["backends"].as_array_mut().unwrap().truncate(2);
            })
            .start();
        for _ in 0..10 {
            assert_eq!(gateway.chat(&chat_request().deployment("o3")).status, 200);
        }
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (0, 10));
        for _ in 0..10 {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (5, 15));
        let answer = gateway.chat(&chat_request().deployment("nowhere"));
        assert_eq!(answer.status, 404);
        assert_eq!(answer.json()["error"]["code"], "DeploymentNotFound");
        assert_eq!(answer.header("x-aoai-attempts"), Some("0"));
        assert_eq!(azure.upstream_calls(), 20, "no one was asked");
        // The only backend with the deployment is throttled. The client gets its 429, not another backend's 404.
        azure.backend("west").set(Behaviour::throttled(30));
        // The second request makes a trial.
        for attempts in ["1", "1", "0"] {
            let answer = gateway.chat(&chat_request().deployment("o3"));
            assert_eq!((answer.status, answer.header("x-aoai-attempts")), (429, Some(attempts)));
        }
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.refused.no_deployment") == Some(1),
            Duration::from_secs(3),
            "the 404 to be counted",
        );
    }

    fn an_alias_of_a_missing_deployment_is_remembered_alone(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["backends"][0]["deployments"] = json!({"gpt-4o": "gone"}))
            .start();
        azure.backend("east").set(Behaviour::deployment_not_found().on_path("/gone/"));
        for _ in 0..6 {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        let to_gone = azure.backend("east").requests();
        let to_gone = to_gone.iter().filter(|request| request.path.contains("/gone/"));
        assert_eq!(to_gone.count(), 1, "remembered by the client's name");
        for _ in 0..4 {
            assert_eq!(gateway.chat(&chat_request().deployment("other")).status, 200);
        }
        assert_eq!(azure.backend("east").count(), 3);
    }

    fn case_17_each_backend_gets_its_own_credential(engine) {
        let (azure, gateway) = keyed(&["east", "west"]);
        let gateway = gateway.engine(engine).without_cooldowns().start();
        let client = [("api-key", "CLIENT"), ("authorization", "Bearer CLIENT")];
        let chat = chat_request();
        // From a backend with a token to one with a key, and the reverse.
        for failing in ["none", "east", "west"] {
            for backend in azure.backends() {
                match backend.name() == failing {
                    true => backend.set(Behaviour::internal_error()),
                    false => backend.clear(),
                }
            }
            for _ in 0..4 {
                let answer = gateway.client().send("POST", &chat.path, &client, &chat.bytes()).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        }
        let mut seen = 0;
        for request in azure.backends().iter().flat_map(|backend| backend.requests()) {
            assert_shown(&request);
            seen += 1;
        }
        assert_eq!(seen, 4 + 6 + 6);
        assert!(!gateway.log().contains(KEY));
    }

    fn a_backend_with_a_key_serves_while_the_identity_is_down(engine) {
        let (azure, gateway) = keyed(&["east", "west"]);
        azure.imds().set(ImdsBehaviour::status(500));
        let gateway = gateway.engine(engine).workers(2).start();
        let result = load(&gateway, 4, 40, &chat_request());
        assert_eq!(result.status(200), 40, "{result:?}");
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (40, 0));
        // No request waits, even if its turn is that of the backend without a key.
        assert!(result.within(1.0) < Duration::from_secs(2), "{:?}", result.within(1.0));
        azure.imds().clear();
        gateway.wait_for(
            |g| g.chat(&chat_request()).header("x-sim-backend") == Some("west"),
            Duration::from_secs(10),
            "the identity to serve again",
        );
        // The only backend with a key is throttled. The other one serves, with a token.
        azure.backend("east").set(Behaviour::throttled(60));
        assert_eq!(load(&gateway, 1, 6, &chat_request()).status(200), 6);
    }

    fn without_an_identity_keys_are_enough(engine) {
        let (azure, gateway) = keyed(&["east"]);
        let gateway = gateway.engine(engine).plugin(|p| drop(p.as_object_mut().unwrap().remove("identity"))).start();
        assert_eq!(load(&gateway, 2, 10, &chat_request()).status(200), 10);
        assert_eq!(azure.imds().count(), 0);
    }

    fn a_refused_key_makes_its_backend_unavailable(engine) {
        let (azure, gateway) = keyed(&["east", "west"]);
        let gateway = gateway
            .engine(engine)
            .secret("WRONG_KEY", "WRONG")
            .plugin(|p| p["backends"][0]["api_key_env"] = json!("WRONG_KEY"))
            .start();
        // Until there is a token, only the backend with a key gets requests, and the client gets its answer.
        gateway.wait_for(
            |g| g.stat("wasmcustom.aoai.identity.seconds_to_expiry").is_some_and(|s| s > 0),
            Duration::from_secs(20),
            "a token",
        );
        assert_eq!(load(&gateway, 1, 10, &chat_request()).status(200), 10);
        assert_eq!(azure.backend("east").count(), 1);
        assert_eq!(azure.imds().count(), 1);
        assert!(gateway.log().contains("backend east: denies access to this identity or key"));
        assert!(!gateway.log().contains("WRONG"));
    }
}
