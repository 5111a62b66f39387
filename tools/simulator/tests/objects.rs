//! Objects are found on the resource that made them, and nowhere else.

mod common;

use common::{form, send, started, Answer, KEY};
use serde_json::{json, Value};
use simulator::{BackendSettings, Simulator};

/// Two resources.
struct Azure(Simulator);

impl Azure {
    fn start() -> Self {
        let backend = |name: &str| BackendSettings {
            api_key: Some(KEY.to_owned()),
            ..BackendSettings::new(name)
        };
        Self(started(vec![backend("east"), backend("west")]))
    }

    fn send(&self, backend: &str, method: &str, path: &str, body: &Value) -> Answer {
        let body = match body {
            Value::Null => String::new(),
            body => body.to_string(),
        };
        let path = format!("/openai/v1/{path}");
        let addr = self.0.backend(backend).addr();
        send(addr, method, &path, &[("api-key", KEY)], body.as_bytes())
    }

    /// The 200 of the resource `east`.
    fn east(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.send("east", method, path, &body);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
        answer.json()
    }

    /// Makes an object on the resource `east`, and returns its id.
    fn make(&self, path: &str, body: Value) -> String {
        id(&self.east("POST", path, body))
    }

    fn upload(&self, purpose: &str, content: &[u8]) -> Value {
        let form = form(&[
            ("purpose", None, purpose.as_bytes()),
            ("file", Some("a.jsonl"), content),
        ]);
        let content_type = ("content-type", "multipart/form-data; boundary=XX");
        let headers = [("api-key", KEY), content_type];
        let addr = self.0.backend("east").addr();
        send(addr, "POST", "/openai/v1/files", &headers, &form).json()
    }
}

fn id(object: &Value) -> String {
    object["id"].as_str().expect("an id").to_owned()
}

#[test]
fn an_object_is_found_where_it_was_made_and_until_it_is_deleted() {
    let azure = Azure::start();
    for (collection, prefix) in [
        ("assistants", "asst_"),
        ("threads", "thread_"),
        ("vector_stores", "vs_"),
        ("containers", "cntr_"),
        ("conversations", "conv_"),
        ("responses", "resp_"),
    ] {
        let made = azure.east("POST", collection, json!({ "name": "n", "input": "hi" }));
        let path = format!("{collection}/{}", id(&made));
        assert!(id(&made).starts_with(prefix), "{made}");
        assert_eq!(id(&azure.east("GET", &path, Value::Null)), id(&made));
        for method in ["GET", "DELETE"] {
            let answer = azure.send("west", method, &path, &Value::Null);
            assert_eq!(answer.status, 404, "{path}");
            let message = answer.json()["error"]["message"].to_string();
            assert!(message.contains(&id(&made)), "{message}");
        }
        let deleted = azure.east("DELETE", &path, Value::Null);
        assert_eq!(
            (&deleted["id"], &deleted["deleted"]),
            (&made["id"], &json!(true))
        );
        assert_eq!(azure.send("east", "GET", &path, &Value::Null).status, 404);
        let fields = made.as_object().expect("an object");
        assert!(
            fields.contains_key("object") && fields.contains_key("created_at"),
            "{made}"
        );
    }
}

#[test]
fn both_forms_of_the_path_lead_to_the_same_objects() {
    let azure = Azure::start();
    let thread = azure.make("threads", json!({}));
    let path = format!("/openai/threads/{thread}?api-version=2024-10-21");
    let addr = azure.0.backend("east").addr();
    let dated = send(addr, "GET", &path, &[("api-key", KEY)], b"");
    assert_eq!((dated.status, id(&dated.json())), (200, thread));
}

#[test]
fn a_list_has_pages() {
    let azure = Azure::start();
    let ids: Vec<String> = (0..3)
        .map(|_| azure.make("assistants", json!({})))
        .collect();
    let page = azure.east(
        "GET",
        &format!("assistants?limit=1&after={}", ids[0]),
        Value::Null,
    );
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(page["data"][0]["id"], ids[1]);
    assert_eq!(page["has_more"], true);
    assert_eq!(
        (&page["first_id"], &page["last_id"]),
        (&page["data"][0]["id"], &page["data"][0]["id"])
    );
    let newest = azure.east("GET", "assistants?order=desc&limit=1", Value::Null);
    assert_eq!(newest["data"][0]["id"], ids[2]);
    assert_eq!(
        azure
            .send(
                "west",
                "GET",
                &format!("assistants?after={}", ids[0]),
                &Value::Null
            )
            .status,
        400
    );
}

