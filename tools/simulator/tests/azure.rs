//! The endpoints of a simulated resource.

mod common;

use common::{chat, send, simulator, started, Answer, CHAT, KEY, STREAM};
use serde_json::Value;
use simulator::{BackendSettings, Simulator};

fn call(simulator: &Simulator, method: &str, path: &str, body: &str) -> Answer {
    let headers = [("api-key", KEY), ("content-type", "application/json")];
    send(
        simulator.backend("east").addr(),
        method,
        path,
        &headers,
        body.as_bytes(),
    )
}

/// The data of the events of a stream.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or(Value::from(data)))
        .collect()
}

#[test]
fn a_chat_completion_names_its_backend() {
    let simulator = simulator();
    let answer = chat(&simulator, "east", r#"{"messages":[]}"#);
    let body = answer.json();
    assert_eq!(body["choices"][0]["message"]["content"], "Hello from east");
    assert_eq!(body["model"], "gpt-4o");
    let usage = &body["usage"];
    let sum =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);
    for header in [
        "x-ms-region",
        "apim-request-id",
        "x-request-id",
        "azureml-model-session",
    ] {
        assert!(answer.header(header).is_some(), "{header}");
    }
}

#[test]
fn a_streamed_chat_completion_has_azures_frames() {
    let simulator = simulator();
    let answer = chat(&simulator, "east", STREAM);
    assert_eq!(
        answer.header("content-type"),
        Some("text/event-stream; charset=utf-8")
    );
    let frames = events(&answer);
    assert_eq!(frames.len(), 24);
    assert!(frames[0]["choices"].as_array().unwrap().is_empty());
    assert!(frames[0]["prompt_filter_results"].is_array());
    assert_eq!(frames[1]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(frames[22]["choices"][0]["finish_reason"], "stop");
    assert_eq!(frames[23], "[DONE]");
    assert!(frames.iter().all(|frame| frame.get("usage").is_none()));
}

#[test]
fn usage_is_streamed_when_asked_for() {
    let simulator = simulator();
    let answer = chat(
        &simulator,
        "east",
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
    );
    let frames = events(&answer);
    let last = &frames[frames.len() - 2];
    assert_eq!(last["usage"]["completion_tokens"], 20);
    assert!(last["choices"].as_array().unwrap().is_empty());
}

#[test]
fn the_other_operations_answer() {
    let simulator = simulator();
    let cases = [
        ("/openai/v1/chat/completions", "object", "chat.completion"),
        (
            "/openai/deployments/d/completions?api-version=1",
            "object",
            "text_completion",
        ),
        (
            "/openai/deployments/d/embeddings?api-version=1",
            "object",
            "list",
        ),
        ("/openai/v1/responses", "object", "response"),
        ("/openai/threads?api-version=1", "object", "thread"),
        ("/openai/v1/vector_stores", "object", "vector_store"),
        ("/openai/batches?api-version=1", "object", "batch"),
    ];
    for (path, field, value) in cases {
        let answer = call(&simulator, "POST", path, r#"{"model":"m","input":"x"}"#);
        assert_eq!(
            (answer.status, &answer.json()[field]),
            (200, &Value::from(value)),
            "{path}"
        );
    }
    for path in ["audio/speech", "images/generations", "images/edits"] {
        let path = format!("/openai/deployments/d/{path}?api-version=1");
        assert_eq!(call(&simulator, "POST", &path, "{}").status, 200, "{path}");
    }
    let path = "/openai/v1/audio/transcriptions";
    let text = call(&simulator, "POST", path, "sound").json()["text"].to_string();
    assert!(text.contains("sha256 dd29442deca69f52"), "{text}");
}

#[test]
fn embeddings_come_as_numbers_or_in_base64() {
    let simulator = simulator();
    let path = "/openai/v1/embeddings";
    let numbers = call(&simulator, "POST", path, r#"{"input":["a","b"]}"#).json();
    assert_eq!(numbers["data"][1]["embedding"].as_array().unwrap().len(), 8);
    let body = r#"{"input":"a","encoding_format":"base64","dimensions":4}"#;
    let encoded = call(&simulator, "POST", path, body).json();
    assert_eq!(encoded["data"][0]["embedding"].as_str().unwrap().len(), 24);
}

#[test]
fn wrong_paths_and_deployments_are_told_apart() {
    let simulator = started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        deployments: Some(vec!["gpt-4o".to_owned()]),
        ..BackendSettings::new("east")
    }]);
    let missing = call(&simulator, "POST", &CHAT.replace("gpt-4o", "other"), "{}");
    assert_eq!(
        (missing.status, missing.error_code().as_str()),
        (404, "DeploymentNotFound")
    );
    let missing = call(
        &simulator,
        "POST",
        "/openai/v1/chat/completions",
        r#"{"model":"other"}"#,
    );
    assert_eq!(missing.error_code(), "DeploymentNotFound");
    let no_version = "/openai/deployments/gpt-4o/chat/completions";
    for path in [
        no_version,
        "/openai/deployments/gpt-4o/nothing?api-version=1",
        "/nothing",
    ] {
        let answer = call(&simulator, "POST", path, "{}");
        let message = &answer.json()["error"]["message"];
        assert_eq!(
            (answer.status, message),
            (404, &Value::from("Resource not found")),
            "{path}"
        );
    }
    assert_eq!(chat(&simulator, "east", "not json").status, 400);
}

