//! Anthropic's Messages API, as Foundry offers it for Claude.

use hyper::Method;
use serde::Deserialize;
use serde_json::json;

use super::reply::Event;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    stream: bool,
}

impl Resource {
    pub(super) fn claude(
        &self,
        call: &Call<'_>,
        operation: &str,
        pieces: u32,
    ) -> Result<Reply, Failure> {
        let operation = operation.to_ascii_lowercase();
        let is_count = operation == "messages/count_tokens";
        if call.method != Method::POST || !is_count && operation != "messages" {
            return Err(errors::resource_not_found());
        }
        if !call.headers.contains_key("anthropic-version") {
            return Err(errors::bad_request("anthropic-version: header is required"));
        }
        let request: Request = call.json()?;
        let model = self.deployment(request.model.as_deref())?;
        let tokens = call.body.len() / 4;
        if is_count {
            return Ok(Reply::json(&json!({ "input_tokens": tokens })));
        }
        let mut message = json!({
            "id": self.id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{ "type": "text", "text": self.greeting() }],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": {
                "input_tokens": tokens - tokens / 2,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": tokens / 2,
                "output_tokens": 4,
            },
        });
        if !request.stream {
            return Ok(Reply::json(&message));
        }
        message["content"] = json!([]);
        message["stop_reason"] = json!(null);
        let named = |name: &'static str, mut data: serde_json::Value| {
            data["type"] = json!(name);
            Event::named(name, data)
        };
        let block = json!({ "index": 0, "content_block": { "type": "text", "text": "" } });
        let mut events = vec![
            named("message_start", json!({ "message": message })),
            named("content_block_start", block),
            named("ping", json!({})),
        ];
        events.extend(self.text_pieces(pieces).map(|piece| {
            let delta = json!({ "index": 0, "delta": { "type": "text_delta", "text": piece } });
            named("content_block_delta", delta)
        }));
        let end = json!({
            "delta": { "stop_reason": "end_turn", "stop_sequence": null },
            "usage": { "output_tokens": pieces },
        });
        events.extend([
            named("content_block_stop", json!({ "index": 0 })),
            named("message_delta", end),
            named("message_stop", json!({})),
        ]);
        Ok(Reply::Events(events))
    }
}