#[test]
fn a_response_is_continued_where_it_is() {
    let azure = Azure::start();
    let first = azure.make("responses", json!({ "model": "m", "input": "hi" }));
    let next = json!({ "model": "m", "previous_response_id": first });
    assert_eq!(
        azure.east("POST", "responses", next.clone())["previous_response_id"],
        first
    );
    let elsewhere = azure.send("west", "POST", "responses", &next);
    assert_eq!(
        (elsewhere.status, elsewhere.error_code().as_str()),
        (400, "previous_response_not_found")
    );
    let items = azure.east(
        "GET",
        &format!("responses/{first}/input_items"),
        Value::Null,
    );
    assert_eq!(items["data"][0]["content"][0]["text"], "hi");
    let forgotten = azure.make("responses", json!({ "store": false }));
    assert_eq!(
        azure
            .send(
                "east",
                "GET",
                &format!("responses/{forgotten}"),
                &Value::Null
            )
            .status,
        404
    );
}

#[test]
fn an_item_is_known_only_on_its_own_resource() {
    let azure = Azure::start();
    let request =
        json!({ "input": "hi", "reasoning": {}, "include": ["reasoning.encrypted_content"] });
    let output = azure.east("POST", "responses", request)["output"].clone();
    let (reasoning, message) = (&output[0], &output[1]);
    assert!(id(reasoning).starts_with("rs_") && id(message).starts_with("msg_"));
    let reference = json!({ "type": "item_reference", "id": id(reasoning) });
    let mut unread = reasoning.clone();
    unread["encrypted_content"] = Value::Null;
    let mut nameless = reasoning.clone();
    nameless.as_object_mut().unwrap().remove("id");
    for (item, status, code) in [
        (&reference, 404, Value::Null),
        (&unread, 404, Value::Null),
        (reasoning, 400, json!("invalid_encrypted_content")),
        (&nameless, 400, json!("invalid_encrypted_content")),
    ] {
        let next = json!({ "store": false, "input": [item, message] });
        azure.east("POST", "responses", next.clone());
        let elsewhere = azure.send("west", "POST", "responses", &next);
        let error = &elsewhere.json()["error"];
        assert_eq!(
            (elsewhere.status, &error["code"]),
            (status, &code),
            "{item}"
        );
    }
    let foreign = azure.send("west", "POST", "responses", &json!({ "input": [message] }));
    assert_eq!(foreign.status, 200, "a whole message is no reference");
}

#[test]
fn an_id_or_content_with_a_suffix_is_refused() {
    let azure = Azure::start();
    let request =
        json!({ "input": "hi", "reasoning": {}, "include": ["reasoning.encrypted_content"] });
    let mut item = azure.east("POST", "responses", request)["output"][0].clone();
    let own = item.clone();
    item["id"] = json!(format!("{}.b123456", id(&own)));
    let answer = azure.send("east", "POST", "responses", &json!({ "input": [item] }));
    assert_eq!(
        (answer.status, answer.error_code().as_str()),
        (400, "invalid_value")
    );
    let mut item = own.clone();
    item["encrypted_content"] = json!(format!("{}.b123456", own["encrypted_content"]));
    let answer = azure.send("east", "POST", "responses", &json!({ "input": [item] }));
    let code = answer.error_code();
    assert_eq!(
        (answer.status, code.as_str()),
        (400, "invalid_encrypted_content")
    );
}

#[test]
fn an_item_of_a_response_that_is_not_stored_is_unknown() {
    let azure = Azure::start();
    let request = json!({ "input": "hi", "store": false });
    let message = azure.east("POST", "responses", request)["output"][0].clone();
    let reference = json!({ "input": [{ "type": "item_reference", "id": id(&message) }] });
    assert_eq!(
        azure.send("east", "POST", "responses", &reference).status,
        404
    );
}

