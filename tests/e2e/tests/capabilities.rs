//! APIs that only some backends have.

use std::time::Duration;

use e2e::{cases, chat_request, east_and_west, simulate, simulate_with, Gateway, Response};
use serde_json::{json, Value};
use simulator::{Api, Behaviour, Failure};

const RESPONSES: &str = "/openai/v1/responses";

fn respond(gateway: &Gateway) -> Response {
    gateway.call(
        "POST",
        RESPONSES,
        &json!({"model": "gpt-4o", "input": "hi"}),
    )
}

fn attempts(answer: &Response) -> &str {
    answer.header("x-aoai-attempts").unwrap_or_default()
}

cases! {
    fn a_backend_gets_no_request_for_an_api_that_it_lacks(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["apis"] = json!(["chat", "embeddings"])).start();
        for (method, path) in [
            ("POST", RESPONSES),
            ("POST", "/openai/responses?api-version=2024-10-21"),
            ("GET", "/openai/v1/files"),
            ("GET", "/openai/v1/batches"),
            ("GET", "/openai/v1/vector_stores"),
            ("POST", "/openai/v1/threads"),
            ("GET", "/openai/v1/assistants"),
            ("GET", "/openai/fine_tuning/jobs?api-version=2024-10-21"),
            ("POST", "/openai/deployments/gpt-4o/audio/speech?api-version=2024-10-21"),
            ("POST", "/openai/v1/images/generations"),
        ] {
            for _ in 0..2 {
                let body = if method == "POST" { json!({"model": "gpt-4o"}) } else { Value::Null };
                let answer = gateway.call(method, path, &body);
                assert_eq!((answer.status, attempts(&answer)), (200, "1"), "{path}");
            }
        }
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (0, 20));
        for _ in 0..4 {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
            let embedding = gateway.call("POST", "/openai/v1/embeddings", &json!({"model": "e", "input": "x"}));
            assert_eq!(embedding.status, 200);
        }
        assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (4, 24));
    }

    fn an_api_of_no_backend_is_refused_in_openais_shape(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| {
                p["backends"][0]["apis"] = json!(["chat"]);
                p["backends"][1]["apis"] = json!(["chat", "embeddings"]);
            })
            .start();
        for (method, path) in [("POST", RESPONSES), ("GET", "/openai/v1/files/file-1"), ("POST", "/openai/v1/audio/speech")] {
            let answer = gateway.call(method, path, &json!({"model": "m"}));
            assert_eq!((answer.status, attempts(&answer)), (404, "0"), "{path}");
            let error = &answer.json()["error"];
            assert_eq!(error["code"], "api_not_available");
            assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        }
        assert_eq!(azure.upstream_calls(), 0);
    }

    fn an_api_that_a_region_lacks_is_learned_for_a_while(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.backends[0].not_enabled = vec![Api::Responses];
        });
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .plugin(|p| p["cooldown"] = json!({"misconfigured": "2s"}))
            .start();
        for _ in 0..6 {
            let answer = respond(&gateway);
            assert_eq!((answer.status, answer.header("x-aoai-backend")), (200, Some("west")), "{}", answer.text());
        }
        assert_eq!(azure.backend("east").count(), 1);
        for _ in 0..4 {
            assert_eq!(gateway.chat(&chat_request()).status, 200);
        }
        assert_eq!(azure.backend("east").count(), 3, "it serves everything else");
        gateway.wait_for(
            |g| respond(g).status == 200 && azure.backend("east").requests().iter().filter(|r| r.path == RESPONSES).count() > 1,
            Duration::from_secs(6),
            "it to be asked again",
        );
    }

    fn every_spelling_of_a_missing_api_leads_to_the_next(engine) {
        let message = "The Responses API is not enabled in this region.";
        for code in ["NotFound", "OperationNotSupported", "404"] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
            azure.backend("east").set(Behaviour::error(Failure::coded(404, code, message)));
            for _ in 0..4 {
                assert_eq!(respond(&gateway).status, 200, "{code}");
            }
            assert_eq!(azure.backend("east").count(), 1, "{code}");
        }
    }

    fn any_other_404_is_passed_on(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for failure in [
            Failure::coded(404, "404", "Resource not found"),
            Failure::coded(404, "NotFound", "No response found with id 'resp_1'."),
        ] {
            for backend in azure.backends() {
                backend.set(Behaviour::error(failure.clone()));
                backend.clear_requests();
            }
            for _ in 0..4 {
                let answer = respond(&gateway);
                assert_eq!((answer.status, attempts(&answer)), (404, "1"), "{}", answer.text());
            }
            assert_eq!((azure.backend("east").count(), azure.backend("west").count()), (2, 2));
        }
    }

    fn an_api_that_all_regions_lack_is_a_backends_own_404(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            for backend in &mut settings.backends {
                backend.not_enabled = vec![Api::Responses];
            }
        });
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let answer = respond(&gateway);
        assert_eq!((answer.status, attempts(&answer)), (404, "2"));
        assert!(answer.text().contains("is not enabled in this region"), "{}", answer.text());
        let answer = respond(&gateway);
        assert_eq!(answer.status, 404, "{}", answer.text());
        assert_eq!(gateway.chat(&chat_request()).status, 200);
    }

    fn an_unknown_api_is_refused_with_its_place(engine) {
        let azure = simulate(&["east"]);
        let refused = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["backends"][0]["apis"] = json!(["chat", "chats"]))
            .try_start()
            .unwrap_err();
        assert!(refused.log.contains("backends[0].apis"), "{}", refused.log);
        assert!(refused.log.contains("fine_tuning"), "the names that would be right: {}", refused.log);
    }
}
