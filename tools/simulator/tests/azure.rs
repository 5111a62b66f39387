//! The endpoints of a simulated resource.

mod common;

use common::{call, chat, form, send, simulator, started, upload, Answer, CHAT, KEY, STREAM};
use serde_json::{json, Value};
use simulator::{Api, BackendSettings, ContentFilter};

/// The data of a stream's events.
fn events(answer: &Answer) -> Vec<Value> {
    let text = answer.text();
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).unwrap_or(Value::from(data)))
        .collect()
}

#[test]
fn claude_answers_in_anthropics_form() {
    let azure = started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        deployments: Some(vec!["claude".to_owned()]),
        ..BackendSettings::new("east")
    }]);
    let ask = |key: &str, path: &str, body: &str| {
        let addr = azure.backend("east").addr();
        let headers = [(key, KEY), ("anthropic-version", "2023-06-01")];
        send(addr, "POST", path, &headers, body.as_bytes())
    };
    let path = "/anthropic/v1/messages";
    let claude = ask("x-api-key", path, r#"{"model":"claude"}"#);
    assert_eq!(claude.json()["content"][0]["text"], "Hello from east");
    let events = ask("x-api-key", path, r#"{"model":"claude","stream":true}"#).text();
    assert!(
        events.starts_with("event: message_start\ndata: {"),
        "{events}"
    );
    assert!(events.contains("event: message_stop\n"), "{events}");
    let count = ask(
        "x-api-key",
        &format!("{path}/count_tokens"),
        r#"{"model":"claude"}"#,
    );
    assert!(count.json()["input_tokens"].is_u64());
    let refused = ask("api-key", path, r#"{"model":"claude"}"#);
    let error = refused.json();
    assert_eq!(
        (refused.status, &error["type"]),
        (401, &serde_json::json!("error"))
    );
    assert_eq!(error["error"]["type"], "authentication_error");
    assert_eq!(ask("x-api-key", path, r#"{"model":"other"}"#).status, 404);
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
fn usage_is_streamed_on_request() {
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
fn an_asynchronous_content_filter_reports_after_the_tokens() {
    let simulator = started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        content_filter: ContentFilter::Asynchronous,
        ..BackendSettings::new("east")
    }]);
    let answer = chat(
        &simulator,
        "east",
        r#"{"stream":true,"stream_options":{"include_usage":true}}"#,
    );
    let frames = events(&answer);
    let [usage, first, second, done] = frames.last_chunk().unwrap();
    assert_eq!(usage["usage"]["completion_tokens"], 20);
    let [first_part, second_part] =
        [first, second].map(|it| &it["choices"][0]["content_filter_offsets"]);
    assert_eq!(first_part["end_offset"], second_part["start_offset"]);
    for annotation in [first, second] {
        let names = [&annotation["id"], &annotation["usage"]];
        assert_eq!(names, [&json!(""), &Value::Null]);
    }
    assert_eq!(done, "[DONE]");
}

#[test]
fn some_chats_refuse_stream_options() {
    let simulator = simulator();
    let options = r#""stream":true,"stream_options":{"include_usage":true}"#;
    for (body, status, place) in [
        (format!(r#"{{"model":"gpt-4o",{options}}}"#), 200, ""),
        (
            format!(r#"{{"model":"gpt-4o","data_sources":[],{options}}}"#),
            400,
            "#/stream_options",
        ),
        (
            format!(r#"{{"model":"Mistral-large",{options}}}"#),
            422,
            r#"["body","stream_options"]"#,
        ),
        (
            r#"{"model":"Mistral-large","stream":true}"#.to_owned(),
            200,
            "",
        ),
    ] {
        let answer = call(&simulator, "POST", "/openai/v1/chat/completions", &body);
        assert_eq!(answer.status, status, "{body}");
        assert!(answer.text().contains(place), "{}", answer.text());
    }
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
    ];
    for (path, field, value) in cases {
        let answer = call(&simulator, "POST", path, r#"{"model":"m","input":"x"}"#);
        assert_eq!(
            (answer.status, &answer.json()[field]),
            (200, &Value::from(value)),
            "{path}"
        );
    }
    for path in ["audio/speech", "images/generations"] {
        let path = format!("/openai/deployments/d/{path}?api-version=1");
        assert_eq!(call(&simulator, "POST", &path, "{}").status, 200, "{path}");
    }
}

#[test]
fn a_form_is_answered_by_its_digest() {
    let simulator = simulator();
    let sound = form(&[
        ("file", Some("a.wav"), b"sound"),
        ("model", None, b"whisper"),
    ]);
    let digest = "sha256 dd29442deca69f52";
    for (path, model) in [
        ("/openai/v1/audio/transcriptions", "whisper"),
        (
            "/openai/deployments/d/audio/translations?api-version=1",
            "d",
        ),
    ] {
        let text = upload(&simulator, path, &sound).json()["text"].to_string();
        let wanted = format!("Hello from east as {model}, {digest}");
        assert!(text.contains(&wanted), "{text}");
    }
    let image = form(&[
        ("model", None, b"paint"),
        ("image", Some("a.png"), b"sound"),
    ]);
    let answer = upload(&simulator, "/openai/v1/images/edits", &image).json();
    let prompt = answer["data"][0]["revised_prompt"].to_string();
    assert!(prompt.contains("as paint, sha256 dd29442d"), "{prompt}");
    let asked = simulator.backend("east").requests();
    let models: Vec<_> = asked.iter().map(|request| request.model()).collect();
    assert_eq!(
        models,
        ["whisper", "whisper", "paint"].map(|model| Some(model.to_owned()))
    );
    assert_eq!(
        call(
            &simulator,
            "POST",
            "/openai/v1/audio/transcriptions",
            "sound"
        )
        .status,
        400
    );
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
fn wrong_paths_and_deployments_are_distinguished() {
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
fn a_v1_form_is_refused_where_its_deployment_is_missing() {
    let simulator = started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        deployments: Some(vec!["whisper".to_owned()]),
        ..BackendSettings::new("east")
    }]);
    for (model, status) in [(&b"whisper"[..], 200), (b"other", 404)] {
        let sound = form(&[("model", None, model), ("file", Some("a"), b"sound")]);
        let answer = upload(&simulator, "/openai/v1/audio/transcriptions", &sound);
        assert_eq!(answer.status, status);
    }
    for path in [
        "embeddings",
        "images/generations",
        "audio/speech",
        "responses",
        "assistants",
    ] {
        let answer = call(
            &simulator,
            "POST",
            &format!("/openai/v1/{path}"),
            r#"{"model":"other"}"#,
        );
        assert_eq!(answer.error_code(), "DeploymentNotFound", "{path}");
    }
}

#[test]
fn an_api_that_the_region_lacks_is_refused() {
    let simulator = started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        not_enabled: vec![Api::Responses, Api::Files, Api::FineTuning, Api::Realtime],
        ..BackendSettings::new("east")
    }]);
    for (method, path) in [
        ("POST", "/openai/v1/responses"),
        ("GET", "/openai/responses/resp_1?api-version=1"),
        ("POST", "/openai/v1/conversations"),
        ("GET", "/openai/v1/files"),
        ("POST", "/openai/vector_stores?api-version=1"),
        ("GET", "/openai/v1/fine_tuning/jobs"),
        ("GET", "/openai/v1/realtime?model=m"),
    ] {
        let answer = call(&simulator, method, path, "{}");
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (404, "NotFound"),
            "{path}"
        );
        assert!(
            answer.text().contains("is not enabled in this region"),
            "{path}"
        );
    }
    for path in ["/openai/v1/threads", "/openai/v1/embeddings"] {
        assert_eq!(call(&simulator, "POST", path, "{}").status, 200, "{path}");
    }
}

#[test]
fn a_project_has_a_base_path() {
    let simulator = started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        base_path: "/api/projects/contoso".to_owned(),
        ..BackendSettings::new("east")
    }]);
    let path = "/api/projects/contoso/openai/v1/embeddings";
    assert_eq!(call(&simulator, "POST", path, "{}").status, 200);
    let unknown = send(simulator.backend("east").addr(), "POST", path, &[], b"{}");
    assert_eq!(unknown.status, 401);
    assert_eq!(
        call(&simulator, "POST", "/openai/v1/embeddings", "{}").status,
        404
    );
    let asked = simulator.backend("east").requests();
    assert_eq!(asked[0].path, path);
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
