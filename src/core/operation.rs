//! The operation of a request: its API, the place of its deployment's name, and its use of objects that are on one
//! resource.
//!
//! The paths are those of the [dated API] and of the [v1 API]. Both begin with `/openai`. The dated API names a
//! deployment in the path or, like v1, in the body's `model`. Objects are named in the same places in both.
//!
//! Azure's services use ASP.NET: they ignore the case of a path's fixed parts and of query names. Azure also ignores
//! the case of deployment names. Ids are case-sensitive.
//!
//! [dated API]: https://learn.microsoft.com/azure/ai-foundry/openai/reference
//! [v1 API]: https://learn.microsoft.com/azure/ai-foundry/openai/latest

use alloc::borrow::Cow;
use core::ops::Range;

pub use super::api::Api;
pub use super::surface::{parameters, surface, Path, Surface};
use super::surface::{query_value, ANTHROPIC, ROOT, V1};
use super::text::{percent_decoded, split_once, strip_prefix};
use crate::prelude::*;

/// The place where a request names its deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Deployment {
    /// The request names no deployment.
    #[default]
    Unnamed,
    /// This range of its `:path`, including the query.
    InPath(Range<usize>),
    /// The `model` of its body, if present.
    InBody,
}

/// The use of objects that are on the resource where they were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// None. Any backend may serve the request.
    #[default]
    None,
    /// Makes an object, on the resource of the objects that it is made from.
    Makes,
    /// Makes an object that is used with others of its kind. Objects that are made from nothing share one resource.
    MakesAtHome,
    /// Makes a file. Files share one resource, except those for batches.
    MakesFile,
    /// Makes a response, which is stored if the client asks for it.
    MakesResponse,
    /// Makes a key for a realtime session, which is valid on one resource.
    MakesKey,
    /// Reads, changes or deletes an object in the path.
    Uses,
    /// Lists objects.
    Lists,
    /// Reads the content of an object, which is passed on unchanged.
    Contents,
}

impl State {
    /// Whether the answer names objects.
    pub fn answers_with_objects(self) -> bool {
        !matches!(self, Self::None | Self::Contents)
    }

    /// Whether repeating the operation has no further effect.
    pub fn is_repeatable(self) -> bool {
        !matches!(self, Self::Makes | Self::MakesAtHome | Self::MakesFile)
    }
}

/// The operation of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// The API. `None` for operations that every resource has, and for unknown ones.
    pub api: Option<Api>,
    /// The place of the deployment's name.
    pub deployment: Deployment,
    /// The use of objects.
    pub state: State,
    /// Whether the operation is known. An unknown one is passed on and not retried.
    pub is_known: bool,
}

const DEPLOYMENTS: &str = "deployments/";

/// The name of the deployment in this range of a path.
pub fn deployment_name(path: &str, range: Range<usize>) -> Option<Cow<'_, str>> {
    let name = path.get(range)?;
    Some(match percent_decoded(name) {
        Cow::Borrowed(_) => name.into(),
        // A decoded name that is not text cannot be a deployment's, so it stays encoded.
        Cow::Owned(decoded) => String::from_utf8(decoded).map_or(name.into(), Cow::Owned),
    })
}

