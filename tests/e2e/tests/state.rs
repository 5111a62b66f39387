//! Objects that live on one backend: they are read, continued and deleted on the backend that made them.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{cases, chat_request, simulate, uneven, Form, Gateway, Response};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator};

const NOTHING: Value = Value::Null;

/// The two forms of a path.
const FORMS: [fn(&str) -> String; 2] = [
    |rest| format!("/openai/v1/{rest}"),
    |rest| format!("/openai/{rest}?api-version=2024-10-21"),
];

/// The backend's own id, and the tag.
fn split(id: &Value) -> (&str, &str) {
    let id = id.as_str().expect("an id");
    let at = id.rfind('.').unwrap_or_else(|| panic!("{id} has no tag"));
    let (own, tag) = id.split_at(at);
    let code = tag.strip_prefix(".b").unwrap_or_default();
    let is_tag = code.len() == 6
        && code
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    assert!(is_tag, "{id} ends in no tag");
    (own, tag)
}

fn backend(answer: &Response) -> String {
    answer.backend().to_owned()
}

/// The JSON of a 200, and the backend that answered.
fn ok(answer: &Response) -> (Value, String) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.json(), backend(answer))
}

/// Uploads a file. Returns its description and the backend that has it.
fn upload(gateway: &Gateway, purpose: &str, content: &[u8]) -> (Value, String) {
    let form = Form::new()
        .text("purpose", purpose)
        .file("file", "a.jsonl", content);
    ok(&gateway.upload("/openai/v1/files", &form))
}

/// No backend has got a tag.
fn assert_no_tag_went_up(azure: &Simulator, ids: &[&Value]) {
    for request in azure
        .backends()
        .iter()
        .flat_map(|backend| backend.requests())
    {
        for id in ids {
            let (_, tag) = split(id);
            assert!(
                !format!("{request:?}").contains(tag),
                "{tag} in {request:?}"
            );
        }
    }
}

/// Makes an object of this kind. It must be found on the backend that made it, and nowhere after its deletion.
fn assert_stays(
    gateway: &Gateway,
    azure: &Simulator,
    path: &dyn Fn(&str) -> String,
    collection: &str,
    body: &Value,
) -> String {
    let (made, home) = ok(&gateway.call("POST", &path(collection), body));
    let (own, _) = split(&made["id"]);
    let id = made["id"].as_str().expect("an id");
    let one = path(&format!("{collection}/{id}"));
    for _ in 0..azure.backends().len() {
        let (read, there) = ok(&gateway.call("GET", &one, &NOTHING));
        assert_eq!((&read["id"], &there), (&made["id"], &home), "{collection}");
    }
    let asked = azure.backend(&home).requests().pop().expect("a request");
    assert!(
        asked.path.contains(&format!("/{collection}/{own}")),
        "{}",
        asked.path
    );
    let (deleted, there) = ok(&gateway.call("DELETE", &one, &NOTHING));
    assert_eq!(
        (&deleted["id"], &there),
        (&made["id"], &home),
        "{collection}"
    );
    let gone = gateway.call("GET", &one, &NOTHING);
    assert_eq!(
        (gone.status, backend(&gone)),
        (404, home.clone()),
        "its own 404, {collection}"
    );
    assert_no_tag_went_up(azure, &[&made["id"]]);
    home
}

