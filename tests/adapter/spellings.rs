//! Names that Azure knows in upper and lower case, and JSON behind a byte order mark. With the filter engine.

use mock_host::{Stream, Vm};
use serde_json::json;

use super::support::*;
use super::surface::{aliased, request};

/// The configuration of [`aliased`], with a version of the API for every backend.
pub(crate) fn versioned() -> serde_json::Value {
    let mut config = aliased();
    for backend in config["backends"].as_array_mut().unwrap() {
        backend["api_version"] = json!("2025-04-01-preview");
    }
    config
}

/// A client's path in odd letters, and what each of the three backends is asked for.
pub(crate) const PATHS: [(&str, [&str; 3]); 3] = [
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

/// Bodies for `/openai/v1/chat/completions`, with `MODEL` in the place of the name, and what the client calls it there.
pub(crate) const BODIES: [(&str, &str); 3] = [
    (r#"{"messages":[{"model":"GPT"}],"model":"MODEL"}"#, "GPT"),
    ("\u{feff}{\"model\":\"MODEL\"}", "gpt"),
    ("\u{feff}\r\n{\"model\" : \"MODEL\", \"x\":\"GPT\"}", "Gpt"),
];

pub(crate) const V1_CHAT: &str = "/openai/v1/chat/completions";

fn send_body(vm: &Vm, path: &str, body: &str) -> Stream {
    let stream = vm.request(request("POST", path, body), false);
    // The mark may come in parts.
    let (one, other) = body.as_bytes().split_at(2);
    stream.body(one, false);
    stream.body(other, true);
    stream
}

#[test]
fn a_path_in_other_letters_is_made_each_backends_own() {
    for (path, own) in PATHS {
        let (_host, vm) = fleet(3, versioned());
        let stream = vm.request(request("POST", path, "{}"), false);
        stream.body("{}", true);
        let forwarded = stream.forwarded().expect("it went on").headers;
        assert_eq!(forwarded.get(":path"), Some(own[0]));
        respond(&stream, 500, "x");
        for own in &own[1..] {
            let call = vm.call();
            assert_eq!(call.headers.get(":path"), Some(*own));
            vm.answer(&call, 500, [("x-envoy-upstream-service-time", "1")], "x");
        }
        assert_eq!(stream.answer().status, 500);
    }
}

#[test]
fn a_model_in_other_letters_is_made_each_backends_own() {
    for (body, name) in BODIES {
        let (_host, vm) = fleet(3, aliased());
        let named = |name: &str| body.replace("MODEL", name);
        let stream = send_body(&vm, V1_CHAT, &named(name));
        let forwarded = stream.forwarded().expect("it went on");
        assert_eq!(forwarded.text(), named("gpt-4o-east"));
        assert_eq!(
            forwarded.headers.get("content-length"),
            Some(named("gpt-4o-east").len().to_string().as_str())
        );
        respond(&stream, 500, "x");
        for own in ["g", name] {
            let call = vm.call();
            assert_eq!(call.text(), named(own));
            vm.answer(&call, 500, [("x-envoy-upstream-service-time", "1")], "x");
        }
    }
}

#[test]
fn a_list_of_deployments_knows_them_in_any_letters() {
    let mut config = aliased();
    for backend in config["backends"].as_array_mut().unwrap() {
        backend["unlisted_deployments"] = json!("refuse");
    }
    config["backends"][2]["deployments"] = json!({"Other": "other"});
    let (_host, vm) = fleet(3, config);
    for name in ["other", "OTHER"] {
        let stream = send_body(&vm, V1_CHAT, &format!(r#"{{"model":"{name}"}}"#));
        assert_eq!(routed_to(&stream), "aoai_north");
        assert_eq!(stream.forwarded().unwrap().text(), r#"{"model":"other"}"#);
        respond(&stream, 200, "fine");
    }
    let stream = send_body(&vm, V1_CHAT, r#"{"model":"none"}"#);
    assert_eq!(stream.answer().status, 404);
}

#[test]
fn a_missing_deployment_is_remembered_in_any_letters() {
    let (_host, vm) = fleet(2, json!({}));
    let path = |name: &str| format!("/openai/deployments/{name}/chat/completions?api-version=1");
    let ask = |name: &str| {
        let stream = vm.request(request("POST", &path(name), "{}"), false);
        stream.body("{}", true);
        stream
    };
    let stream = ask("gpt-5");
    assert_eq!(routed_to(&stream), "aoai_east");
    respond(&stream, 404, &error("DeploymentNotFound"));
    vm.answer(&vm.call(), 200, [], "fine");
    for name in ["GPT-5", "GPT-5", "Gpt%2D5", "Gpt%2D5"] {
        let stream = ask(name);
        assert_eq!(routed_to(&stream), "aoai_west", "{name}");
        respond(&stream, 200, "fine");
    }
}

#[test]
fn tags_are_cut_behind_a_byte_order_mark() {
    let (_host, vm) = fleet(2, json!({}));
    let tag = super::surface::tag("west");
    let body = format!("\u{feff}{{\"previous_response_id\":\"resp_1{tag}\"}}");
    let stream = send_body(&vm, "/openai/v1/responses", &body);
    assert_eq!(routed_to(&stream), "aoai_west");
    assert_eq!(stream.forwarded().unwrap().text(), body.replace(&tag, ""));
}
