//! Items of responses and encrypted content. A later request that names them reaches the resource that made them.

use std::collections::BTreeSet;

use e2e::{cases, simulate, simulate_with, uneven, Gateway, Response};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator};

const RESPONSES: &str = "/openai/v1/responses";

/// The form in which a client sends back the items of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Back {
    /// As references to stored items.
    Referred,
    /// Whole and stored.
    Whole,
    /// Whole, with encrypted reasoning, and not stored.
    Encrypted,
    /// Whole, with encrypted reasoning, not stored and without ids.
    EncryptedWithoutIds,
}

const WAYS: [Back; 4] = [
    Back::Referred,
    Back::Whole,
    Back::Encrypted,
    Back::EncryptedWithoutIds,
];

fn backend(answer: &Response) -> String {
    answer.backend().to_owned()
}

/// The items of an answer, whether it is a stream or not.
fn output(answer: &Response) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    let response = match text.starts_with('{') {
        true => answer.json(),
        false => {
            let mut data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            let last = data.next_back().expect("an event");
            serde_json::from_str::<Value>(last).unwrap()["response"].clone()
        }
    };
    response["output"].as_array().expect("items").clone()
}

/// One turn of an agent: a request with the whole conversation, to which the answer's items are added. Returns the
/// backend.
fn turn(gateway: &Gateway, back: Back, stream: bool, input: &mut Vec<Value>) -> String {
    let is_stored = matches!(back, Back::Referred | Back::Whole);
    let request = json!({
        "model": "gpt-4o", "input": input, "stream": stream, "store": is_stored, "reasoning": {},
        "include": if is_stored { json!([]) } else { json!(["reasoning.encrypted_content"]) },
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}],
    });
    let answer = gateway.call("POST", RESPONSES, &request);
    for mut item in output(&answer) {
        let call = item["call_id"].clone();
        match back {
            Back::Referred => input.push(json!({"type": "item_reference", "id": item["id"]})),
            Back::Whole | Back::Encrypted => input.push(item),
            Back::EncryptedWithoutIds => {
                item.as_object_mut().unwrap().remove("id");
                input.push(item);
            }
        }
        if call.is_string() {
            input.push(json!({"type": "function_call_output", "call_id": call, "output": "rs_1"}));
        }
    }
    backend(&answer)
}

/// Backends got ids and encrypted content as they had made them.
fn assert_no_tag_went_up(azure: &Simulator) {
    let mut sent = 0;
    for backend in azure.backends() {
        for request in backend.requests() {
            let seen = format!(
                "{} {}",
                request.path,
                String::from_utf8_lossy(&request.body)
            );
            assert!(!seen.contains(".b"), "{seen}");
            sent += 1;
        }
    }
    assert!(sent > 0);
}

