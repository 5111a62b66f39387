//! The items of responses. A later request can refer to an item on the item's own resource only.

use bytes::Bytes;
use serde_json::{json, Map, Value};

use super::objects::{Kind, Object};
use super::{errors, Resource};
use crate::behaviour::Failure;

/// An item of a stored response.
static OUTPUT: Kind = Kind::new("output_item", "", "item");

/// The parts of a request that decide the items of its response.
#[derive(Default)]
pub(super) struct Wishes {
    /// The request asks for reasoning.
    reasoning: bool,
    /// The client wants encrypted reasoning, to send it back itself.
    encrypted: bool,
    /// The function to be called: the first one, until its output is there.
    function: Option<String>,
}

impl Wishes {
    pub(super) fn of(request: &Map<String, Value>) -> Self {
        let contains = |field: &str, item: &str| {
            let items = request.get(field).and_then(Value::as_array);
            items.is_some_and(|items| items.iter().any(|known| known == item))
        };
        let tools = request.get("tools").and_then(Value::as_array);
        let mut tools = tools.into_iter().flatten();
        let function = tools.find(|tool| tool["type"] == "function");
        let input = request.get("input").and_then(Value::as_array);
        let last = input.and_then(|items| items.last());
        let is_answered = last.is_some_and(|item| item["type"] == "function_call_output");
        Self {
            reasoning: request.get("reasoning").is_some_and(Value::is_object),
            encrypted: contains("include", "reasoning.encrypted_content"),
            function: function
                .and_then(|tool| tool["name"].as_str())
                .filter(|_| !is_answered)
                .map(ToOwned::to_owned),
        }
    }
}

impl Resource {
    /// The items of a response with the text `text`.
    pub(super) fn output(&self, wishes: &Wishes, text: &str) -> Vec<Value> {
        let reasoning = wishes.reasoning.then(|| {
            let mut item = json!({
                "id": self.id("rs_"),
                "type": "reasoning",
                "summary": [{ "type": "summary_text", "text": "I thought about it." }],
            });
            if wishes.encrypted {
                item["encrypted_content"] = json!(self.encrypted());
            }
            item
        });
        let last = match &wishes.function {
            Some(name) => json!({
                "id": self.id("fc_"),
                "type": "function_call",
                "status": "completed",
                "call_id": self.id("call_"),
                "name": name,
                "arguments": "{\"id\":\"rs_1\"}",
            }),
            None => json!({
                "id": self.id("msg_"),
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [{ "type": "output_text", "text": text, "annotations": [], "logprobs": [] }],
            }),
        };
        reasoning.into_iter().chain([last]).collect()
    }

    /// An item that replaces the whole conversation before it.
    pub(super) fn compaction(&self) -> Value {
        json!({ "id": self.id("cmp_"), "type": "compaction", "encrypted_content": self.encrypted() })
    }

    /// Keeps the items of a stored response.
    pub(super) fn keep_output(&self, output: &[Value]) {
        for item in output {
            let object = Object {
                kind: &OUTPUT,
                parent: None,
                value: item.clone(),
                content: Bytes::new(),
            };
            self.objects
                .insert(item["id"].as_str().unwrap_or_default(), object);
        }
    }

    /// Content that only this resource can read.
    fn encrypted(&self) -> String {
        self.id(&self.encryption()) + "-_=="
    }

    fn encryption(&self) -> String {
        format!("gAAAAA{}_", self.objects.owner)
    }

    /// Refuses items of other resources.
    pub(super) fn check_items(&self, input: Option<&Value>) -> Result<(), Failure> {
        let items = input.and_then(Value::as_array);
        for (at, item) in items.into_iter().flatten().enumerate() {
            let id = item["id"].as_str();
            if let Some(id) = id {
                let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
                if !id.bytes().all(is_plain) {
                    return Err(errors::invalid_item_id(at, id));
                }
            }
            let encrypted = item["encrypted_content"].as_str();
            if let Some(content) = encrypted {
                let is_own = content.starts_with(&self.encryption()) && content.ends_with("-_==");
                if !is_own {
                    return Err(errors::invalid_encrypted_content(id));
                }
            }
            // Reasoning without its content must be stored here. Other items are accepted unseen.
            let is_looked_for = match item["type"].as_str() {
                Some("item_reference") => true,
                Some("reasoning") => encrypted.is_none(),
                _ => false,
            };
            match id {
                Some(id) if is_looked_for && !self.objects.has(id) => {
                    return Err(errors::item_not_found(id));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
