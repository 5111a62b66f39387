//! Chat completions and the older completions, whole and streamed.

use std::ops::Range;

use serde::Deserialize;
use serde_json::{json, Value};

use super::reply::Event;
use super::{errors, Call, Reply, Resource};
use crate::behaviour::Failure;
use crate::settings::ContentFilter;
use crate::tokens::now;

/// A streamed word. Its letters outside ASCII can be split between frames.
const WORD: &str = " naïve";
/// The content filter's result for harmless text.
const SAFE: &str = concat!(
    r#"{"hate":{"filtered":false,"severity":"safe"},"self_harm":{"filtered":false,"severity":"safe"},"#,
    r#""sexual":{"filtered":false,"severity":"safe"},"violence":{"filtered":false,"severity":"safe"}}"#,
);

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
    data_sources: Option<Value>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl Request {
    fn wants_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }
}

impl Resource {
    pub(super) fn chat(&self, call: &Call<'_>, events: u32) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        let model = self.model(call, request.model.as_deref())?;
        if request.stream_options.is_some() {
            if is_mistral(model) {
                return Err(errors::extra_input("stream_options"));
            }
            if request.data_sources.is_some() || !knows_stream_options(call) {
                return Err(errors::bad_request(
                    "Validation error at #/stream_options: Extra inputs are not permitted",
                ));
            }
        }
        let id = self.id("chatcmpl-");
        if request.stream {
            return Ok(Reply::Events(
                self.chat_events(call, &request, &id, model, events),
            ));
        }
        Ok(self.chat_answer(call, &id, model))
    }

    /// A format string and not a built value, for speed: benchmarks request nothing else.
    fn chat_answer(&self, call: &Call<'_>, id: &str, model: &str) -> Reply {
        let (id, model) = (json!(id), json!(model));
        let content = Value::from(self.greeting());
        let prompt = prompt_tokens(call);
        let body = format!(
            concat!(
                r#"{{"id":{id},"object":"chat.completion","created":{created},"model":{model},"#,
                r#""choices":[{{"index":0,"message":{{"role":"assistant","content":{content},"refusal":null,"#,
                r#""annotations":[]}},"finish_reason":"stop","logprobs":null,"#,
                r#""content_filter_results":{safe}}}],"prompt_filter_results":[{{"prompt_index":0,"#,
                r#""content_filter_results":{safe}}}],"usage":{{"prompt_tokens":{prompt},"completion_tokens":4,"#,
                r#""total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached},"audio_tokens":0}},"#,
                r#""completion_tokens_details":{{"reasoning_tokens":1,"audio_tokens":0,"#,
                r#""accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}},"#,
                r#""system_fingerprint":"fp_simulated"}}"#,
            ),
            id = id,
            created = now(),
            model = model,
            content = content,
            safe = SAFE,
            prompt = prompt,
            cached = prompt / 2,
            total = prompt + 4,
        );
        Reply::Whole("application/json", body.into())
    }

    fn chat_events(
        &self,
        call: &Call<'_>,
        request: &Request,
        id: &str,
        model: &str,
        pieces: u32,
    ) -> Vec<Event> {
        let created = now();
        let chunk = |choices: Value, usage: Value| {
            let mut chunk = json!({
                "id": id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": model,
                "system_fingerprint": "fp_simulated",
                "choices": choices,
            });
            if request.wants_usage() {
                chunk["usage"] = usage;
            }
            chunk
        };
        let choice = |delta: Value, finish: Value| {
            json!([{
                "index": 0,
                "delta": delta,
                "finish_reason": finish,
                "logprobs": null,
                "content_filter_results": if finish.is_null() { filter_results() } else { json!({}) },
            }])
        };
        // Events that only report the content filter's results name no chat.
        let nameless = |mut chunk: Value| {
            for (key, empty) in [
                ("id", json!("")),
                ("object", json!("")),
                ("created", json!(0)),
                ("model", json!("")),
            ] {
                chunk[key] = empty;
            }
            chunk
        };
        let mut first = nameless(chunk(json!([]), Value::Null));
        first["prompt_filter_results"] =
            json!([{ "prompt_index": 0, "content_filter_results": filter_results() }]);
        let mut events = vec![Event::data(first)];
        let role = json!({ "role": "assistant", "content": "", "refusal": null });
        events.push(Event::data(chunk(choice(role, Value::Null), Value::Null)));
        // All pieces after the first are equal.
        let greeting = chunk(
            choice(json!({ "content": self.greeting() }), Value::Null),
            Value::Null,
        )
        .to_string();
        let word = chunk(choice(json!({ "content": WORD }), Value::Null), Value::Null).to_string();
        events.extend(
            (0..pieces).map(|index| Event::data(if index == 0 { &greeting } else { &word })),
        );
        events.push(Event::data(chunk(
            choice(json!({}), json!("stop")),
            Value::Null,
        )));
        if request.wants_usage() {
            events.push(Event::data(chunk(json!([]), usage(call, pieces))));
        }
        if self.content_filter == ContentFilter::Asynchronous {
            let middle = pieces / 2;
            for part in [0..middle, middle..pieces] {
                let annotation = chunk(annotation(part), Value::Null);
                events.push(Event::data(nameless(annotation)));
            }
        }
        events.push(Event::done());
        events
    }

