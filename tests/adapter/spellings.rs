//! Names in upper and lower case, which Azure does not distinguish, and JSON behind a byte order mark.

use serde_json::json;

use super::engines::*;
use super::surface::aliased;

/// The configuration of [`aliased`], with an API version for every backend.
fn versioned() -> serde_json::Value {
    let mut config = aliased();
    for backend in config["backends"].as_array_mut().unwrap() {
        backend["api_version"] = json!("2025-04-01-preview");
    }
    config
}

/// A client's path in unusual letters, and the path that each of the three backends gets.
const PATHS: [(&str, [&str; 3]); 3] = [
    (
        "/openai/deployments/GPT/chat/completions?API-Version=2024-10-21&x=GPT",
        [
            "/openai/deployments/gpt-4o-east/chat/completions?api-version=2025-04-01-preview&x=GPT",
            "/openai/deployments/g/chat/completions?api-version=2025-04-01-preview&x=GPT",
            "/openai/deployments/GPT/chat/completions?api-version=2025-04-01-preview&x=GPT",
        ],
    ),
    (
        "/OpenAI/Deployments/Gpt/Chat/Completions?api-version=1&Api-Version=2",
        [
            "/OpenAI/Deployments/gpt-4o-east/Chat/Completions?api-version=2025-04-01-preview",
            "/OpenAI/Deployments/g/Chat/Completions?api-version=2025-04-01-preview",
            "/OpenAI/Deployments/Gpt/Chat/Completions?api-version=2025-04-01-preview",
        ],
    ),
    (
        "/openai/deployments/%67PT/chat/completions?api%2Dversion",
        [
            "/openai/deployments/gpt-4o-east/chat/completions?api-version=2025-04-01-preview",
            "/openai/deployments/g/chat/completions?api-version=2025-04-01-preview",
            "/openai/deployments/%67PT/chat/completions?api-version=2025-04-01-preview",
        ],
    ),
];

/// Bodies for `/openai/v1/chat/completions` with `MODEL` in place of the name, and the client's name for the model.
const BODIES: [(&str, &str); 3] = [
    (r#"{"messages":[{"model":"GPT"}],"model":"MODEL"}"#, "GPT"),
    ("\u{feff}{\"model\":\"MODEL\"}", "gpt"),
    ("\u{feff}\r\n{\"model\" : \"MODEL\", \"x\":\"GPT\"}", "Gpt"),
];

const V1_CHAT: &str = "/openai/v1/chat/completions";

fn send_body(gateway: &Gateway, path: &str, body: &str) -> Request {
    let request = gateway.request(request_of("POST", path, body), false);
    // The byte order mark may arrive in parts.
    let (one, other) = body.as_bytes().split_at(2);
    request.body(one, false);
    request.body(other, true);
    request
}

cases! {
    fn a_path_in_other_letters_becomes_each_backends_own(engine) {
        for (path, own) in PATHS {
            let gateway = engine.fleet(3, versioned());
            let request = gateway.request(request_of("POST", path, "{}"), false);
            request.body("{}", true);
            for own in own {
                let attempt = request.attempt();
                assert_eq!(attempt.header(":path").as_deref(), Some(own));
                answer(&attempt, 500, "x");
            }
            assert_eq!(outcome(&request).0, 500);
        }
    }

    fn a_model_in_other_letters_becomes_each_backends_own(engine) {
        for (body, name) in BODIES {
            let gateway = engine.fleet(3, aliased());
            let named = |name: &str| body.replace("MODEL", name);
            let request = send_body(&gateway, V1_CHAT, &named(name));
            for own in ["gpt-4o-east", "g", name] {
                let attempt = request.attempt();
                assert_eq!(attempt.sent().unwrap().text(), named(own));
                let length = named(own).len().to_string();
                assert_eq!(attempt.header("content-length"), Some(length));
                answer(&attempt, 500, "x");
            }
        }
    }

    fn deployments_are_listed_in_any_letters(engine) {
        let mut config = aliased();
        for backend in config["backends"].as_array_mut().unwrap() {
            backend["unlisted_deployments"] = json!("refuse");
        }
        config["backends"][2]["deployments"] = json!({"Other": "other"});
        let gateway = engine.fleet(3, config);
        for name in ["other", "OTHER"] {
            let request = send_body(&gateway, V1_CHAT, &format!(r#"{{"model":"{name}"}}"#));
            assert_eq!(request.attempt().cluster(), NORTH);
            assert_eq!(
                request.attempt().sent().unwrap().text(),
                r#"{"model":"other"}"#
            );
            answer(&request.attempt(), 200, "fine");
        }
        let request = send_body(&gateway, V1_CHAT, r#"{"model":"none"}"#);
        assert_eq!(request.answer().status, 404);
    }

    fn a_missing_deployment_is_remembered_in_any_letters(engine) {
        let gateway = engine.fleet(2, json!({}));
        let path =
            |name: &str| format!("/openai/deployments/{name}/chat/completions?api-version=1");
        let ask = |name: &str| {
            let request = gateway.request(request_of("POST", &path(name), "{}"), false);
            request.body("{}", true);
            request
        };
        let request = ask("gpt-5");
        assert_eq!(request.attempt().cluster(), EAST);
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        answer(&request.attempt(), 200, "fine");
        for name in ["GPT-5", "GPT-5", "Gpt%2D5", "Gpt%2D5"] {
            let request = ask(name);
            assert_eq!(request.attempt().cluster(), WEST, "{name}");
            answer(&request.attempt(), 200, "fine");
        }
    }

    fn tags_are_cut_behind_a_byte_order_mark(engine) {
        let gateway = engine.fleet(2, json!({}));
        let tag = super::surface::tag("west");
        let body = format!("\u{feff}{{\"previous_response_id\":\"resp_1{tag}\"}}");
        let request = send_body(&gateway, "/openai/v1/responses", &body);
        assert_eq!(request.attempt().cluster(), WEST);
        assert_eq!(
            request.attempt().sent().unwrap().text(),
            body.replace(&tag, "")
        );
    }
}