impl Operation {
    /// The operation of a request with this method and path. The path [is Azure OpenAI's](surface).
    pub fn read(method: &str, path: &Path<'_>) -> Self {
        let Some(rest) = strip_prefix(path.target, ROOT) else {
            return Self::anthropic(method, path);
        };
        let operation = Self::read_rest(method, path, rest);
        match operation.is_known || !rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => operation,
            false => Self::read_rest(method, path, &rest.to_ascii_lowercase()),
        }
    }

    /// An operation below `/anthropic/`: messages, which store nothing, or an unknown one.
    #[inline(never)]
    fn anthropic(method: &str, path: &Path<'_>) -> Self {
        let rest = strip_prefix(path.target, ANTHROPIC).unwrap_or_default();
        let rest = rest.trim_end_matches('/').to_ascii_lowercase();
        let is_known =
            method == "POST" && matches!(rest.as_str(), "v1/messages" | "v1/messages/count_tokens");
        match is_known {
            true => Self::stateless(Api::Messages),
            false => Self {
                api: Some(Api::Messages),
                ..Self::default()
            },
        }
    }

    /// The operation of a request that also asks for another protocol. The Responses API has a [mode] in which the
    /// messages of a WebSocket make responses.
    ///
    /// [mode]: https://platform.openai.com/docs/guides/websocket-mode
    pub fn of_upgrade(operation: Self) -> Self {
        match (operation.api, operation.state) {
            (Some(Api::Responses), State::Lists) => Self {
                state: State::MakesResponse,
                ..operation
            },
            _ => operation,
        }
    }

    /// An operation on `/openai/{rest}`. The fixed parts of `rest` are in lower case.
    #[inline(never)]
    fn read_rest(method: &str, path: &Path<'_>, rest: &str) -> Self {
        match strip_prefix(rest, DEPLOYMENTS) {
            Some(rest) => Self::on_deployment(rest),
            None => Self::on_resource(method, path, strip_prefix(rest, V1).unwrap_or(rest)),
        }
    }

    /// The operation of `/openai/{rest}` or `/openai/v1/{rest}`.
    #[inline(never)]
    fn on_resource(method: &str, path: &Path<'_>, rest: &str) -> Self {
        let is = |segment: Option<&str>, name: &str| {
            segment.is_some_and(|segment| segment.eq_ignore_ascii_case(name))
        };
        let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
        let (first, second) = (segments.next().unwrap_or_default(), segments.next());
        let last = segments.next_back();
        let post = method == "POST";
        let stateful = |api: Api, creation: State| {
            let state = match second {
                None if post => creation,
                None => State::Lists,
                Some(_) if is(last, "content") => State::Contents,
                Some(_) => State::Uses,
            };
            // Objects that a model makes or runs name a deployment. Trained models name a base model of Azure's.
            let by_model = matches!(api, Api::Responses | Api::Assistants | Api::Videos);
            let deployment = match post && by_model {
                true => Deployment::InBody,
                false => Deployment::Unnamed,
            };
            Self::new(Some(api), deployment, state)
        };
        match first {
            // Stored chats are requested by id.
            "chat" if !post || last.is_some() => {
                Self::new(Some(Api::Chat), Deployment::Unnamed, State::Uses)
            }
            "chat" | "completions" => Self::stateless(Api::Chat),
            "embeddings" => Self::stateless(Api::Embeddings),
            "images" => Self::stateless(Api::Images),
            "audio" => Self::stateless(Api::Audio),
            "responses" if post && is_verb(second) => Self::new(
                Some(Api::Responses),
                Deployment::InBody,
                State::MakesResponse,
            ),
            "responses" => stateful(Api::Responses, State::MakesResponse),
            "conversations" => stateful(Api::Responses, State::Makes),
            "files" | "uploads" => stateful(Api::Files, State::MakesFile),
            "containers" => stateful(Api::Files, State::Makes),
            "vector_stores" => stateful(Api::Files, State::MakesAtHome),
            "batches" => stateful(Api::Batches, State::Makes),
            "videos" if post && is_any(second, &["edits", "extensions", "characters"]) => {
                Self::new(Some(Api::Videos), Deployment::InBody, State::Makes)
            }
            // The collection is `video/generations/jobs`.
            "video" if post && is(last, "jobs") => {
                Self::new(Some(Api::Videos), Deployment::InBody, State::Makes)
            }
            "videos" | "video" => stateful(Api::Videos, State::Makes),
            // The request contains the content to grade.
            "fine_tuning" if is(second, "alpha") => {
                Self::new(Some(Api::FineTuning), Deployment::Unnamed, State::None)
            }
            "evals" | "skills" => Self {
                api: None,
                ..stateful(Api::Files, State::MakesAtHome)
            },
            // The resource with the endpoint announces incoming phone calls.
            "dashboard" | "webhook_endpoints" => {
                let is_collection = match first {
                    "dashboard" => last.is_none(),
                    _ => second.is_none(),
                };
                let state = match (is_collection, post) {
                    (true, true) => State::MakesAtHome,
                    (true, false) => State::Lists,
                    (false, _) => State::Uses,
                };
                Self::new(None, Deployment::Unnamed, state)
            }
            "live" => {
                let state = match last {
                    None if post => State::Makes,
                    None => State::Lists,
                    Some(_) => State::Uses,
                };
                Self::new(Some(Api::Realtime), Deployment::Unnamed, state)
            }
            // The collection is `fine_tuning/jobs`.
            "fine_tuning" if last.is_none() && is(second, "jobs") => {
                let state = if post { State::Makes } else { State::Lists };
                Self::new(Some(Api::FineTuning), Deployment::Unnamed, state)
            }
            "fine_tuning" => stateful(Api::FineTuning, State::Makes),
            "assistants" => stateful(Api::Assistants, State::MakesAtHome),
            // One request can create a thread and run it.
            "threads" if post && is(second, "runs") => Self::new(
                Some(Api::Assistants),
                Deployment::InBody,
                State::MakesAtHome,
            ),
            "threads" => stateful(Api::Assistants, State::MakesAtHome),
            "realtime" | "realtimeapi" => {
                let second = match is(second, "translations") {
                    true => rest.split('/').filter(|segment| !segment.is_empty()).nth(2),
                    false => second,
                };
                let is_call = is(second, "calls");
                let names_call = last.is_some_and(|last| !is(Some(last), "calls"));
                Self::realtime(path.text, second, is_call.then_some(names_call))
            }
            "models" => Self::new(None, Deployment::Unnamed, State::None),
            _ => Self::default(),
        }
    }

    fn new(api: Option<Api>, deployment: Deployment, state: State) -> Self {
        Self {
            api,
            deployment,
            state,
            is_known: true,
        }
    }

    fn stateless(api: Api) -> Self {
        Self::new(Some(api), Deployment::InBody, State::None)
    }

    /// The operation of `/openai/deployments/{rest}`.
    fn on_deployment(rest: &str) -> Self {
        let (name, operation) = split_once(rest, b'/').unwrap_or((rest, ""));
        let start = ROOT.len().saturating_add(DEPLOYMENTS.len());
        let deployment = match name.is_empty() {
            true => Deployment::Unnamed,
            false => Deployment::InPath(start..start.saturating_add(name.len())),
        };
        let first = split_once(operation, b'/').map_or(operation, |(first, _)| first);
        let api = match first {
            // `extensions/chat/completions` is a chat over the client's own data in versions before 2024.
            "chat" | "completions" | "extensions" => Api::Chat,
            "embeddings" => Api::Embeddings,
            "images" => Api::Images,
            "audio" => Api::Audio,
            _ => {
                return Self {
                    deployment,
                    ..Self::default()
                }
            }
        };
        Self::new(Some(api), deployment, State::None)
    }

    /// A realtime operation. A WebSocket names its deployment in the query as `deployment` (dated API) or `model` (v1),
    /// or joins a call. `call` is whether a request for calls names one.
    fn realtime(path: &str, second: Option<&str>, call: Option<bool>) -> Self {
        let named = query_value(path, "deployment").or_else(|| query_value(path, "model"));
        let deployment = match named {
            Some(range) => Deployment::InPath(range),
            // A request for a session's key names the deployment in the body.
            None if second.is_some() && call.is_none() => Deployment::InBody,
            None => Deployment::Unnamed,
        };
        let state = match call {
            Some(false) => State::Makes,
            Some(true) => State::Uses,
            None if query_value(path, "call_id").is_some() => State::Uses,
            None if second.is_some() => State::MakesKey,
            None => State::None,
        };
        Self::new(Some(Api::Realtime), deployment, state)
    }

    /// Whether `location` names the created object. This is true for calls, whose answer is not JSON.
    pub fn answers_with_location(&self) -> bool {
        self.api == Some(Api::Realtime) && self.state == State::Makes
    }
}

