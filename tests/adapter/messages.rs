//! Anthropic's Messages API, balanced like chats over the backends that have it.

use mock_host::Setup;
use serde_json::json;

use super::engines::*;
use super::surface::reached;

const MESSAGES: &str = "/anthropic/v1/messages";
const ASK: &str = r#"{"model":"claude","max_tokens":9}"#;

/// Two backends of Foundry and one of Azure OpenAI. The second is a project with its own name for the model.
fn backends() -> serde_json::Value {
    json!({"backends": [
        {"name": "east", "cluster": EAST, "host": "east.services.ai.azure.com"},
        {"name": "west", "cluster": WEST, "host": "west.services.ai.azure.com", "base_path": "/api/projects/p",
         "deployments": {"claude": "sonnet"}},
        {"name": "north", "cluster": NORTH, "host": "north.openai.azure.com"},
    ]})
}

cases! {
    fn messages_are_balanced_over_the_backends_that_have_them(engine) {
        let gateway = engine.fleet(3, backends());
        let sonnet = ASK.replace("claude", "sonnet");
        let mut seen = Vec::new();
        for path in [MESSAGES, "/anthropic/v1/messages/count_tokens?beta=true"].repeat(3) {
            let request = gateway.ask("POST", path, ASK);
            let attempt = request.attempt();
            let body = if attempt.cluster() == WEST { sonnet.as_str() } else { ASK };
            assert_eq!(reached(&attempt), (attempt.cluster(), path.into(), body.into()));
            seen.push(attempt.cluster());
            answer(&attempt, 200, "fine");
        }
        for cluster in [EAST, WEST] {
            assert_eq!(seen.iter().filter(|seen| **seen == cluster).count(), 3, "{seen:?}");
        }
    }

    fn messages_are_retried_on_backends_that_have_them(engine) {
        let gateway = engine.fleet(3, backends());
        let request = gateway.ask("POST", MESSAGES, ASK);
        let mut clusters = Vec::new();
        for status in [529, 429] {
            clusters.push(request.attempt().cluster());
            answer(&request.attempt(), status, "x");
        }
        clusters.sort();
        assert_eq!(clusters, [EAST, WEST]);
        assert_eq!((request.attempts().len(), request.answer().status), (2, 429));
    }

    fn the_gateways_errors_for_messages_have_anthropics_shape(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.ask("POST", MESSAGES, ASK);
        let refused = request.answer();
        assert!(request.attempts().is_empty(), "no backend has them");
        let body: serde_json::Value = serde_json::from_str(refused.text()).unwrap();
        assert_eq!((refused.status, &body["type"]), (404, &json!("error")));
        assert_eq!(body["error"]["type"], "not_found_error");
        assert!(body["error"]["message"].to_string().contains("messages"), "{body}");
    }

    fn a_key_for_messages_stands_where_anthropic_has_it(engine) {
        let mut fleet = backends();
        fleet["backends"][0]["api_key_env"] = json!("EAST_KEY");
        let setup = Setup::new(engine.config(3, fleet)).env("EAST_KEY", "SECRET");
        let gateway = engine.ready(setup);
        for _ in 0..4 {
            let headers = request_of("POST", MESSAGES, ASK).with("x-api-key", "CLIENT");
            let request = gateway.request(headers, false);
            request.body(ASK, true);
            let attempt = request.attempt();
            let is_east = attempt.cluster() == EAST;
            assert_eq!(attempt.header("x-api-key").as_deref(), is_east.then_some("SECRET"));
            assert_eq!(attempt.header("api-key"), None);
            assert_eq!(attempt.header("authorization").is_some(), !is_east);
            answer(&attempt, 500, "x");
            let second = request.attempt();
            assert_ne!(second.cluster(), attempt.cluster());
            assert_eq!(second.header("x-api-key").as_deref(), (!is_east).then_some("SECRET"));
            assert_eq!(second.header("authorization").is_some(), is_east);
            answer(&second, 200, "fine");
        }
    }
}
