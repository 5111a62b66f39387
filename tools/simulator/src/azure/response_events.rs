//! A response as a stream of events.

use serde_json::{json, Value};

use super::reply::Event;

/// The events of a response whose text comes in these pieces.
pub(super) fn events(response: &Value, text: &[String]) -> Vec<Event> {
    let item = &response["output"][0];
    let mut begun = response.clone();
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let mut begun_item = item.clone();
    begun_item["status"] = json!("in_progress");
    begun_item["content"] = json!([]);
    let part = &item["content"][0];
    let mut empty_part = part.clone();
    empty_part["text"] = json!("");
    let at = json!({ "item_id": item["id"], "output_index": 0, "content_index": 0 });

    let mut events = Events::default();
    events.push("response.created", json!({ "response": begun }));
    events.push("response.in_progress", json!({ "response": begun }));
    events.push(
        "response.output_item.added",
        json!({ "output_index": 0, "item": begun_item }),
    );
    events.push("response.content_part.added", with(&at, "part", empty_part));
    for piece in text {
        let delta = with(&at, "delta", json!(piece));
        events.push("response.output_text.delta", delta);
    }
    events.push(
        "response.output_text.done",
        with(&at, "text", part["text"].clone()),
    );
    events.push(
        "response.content_part.done",
        with(&at, "part", part.clone()),
    );
    events.push(
        "response.output_item.done",
        json!({ "output_index": 0, "item": item }),
    );
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
    fn push(&mut self, name: &'static str, mut data: Value) {
        data["type"] = json!(name);
        data["sequence_number"] = json!(self.0.len());
        self.0.push(Event::named(name, data));
    }
}
