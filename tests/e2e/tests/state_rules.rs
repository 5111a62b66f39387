//! Objects that live on one backend: the ids that get tags, and requests without a tag.

use std::time::Duration;

use e2e::{
    cases, east_and_west, simulate, simulate_with, uneven, Chunk, Client, Engine, Form, Gateway,
    GatewayBuilder, Response, Update,
};
use serde_json::{json, Value};
use simulator::{Behaviour, Failure, Simulator, SlowBody, Stream};

const NOTHING: Value = Value::Null;
const RESPONSES: &str = "/openai/v1/responses";

/// The tag at the end of an id.
fn tag(id: &str) -> &str {
    &id[id.rfind('.').unwrap_or_else(|| panic!("{id} has no tag"))..]
}

fn one(id: &str) -> String {
    format!("{RESPONSES}/{id}")
}

/// A 200 with this body.
fn answering(body: &str) -> Behaviour {
    Behaviour::error(Failure {
        body: Some(body.to_owned()),
        ..Failure::new(200)
    })
}

fn file() -> Form {
    Form::new()
        .text("purpose", "batch")
        .file("file", "a", b"text")
}

/// Two backends, of which one gets every request but embeddings. Without the other one no id would get a tag.
fn one_and_a_half(engine: Engine) -> (Simulator, GatewayBuilder) {
    let (azure, gateway) = east_and_west(engine);
    let gateway = gateway.plugin(|p| p["backends"][1]["apis"] = json!(["embeddings"]));
    (azure, gateway)
}

/// A possible answer of a backend, with a word in place of each tag.
const SAID: &str = r#" {
  "object" : "response", "id" : "resp_1TAG", "id2": "resp_1", "previous_response_id":"resp_0TAG",
  "output": [{"id": "msg_1TAG", "type": "message", "name": "thread_1", "content": [
    {"text": "it is resp_1, \"id\": \"resp_1\", naïve \ud83d\ude00 \\", "annotations": [{"file_id": "file-1TAG"}]}
  ]}, {"type": "code_interpreter_call", "id": "ci_1TAG", "container_id": "cntr_1TAG", "call_id": "call_1"},
  {"type" : "reasoning","encrypted_content" : "gAAAA-_=\u003dTAG", "id":"rs_1TAG"}, {"encrypted_content": null}],
  "file_ids": ["file-1TAG", "assistant-2TAG" , "other", 3, null], "conversation": {"id": "conv_1TAG"},
  "training_file": "file-4TAG", "metadata": {"note": "file-5"}, "empty_id": "", "thread_id": null, "n": 1.50
}
"#;

