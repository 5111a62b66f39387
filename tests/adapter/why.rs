//! The header that explains an answer, with the filter engine.

use mock_host::{Host, Setup, Stream, Vm};
use serde_json::{json, Value};

use super::support::*;

/// A worker with two backends that explains its answers.
fn explaining(more: Value) -> (Host, Vm) {
    ready_with(explaining_setup(more))
}

fn explaining_setup(more: Value) -> Setup {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(2);
    config["headers"] = json!({"why": "x-why"});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Setup::new(config.to_string())
}

fn why(stream: &Stream) -> Option<String> {
    stream.answer().headers.get("x-why").map(str::to_owned)
}

fn throttle(stream: &Stream, retry_after: &str) {
    stream.respond(429, [("retry-after", retry_after)], true);
}

#[test]
fn each_attempt_is_explained() {
    let (_host, vm) = explaining(json!({}));
    let stream = get(&vm);
    throttle(&stream, "30");
    vm.answer(&vm.call(), 200, [], "fine");
    let both = "east free throttled; west free success";
    assert_eq!(why(&stream).as_deref(), Some(both));
    let stream = get(&vm);
    throttle(&stream, "20");
    vm.answer(&vm.call(), 429, [("retry-after", "30")], "");
    let both = "west free throttled; east trial throttled; not retried: backends_exhausted";
    assert_eq!(why(&stream).as_deref(), Some(both));
}

#[test]
fn a_first_answer_is_explained_whoever_wrote_the_header_before() {
    let (_host, vm) = explaining(json!({}));
    let stream = get(&vm);
    stream.respond(200, [("x-why", "forged")], true);
    let answer = stream.answer();
    let lines: Vec<_> = answer
        .headers
        .names()
        .filter(|name| *name == "x-why")
        .collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(why(&stream).as_deref(), Some("east free success"));
}

#[test]
fn an_error_that_is_passed_on_says_why_it_was_not_retried() {
    let (_host, vm) = explaining(json!({"retry": {"max_attempts": 1}}));
    let stream = get(&vm);
    respond(&stream, 500, "x");
    assert_eq!(
        why(&stream).as_deref(),
        Some("east free unavailable; not retried: attempts_exhausted")
    );
    let stream = get(&vm);
    respond(&stream, 400, "x");
    assert_eq!(why(&stream).as_deref(), Some("west free client_error"));
}

#[test]
fn a_refusal_says_how_each_backend_stands() {
    let (host, vm) = explaining(json!({"retry": {"max_attempts": 1}}));
    throttle(&get(&vm), "30");
    respond(&get(&vm), 401, r#"{"error": {"code": "PermissionDenied"}}"#);
    host.advance(millis(500));
    // Trials.
    let trials = [get(&vm), get(&vm)];
    assert!(trials.iter().all(|stream| stream.forwarded().is_some()));
    let stream = get(&vm);
    assert_eq!(stream.answer().status, 429);
    assert_eq!(
        why(&stream).as_deref(),
        Some("east throttled 30s; west misconfigured 300s")
    );
    throttle(&trials[0], "30");
    assert_eq!(
        why(&trials[0]).as_deref(),
        Some("east trial throttled; not retried: attempts_exhausted")
    );
}

#[test]
fn a_retry_that_was_not_made_says_how_the_others_stand() {
    let (host, vm) = explaining(json!({}));
    for backend in ["east", "west"] {
        let stream = get(&vm);
        throttle(&stream, "30");
        if backend == "east" {
            vm.answer(&vm.call(), 200, [], "fine");
        } else {
            vm.answer(&vm.call(), 429, [("retry-after", "30")], "");
        }
    }
    host.advance(millis(1500));
    let trial = get(&vm);
    throttle(&trial, "30");
    let text = why(&trial).unwrap();
    let (tried, other) = match text.starts_with("east") {
        true => ("east", "west"),
        false => ("west", "east"),
    };
    let start =
        format!("{tried} trial throttled; not retried: backends_cooling_down; {other} throttled ");
    assert!(text.starts_with(&start), "{text}");
}

#[test]
fn a_refusal_for_lack_of_a_token_or_a_deployment_says_so() {
    let host = Host::new();
    let vm = host.start(explaining_setup(json!({}))).unwrap();
    let stream = get(&vm);
    host.advance(seconds(30));
    assert_eq!(stream.answer().status, 503);
    assert_eq!(
        why(&stream).as_deref(),
        Some("east no_token; west no_token")
    );

    let backend = |name: &str| {
        json!({
            "name": name, "cluster": format!("aoai_{name}"), "host": format!("{name}.openai.azure.com"),
            "deployments": {"embed": "embed"}, "unlisted_deployments": "refuse"
        })
    };
    let backends = json!({"backends": [backend("east"), backend("west")]});
    let (_host, vm) = explaining(backends);
    let path = "/openai/deployments/other/chat/completions?api-version=2024-10-21";
    let stream = vm.request(post(path), true);
    assert_eq!(stream.answer().status, 404);
    assert_eq!(
        why(&stream).as_deref(),
        Some("east not_offered; west not_offered")
    );
    let stream = vm.request(post("/elsewhere"), true);
    assert_eq!(stream.answer().status, 404);
    assert_eq!(why(&stream), None, "no backend was looked for");
}

#[test]
fn no_answer_is_explained_unless_the_header_has_a_name() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 200, "fine");
    let answer = stream.answer();
    let mut names = answer.headers.names();
    assert!(names.all(|name| !name.contains("why")), "{answer:?}");
}