#[test]
fn backends_of_one_host_have_the_same_objects() {
    let backend = |name: &str, base_path: &str| BackendSettings {
        api_key: Some(KEY.to_owned()),
        host: "contoso.openai.azure.com".to_owned(),
        base_path: base_path.to_owned(),
        ..BackendSettings::new(name)
    };
    let project = "/api/projects/p";
    let azure = Azure(started(vec![
        backend("east", ""),
        backend("west", ""),
        backend("north", project),
    ]));
    let request =
        json!({ "input": "hi", "reasoning": {}, "include": ["reasoning.encrypted_content"] });
    let made = azure.east("POST", "responses", request);
    let next = json!({ "input": made["output"], "previous_response_id": made["id"] });
    let next = |path: &str, backend: &str| {
        let addr = azure.0.backend(backend).addr();
        let headers = [("api-key", KEY)];
        send(addr, "POST", path, &headers, next.to_string().as_bytes()).status
    };
    assert_eq!(next("/openai/v1/responses", "west"), 200);
    assert_eq!(next("/api/projects/p/openai/v1/responses", "north"), 400);
}

#[test]
fn a_function_is_called_until_its_output_is_there() {
    let azure = Azure::start();
    let tools = json!([{ "type": "function", "name": "look", "parameters": {} }]);
    let call = azure.east(
        "POST",
        "responses",
        json!({ "input": "hi", "tools": tools }),
    )["output"][0]
        .clone();
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("look"))
    );
    assert!(id(&call).starts_with("fc_"), "{call}");
    let output =
        json!({ "type": "function_call_output", "call_id": call["call_id"], "output": "1" });
    let next = json!({ "input": [call, output], "tools": tools, "stream": true });
    let events = azure.send("east", "POST", "responses", &next).text();
    assert!(events.contains("Hello from east"), "{events}");
}

#[test]
fn a_conversation_can_be_compacted() {
    let azure = Azure::start();
    let compaction =
        azure.east("POST", "responses/compact", json!({ "input": "hi" }))["output"][0].clone();
    assert_eq!(compaction["type"], "compaction");
    let next = json!({ "input": [compaction], "store": false });
    azure.east("POST", "responses", next.clone());
    assert_eq!(
        azure.send("west", "POST", "responses", &next).error_code(),
        "invalid_encrypted_content"
    );
}

#[test]
fn a_background_response_is_ready_at_the_next_request() {
    let azure = Azure::start();
    let made = azure.east("POST", "responses", json!({ "background": true }));
    assert_eq!(
        (&made["status"], &made["output"]),
        (&json!("queued"), &json!([]))
    );
    let path = format!("responses/{}", id(&made));
    let ready = azure.east("GET", &path, Value::Null);
    assert_eq!(ready["output"][0]["content"][0]["text"], "Hello from east");
    let cancel = |id: &str| {
        azure.send(
            "east",
            "POST",
            &format!("responses/{id}/cancel"),
            &Value::Null,
        )
    };
    assert_eq!(cancel(&id(&made)).status, 400, "it is over");
    let other = azure.make("responses", json!({ "background": true }));
    assert_eq!(cancel(&other).json()["status"], "cancelled");
    assert_eq!(
        cancel(&azure.make("responses", json!({}))).status,
        400,
        "it was never in the background"
    );
}

#[test]
fn a_conversation_keeps_its_items() {
    let azure = Azure::start();
    let conversation = azure.make(
        "conversations",
        json!({ "items": [{ "role": "user", "content": "a" }] }),
    );
    for given in [json!(conversation), json!({ "id": conversation })] {
        let request = json!({ "input": "b", "conversation": given });
        assert_eq!(
            azure.east("POST", "responses", request.clone())["conversation"]["id"],
            conversation
        );
        assert_eq!(
            azure.send("west", "POST", "responses", &request).status,
            404
        );
    }
    let items = azure.east(
        "GET",
        &format!("conversations/{conversation}/items"),
        Value::Null,
    );
    assert_eq!(items["data"].as_array().map(Vec::len), Some(3));
}