cases! {
    fn only_ids_of_objects_change(engine) {
        let (azure, gateway) = one_and_a_half(engine);
        let gateway = gateway.start();
        let first = gateway.call("POST", RESPONSES, &json!({"input": "x"})).id();
        azure.backend("east").set(answering(&SAID.replace("TAG", "")));
        let answer = gateway.call("POST", RESPONSES, &json!({"input": "x"}));
        assert_eq!(answer.text(), SAID.replace("TAG", tag(&first)));
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        assert!(length.is_none_or(|length: usize| length == answer.body.len()));
    }

    fn an_answer_in_small_pieces_is_tagged_like_a_whole_one(engine) {
        let (azure, gateway) = one_and_a_half(engine);
        let gateway = gateway.start();
        let first = gateway.call("POST", RESPONSES, &json!({"input": "x"})).id();
        for piece in [1, 7, 64] {
            azure.backend("east").set(Behaviour::slow_body(SlowBody { piece, interval_ms: 0, ..SlowBody::default() }));
            let read = gateway.call("GET", &one(&first), &NOTHING);
            assert_eq!(read.id(), first, "in pieces of {piece}");
            assert_eq!(read.text().matches(tag(&first)).count(), 2, "the response and its message");
        }
    }

    fn chat_answers_and_contents_of_files_pass_unchanged(engine) {
        let (azure, gateway) = one_and_a_half(engine);
        let gateway = gateway.start();
        for backend in azure.backends() {
            backend.set(answering(SAID));
        }
        for path in [
            "/openai/v1/chat/completions",
            "/openai/deployments/d/chat/completions?api-version=2024-10-21",
            "/openai/v1/embeddings",
        ] {
            assert_eq!(gateway.call("POST", path, &json!({"model": "m"})).text(), SAID, "{path}");
        }
        assert_eq!(gateway.call("GET", "/openai/v1/files/file-1/content", &NOTHING).text(), SAID);
    }

    fn a_later_attempts_answer_is_tagged_for_its_backend(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.without_cooldowns().start();
        azure.backend("east").set(Behaviour::throttled(1));
        let made: Vec<Response> = [false, false, true, true]
            .map(|stream| gateway.call("POST", RESPONSES, &json!({"input": "x", "stream": stream})))
            .into();
        let retried = made.iter().filter(|answer| answer.header("x-aoai-attempts") == Some("2"));
        assert_eq!(retried.count(), 2);
        for answer in made {
            assert_eq!((answer.status, answer.backend()), (200, "west"), "{}", answer.text());
            let text = answer.text();
            let (_, rest) = text.split_once("\"resp_").expect("an id");
            let (rest, _) = rest.split_once('"').expect("the end of the id");
            let id = format!("resp_{rest}");
            tag(&id);
            assert_eq!(text.matches(&id).count(), text.matches("\"resp_").count());
            assert_eq!(text.matches(tag(&id)).count(), text.matches("\"resp_").count() + text.matches("\"msg_").count());
            let read = gateway.call("GET", &one(&id), &NOTHING);
            assert_eq!((read.status, read.backend()), (200, "west"));
        }
    }

    fn objects_of_two_backends_cannot_meet(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let files: Vec<Response> = (0..2).map(|_| gateway.upload("/openai/v1/files", &file())).collect();
        assert_ne!(files[0].backend(), files[1].backend());
        let ids: Vec<String> = files.iter().map(Response::id).collect();
        let both = json!({"file_ids": ids});
        let store = gateway.call("POST", "/openai/v1/vector_stores", &json!({"file_ids": [ids[0]]})).id();
        let before = azure.upstream_calls();
        for (path, body) in [
            ("/openai/v1/vector_stores".to_owned(), both),
            (format!("/openai/v1/vector_stores/{store}/files"), json!({"file_id": ids[1]})),
            (format!("/openai/vector_stores/{store}/files?api-version=1&after={}", ids[1]), json!({})),
        ] {
            let refused = gateway.call("POST", &path, &body);
            assert_eq!(refused.status, 400, "{path}: {}", refused.text());
            assert_eq!(refused.json()["error"]["code"], "objects_on_different_backends");
            assert_eq!(refused.header("x-aoai-attempts"), Some("0"));
        }
        assert_eq!(azure.upstream_calls(), before);
    }

    fn a_page_begins_after_a_tagged_id(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let threads: Vec<String> =
            (0..3).map(|_| gateway.call("POST", "/openai/v1/assistants", &json!({})).id()).collect();
        let page = gateway.call("GET", &format!("/openai/v1/assistants?limit=1&after={}&x=1", threads[0]), &NOTHING);
        assert_eq!(page.json()["data"][0]["id"], threads[1], "{}", page.text());
        assert_eq!(page.json()["last_id"], threads[1]);
        let asked = azure.backend("east").requests().pop().unwrap();
        let own = threads[0].trim_end_matches(tag(&threads[0]));
        assert_eq!(asked.path, format!("/openai/v1/assistants?limit=1&after={own}&x=1"));
    }

    fn lists_and_ids_from_before_belong_to_the_home_backend(engine) {
        let azure = simulate_with(&["east", "west"], |settings| {
            settings.backends[1].api_key = Some("WEST-SECRET".to_owned());
        });
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["state"] = json!({"home": "west"}))
            .start();
        let west = Client::new(azure.backend("west").addr());
        let key = [("api-key", "WEST-SECRET")];
        let old = west.send("POST", "/openai/v1/threads", &key, b"{}").unwrap().id();
        for _ in 0..3 {
            let read = gateway.call("GET", &format!("/openai/v1/threads/{old}"), &NOTHING);
            assert_eq!(read.backend(), "west");
            assert_eq!(read.id().trim_end_matches(tag(&read.id())), old, "from now on with a tag");
        }
        let made = west.send("POST", RESPONSES, &key, br#"{"input": "x"}"#).unwrap().id();
        for _ in 0..3 {
            let next = gateway.call("POST", RESPONSES, &json!({"input": "x", "previous_response_id": made}));
            assert_eq!((next.status, next.backend()), (200, "west"), "{}", next.text());
            let list = gateway.call("GET", "/openai/files?api-version=2024-10-21", &NOTHING);
            assert_eq!((list.status, list.backend()), (200, "west"));
        }
        // A cooldown of west does not affect east.
        azure.backend("west").set(Behaviour::throttled(30));
        let east = azure.backend("east").count();
        // The second request makes a trial.
        for attempts in ["1", "1", "0"] {
            let refused = gateway.call("POST", "/openai/v1/threads", &json!({}));
            assert_eq!((refused.status, refused.header("x-aoai-attempts")), (429, Some(attempts)));
        }
        assert_eq!(azure.backend("east").count(), east);
    }

    fn the_home_is_the_first_backend_that_has_the_api(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["backends"][0]["apis"] = json!(["chat", "assistants"]))
            .start();
        for (method, path, home) in [
            ("POST", "/openai/v1/threads", "east"),
            ("POST", "/openai/v1/vector_stores", "west"),
            ("GET", "/openai/v1/files", "west"),
            ("GET", "/openai/v1/batches", "west"),
        ] {
            for _ in 0..2 {
                assert_eq!(gateway.call(method, path, &NOTHING).backend(), home, "{path}");
            }
        }
    }

    fn an_id_leads_to_the_same_backend_on_every_replica(engine) {
        let azure = simulate(&["east", "west"]);
        let start = || Gateway::builder().simulator(&azure).engine(engine).start();
        let (mut gateway, replica) = (start(), start());
        let made: Vec<Response> =
            (0..2).map(|_| gateway.call("POST", RESPONSES, &json!({"input": "x"}))).collect();
        let assert_found = |gateway: &Gateway| {
            for answer in &made {
                let read = gateway.call("GET", &one(&answer.id()), &NOTHING);
                assert_eq!((read.id(), read.backend()), (answer.id(), answer.backend()));
            }
        };
        assert_ne!(made[0].backend(), made[1].backend());
        assert_ne!(tag(&made[0].id()), tag(&made[1].id()));
        // An odd number of requests: a rule that takes turns would fail.
        for gateway in [&replica, &gateway, &replica] {
            gateway.chat(&e2e::chat_request());
            assert_found(gateway);
        }
        let mut plugin = gateway.plugin();
        plugin["backends"].as_array_mut().unwrap().reverse();
        plugin["backends"][0]["name"] = json!("renamed");
        assert_eq!(gateway.update(plugin), Update::Accepted);
        gateway.wait_for(
            |g| g.chat(&e2e::chat_request()).header("x-aoai-backend") == Some("renamed"),
            Duration::from_secs(5),
            "the new configuration",
        );
        assert_found(&gateway);
    }

    fn an_objects_requests_have_its_backends_api_version(engine) {
        let (azure, gateway) = one_and_a_half(engine);
        let gateway = gateway
            .plugin(|p| {
                p["backends"][0]["api_version"] = json!("2025-04-01-preview");
                p["backends"][0]["base_path"] = json!("/api/projects/contoso");
            })
            .start();
        azure.backend("east").set(answering(r#"{"id":"thread_1"}"#));
        let made = gateway.call("POST", "/openai/threads?api-version=2024-10-21", &json!({})).id();
        assert_eq!(made.trim_end_matches(tag(&made)), "thread_1");
        gateway.call("GET", &format!("/openai/threads/{made}/messages?api-version=2024-10-21&order=asc"), &NOTHING);
        assert_eq!(
            azure.backend("east").requests().pop().unwrap().path,
            "/api/projects/contoso/openai/threads/thread_1/messages?api-version=2025-04-01-preview&order=asc",
        );
    }

    fn the_last_backend_of_a_configuration_keeps_its_objects(engine) {
        let azure = simulate(&["east", "west"]);
        let mut gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let mut made = NOTHING;
        while made["output"][0]["content"][0]["text"] != "Hello from east" {
            made = gateway.call("POST", RESPONSES, &json!({"input": "x"})).json();
        }
        let made = made["id"].as_str().unwrap();
        let mut plugin = gateway.plugin();
        plugin["backends"].as_array_mut().unwrap().truncate(1);
        assert_eq!(gateway.update(plugin), Update::Accepted);
        gateway.wait_for(
            |g| g.call("GET", "/openai/v1/models", &NOTHING).header("x-sim-backend") == Some("east")
                && g.call("GET", "/openai/v1/models", &NOTHING).header("x-sim-backend") == Some("east"),
            Duration::from_secs(5),
            "the new configuration",
        );
        assert_eq!(gateway.call("GET", &one(made), &NOTHING).status, 200);
        let next = gateway.call("POST", RESPONSES, &json!({"input": "x", "previous_response_id": made}));
        assert_eq!(next.status, 200, "{}", next.text());
    }

    fn a_streamed_answer_with_tags_still_streams(engine) {
        let (azure, gateway) = one_and_a_half(engine);
        let gateway = gateway.start();
        let first = gateway.call("POST", RESPONSES, &json!({"input": "x"})).id();
        azure.backend("east").set(Behaviour::stream(Stream { events: 10, interval_ms: 60, ..Stream::default() }));
        let body = json!({"input": "x", "stream": true}).to_string();
        let stream = gateway.client().stream("POST", RESPONSES, &[], body.as_bytes()).unwrap();
        let chunks: Vec<Chunk> = stream.collect();
        let text: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.clone()).collect();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\"delta\""), "{text}");
        assert_eq!(text.matches(tag(&first)).count(), text.matches("\"resp_").count() + text.matches("\"msg_").count());
        let gaps = chunks.windows(2).map(|pair| pair[1].at - pair[0].at);
        assert!(gaps.filter(|gap| *gap >= Duration::from_millis(40)).count() >= 8);
    }
}