cases! {
    fn case_25_a_response_is_used_where_it_was_made(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let request = json!({"model": "gpt-4o", "input": "hi"});
        for path in FORMS {
            let mut homes = BTreeSet::new();
            for _ in 0..3 {
                let (made, home) = ok(&gateway.call("POST", &path("responses"), &request));
                let id = made["id"].as_str().unwrap();
                let mut next = request.clone();
                next["previous_response_id"] = json!(id);
                for _ in 0..3 {
                    let (continued, there) = ok(&gateway.call("POST", &path("responses"), &next));
                    assert_eq!((&continued["previous_response_id"], &there), (&made["id"], &home));
                    assert_eq!(split(&continued["id"]).1, split(&made["id"]).1);
                }
                let items = gateway.call("GET", &path(&format!("responses/{id}/input_items")), &NOTHING);
                let (items, there) = ok(&items);
                assert_eq!((&items["data"][0]["content"][0]["text"], &there), (&json!("hi"), &home));
                homes.insert(home);
            }
            for _ in 0..3 {
                assert_stays(&gateway, &azure, &path, "responses", &request);
            }
            assert_eq!(homes.len(), 3, "new responses are dealt out: {homes:?}");
        }
    }

    fn case_25_a_streamed_response_is_continued_where_it_was_made(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for (crlf, split_frames) in [(false, false), (false, true), (true, true)] {
            for backend in azure.backends() {
                let stream = simulator::Stream { crlf, split_frames, interval_ms: 0, ..Default::default() };
                backend.set(Behaviour::stream(stream));
            }
            let mut previous = NOTHING;
            let mut home = None;
            for _ in 0..4 {
                let mut request = json!({"model": "gpt-4o", "input": "hi", "stream": true});
                if !previous.is_null() {
                    request["previous_response_id"] = previous.clone();
                }
                let answer = gateway.call("POST", "/openai/v1/responses", &request);
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(home.get_or_insert(backend(&answer)), &backend(&answer));
                let text = answer.text();
                let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
                let events: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
                assert_eq!(events.len(), 28, "{text}");
                let responses: Vec<&Value> =
                    events.iter().filter_map(|event| event.get("response")).collect();
                assert_eq!(responses.len(), 3);
                for response in &responses {
                    assert_eq!(response["id"], responses[0]["id"]);
                    assert_eq!(response["previous_response_id"], previous);
                }
                let (_, tag) = split(&responses[0]["id"]);
                let named = text.matches("\"resp_").count() + text.matches("\"msg_").count();
                assert_eq!(text.matches(tag).count(), named, "responses and their items have one: {text}");
                previous = responses[0]["id"].clone();
            }
            assert_no_tag_went_up(&azure, &[&previous]);
        }
    }

    fn case_25_a_file_is_read_and_deleted_where_it_was_uploaded(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let content = br#"{"custom_id": "file-1", "id": "resp_2", "body": {"file_id": "file-3"}}"#;
        for path in FORMS {
            let mut homes = BTreeSet::new();
            for purpose in ["user_data", "assistants", "fine-tune"] {
                let (made, home) = upload(&gateway, purpose, content);
                let id = made["id"].as_str().unwrap();
                let kept = gateway.call("GET", &path(&format!("files/{id}/content")), &NOTHING);
                assert_eq!((kept.status, backend(&kept)), (200, home.clone()));
                assert_eq!(kept.body, content, "what a file holds is not looked at");
                for _ in 0..3 {
                    let (read, there) = ok(&gateway.call("GET", &path(&format!("files/{id}")), &NOTHING));
                    assert_eq!((&read["id"], &there), (&made["id"], &home));
                }
                let (deleted, there) = ok(&gateway.call("DELETE", &path(&format!("files/{id}")), &NOTHING));
                assert_eq!((&deleted["id"], &there), (&made["id"], &home));
                assert_no_tag_went_up(&azure, &[&made["id"]]);
                homes.insert(home);
            }
            assert_eq!(homes.len(), 1, "what can be used together is at home: {homes:?}");
            let homes: BTreeSet<String> = (0..3).map(|_| upload(&gateway, "batch", content).1).collect();
            assert_eq!(homes.len(), 3, "files of batches are dealt out: {homes:?}");
        }
    }

    fn case_41_files_for_joint_use_are_on_one_backend(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for path in FORMS {
            let post = |collection: &str, body: Value| ok(&gateway.call("POST", &path(collection), &body)).0;
            let two = |purpose| [0, 1].map(|_| upload(&gateway, purpose, b"{}").0["id"].clone());
            let [training, validation] = two("fine-tune");
            post("fine_tuning/jobs", json!({"model": "m", "training_file": training, "validation_file": validation}));
            let [one, other] = two("user_data");
            let content = [one, other].map(|file| json!({"type": "input_file", "file_id": file}));
            post("responses", json!({"model": "gpt-4o", "input": [{"role": "user", "content": content}]}));
            post("vector_stores", json!({"file_ids": two("assistants")}));
            let store = post("vector_stores", json!({"name": "n"}));
            let files = format!("vector_stores/{}/files", store["id"].as_str().unwrap());
            for file in two("assistants") {
                post(&files, json!({"file_id": file}));
            }
            let begin = json!({"purpose": "user_data", "filename": "a", "bytes": 2, "mime_type": "text/plain"});
            let home = ok(&gateway.call("POST", &path("uploads"), &begin)).1;
            assert_eq!(home, upload(&gateway, "user_data", b"{}").1, "in parts as well");
            let thread = post("threads", json!({}));
            let messages = format!("threads/{}/messages", thread["id"].as_str().unwrap());
            let [file, _] = two("assistants");
            let attachments = json!([{"file_id": file, "tools": [{"type": "file_search"}]}]);
            post(&messages, json!({"role": "user", "content": "x", "attachments": attachments}));
        }
    }

    fn case_25_a_batch_goes_where_its_file_is(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for path in FORMS {
            for _ in 0..3 {
                let (file, home) = upload(&gateway, "batch", b"{}");
                let request = json!({
                    "input_file_id": file["id"],
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                });
                let (batch, there) = ok(&gateway.call("POST", &path("batches"), &request));
                assert_eq!((&batch["input_file_id"], &there), (&file["id"], &home));
                let one = format!("batches/{}", batch["id"].as_str().unwrap());
                let (done, there) = ok(&gateway.call("GET", &path(&one), &NOTHING));
                assert_eq!((&done["status"], &there), (&json!("completed"), &home));
                let output = format!("files/{}/content", done["output_file_id"].as_str().unwrap());
                let output = gateway.call("GET", &path(&output), &NOTHING);
                assert_eq!((output.status, backend(&output)), (200, home.clone()));
                assert!(output.text().contains(&format!("Hello from {home}")));
                let cancelled = gateway.call("POST", &path(&format!("{one}/cancel")), &NOTHING);
                assert_eq!((cancelled.status, backend(&cancelled)), (400, home), "it is over");
                assert_no_tag_went_up(&azure, &[&batch["id"], &done["output_file_id"]]);
            }
        }
    }

    fn case_25_a_fine_tuning_job_goes_where_its_files_are(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for _ in 0..3 {
            let (file, home) = upload(&gateway, "fine-tune", b"{}");
            let request = json!({"model": "m", "training_file": file["id"], "validation_file": file["id"]});
            let (job, there) = ok(&gateway.call("POST", "/openai/v1/fine_tuning/jobs", &request));
            assert_eq!((&job["training_file"], &there), (&file["id"], &home));
            assert_eq!(job["validation_file"], file["id"]);
            let events = format!("/openai/v1/fine_tuning/jobs/{}/events", job["id"].as_str().unwrap());
            assert_eq!(ok(&gateway.call("GET", &events, &NOTHING)).1, home);
            assert_no_tag_went_up(&azure, &[&job["id"], &file["id"]]);
        }
    }

    fn case_25_an_upload_in_parts_becomes_a_file_where_it_began(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let mut homes = BTreeSet::new();
        for _ in 0..2 {
            let begin = json!({"purpose": "batch", "filename": "a", "bytes": 4, "mime_type": "text/plain"});
            let (made, home) = ok(&gateway.call("POST", "/openai/v1/uploads", &begin));
            let path = format!("/openai/v1/uploads/{}", made["id"].as_str().unwrap());
            let part = Form::new().file("data", "part", b"name");
            let (part, there) = ok(&gateway.upload(&format!("{path}/parts"), &part));
            assert_eq!((&part["upload_id"], &there), (&made["id"], &home));
            let complete = json!({"part_ids": [part["id"]]});
            let (completed, there) = ok(&gateway.call("POST", &format!("{path}/complete"), &complete));
            assert_eq!(there, home);
            let file = format!("/openai/v1/files/{}/content", completed["file"]["id"].as_str().unwrap());
            assert_eq!(gateway.call("GET", &file, &NOTHING).text(), "name");
            homes.insert(home);
        }
        assert!(!homes.is_empty());
    }

    fn case_25_threads_assistants_and_stores_live_at_home(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway
            .engine(engine)
            .plugin(|p| p["state"] = json!({"home": "west"}))
            .start();
        gateway.warm_up(&azure);
        for path in FORMS {
            for (collection, body) in [
                ("threads", json!({})),
                ("assistants", json!({"model": "gpt-4o"})),
                ("vector_stores", json!({"name": "n"})),
                ("containers", json!({"name": "n"})),
                ("conversations", json!({})),
            ] {
                let homes: BTreeSet<String> = (0..2)
                    .map(|_| assert_stays(&gateway, &azure, &path, collection, &body))
                    .collect();
                if collection != "containers" && collection != "conversations" {
                    assert_eq!(homes, BTreeSet::from(["west".to_owned()]), "{collection}");
                }
            }
        }
    }

    fn case_25_an_assistant_answers_on_a_thread(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for path in FORMS {
            let (assistant, home) = ok(&gateway.call("POST", &path("assistants"), &json!({"name": "n"})));
            let (thread, there) = ok(&gateway.call("POST", &path("threads"), &json!({})));
            assert_eq!((home.as_str(), there.as_str()), ("east", "east"), "the first backend is home");
            let thread_id = thread["id"].as_str().unwrap();
            let message = json!({"role": "user", "content": "the file is file-1"});
            let messages = path(&format!("threads/{thread_id}/messages"));
            let (message, _) = ok(&gateway.call("POST", &messages, &message));
            assert_eq!(message["thread_id"], thread["id"]);
            assert_eq!(message["content"][0]["text"]["value"], "the file is file-1");
            let run = json!({"assistant_id": assistant["id"]});
            let (run, there) = ok(&gateway.call("POST", &path(&format!("threads/{thread_id}/runs")), &run));
            assert_eq!((&run["assistant_id"], &run["thread_id"]), (&assistant["id"], &thread["id"]));
            assert_eq!(there, home);
            let run_id = run["id"].as_str().unwrap();
            assert!(!run_id.contains('.'), "found by its thread: {run_id}");
            let (run, _) = ok(&gateway.call("GET", &path(&format!("threads/{thread_id}/runs/{run_id}")), &NOTHING));
            assert_eq!(run["status"], "completed");
            let (list, _) = ok(&gateway.call("GET", &messages, &NOTHING));
            assert_eq!(list["data"].as_array().map(Vec::len), Some(2));
            let both = json!({"assistant_id": assistant["id"], "thread": {"messages": []}});
            let (both, there) = ok(&gateway.call("POST", &path("threads/runs"), &both));
            assert_eq!((&both["assistant_id"], &there), (&assistant["id"], &home));
            split(&both["thread_id"]);
            assert_no_tag_went_up(&azure, &[&assistant["id"], &thread["id"]]);
        }
    }

    fn case_25_references_deep_in_a_body_lead_to_their_backend(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for _ in 0..3 {
            let (file, home) = upload(&gateway, "assistants", b"text");
            let (store, there) =
                ok(&gateway.call("POST", "/openai/v1/vector_stores", &json!({"file_ids": [file["id"]]})));
            assert_eq!((&store["file_ids"], &there), (&json!([file["id"]]), &home));
            let files = format!("/openai/v1/vector_stores/{}/files", store["id"].as_str().unwrap());
            let (list, _) = ok(&gateway.call("GET", &files, &NOTHING));
            assert_eq!(list["data"][0]["id"], file["id"]);
            assert_eq!((&list["first_id"], &list["last_id"]), (&file["id"], &file["id"]));
            let one = format!("{files}/{}", file["id"].as_str().unwrap());
            assert_eq!(ok(&gateway.call("GET", &one, &NOTHING)).0["vector_store_id"], store["id"]);
            let assistant = json!({
                "name": "naïve",
                "tool_resources": {"file_search": {"vector_store_ids": [store["id"]]}},
            });
            let (assistant, there) = ok(&gateway.call("POST", "/openai/v1/assistants", &assistant));
            assert_eq!(there, home);
            assert_eq!(assistant["tool_resources"]["file_search"]["vector_store_ids"], json!([store["id"]]));
            let tools = json!({
                "model": "gpt-4o",
                "input": "hi",
                "tools": [{"type": "file_search", "vector_store_ids": [store["id"]]}],
            });
            assert_eq!(ok(&gateway.call("POST", "/openai/v1/responses", &tools)).1, home);
            assert_no_tag_went_up(&azure, &[&store["id"]]);
        }
    }

    fn case_25_a_throttled_backend_answers_for_its_objects(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let request = json!({"model": "gpt-4o", "input": "hi"});
        let made: Vec<(Value, String)> =
            (0..3).map(|_| ok(&gateway.call("POST", "/openai/v1/responses", &request))).collect();
        let (response, _) = made.iter().find(|(_, home)| home == "west").expect("one of them is in the west");
        let one = format!("/openai/v1/responses/{}", response["id"].as_str().unwrap());
        let mut next = request.clone();
        next["previous_response_id"] = response["id"].clone();

        // The model's quota is used up. The backend refuses the request and a trial.
        azure.backend("west").set(Behaviour::throttled(30).times(2));
        let before = azure.upstream_calls();
        let responses = "/openai/v1/responses".to_owned();
        for _ in 0..2 {
            let refused = gateway.call("POST", &responses, &next);
            assert_eq!((refused.status, refused.header("x-aoai-attempts")), (429, Some("1")));
            assert_eq!(refused.header("retry-after"), Some("30"));
        }
        assert_eq!(azure.upstream_calls(), before + 2, "no other one is asked");
        let is_refused = |method, path: &str, body| {
            let refused = gateway.call(method, path, body);
            assert_eq!((refused.status, refused.header("x-aoai-attempts")), (429, Some("0")), "{}", refused.text());
            let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=30).contains(&wait), "{wait}");
            let exact: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
            assert!((1..=30_000).contains(&exact), "{exact}");
            assert!(refused.json()["error"]["message"].is_string());
        };
        // The backend gets no further request.
        is_refused("POST", &responses, &next);
        assert_eq!(azure.upstream_calls(), before + 2);
        // Reading does not use the model's quota.
        assert_eq!(ok(&gateway.call("GET", &one, &NOTHING)).1, "west");
        azure.backend("west").set(Behaviour::throttled(30));
        for _ in 0..2 {
            let refused = gateway.call("GET", &one, &NOTHING);
            assert_eq!((refused.status, refused.header("x-aoai-attempts")), (429, Some("1")));
        }
        let before = azure.upstream_calls();
        is_refused("GET", &one, &NOTHING);
        is_refused("DELETE", &one, &NOTHING);
        assert_eq!(azure.upstream_calls(), before);
        for _ in 0..4 {
            assert_eq!(gateway.chat(&chat_request()).status, 200, "the others serve on");
        }
    }

    fn case_25_no_backend_replaces_the_one_with_the_object(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let request = json!({"input": "hi"});
        let (made, home) = ok(&gateway.call("POST", "/openai/v1/responses", &request));
        let other = if home == "east" { "west" } else { "east" };
        let before = azure.backend(other).count();
        let one = format!("/openai/v1/responses/{}", made["id"].as_str().unwrap());
        azure.backend(&home).set(Behaviour::internal_error());
        let answer = gateway.call("GET", &one, &NOTHING);
        assert_eq!((answer.status, backend(&answer)), (500, home.clone()));
        azure.backend(&home).stop();
        let answer = gateway.call("GET", &one, &NOTHING);
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(azure.backend(other).count(), before);
        azure.backend(&home).restart().unwrap();
        azure.backend(&home).clear();
        gateway.wait_for(
            |g| g.call("GET", &one, &NOTHING).status == 200,
            Duration::from_secs(20),
            "it to be found again",
        );
    }
}