#[test]
fn files_are_kept_byte_for_byte() {
    let azure = Azure::start();
    let content: Vec<u8> = (0..=255_u8).cycle().take(100_000).collect();
    let file = azure.upload("batch", &content);
    assert_eq!(
        (&file["filename"], &file["bytes"]),
        (&json!("a.jsonl"), &json!(100_000))
    );
    assert!(id(&file).starts_with("file-"), "{file}");
    let path = format!("files/{}", id(&file));
    let kept = azure.send("east", "GET", &format!("{path}/content"), &Value::Null);
    assert!(kept.body == content);
    assert_eq!(
        azure
            .send("west", "GET", &format!("{path}/content"), &Value::Null)
            .status,
        404
    );
    let for_assistants = azure.upload("assistants", b"");
    assert!(
        id(&for_assistants).starts_with("assistant-"),
        "{for_assistants}"
    );
    let list = azure.east("GET", "files", Value::Null);
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
    assert_eq!(azure.east("DELETE", &path, Value::Null)["deleted"], true);
    assert_eq!(azure.send("east", "GET", &path, &Value::Null).status, 404);
    assert_eq!(azure.send("east", "POST", "files", &json!({})).status, 400);
}

#[test]
fn an_upload_becomes_a_file() {
    let azure = Azure::start();
    let upload = azure.make(
        "uploads",
        json!({ "purpose": "batch", "filename": "a", "bytes": 4, "mime_type": "text/plain" }),
    );
    let parts: Vec<String> = [&b"na"[..], b"me"]
        .into_iter()
        .map(|content| {
            let form = form(&[("data", Some("part"), content)]);
            let headers = [
                ("api-key", KEY),
                ("content-type", "multipart/form-data; boundary=XX"),
            ];
            let path = format!("/openai/v1/uploads/{upload}/parts");
            id(&send(
                azure.0.backend("east").addr(),
                "POST",
                &path,
                &headers,
                &form,
            )
            .json())
        })
        .collect();
    let complete = format!("uploads/{upload}/complete");
    let request = json!({ "part_ids": parts });
    assert_eq!(azure.send("west", "POST", &complete, &request).status, 404);
    let completed = azure.east("POST", &complete, request);
    assert_eq!(completed["status"], "completed");
    let file = id(&completed["file"]);
    let content = azure.send(
        "east",
        "GET",
        &format!("files/{file}/content"),
        &Value::Null,
    );
    assert_eq!(content.text(), "name");
}

#[test]
fn a_batch_reads_a_file_and_writes_another() {
    let azure = Azure::start();
    let request = json!({
        "input_file_id": id(&azure.upload("batch", b"{}")),
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    });
    assert_eq!(azure.send("west", "POST", "batches", &request).status, 404);
    assert_eq!(
        azure.send("east", "POST", "batches", &json!({})).status,
        400
    );
    let batch = azure.east("POST", "batches", request.clone());
    assert_eq!(
        (&batch["status"], &batch["output_file_id"]),
        (&json!("validating"), &Value::Null)
    );
    let path = format!("batches/{}", id(&batch));
    let completed = azure.east("GET", &path, Value::Null);
    assert_eq!(completed["status"], "completed");
    assert_eq!(azure.east("GET", &path, Value::Null), completed);
    let output = completed["output_file_id"]
        .as_str()
        .expect("an output file");
    let output = azure.send(
        "east",
        "GET",
        &format!("files/{output}/content"),
        &Value::Null,
    );
    assert!(output.text().contains("Hello from east"));
    let other = azure.make("batches", request);
    assert_eq!(
        azure.east("POST", &format!("batches/{other}/cancel"), Value::Null)["status"],
        "cancelled"
    );
    assert_eq!(
        azure
            .send("east", "POST", &format!("{path}/cancel"), &Value::Null)
            .status,
        400
    );
}

#[test]
fn a_fine_tuning_job_reads_a_file() {
    let azure = Azure::start();
    let file = id(&azure.upload("fine-tune", b"{}"));
    let request = json!({ "model": "m", "training_file": file, "validation_file": file });
    assert_eq!(
        azure
            .send("west", "POST", "fine_tuning/jobs", &request)
            .status,
        404
    );
    let job = azure.make("fine_tuning/jobs", request);
    assert!(job.starts_with("ftjob-"), "{job}");
    let path = format!("fine_tuning/jobs/{job}");
    assert_eq!(
        azure
            .send("west", "GET", &format!("{path}/events"), &Value::Null)
            .status,
        404
    );
    assert_eq!(
        azure.east("GET", &format!("{path}/events"), Value::Null)["data"],
        json!([])
    );
    assert_eq!(azure.east("GET", &path, Value::Null)["status"], "succeeded");
}