    pub(super) fn completions(&self, call: &Call<'_>, events: u32) -> Result<Reply, Failure> {
        let request: Request = call.json()?;
        let model = self.model(call, request.model.as_deref())?;
        let id = self.id("cmpl-");
        let part = |text: &str, finish: Value| {
            json!({
                "id": id,
                "object": "text_completion",
                "created": now(),
                "model": model,
                "choices": [{ "text": text, "index": 0, "finish_reason": finish, "logprobs": null }],
            })
        };
        if request.stream {
            let mut parts = vec![Event::data(part(&self.greeting(), Value::Null))];
            parts.extend((1..events).map(|_| Event::data(part(WORD, Value::Null))));
            parts.push(Event::data(part("", json!("stop"))));
            parts.push(Event::done());
            return Ok(Reply::Events(parts));
        }
        let mut whole = part(&self.greeting(), json!("stop"));
        whole["usage"] = usage(call, 4);
        Ok(Reply::json(&whole))
    }

    /// The deployment in the path, or else the model in the body. Fails if this resource does not have it.
    pub(super) fn model<'m>(
        &self,
        call: &'m Call<'_>,
        model: Option<&'m str>,
    ) -> Result<&'m str, Failure> {
        self.deployment(call.deployment.as_deref().or(model))
    }

    /// The requested deployment, or `gpt-4o` without one. Fails if this resource does not have it.
    pub(super) fn deployment<'m>(&self, asked: Option<&'m str>) -> Result<&'m str, Failure> {
        self.known(asked)?;
        Ok(asked.unwrap_or("gpt-4o"))
    }

    pub(super) fn greeting(&self) -> String {
        format!("Hello from {}", self.name)
    }

    /// The text of a stream in this many pieces.
    pub(super) fn text_pieces(&self, pieces: u32) -> impl Iterator<Item = String> {
        let first = self.greeting();
        (0..pieces).map(move |index| match index {
            0 => first.clone(),
            _ => WORD.to_owned(),
        })
    }
}

/// Whether this is one of Mistral's models, for which Foundry validates requests like Mistral's own servers.
fn is_mistral(model: &str) -> bool {
    model.to_ascii_lowercase().starts_with("mistral")
}

/// Whether the version of the API knows `stream_options`. The v1 API does.
fn knows_stream_options(call: &Call<'_>) -> bool {
    let version = call.query("api-version");
    version.is_none_or(|version| !version.starts_with("20") || version.as_str() >= "2024-09-01")
}

/// A count that follows from the request alone: a quarter of its length.
fn prompt_tokens(call: &Call<'_>) -> u64 {
    call.body.len() as u64 / 4
}

fn usage(call: &Call<'_>, completion: u32) -> Value {
    let prompt = prompt_tokens(call);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + u64::from(completion),
        "prompt_tokens_details": { "cached_tokens": prompt / 2, "audio_tokens": 0 },
        "completion_tokens_details": {
            "reasoning_tokens": 1,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

fn filter_results() -> Value {
    let safe = json!({ "filtered": false, "severity": "safe" });
    json!({ "hate": safe, "self_harm": safe, "sexual": safe, "violence": safe })
}

/// The result of the asynchronous content filter for these pieces of a stream's text.
fn annotation(pieces: Range<u32>) -> Value {
    let [start, end] = [pieces.start, pieces.end].map(|piece| u64::from(piece) * WORD.len() as u64);
    json!([{
        "index": 0,
        "finish_reason": null,
        "content_filter_results": filter_results(),
        "content_filter_offsets": { "check_offset": end, "start_offset": start, "end_offset": end },
    }])
}
