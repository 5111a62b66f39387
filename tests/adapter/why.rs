//! The response header that explains an answer.

use mock_host::Setup;
use serde_json::{json, Value};

use super::engines::*;

/// The configuration of a worker that explains its answers.
fn config(engine: Engine, count: usize, more: Value) -> Setup {
    let mut config = more;
    config["headers"] = json!({"why": "x-why"});
    Setup::new(engine.config(count, config))
}

/// A worker with two backends that explains its answers.
fn explaining(engine: Engine, more: Value) -> Gateway {
    engine.ready(config(engine, 2, more))
}

fn why(request: &Request) -> Option<String> {
    request.answer().headers.get("x-why").map(str::to_owned)
}

cases! {
    fn each_attempt_is_explained(engine) {
        let gateway = explaining(engine, json!({}));
        let request = gateway.get();
        throttle(&request.attempt(), "30");
        answer(&request.attempt(), 200, "fine");
        let both = "east free throttled; west free success";
        assert_eq!(why(&request).as_deref(), Some(both));
        let request = gateway.get();
        throttle(&request.attempt(), "20");
        throttle(&request.attempt(), "30");
        let both = "west free throttled; east trial throttled; not retried: backends_exhausted";
        assert_eq!(why(&request).as_deref(), Some(both));

        let gateway = engine.ready(config(engine, 3, json!({})));
        let request = gateway.send();
        for status in [429, 500, 200] {
            answer(&request.attempt(), status, &error("429"));
        }
        let all = "east free throttled; west free unavailable; north free success";
        assert_eq!(why(&request).as_deref(), Some(all));
    }

    fn the_explanation_replaces_a_backends_header(engine) {
        let gateway = explaining(engine, json!({}));
        let request = gateway.get();
        request.attempt().respond(200, [("x-why", "forged")], true);
        let answer = request.answer();
        let lines = answer.headers.names().filter(|name| *name == "x-why");
        assert_eq!(lines.count(), 1);
        assert_eq!(why(&request).as_deref(), Some("east free success"));
    }

    fn an_error_that_is_passed_on_says_why_it_was_not_retried(engine) {
        let gateway = explaining(engine, json!({"retry": {"max_attempts": 1}}));
        let request = gateway.get();
        answer(&request.attempt(), 500, "x");
        let wanted = "east free unavailable; not retried: attempts_exhausted";
        assert_eq!(why(&request).as_deref(), Some(wanted));
        let request = gateway.get();
        answer(&request.attempt(), 400, "x");
        assert_eq!(why(&request).as_deref(), Some("west free client_error"));

        let gateway = explaining(engine, json!({}));
        let request = gateway.send();
        answer(&request.attempt(), 500, &error("500"));
        answer(&request.attempt(), 500, &error("500"));
        assert_eq!(request.answer().status, 500);
        let wanted = "east free unavailable; west free unavailable; not retried: backends_exhausted";
        assert_eq!(why(&request).as_deref(), Some(wanted));
    }

    fn a_refusal_says_how_each_backend_stands(engine) {
        for (status, code, west) in [
            (401, "PermissionDenied", "misconfigured 300s"),
            (429, "429", "throttled 30s"),
        ] {
            let gateway = explaining(engine, json!({"retry": {"max_attempts": 1}}));
            throttle(&gateway.get().attempt(), "30");
            let refused = gateway.get();
            let attempt = refused.attempt();
            attempt.respond(status, [("retry-after", "30")], false);
            attempt.response_body(error(code), true);
            gateway.host.advance(millis(500));
            let trials = [gateway.get(), gateway.get()];
            assert!(trials.iter().all(|trial| trial.forwarded().is_some()));
            let request = gateway.get();
            assert_eq!(request.answer().status, 429);
            let wanted = format!("east throttled 30s; west {west}");
            assert_eq!(why(&request), Some(wanted));
            throttle(&trials[0].attempt(), "30");
            let wanted = "east trial throttled; not retried: attempts_exhausted";
            assert_eq!(why(&trials[0]).as_deref(), Some(wanted));
        }
    }

    fn an_error_without_retry_says_how_the_others_stand(engine) {
        let gateway = explaining(engine, json!({}));
        for backend in ["east", "west"] {
            let request = gateway.get();
            throttle(&request.attempt(), "30");
            match backend {
                "east" => answer(&request.attempt(), 200, "fine"),
                _ => throttle(&request.attempt(), "30"),
            }
        }
        gateway.host.advance(millis(1500));
        let trial = gateway.get();
        throttle(&trial.attempt(), "30");
        let text = why(&trial).unwrap();
        let (tried, other) = match text.starts_with("east") {
            true => ("east", "west"),
            false => ("west", "east"),
        };
        let start = format!(
            "{tried} trial throttled; not retried: backends_cooling_down; {other} throttled "
        );
        assert!(text.starts_with(&start), "{text}");
    }

    fn a_refusal_names_a_missing_token_or_deployment(engine) {
        let gateway = engine.start(config(engine, 2, json!({})));
        let request = gateway.get();
        gateway.host.advance(seconds(30));
        assert_eq!(request.answer().status, 503);
        assert_eq!(
            why(&request).as_deref(),
            Some("east no_token; west no_token")
        );

        let backend = |name: &str| {
            json!({
                "name": name, "cluster": format!("aoai_{name}"), "host": format!("{name}.openai.azure.com"),
                "deployments": {"embed": "embed"}, "unlisted_deployments": "refuse"
            })
        };
        let backends = json!({"backends": [backend("east"), backend("west")]});
        let gateway = explaining(engine, backends);
        let path = "/openai/deployments/other/chat/completions?api-version=2024-10-21";
        let request = gateway.request(post(path), true);
        assert_eq!(request.answer().status, 404);
        assert_eq!(
            why(&request).as_deref(),
            Some("east not_offered; west not_offered")
        );
        let request = gateway.request(post("/elsewhere"), true);
        assert_eq!(request.answer().status, 404);
        assert_eq!(why(&request), None, "no backend was looked for");
    }

    fn without_headers_why_no_answer_is_explained(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 200, "fine");
        let answer = request.answer();
        let mut names = answer.headers.names();
        assert!(names.all(|name| !name.contains("why")), "{answer:?}");
    }
}
