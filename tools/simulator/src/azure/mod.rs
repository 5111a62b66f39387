//! The API of an Azure OpenAI resource: which path is what, and the answers' shapes.

mod audio;
mod chat;
mod embeddings;
pub(crate) mod errors;
mod files;
mod objects;
mod responses;

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, Uri};
use serde::de::DeserializeOwned;
use serde_json::{json, Value};

use crate::behaviour::{Failure, Stream};

/// A request, read and let in.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    pub(crate) body: Bytes,
}

impl<'a> Call<'a> {
    pub(crate) fn new(head: &'a Parts, body: Bytes) -> Self {
        Self {
            method: &head.method,
            uri: &head.uri,
            body,
        }
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            errors::bad_request(&format!(
                "We could not parse the JSON body of your request: {error}"
            ))
        })
    }
}

/// What a request is answered with.
pub(crate) enum Reply {
    /// An error.
    Error(Failure),
    /// A content type and a whole body.
    Whole(&'static str, Bytes),
    /// So many bytes of no meaning.
    Filler(u64),
    /// An event stream.
    Events(Vec<Event>),
}

impl Reply {
    pub(crate) fn json(value: &Value) -> Self {
        Self::Whole("application/json", value.to_string().into())
    }
}

impl From<Result<Reply, Failure>> for Reply {
    fn from(result: Result<Reply, Failure>) -> Self {
        result.unwrap_or_else(Self::Error)
    }
}

/// One event of a stream.
pub(crate) struct Event {
    name: Option<&'static str>,
    data: String,
}

impl Event {
    fn data(data: impl ToString) -> Self {
        Self {
            name: None,
            data: data.to_string(),
        }
    }

    fn named(name: &'static str, data: &Value) -> Self {
        Self {
            name: Some(name),
            data: data.to_string(),
        }
    }

    fn done() -> Self {
        Self::data("[DONE]")
    }

    /// The event as it stands on the wire.
    pub(crate) fn frame(&self, pace: &Stream) -> Bytes {
        let end = if pace.crlf { "\r\n" } else { "\n" };
        let data = &self.data;
        if pace.bare && data == "[DONE]" {
            return Bytes::from_static(b"[DONE]");
        }
        match self.name {
            Some(name) => format!("event: {name}{end}data: {data}{end}{end}").into(),
            None => format!("data: {data}{end}{end}").into(),
        }
    }
}

/// One value of a query, percent-decoded.
pub(crate) fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query()?.split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(decoded(value))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = hex
            .filter(|_| *first == b'%')
            .and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The state of one resource.
pub(crate) struct Resource {
    name: String,
    deployments: Option<Vec<String>>,
    objects: objects::Objects,
    files: files::Files,
    next_id: AtomicU64,
}

impl Resource {
    pub(crate) fn new(name: &str, deployments: Option<Vec<String>>) -> Self {
        Self {
            name: name.to_owned(),
            deployments,
            objects: objects::Objects::default(),
            files: files::Files::default(),
            next_id: AtomicU64::new(1),
        }
    }

    /// The answer to a call; `events` is the number of text pieces a stream has.
    pub(crate) fn reply(&self, call: &Call<'_>, events: u32) -> Reply {
        self.route(call, events).into()
    }

    fn route(&self, call: &Call<'_>, events: u32) -> Result<Reply, Failure> {
        let path = call.uri.path();
        let rest = path
            .strip_prefix("/openai/")
            .ok_or_else(errors::resource_not_found)?;
        if let Some(operation) = rest.strip_prefix("v1/") {
            return match operation.split('/').next() {
                Some("chat" | "completions" | "embeddings" | "images" | "audio") => {
                    self.infer(call, operation, None, events)
                }
                _ => self.stateful(call, operation, events),
            };
        }
        if query(call.uri, "api-version").is_none_or(|version| version.is_empty()) {
            return Err(errors::resource_not_found());
        }
        match rest.strip_prefix("deployments/") {
            Some(rest) => {
                let (deployment, operation) = rest
                    .split_once('/')
                    .ok_or_else(errors::resource_not_found)?;
                self.infer(call, operation, Some(&decoded(deployment)), events)
            }
            None => self.stateful(call, rest, events),
        }
    }