#[test]
fn an_assistant_answers_on_a_thread() {
    let azure = Azure::start();
    let assistant = azure.make("assistants", json!({ "model": "m" }));
    let thread = azure.make(
        "threads",
        json!({ "messages": [{ "role": "user", "content": "hi" }] }),
    );
    let runs = format!("threads/{thread}/runs");
    let request = json!({ "assistant_id": assistant });
    assert_eq!(
        azure
            .send("east", "POST", &runs, &json!({ "assistant_id": "asst_x" }))
            .status,
        404
    );
    assert_eq!(azure.send("east", "POST", &runs, &json!({})).status, 400);
    let run = azure.east("POST", &runs, request.clone());
    assert_eq!(
        (&run["status"], &run["thread_id"]),
        (&json!("queued"), &json!(thread))
    );
    let run = azure.east("GET", &format!("{runs}/{}", id(&run)), Value::Null);
    assert_eq!(run["status"], "completed");
    let messages = azure.east(
        "GET",
        &format!("threads/{thread}/messages?order=desc"),
        Value::Null,
    );
    assert_eq!(
        messages["data"][0]["content"][0]["text"]["value"],
        "Hello from east"
    );
    assert_eq!(messages["data"][1]["role"], "user");
    let both = azure.east("POST", "threads/runs", request.clone());
    let started = both["thread_id"].as_str().expect("a thread");
    assert_ne!(started, thread);
    assert_eq!(
        azure.east("GET", &format!("threads/{started}/messages"), Value::Null)["data"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    let mut streamed = request;
    streamed["stream"] = json!(true);
    let events = azure.send("east", "POST", &runs, &streamed).text();
    assert!(
        events.starts_with("event: thread.run.created\ndata: {"),
        "{events}"
    );
    assert!(
        events.ends_with("event: done\ndata: [DONE]\n\n"),
        "{events}"
    );
}

#[test]
fn a_vector_store_holds_files_of_its_resource() {
    let azure = Azure::start();
    let file = id(&azure.upload("assistants", b"text"));
    let store = azure.make("vector_stores", json!({ "name": "n", "file_ids": [file] }));
    let elsewhere = azure.send(
        "west",
        "POST",
        "vector_stores",
        &json!({ "file_ids": [file] }),
    );
    assert_eq!(elsewhere.status, 404);
    let files = format!("vector_stores/{store}/files");
    let second = id(&azure.upload("assistants", b"more"));
    assert_eq!(
        azure.east("POST", &files, json!({ "file_id": second }))["vector_store_id"],
        store
    );
    let ids = |list: &Value| {
        list["data"]
            .as_array()
            .map(|data| data.iter().map(id).collect::<Vec<_>>())
    };
    assert_eq!(
        ids(&azure.east("GET", &files, Value::Null)),
        Some(vec![file.clone(), second])
    );
    assert_eq!(
        azure.east("DELETE", &format!("{files}/{file}"), Value::Null)["deleted"],
        true
    );
    assert_eq!(
        azure
            .send("east", "GET", &format!("{files}/{file}"), &Value::Null)
            .status,
        404
    );
    let nested = json!({ "model": "m", "tool_resources": { "file_search": { "vector_store_ids": [store] } } });
    assert_eq!(
        azure.send("west", "POST", "assistants", &nested).status,
        404
    );
    azure.make("assistants", nested);
}

#[test]
fn metadata_contains_no_references() {
    let azure = Azure::start();
    azure.make("threads", json!({ "metadata": { "user_id": "file-x" } }));
    let changed = json!({ "metadata": { "a": "b" }, "id": "other" });
    let thread = azure.make("threads", json!({}));
    let after = azure.east("POST", &format!("threads/{thread}"), changed);
    assert_eq!(
        (&after["id"], &after["metadata"]["a"]),
        (&json!(thread), &json!("b"))
    );
}