cases! {
    fn case_39_an_agents_turns_go_to_the_resource_of_the_first(engine) {
        let (azure, gateway) = uneven();
        let gateway = gateway.engine(engine).start();
        gateway.warm_up(&azure);
        azure.backends().iter().for_each(|backend| backend.clear());
        for back in WAYS {
            for stream in [false, true] {
                let mut homes = BTreeSet::new();
                for _ in 0..3 {
                    let mut input = vec![json!({"role": "user", "content": "hi"})];
                    let home = turn(&gateway, back, stream, &mut input);
                    for _ in 0..5 {
                        assert_eq!(turn(&gateway, back, stream, &mut input), home, "{back:?} {stream}");
                    }
                    homes.insert(home);
                }
                assert_eq!(homes.len(), 3, "{back:?}: agents are dealt out: {homes:?}");
            }
        }
        assert_no_tag_went_up(&azure);
    }

    fn case_39_an_item_has_one_id_in_all_events_of_a_stream(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let request = json!({
            "model": "gpt-4o", "input": "hi", "stream": true, "reasoning": {}, "include": ["reasoning.encrypted_content"],
        });
        for (crlf, split_frames) in [(false, false), (false, true), (true, true)] {
            for backend in azure.backends() {
                let stream = simulator::Stream { crlf, split_frames, interval_ms: 0, ..Default::default() };
                backend.set(Behaviour::stream(stream));
            }
            let answer = gateway.call("POST", RESPONSES, &request);
            let items = output(&answer);
            let text = answer.text();
            for item in &items {
                let id = item["id"].as_str().unwrap();
                let (own, _) = id.split_once(".b").unwrap_or_else(|| panic!("{id} has no tag"));
                assert!(text.matches(id).count() > 4, "{id}: {text}");
                assert_eq!(text.matches(own).count(), text.matches(id).count(), "{id}: {text}");
            }
            assert_eq!(items.len(), 2, "{items:?}");
            let content = items[0]["encrypted_content"].as_str().unwrap();
            assert_eq!(text.matches("gAAAAA").count(), text.matches(content).count(), "{text}");
        }
    }

    fn case_39_a_compacted_conversation_stays_where_it_was(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let mut homes = BTreeSet::new();
        for _ in 0..2 {
            let request = json!({"model": "gpt-4o", "input": "hi"});
            let compacted = gateway.call("POST", &format!("{RESPONSES}/compact"), &request);
            for _ in 0..3 {
                let next = json!({"model": "gpt-4o", "store": false, "input": output(&compacted)});
                let answer = gateway.call("POST", RESPONSES, &next);
                output(&answer);
                assert_eq!(backend(&answer), backend(&compacted));
            }
            homes.insert(backend(&compacted));
        }
        assert_eq!(homes.len(), 2);
        assert_no_tag_went_up(&azure);
    }

    fn case_40_a_resource_is_served_by_any_free_backend(engine) {
        let azure = simulate_with(&["ptu", "paygo", "other"], |settings| {
            if let [ptu, paygo, _] = settings.backends.as_mut_slice() {
                paygo.host = ptu.host.clone();
                ptu.deployments = Some(vec!["gpt-4o-ptu".to_owned()]);
                paygo.deployments = Some(vec!["gpt-4o".to_owned()]);
            }
        });
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| {
                p["backends"][0]["deployments"] = json!({"gpt-4o": "gpt-4o-ptu"});
                p["backends"][0]["unlisted_deployments"] = json!("refuse");
                p["backends"][1]["priority"] = json!(1);
                p["backends"][2]["priority"] = json!(2);
            })
            .start();
        let request = json!({"model": "gpt-4o", "input": "hi", "reasoning": {}});
        azure.backend("ptu").set(Behaviour::throttled(30));
        let made = gateway.call("POST", RESPONSES, &request);
        assert_eq!(backend(&made), "paygo", "{}", made.text());
        let mut next = request.clone();
        next["previous_response_id"] = made.json()["id"].clone();
        next["input"] = output(&made).into();
        for _ in 0..2 {
            let answer = gateway.call("POST", RESPONSES, &next);
            assert_eq!((answer.status, backend(&answer)), (200, "paygo".into()), "{}", answer.text());
        }
        let one = format!("{RESPONSES}/{}", made.json()["id"].as_str().unwrap());
        azure.backend("ptu").clear();
        let read = gateway.call("GET", &one, &Value::Null);
        assert_eq!((read.status, backend(&read)), (200, "ptu".into()), "its quota is another one: {}", read.text());
        azure.backends().iter().take(2).for_each(|backend| backend.set(Behaviour::throttled(30)));
        let busy = gateway.call("POST", RESPONSES, &next);
        assert_eq!(busy.status, 429, "never the other resource: {}", busy.text());
        assert_eq!(azure.backend("other").count(), 0);
    }

    fn case_39_items_of_two_resources_are_refused_with_advice(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let mut input = Vec::new();
        for _ in 0..2 {
            let request = json!({"model": "gpt-4o", "input": "hi", "reasoning": {}});
            input.extend(output(&gateway.call("POST", RESPONSES, &request)));
        }
        let before = azure.upstream_calls();
        let refused = gateway.call("POST", RESPONSES, &json!({"model": "gpt-4o", "input": input}));
        assert_eq!(refused.status, 400, "{}", refused.text());
        let error = &refused.json()["error"];
        assert_eq!(error["code"], "objects_on_different_backends");
        assert!(error["message"].to_string().contains("omit items of responses"), "{error}");
        assert_eq!(azure.upstream_calls(), before);
    }
}