    fn infer(
        &self,
        call: &Call<'_>,
        operation: &str,
        deployment: Option<&str>,
        events: u32,
    ) -> Result<Reply, Failure> {
        if call.method != Method::POST {
            return Err(errors::resource_not_found());
        }
        match operation {
            "chat/completions" => self.chat(call, deployment, events),
            "completions" => self.completions(call, deployment, events),
            "embeddings" => self.embeddings(call, deployment),
            "images/generations" | "images/edits" => {
                self.known(deployment).map(|()| self.images(call))
            }
            "audio/transcriptions" | "audio/translations" => {
                self.known(deployment).map(|()| self.transcription(call))
            }
            "audio/speech" => self.known(deployment).map(|()| self.speech()),
            _ => Err(errors::resource_not_found()),
        }
    }

    fn stateful(&self, call: &Call<'_>, operation: &str, events: u32) -> Result<Reply, Failure> {
        let segments: Vec<&str> = operation.split('/').collect();
        match segments.as_slice() {
            ["models", rest @ ..] => self.models(call, rest),
            ["responses", rest @ ..] => self.responses(call, rest, events),
            ["files", rest @ ..] => self.files(call, rest),
            ["fine_tuning", "jobs", rest @ ..] => {
                self.objects(call, "fine_tuning.job", "ftjob_", rest)
            }
            ["batches", rest @ ..] => self.objects(call, "batch", "batch_", rest),
            ["assistants", rest @ ..] => self.objects(call, "assistant", "asst_", rest),
            ["threads", rest @ ..] => self.objects(call, "thread", "thread_", rest),
            ["vector_stores", rest @ ..] => self.objects(call, "vector_store", "vs_", rest),
            _ => Err(errors::resource_not_found()),
        }
    }

    fn models(&self, call: &Call<'_>, rest: &[&str]) -> Result<Reply, Failure> {
        let model = |id: &str| json!({ "id": id, "object": "model", "status": "succeeded", "created_at": 1_700_000_000 });
        match (call.method, rest) {
            (&Method::GET, []) => {
                let names = self
                    .deployments
                    .clone()
                    .unwrap_or_else(|| vec!["gpt-4o".to_owned()]);
                let data: Vec<_> = names.iter().map(|name| model(name)).collect();
                Ok(Reply::json(&json!({ "object": "list", "data": data })))
            }
            (&Method::GET, [id]) => {
                self.known(Some(id))?;
                Ok(Reply::json(&model(id)))
            }
            _ => Err(errors::resource_not_found()),
        }
    }

    /// What a realtime session begins by saying, if this resource has the deployment asked for.
    pub(crate) fn session(&self, uri: &Uri) -> Result<Value, Failure> {
        let dated = uri.path() == "/openai/realtime";
        if dated && query(uri, "api-version").is_none() {
            return Err(errors::resource_not_found());
        }
        let asked = query(uri, if dated { "deployment" } else { "model" });
        let model = self.model(asked.as_deref(), None)?;
        Ok(json!({
            "type": "session.created",
            "event_id": self.id("event_"),
            "session": { "id": self.id("sess_"), "object": "realtime.session", "model": model },
        }))
    }

    /// Refuses a deployment this resource does not have.
    fn known(&self, deployment: Option<&str>) -> Result<(), Failure> {
        match (&self.deployments, deployment) {
            (Some(known), Some(asked)) if !known.iter().any(|name| name == asked) => {
                Err(errors::deployment_not_found())
            }
            _ => Ok(()),
        }
    }

    /// An id no other object of this resource has; it names the resource, to make tests readable.
    fn id(&self, prefix: &str) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{}{number:012x}", self.name)
    }
}