#[test]
fn responses_live_where_they_were_made() {
    let backend = |name: &str| BackendSettings {
        api_key: Some(KEY.to_owned()),
        ..BackendSettings::new(name)
    };
    let simulator = started(vec![backend("east"), backend("west")]);
    let on = |name: &str, method: &str, path: &str, body: &str| {
        let addr = simulator.backend(name).addr();
        send(addr, method, path, &[("api-key", KEY)], body.as_bytes())
    };
    let made = on("east", "POST", "/openai/v1/responses", r#"{"input":"x"}"#).json();
    let id = made["id"].as_str().unwrap();
    let next = format!(r#"{{"previous_response_id":"{id}"}}"#);
    assert_eq!(
        on("east", "POST", "/openai/v1/responses", &next).status,
        200
    );
    let elsewhere = on("west", "POST", "/openai/v1/responses", &next);
    assert_eq!(
        (elsewhere.status, elsewhere.error_code().as_str()),
        (400, "previous_response_not_found")
    );
    let path = format!("/openai/responses/{id}?api-version=1");
    assert_eq!(on("west", "GET", &path, "").status, 404);
    assert_eq!(on("east", "GET", &path, "").json()["id"], id);
    assert_eq!(on("east", "DELETE", &path, "").json()["deleted"], true);
    assert_eq!(on("east", "GET", &path, "").status, 404);
}

#[test]
fn a_streamed_response_names_its_events() {
    let simulator = simulator();
    let answer = call(
        &simulator,
        "POST",
        "/openai/v1/responses",
        r#"{"stream":true}"#,
    );
    let text = answer.text();
    assert!(text.starts_with("event: response.created\ndata: {"));
    let events = events(&answer);
    let last = events.last().unwrap();
    assert_eq!(
        (&last["type"], &last["sequence_number"]),
        (&"response.completed".into(), &27.into())
    );
    assert_eq!(last["response"]["usage"]["output_tokens"], 20);
}

#[test]
fn files_are_kept_byte_for_byte() {
    let simulator = simulator();
    let upload = "--b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n\r\n{}\r\n--b--\r\n";
    let file = call(&simulator, "POST", "/openai/v1/files", upload).json();
    assert_eq!(
        (&file["filename"], &file["bytes"]),
        (&"a.jsonl".into(), &upload.len().into())
    );
    let path = format!("/openai/v1/files/{}", file["id"].as_str().unwrap());
    assert_eq!(
        call(&simulator, "GET", &format!("{path}/content"), "").text(),
        upload
    );
    assert_eq!(
        call(&simulator, "GET", "/openai/v1/files", "").json()["data"][0]["id"],
        file["id"]
    );
    assert_eq!(call(&simulator, "DELETE", &path, "").status, 200);
    assert_eq!(call(&simulator, "GET", &path, "").status, 404);
}

#[test]
fn what_belongs_to_a_thread_is_found_with_it() {
    let simulator = simulator();
    let thread = call(&simulator, "POST", "/openai/v1/threads", "{}").json();
    let messages = format!(
        "/openai/v1/threads/{}/messages",
        thread["id"].as_str().unwrap()
    );
    let message = call(&simulator, "POST", &messages, r#"{"content":"x"}"#).json();
    assert_eq!(message["object"], "thread.message");
    assert_eq!(
        call(&simulator, "GET", &messages, "").json()["data"][0]["id"],
        message["id"]
    );
    assert_eq!(
        call(
            &simulator,
            "GET",
            "/openai/v1/threads/thread_x/messages",
            ""
        )
        .status,
        404
    );
}

#[test]
fn echo_and_bytes_need_no_credential() {
    let simulator = simulator();
    let addr = simulator.backend("east").addr();
    let echo = send(addr, "PUT", "/sim/echo?a=b", &[("x-one", "1")], b"body").json();
    assert_eq!(
        (&echo["method"], &echo["path"], &echo["body"]),
        (&"PUT".into(), &"/sim/echo?a=b".into(), &"body".into())
    );
    assert_eq!(
        send(addr, "GET", "/sim/bytes?n=200000", &[], b"")
            .body
            .len(),
        200_000
    );
}
