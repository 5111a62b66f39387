//! The API of an Azure OpenAI resource: the operations by path.

mod api;
mod assistants;
mod audio;
mod call;
mod calls;
mod chat;
mod collection;
mod embeddings;
pub(crate) mod errors;
mod evals;
mod files;
mod form;
mod items;
mod jobs;
mod messages;
mod objects;
mod reply;
mod response_events;
mod responses;
mod stores;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use hyper::{Method, Uri};
use serde_json::{json, Value};

pub use api::Api;
pub(crate) use call::{decoded, query, Call};
pub(crate) use form::Form;
pub(crate) use objects::Objects;
pub(crate) use reply::{Event, Reply};

use crate::behaviour::Failure;
use crate::settings::{BackendSettings, ContentFilter};

/// The state of one resource.
pub(crate) struct Resource {
    name: String,
    deployments: Option<Vec<String>>,
    not_enabled: Vec<Api>,
    content_filter: ContentFilter,
    objects: Arc<Objects>,
    next_id: AtomicU64,
}

impl Resource {
    /// A backend with these settings, of the resource with these objects.
    pub(crate) fn new(settings: &BackendSettings, objects: Arc<Objects>) -> Self {
        Self {
            name: settings.name.clone(),
            deployments: settings.deployments.clone(),
            not_enabled: settings.not_enabled.clone(),
            content_filter: settings.content_filter,
            objects,
            next_id: AtomicU64::new(1),
        }
    }

    /// The answer to a request. A stream has `pieces` pieces of text.
    pub(crate) fn reply(&self, call: &Call<'_>, pieces: u32) -> Reply {
        self.route(call, pieces).into()
    }

    fn route(&self, call: &Call<'_>, pieces: u32) -> Result<Reply, Failure> {
        if let Some(operation) = behind("/anthropic/v1/", call.uri.path()) {
            return self.claude(call, operation, pieces);
        }
        let rest = behind("/openai/", call.uri.path()).ok_or_else(errors::resource_not_found)?;
        if let Some(operation) = behind("v1/", rest) {
            let first = operation.split('/').next().map(str::to_ascii_lowercase);
            return match first.as_deref() {
                Some("chat" | "completions" | "embeddings" | "images" | "audio") => {
                    self.infer(call, operation, pieces)
                }
                _ => self.stateful(call, operation, pieces),
            };
        }
        if call
            .query("api-version")
            .is_none_or(|version| version.is_empty())
        {
            return Err(errors::resource_not_found());
        }
        match behind("deployments/", rest) {
            Some(rest) => {
                let (deployment, operation) = rest
                    .split_once('/')
                    .ok_or_else(errors::resource_not_found)?;
                let call = call.of_deployment(decoded(deployment));
                self.infer(&call, operation, pieces)
            }
            None => self.stateful(call, rest, pieces),
        }
    }

    fn infer(&self, call: &Call<'_>, operation: &str, pieces: u32) -> Result<Reply, Failure> {
        if call.method != Method::POST {
            return Err(errors::resource_not_found());
        }
        let operation = operation.to_ascii_lowercase();
        self.offered(&operation)?;
        match operation.as_str() {
            "chat/completions" => self.chat(call, pieces),
            "completions" => self.completions(call, pieces),
            "embeddings" => self.embeddings(call),
            "images/generations" => self.images(call),
            "images/edits" => self.edits(call),
            "audio/transcriptions" | "audio/translations" => self.transcription(call),
            "audio/speech" => self.speech(call),
            _ => Err(errors::resource_not_found()),
        }
    }

    fn stateful(&self, call: &Call<'_>, operation: &str, pieces: u32) -> Result<Reply, Failure> {
        self.offered(operation)?;
        let segments: Vec<&str> = operation.split('/').collect();
        match segments.as_slice() {
            ["models", rest @ ..] => self.models(call, rest),
            ["responses", rest @ ..] => self.responses(call, rest, pieces),
            ["conversations", rest @ ..] => self.conversations(call, rest),
            ["files", rest @ ..] => self.files(call, rest),
            ["uploads", rest @ ..] => self.uploads(call, rest),
            ["vector_stores", rest @ ..] => self.vector_stores(call, rest),
            ["containers", rest @ ..] => self.containers(call, rest),
            ["batches", rest @ ..] => self.batches(call, rest),
            ["fine_tuning", "jobs", rest @ ..] => self.fine_tuning(call, rest),
            ["assistants", rest @ ..] => self.assistants(call, rest),
            ["threads", rest @ ..] => self.threads(call, rest),
            ["realtime", rest @ ..] => self.realtime(call, rest),
            ["live", "sessions", rest @ ..] => self.live_sessions(call, rest),
            ["evals", rest @ ..] => self.evals(call, rest),
            ["skills", rest @ ..] => self.skills(call, rest),
            ["dashboard", "webhook_endpoints", rest @ ..] => self.endpoints(call, rest),
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

    /// The first message of a realtime session. Fails if this resource does not have the deployment.
    pub(crate) fn session(&self, uri: &Uri) -> Result<Value, Failure> {
        self.offered("realtime")?;
        let dated = uri.path() == "/openai/realtime";
        if dated && query(uri, "api-version").is_none() {
            return Err(errors::resource_not_found());
        }
        if let Some(call) = query(uri, "call_id") {
            self.has_call(&call)?;
        }
        let asked = query(uri, if dated { "deployment" } else { "model" });
        let model = self.deployment(asked.as_deref())?;
        Ok(json!({
            "type": "session.created",
            "event_id": self.id("event_"),
            "session": { "id": self.id("sess_"), "object": "realtime.session", "model": model },
        }))
    }

    /// Refuses an API that the resource's region does not offer.
    fn offered(&self, operation: &str) -> Result<(), Failure> {
        match Api::of(operation) {
            Some(api) if self.not_enabled.contains(&api) => Err(errors::not_enabled_in_region()),
            _ => Ok(()),
        }
    }

    /// Refuses a deployment this resource does not have.
    fn known(&self, deployment: Option<&str>) -> Result<(), Failure> {
        match (&self.deployments, deployment) {
            (Some(known), Some(asked))
                if !known.iter().any(|name| name.eq_ignore_ascii_case(asked)) =>
            {
                Err(errors::deployment_not_found())
            }
            _ => Ok(()),
        }
    }

    /// An id that is unique on this resource. It contains the resource's name, to make tests readable.
    fn id(&self, prefix: &str) -> String {
        let number = self.next_id.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{}{number:012x}", self.name)
    }
}

/// The path after `prefix`, whose fixed parts may be in upper or lower case.
fn behind<'p>(prefix: &str, path: &'p str) -> Option<&'p str> {
    let (start, rest) = path.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}
