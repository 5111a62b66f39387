//! The Responses API: answers that are stored on the resource that gave them.

use serde::Deserialize;
use serde_json::{json, Value};

use super::{errors, Call, Event, Reply, Resource};
use crate::behaviour::Failure;
use crate::tokens::now;

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    stream: bool,
    store: Option<bool>,
    previous_response_id: Option<String>,
}

impl Resource {
    pub(super) fn responses(
        &self,
        call: &Call<'_>,
        rest: &[&str],
        events: u32,
    ) -> Result<Reply, Failure> {
        let missing = |id: &str| errors::object_not_found("response", id);
        match (call.method.as_str(), rest) {
            ("POST", []) => self.respond(call, events),
            ("GET", [id]) | ("POST", [id, "cancel"]) => self
                .objects
                .lock()
                .get(*id)
                .map(Reply::json)
                .ok_or_else(|| missing(id)),
            ("GET", [id, "input_items"]) => {
                if !self.objects.lock().contains_key(*id) {
                    return Err(missing(id));
                }
                Ok(Reply::json(
                    &json!({ "object": "list", "data": [], "has_more": false }),
                ))
            }
            ("DELETE", [id]) => {
                self.objects.lock().remove(*id).ok_or_else(|| missing(id))?;
                Ok(Reply::json(
                    &json!({ "id": id, "object": "response", "deleted": true }),
                ))
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    fn respond(&self, call: &Call<'_>, pieces: u32) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        let model = self.model(None, request.model.as_deref())?;
        if let Some(previous) = &request.previous_response_id {
            if !self.objects.lock().contains_key(previous) {
                return Err(errors::previous_response_not_found(previous));
            }
        }
        let id = self.id("resp_");
        let text = self.greeting() + &" naïve".repeat(pieces.saturating_sub(1) as usize);
        let text = if request.stream {
            text
        } else {
            self.greeting()
        };
        let prompt = call.body.len() as u64 / 4;
        let completion = if request.stream { u64::from(pieces) } else { 4 };
        let item = json!({
            "id": self.id("msg_"),
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }],
        });
        let response = json!({
            "id": id,
            "object": "response",
            "created_at": now(),
            "status": "completed",
            "background": false,
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": model,
            "output": [item],
            "parallel_tool_calls": true,
            "previous_response_id": request.previous_response_id,
            "store": request.store.unwrap_or(true),
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": {
                "input_tokens": prompt,
                "input_tokens_details": { "cached_tokens": 0 },
                "output_tokens": completion,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": prompt + completion,
            },
        });
        if request.store != Some(false) {
            self.objects.lock().insert(id, response.clone());
        }
        if request.stream {
            return Ok(Reply::Events(
                self.response_events(&response, &item, pieces),
            ));
        }
        Ok(Reply::json(&response))
    }

    fn response_events(&self, response: &Value, item: &Value, pieces: u32) -> Vec<Event> {
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
        for index in 0..pieces {
            let delta = if index == 0 {
                self.greeting()
            } else {
                " naïve".to_owned()
            };
            events.push(
                "response.output_text.delta",
                with(&at, "delta", json!(delta)),
            );
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
        self.0.push(Event::named(name, &data));
    }
}
