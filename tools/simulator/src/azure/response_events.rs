//! A response as a stream of events.

use serde_json::{json, Value};

use super::reply::Event;

/// The events of a response with its text in these pieces.
pub(super) fn events(response: &Value, text: &[String]) -> Vec<Event> {
    let mut begun = response.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;

    let mut events = Events::default();
    events.push("response.created", json!({ "response": begun }));
    events.push("response.in_progress", json!({ "response": begun }));
    let items = response["output"].as_array();
    for (index, item) in items.into_iter().flatten().enumerate() {
        let mut begun = item.clone();
        begun["status"] = json!("in_progress");
        if item["type"] == "message" {
            begun["content"] = json!([]);
        }
        let added = json!({ "output_index": index, "item": begun });
        events.push("response.output_item.added", added);
        let at = json!({ "item_id": item["id"], "output_index": index });
        match item["type"].as_str() {
            Some("message") => events.message(item, &at, text),
            Some("reasoning") => {
                let at = with(&at, "summary_index", json!(0));
                let summary = item["summary"][0]["text"].clone();
                let delta = with(&at, "delta", summary.clone());
                events.push("response.reasoning_summary_text.delta", delta);
                let done = with(&at, "text", summary);
                events.push("response.reasoning_summary_text.done", done);
            }
            _ => {
                let arguments = &item["arguments"];
                let delta = with(&at, "delta", arguments.clone());
                events.push("response.function_call_arguments.delta", delta);
                let done = with(&at, "arguments", arguments.clone());
                events.push("response.function_call_arguments.done", done);
            }
        }
        let done = json!({ "output_index": index, "item": item });
        events.push("response.output_item.done", done);
    }
    events.push("response.completed", json!({ "response": response }));
    events.0
}

fn with(fields: &Value, name: &str, value: Value) -> Value {
    let mut fields = fields.clone();
    fields[name] = value;
    fields
}

/// Numbers the events of a stream.
#[derive(Default)]
struct Events(Vec<Event>);

impl Events {
    fn message(&mut self, item: &Value, at: &Value, text: &[String]) {
        let at = with(at, "content_index", json!(0));
        let part = &item["content"][0];
        let mut empty_part = part.clone();
        empty_part["text"] = json!("");
        self.push("response.content_part.added", with(&at, "part", empty_part));
        for piece in text {
            let delta = with(&at, "delta", json!(piece));
            self.push("response.output_text.delta", delta);
        }
        let done = with(&at, "text", part["text"].clone());
        self.push("response.output_text.done", done);
        let done = with(&at, "part", part.clone());
        self.push("response.content_part.done", done);
    }

    fn push(&mut self, name: &'static str, mut data: Value) {
        data["type"] = json!(name);
        data["sequence_number"] = json!(self.0.len());
        self.0.push(Event::named(name, data));
    }
}
