//! Objects that live on one backend, in realistic traffic: large, chunked, compressed, refused, and many at once.

use e2e::{cases, east_and_west, parallel, simulate, uneven, Gateway, Response};
use serde_json::{json, Value};
use simulator::{Behaviour, Failure};

const NOTHING: Value = Value::Null;
const RESPONSES: &str = "/openai/v1/responses";

fn respond(gateway: &Gateway) -> Response {
    gateway.call("POST", RESPONSES, &json!({"model": "gpt-4o", "input": "x"}))
}

fn one(id: &str) -> String {
    format!("{RESPONSES}/{id}")
}

cases! {
    fn a_large_request_leads_to_its_backend_wherever_the_id_stands(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        let large = "x".repeat(3_000_000);
        for _ in 0..3 {
            let made = respond(&gateway);
            let made_id = made.id();
            for body in [
                format!(r#"{{"previous_response_id":"{made_id}","input":"{large}","model":"gpt-4o"}}"#),
                format!(r#"{{"model":"gpt-4o","input":"{large}","previous_response_id":"{made_id}"}}"#),
            ] {
                let answer = gateway.client().send("POST", RESPONSES, &[], body.as_bytes()).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.backend(), made.backend());
                let received = azure.backend(made.backend()).requests().pop().unwrap();
                let length = received.header("content-length").map(|length| length.parse().unwrap());
                assert!(length.is_none_or(|length: u64| length == received.body_len));
            }
        }
    }

    fn a_request_of_unknown_size_leads_to_its_backend(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        for _ in 0..3 {
            let made = respond(&gateway);
            let body = json!({"model": "gpt-4o", "previous_response_id": made.id(), "input": "naïve"}).to_string();
            for size in [1, 7, 1000] {
                let mut upload = gateway.client().upload("POST", RESPONSES, &[]).unwrap();
                for piece in body.as_bytes().chunks(size) {
                    upload.chunk(piece).unwrap();
                }
                let answer = upload.finish().unwrap().read_to_end();
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.backend(), made.backend());
            }
        }
    }

    fn a_request_with_a_new_token_is_otherwise_unchanged(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["backends"][0]["deployments"] = json!({"gpt-4o": "gpt4o-east"}))
            .start();
        gateway.warm_up(&azure);
        let made = respond(&gateway);
        azure.imds().revoke_all();
        let next = json!({"previous_response_id": made.id(), "model": "gpt-4o"});
        let answer = gateway.call("POST", RESPONSES, &next);
        assert_eq!(answer.header("x-aoai-attempts"), Some("2"), "{}", answer.text());
        assert_eq!(answer.json()["previous_response_id"], made.id());
        let requests = azure.backend(made.backend()).requests();
        let [.., refused, accepted] = requests.as_slice() else { panic!("two attempts") };
        assert_eq!((refused.status, accepted.status), (Some(401), Some(200)));
        assert_eq!((&refused.path, &refused.body), (&accepted.path, &accepted.body));
        let name = if made.backend() == "east" { "gpt4o-east" } else { "gpt-4o" };
        assert_eq!(accepted.model().as_deref(), Some(name));
    }

    fn a_response_can_be_read_as_a_stream(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for _ in 0..2 {
            let made = respond(&gateway);
            let stream = gateway.call("GET", &format!("{}?stream=true", one(&made.id())), &NOTHING);
            assert_eq!((stream.status, stream.backend()), (200, made.backend()));
            assert_eq!(stream.text().matches(&format!("\"id\":\"{}\"", made.id())).count(), 3);
        }
    }

    fn a_long_list_is_tagged_to_its_end(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let made = gateway.call("POST", "/openai/v1/threads", &json!({})).id();
        let (_, tag) = made.split_at(made.rfind('.').unwrap());
        let list = |tag: &str| {
            let files: Vec<String> = (0..30_000)
                .map(|n| format!(r#"{{"id":"file-{n:032}{tag}","object":"file","bytes":{n},"filename":"file-{n}"}}"#))
                .collect();
            format!(r#"{{"object":"list","data":[{}],"has_more":false}}"#, files.join(","))
        };
        azure.backend("east").set(Behaviour::error(Failure { body: Some(list("")), ..Failure::new(200) }));
        let answer = gateway.call("GET", "/openai/v1/files", &NOTHING);
        assert!(answer.text() == list(tag), "{} bytes", answer.body.len());
    }

    fn an_answer_with_ids_is_requested_unencoded(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let headers = [("accept-encoding", "gzip, deflate"), ("content-type", "application/json")];
        for (path, asked) in [(RESPONSES, None), ("/openai/v1/chat/completions", Some("gzip, deflate"))] {
            let answer = gateway.client().send("POST", path, &headers, b"{\"model\":\"m\"}").unwrap();
            let received = azure.backend(answer.backend()).requests().pop().unwrap();
            let encoding = received.header("accept-encoding").filter(|encoding| *encoding != "identity");
            assert_eq!(encoding, asked, "{path}");
        }
    }

    fn no_object_is_requested_from_another_backend(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway
            .engine(engine)
            .workers(2)
            .plugin(|p| p["cooldown"] = json!({"shortest": "0s", "throttled": "100ms"}))
            .start();
        gateway.warm_up(&azure);
        // Each backend refuses some requests of every kind.
        for backend in azure.backends() {
            let line = [Behaviour::normal().times(9), Behaviour::throttled_with(&[("retry-after-ms", "20")])];
            backend.queue(line.iter().cycle().take(60).cloned().collect());
        }
        let counts = parallel(6, |client| {
            let (mut done, mut refused) = (0, 0);
            for round in 0..20 {
                let stream = (client + round) % 3 == 0;
                let made = respond(&gateway);
                if made.status != 200 {
                    assert_eq!(made.status, 429, "{}", made.text());
                    continue;
                }
                let (made_id, home) = (made.id(), made.backend());
                let next = json!({
                    "model": "gpt-4o", "input": "x", "stream": stream, "previous_response_id": made_id,
                });
                for (method, path, body) in [("POST", RESPONSES.to_owned(), &next), ("GET", one(&made_id), &NOTHING), ("DELETE", one(&made_id), &NOTHING)] {
                    let answer = gateway.call(method, &path, body);
                    match answer.status {
                        429 => refused += 1,
                        status => {
                            assert_eq!((status, answer.backend()), (200, home), "{}", answer.text());
                            done += 1;
                        }
                    }
                }
            }
            (done, refused)
        });
        let done: u32 = counts.iter().map(|(done, _)| done).sum();
        let refused: u32 = counts.iter().map(|(_, refused)| refused).sum();
        assert!(done > 30 && refused > 0, "{done} done, {refused} refused");
    }
}
