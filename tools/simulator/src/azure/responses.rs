//! The Responses API. Answers are stored on the resource that gave them.

use serde::Deserialize;
use serde_json::{json, Value};

use super::collection::listed;
use super::items::Wishes;
use super::objects::{Kind, Object};
use super::response_events::events;
use super::stores::ITEM;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;
use crate::tokens::now;

static RESPONSE: Kind = Kind::new("response", "resp_", "response").without_deleted_suffix();

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    input: Value,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    background: bool,
    store: Option<bool>,
    previous_response_id: Option<String>,
    conversation: Option<Conversation>,
}

/// A conversation's id, alone or in an object.
#[derive(Deserialize)]
#[serde(untagged)]
enum Conversation {
    Id(String),
    Object { id: String },
}

impl Conversation {
    fn id(&self) -> &str {
        match self {
            Self::Id(id) | Self::Object { id } => id,
        }
    }
}

impl Resource {
    pub(super) fn responses(
        &self,
        call: &Call<'_>,
        rest: &[&str],
        pieces: u32,
    ) -> Result<Reply, Failure> {
        let wants_events = || call.query("stream").is_some_and(|stream| stream == "true");
        match (call.method.as_str(), rest) {
            ("POST", []) => self.respond(call, pieces),
            ("POST", ["compact"]) => self.compact(call),
            ("GET", [id]) => {
                let response = self.change(&RESPONSE, id, |response| {
                    if response["status"] == "queued" {
                        self.complete_response(response, &Wishes::default(), &self.greeting(), 4);
                    }
                })?;
                Ok(match wants_events() {
                    true => Reply::Events(events(&response, &[self.greeting()])),
                    false => Reply::json(&response),
                })
            }
            ("POST", [id, "cancel"]) => self.cancel_response(id),
            ("GET", [id, "input_items"]) => {
                self.is_here(&RESPONSE, id)?;
                listed(call, self.objects.list(&ITEM, Some(id)))
            }
            ("DELETE", [id]) => self.delete(&RESPONSE, id),
            _ => Err(errors::resource_not_found()),
        }
    }

    fn cancel_response(&self, id: &str) -> Result<Reply, Failure> {
        let mut refusal = None;
        let response = self.change(&RESPONSE, id, |response| {
            match (response["background"] == true, response["status"].as_str()) {
                (true, Some("queued" | "cancelled")) => response["status"] = json!("cancelled"),
                (true, _) => refusal = Some("Cannot cancel a completed response."),
                (false, _) => refusal = Some("Cannot cancel a synchronous response."),
            }
        })?;
        match refusal {
            Some(message) => Err(errors::bad_request(message)),
            None => Ok(Reply::json(&response)),
        }
    }

    fn respond(&self, call: &Call<'_>, pieces: u32) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        let model = self.deployment(request.model.as_deref())?;
        let fields = call.fields()?;
        self.check_references(&fields)?;
        self.check_items(fields.get("input"))?;
        let wishes = Wishes::of(&fields);
        let id = self.id(RESPONSE.prefix);
        let conversation = request.conversation.as_ref().map(Conversation::id);
        let mut response = json!({
            "id": id,
            "object": RESPONSE.object,
            "created_at": now(),
            "status": "queued",
            "background": request.background,
            "conversation": conversation.map(|id| json!({ "id": id })),
            "error": null,
            "incomplete_details": null,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "model": model,
            "output": [],
            "parallel_tool_calls": true,
            "previous_response_id": request.previous_response_id,
            "store": request.store.unwrap_or(true),
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": { "input_tokens": call.body.len() / 4, "input_tokens_details": { "cached_tokens": call.body.len() / 8 } },
        });
        let text: Vec<String> = match request.stream {
            true => self.text_pieces(pieces).collect(),
            false => vec![self.greeting()],
        };
        let tokens = if request.stream { pieces } else { 4 };
        if !request.background || request.stream {
            self.complete_response(&mut response, &wishes, &text.concat(), tokens);
        }
        if request.store != Some(false) {
            let object = Object {
                kind: &RESPONSE,
                parent: None,
                value: response.clone(),
                content: Default::default(),
            };
            self.objects.insert(&id, object);
            self.keep_items(&id, &request.input);
            self.keep_output(response["output"].as_array().map_or(&[], Vec::as_slice));
        }
        if let Some(conversation) = conversation {
            self.keep_items(conversation, &request.input);
        }
        Ok(match request.stream {
            true => Reply::Events(events(&response, &text)),
            false => Reply::json(&response),
        })
    }

    /// A compacted conversation, which only this resource can read.
    fn compact(&self, call: &Call<'_>) -> Result<Reply, Failure> {
        let fields = call.fields()?;
        self.check_references(&fields)?;
        self.check_items(fields.get("input"))?;
        Ok(Reply::json(&json!({
            "id": self.id(RESPONSE.prefix),
            "object": "response.compaction",
            "created_at": now(),
            "output": [self.compaction()],
            "usage": { "input_tokens": 1, "output_tokens": 1, "total_tokens": 2 },
        })))
    }

    fn complete_response(&self, response: &mut Value, wishes: &Wishes, text: &str, tokens: u32) {
        response["status"] = json!("completed");
        response["output"] = self.output(wishes, text).into();
        let usage = &mut response["usage"];
        let prompt = usage["input_tokens"].as_u64().unwrap_or_default();
        usage["output_tokens"] = json!(tokens);
        usage["output_tokens_details"] = json!({ "reasoning_tokens": 1 });
        usage["total_tokens"] = json!(prompt + u64::from(tokens));
    }
}