fn is_any(segment: Option<&str>, names: &[&str]) -> bool {
    segment.is_some_and(|segment| names.contains(&segment))
}

/// Whether the segment after `responses/` is an action (`compact`, `input_tokens`) and not an id.
fn is_verb(segment: Option<&str>) -> bool {
    segment.is_none_or(|segment| !segment.starts_with("resp_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, path: &str) -> (Option<Api>, Deployment, State) {
        let operation = Operation::read(method, &Path::of(path));
        assert!(operation.is_known, "{method} {path}");
        (operation.api, operation.deployment, operation.state)
    }

    fn name(path: &str) -> Option<&str> {
        match Operation::read("POST", &Path::of(path)).deployment {
            Deployment::InPath(range) => path.get(range),
            _ => None,
        }
    }

    #[test]
    fn the_query_begins_at_the_first_question_mark() {
        for (text, target, query, has_dot, has_escape) in [
            ("/openai/x?y", "/openai/x", Some("y"), false, false),
            ("/openai/x?y?z", "/openai/x", Some("y?z"), false, false),
            ("/openai/x?", "/openai/x", Some(""), false, false),
            ("/ü.x?é", "/ü.x", Some("é"), true, false),
            ("/x?y.z", "/x", Some("y.z"), true, false),
            ("/x%2e", "/x%2e", None, false, true),
            ("/x.y?z%", "/x.y", Some("z%"), true, true),
            ("?", "", Some(""), false, false),
            ("", "", None, false, false),
        ] {
            let path = Path::of(text);
            assert_eq!((path.text, path.target, path.query), (text, target, query));
            assert_eq!((path.has_dot, path.has_escape), (has_dot, has_escape));
        }
    }

    #[test]
    fn both_surfaces_are_recognized() {
        for (path, expected) in [
            ("/openai/v1/chat/completions", Some(Surface::V1)),
            ("/openai/v1/responses?x=/../", Some(Surface::V1)),
            (
                "/openai/deployments/a/chat/completions?api-version=1",
                Some(Surface::Dated),
            ),
            ("/openai/v11/x", Some(Surface::Dated)),
            ("/openai/files/file-1.b123456", Some(Surface::Dated)),
            ("/openai/files/a%20b", Some(Surface::Dated)),
            ("/openai/files/...", Some(Surface::Dated)),
            ("/openai", None),
            ("/openaix/v1", None),
            ("/OpenAI/v1/x", Some(Surface::V1)),
            ("/openai/V1/x", Some(Surface::V1)),
            ("/OPENAI/Files", Some(Surface::Dated)),
            ("/OpenAI/%2E%2e/admin", None),
            ("/", None),
            ("", None),
            ("*", None),
            ("/api/openai/v1/x", None),
            ("/openai/../admin", None),
            ("/openai/v1/..", None),
            ("/openai/v1/./x", None),
            ("/openai/v1/x/..?y", None),
            ("/openai/v1/x?y/../z", Some(Surface::V1)),
            ("/openai?/v1/x", None),
            ("/openai/%2e%2E/admin", None),
            ("/openai/.%2e/admin", None),
            ("/openai/v1%2f..%2fadmin", None),
            ("/openai/v1\\..\\admin", None),
        ] {
            assert_eq!(surface(&Path::of(path)), expected, "{path}");
        }
    }

    #[test]
    fn stateless_operations_use_no_objects() {
        for (path, api) in [
            ("chat/completions", Api::Chat),
            ("completions", Api::Chat),
            ("embeddings", Api::Embeddings),
            ("images/generations", Api::Images),
            ("images/edits", Api::Images),
            ("audio/transcriptions", Api::Audio),
            ("audio/speech", Api::Audio),
        ] {
            let v1 = format!("/openai/v1/{path}");
            assert_eq!(
                read("POST", &v1),
                (Some(api), Deployment::InBody, State::None)
            );
            let dated = format!("/openai/deployments/d/{path}?api-version=1");
            let (found, _, state) = read("POST", &dated);
            assert_eq!(
                (found, name(&dated), state),
                (Some(api), Some("d"), State::None)
            );
        }
    }

    #[test]
    fn objects_outside_the_apis_are_on_one_resource_too() {
        use State::{Contents, Lists, MakesAtHome, Uses};
        for (method, path, state) in [
            ("POST", "evals", MakesAtHome),
            ("GET", "evals", Lists),
            ("POST", "evals/eval_1/runs", Uses),
            ("GET", "evals/eval_1/runs/evalrun_1/output_items", Uses),
            ("POST", "skills", MakesAtHome),
            ("GET", "skills/skill_1/content", Contents),
            ("DELETE", "skills/skill_1", Uses),
            ("POST", "dashboard/webhook_endpoints", MakesAtHome),
            ("GET", "dashboard/webhook_endpoints", Lists),
            ("DELETE", "dashboard/webhook_endpoints/1", Uses),
        ] {
            let (api, deployment, found) = read(method, &format!("/openai/v1/{path}"));
            assert_eq!(
                (api, deployment, found),
                (None, Deployment::Unnamed, state),
                "{method} {path}"
            );
        }
    }

    #[test]
    fn messages_have_their_own_surface() {
        for (method, path, is_known) in [
            ("POST", "/anthropic/v1/messages", true),
            ("POST", "/Anthropic/V1/Messages/?beta=true", true),
            ("POST", "/anthropic/v1/messages/count_tokens", true),
            ("GET", "/anthropic/v1/messages", false),
            ("POST", "/anthropic/v1/messages/batches", false),
            ("GET", "/anthropic/v1/models", false),
        ] {
            let path = Path::of(path);
            assert_eq!(surface(&path), Some(Surface::Anthropic));
            let operation = Operation::read(method, &path);
            assert_eq!(
                (operation.api, operation.is_known, operation.state),
                (Some(Api::Messages), is_known, State::None)
            );
            assert_eq!(operation.deployment == Deployment::InBody, is_known);
        }
        for path in [
            "/anthropic",
            "/anthropic/../admin",
            "/anthropicx/v1/messages",
        ] {
            assert_eq!(surface(&Path::of(path)), None, "{path}");
        }
    }

    #[test]
    fn a_websocket_of_a_call_uses_the_call() {
        let state = |path: &str| read("GET", path).2;
        assert_eq!(state("/openai/v1/realtime?call_id=rtc_1"), State::Uses);
        assert_eq!(state("/openai/v1/realtime?model=gpt"), State::None);
        let calls = |path| Operation::read("POST", &Path::of(path));
        let named = calls("/openai/v1/realtime/calls?model=gpt");
        assert!(named.answers_with_location());
        assert_eq!(named.deployment, Deployment::InPath(32..35));
        let secrets = calls("/openai/v1/realtime/client_secrets");
        assert_eq!(
            (secrets.state, secrets.deployment),
            (State::MakesKey, Deployment::InBody)
        );
        assert!(State::MakesKey.is_repeatable() && State::MakesKey.answers_with_objects());
        let secrets = calls("/openai/v1/realtime/translations/client_secrets");
        assert!(!secrets.answers_with_location());
    }

    #[test]
    fn stateful_operations_use_objects() {
        use State::{Contents, Lists, Makes, MakesAtHome, MakesFile, MakesResponse, Uses};
        for (method, path, api, state) in [
            ("POST", "responses", Api::Responses, MakesResponse),
            (
                "POST",
                "responses/input_tokens",
                Api::Responses,
                MakesResponse,
            ),
            ("GET", "responses/resp_1", Api::Responses, Uses),
            ("DELETE", "responses/resp_1", Api::Responses, Uses),
            ("POST", "responses/resp_1/cancel", Api::Responses, Uses),
            ("GET", "responses/resp_1/input_items", Api::Responses, Uses),
            ("POST", "conversations", Api::Responses, Makes),
            ("POST", "files", Api::Files, MakesFile),
            ("GET", "files", Api::Files, Lists),
            ("GET", "files/file-1", Api::Files, Uses),
            ("GET", "files/file-1/content", Api::Files, Contents),
            ("POST", "uploads", Api::Files, MakesFile),
            ("POST", "containers", Api::Files, Makes),
            ("POST", "uploads/upload_1/parts", Api::Files, Uses),
            ("POST", "vector_stores", Api::Files, MakesAtHome),
            ("POST", "vector_stores/vs_1/files", Api::Files, Uses),
            ("POST", "batches", Api::Batches, Makes),
            ("POST", "batches/batch_1/cancel", Api::Batches, Uses),
            ("POST", "assistants", Api::Assistants, MakesAtHome),
            ("POST", "threads", Api::Assistants, MakesAtHome),
            ("POST", "threads/runs", Api::Assistants, MakesAtHome),
            ("POST", "threads/thread_1/runs", Api::Assistants, Uses),
            ("POST", "fine_tuning/jobs", Api::FineTuning, Makes),
            ("GET", "fine_tuning/jobs", Api::FineTuning, Lists),
            ("GET", "fine_tuning/jobs/ftjob-1", Api::FineTuning, Uses),
            ("POST", "videos", Api::Videos, Makes),
            ("POST", "videos/edits", Api::Videos, Makes),
            ("POST", "videos/video_1/remix", Api::Videos, Uses),
            ("POST", "video/generations/jobs", Api::Videos, Makes),
            ("GET", "video/generations/jobs/task_1", Api::Videos, Uses),
            ("POST", "realtime/calls", Api::Realtime, Makes),
            ("POST", "realtime/calls/rtc_1/hangup", Api::Realtime, Uses),
            ("POST", "realtime/translations/calls", Api::Realtime, Makes),
            ("POST", "live/sessions", Api::Realtime, Makes),
            ("GET", "live/sessions/sess_1", Api::Realtime, Uses),
            (
                "POST",
                "fine_tuning/alpha/graders/run",
                Api::FineTuning,
                State::None,
            ),
            ("GET", "chat/completions/chatcmpl-1", Api::Chat, Uses),
        ] {
            for path in [
                format!("/openai/v1/{path}"),
                format!("/openai/{path}?api-version=1"),
                format!("/openai/{path}/?api-version=1"),
            ] {
                let (found, _, done) = read(method, &path);
                assert_eq!((found, done), (Some(api), state), "{method} {path}");
            }
        }
    }

    #[test]
    fn deployments_are_found_in_every_place() {
        for (path, expected) in [
            (
                "/openai/deployments/gpt-4o/chat/completions?x",
                Some("gpt-4o"),
            ),
            ("/openai/deployments/gpt-4o?x", Some("gpt-4o")),
            ("/openai/deployments/ü/x", Some("ü")),
            ("/openai/deployments/", None),
            ("/openai/deployments//x", None),
            ("/openai/deployments?x=/deployments/y", None),
            (
                "/openai/realtime?api-version=1&deployment=voice",
                Some("voice"),
            ),
            ("/openai/v1/realtime?model=voice&x=1", Some("voice")),
            ("/openai/v1/realtime?xmodel=voice", None),
            ("/openai/v1/realtime?model&Model=Voice", Some("Voice")),
            (
                "/openai/realtime?api-version=1&%64eployment=voice",
                Some("voice"),
            ),
            (
                "/OpenAI/Deployments/GPT-4o/Chat/Completions",
                Some("GPT-4o"),
            ),
        ] {
            assert_eq!(name(path), expected, "{path}");
        }
        let response = Operation::read("POST", &Path::of("/openai/v1/responses"));
        assert_eq!(response.deployment, Deployment::InBody);
        let retrieval = Operation::read("GET", &Path::of("/openai/v1/responses/resp_1"));
        assert_eq!(retrieval.deployment, Deployment::Unnamed);
    }

    #[test]
    fn operations_ignore_case() {
        for (method, path) in [
            ("POST", "/openai/v1/chat/completions"),
            ("POST", "/openai/v1/responses"),
            ("GET", "/openai/v1/responses/resp_1"),
            ("GET", "/openai/v1/files/file-1/content"),
            ("POST", "/openai/v1/fine_tuning/jobs"),
            ("GET", "/openai/v1/fine_tuning/jobs"),
            ("POST", "/openai/v1/threads/runs"),
            ("POST", "/openai/threads/thread_1/runs?api-version=1"),
            ("GET", "/openai/v1/realtime?model=voice"),
            ("POST", "/openai/deployments/d/audio/speech?api-version=1"),
        ] {
            let capital = path
                .split_inclusive('/')
                .map(|part| match part.chars().next() {
                    Some(first) if !part.contains(['-', '_']) => {
                        part.replacen(first, &first.to_ascii_uppercase().to_string(), 1)
                    }
                    _ => part.to_owned(),
                })
                .collect::<String>();
            for other in [capital, path.replace("open", "OPEN")] {
                assert_ne!(other, path);
                let read = |path: &str| Operation::read(method, &Path::of(path));
                assert_eq!(read(&other), read(path), "{method} {other}");
            }
        }
        let fine_tuning = read("POST", "/openai/v1/Fine_Tuning/Jobs");
        assert_eq!(fine_tuning.2, State::Makes);
        let content = read("GET", "/openai/v1/files/file-AbC/Content");
        assert_eq!(content.2, State::Contents);
    }

    #[test]
    fn a_deployments_name_is_read_decoded() {
        for (path, name) in [
            ("/openai/deployments/gpt%2D4o/x", "gpt-4o"),
            ("/openai/deployments/gpt-4o/x", "gpt-4o"),
            ("/openai/deployments/rt%20one/x", "rt one"),
            ("/openai/deployments/a%FF/x", "a%FF"),
        ] {
            let Deployment::InPath(range) = Operation::read("POST", &Path::of(path)).deployment
            else {
                panic!("{path}");
            };
            assert_eq!(deployment_name(path, range).as_deref(), Some(name));
        }
    }

    #[test]
    fn parameters_are_found_by_their_names_in_any_spelling() {
        for (path, found) in [
            ("/x?api-version=1", &["api-version=1"][..]),
            ("/x?a=1&API-Version=2&b", &["API-Version=2"]),
            (
                "/x?api%2Dversion=1&api-version",
                &["api%2Dversion=1", "api-version"],
            ),
            (
                "/x?api-version=1&Api-Version=2",
                &["api-version=1", "Api-Version=2"],
            ),
            ("/x?xapi-version=1&api-versions=2", &[]),
            ("/x?", &[]),
            ("/api-version=1", &[]),
        ] {
            let ranges = parameters(path, "api-version");
            let parts: Vec<_> = ranges.map(|range| &path[range]).collect();
            assert_eq!(parts, found, "{path}");
        }
    }

    #[test]
    fn unknown_operations_are_marked() {
        for path in [
            "/openai/v1/novelties",
            "/openai/",
            "/openai/deployments/d/novelty",
        ] {
            assert!(!Operation::read("POST", &Path::of(path)).is_known, "{path}");
        }
        assert_eq!(name("/openai/deployments/d/novelty"), Some("d"));
    }

    #[test]
    fn creations_are_not_repeatable() {
        assert!(State::None.is_repeatable() && State::MakesResponse.is_repeatable());
        for once in [State::Makes, State::MakesAtHome, State::MakesFile] {
            assert!(!once.is_repeatable(), "{once:?}");
        }
    }

    #[test]
    fn apis_have_distinct_names_and_ids() {
        for api in Api::ALL {
            assert_eq!(Api::named(api.name()), Some(api));
            let others = Api::ALL.into_iter().filter(|other| *other != api);
            assert!(others.clone().all(|other| other.id() != api.id()));
        }
        assert_eq!(Api::named("novelties"), None);
    }
}
