//! The facts about a client's request, read from its headers in one pass.

mod answer;
mod body;
mod place;

use core::ops::Range;

use super::affinity;
use super::clean_path::{without_credentials, without_tags};
use super::client_credentials::is_credential_header;
use super::demand::{Client, DeploymentId};
use super::inflate::readable_of;
use super::operation::{deployment_name, surface, Api, Deployment, Operation, Path, Surface};
use super::splices::Splices;
use super::state::ids::Tags;
use super::state::objects::split_session_key;
use super::subprotocols::{session_key_in, without_key};
use super::text::number;
pub use body::{Found, Model, Need};
pub use place::{Objects, Place};

use crate::prelude::*;

/// The facts about one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `:path` without the client's credentials and without tags of ids, if it had any.
    pub clean_path: Option<String>,
    /// Whether the request has a path that is valid text. Other paths cannot be searched for credentials.
    pub has_path: bool,
    /// The subprotocols that a WebSocket client offers, without the one in which a browser sends its key. Empty if no
    /// other is left.
    pub clean_protocols: Option<String>,
    /// The surface of Azure OpenAI to which the path belongs, if any.
    pub surface: Option<Surface>,
    /// The requested operation.
    pub operation: Operation,
    /// The deployment, if it was read.
    pub deployment: Option<DeploymentId>,
    /// The place of the objects that the request names, if it was read.
    pub objects: Objects,
    /// The size of the body, if announced.
    pub content_length: Option<u64>,
    /// The form of the body, by its content type.
    pub form: BodyForm,
    /// The edits of the body for any backend, which cut out the tags of ids.
    pub cuts: Splices,
    /// The name of the deployment in the body.
    pub model: Option<Model>,
    /// The affinity key in the body, `prompt_cache_key`, if it was read.
    pub cache_key: Option<affinity::Key>,
    /// Whether the body was read completely, or is absent.
    pub has_known_body: bool,
    /// Whether the request creates a file for a batch.
    pub for_batch: bool,
    /// Whether the body forbids a repetition, because it asks for a background response.
    pub in_background: bool,
    /// Whether the body asks for an answer that is not an event stream.
    pub wants_no_stream: bool,
    /// The position of `"stream": true` in a chat's body without options for the stream.
    pub plain_stream: Option<Range<usize>>,
    /// Whether the client sent its own retry rules for Envoy's router. The filter removes them.
    pub instructs_router: bool,
    /// Whether the client asks to switch to another protocol.
    pub upgrade: bool,
    /// The client, if an earlier filter named it.
    pub client: Client,
    /// Whether the client accepts encoded answers.
    pub accepts_encodings: bool,
    /// The accepted encodings that the filter can read, if the client accepts others too.
    pub accepted: Option<String>,
    authorization: bool,
    api_key: bool,
    unusual: Option<Box<Unusual>>,
}

/// Facts that few requests have. Boxed, they cost other requests one pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unusual {
    /// The content codings of the body.
    encoding: String,
    /// Headers with credentials other than those of the openai SDKs.
    credentials: Vec<String>,
    /// `Bearer` and a key for a realtime session. It replaces the backend's credential on the resource that issued it.
    session_key: String,
}

/// The form of a request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BodyForm {
    /// JSON, or no declared type.
    #[default]
    Json,
    /// A form, with its content type.
    Multipart(String),
}

impl Request {
    /// The facts in a request's headers, whose names are in lower case. `tags` are those of the backends.
    pub fn of<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, tags: &Tags) -> Self {
        let mut request = Self::default();
        request.read(headers, tags);
        request
    }

    /// Adds the facts in the request's headers, as [`Self::of`] reads them. The request is filled in place, because it is
    /// large.
    pub fn read<'a>(&mut self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, tags: &Tags) {
        let (mut method, mut path) = ("", "");
        let mut protocols: Vec<&[u8]> = Vec::new();
        let mut session_key: &[u8] = &[];
        for (name, value) in headers {
            let text = || core::str::from_utf8(value).unwrap_or_default();
            match name {
                // The usual value needs no text conversion.
                b":method" if value == b"POST" => method = "POST",
                b":method" => method = text(),
                b":path" => path = text(),
                b"content-length" => self.content_length = number(value),
                b"content-type" if is_multipart(value) => {
                    self.form = BodyForm::Multipart(text().to_owned());
                }
                b"content-encoding" => self.note_encoding(value),
                b"upgrade" => self.upgrade = true,
                // Attempts remove these headers, see `RETRY_INSTRUCTIONS`. Separate patterns cost other headers least.
                b"x-envoy-hedge-on-per-try-timeout"
                | b"x-envoy-max-retries"
                | b"x-envoy-retriable-header-names"
                | b"x-envoy-retriable-status-codes"
                | b"x-envoy-retry-grpc-on"
                | b"x-envoy-retry-on" => self.instructs_router = true,
                b"sec-websocket-protocol" => protocols.push(value),
                b"accept-encoding" => {
                    self.accepts_encodings = true;
                    // The value of most SDKs needs no parsing.
                    if value != b"gzip, deflate" {
                        self.note_accepted(value);
                    }
                }
                b"authorization" => {
                    self.authorization = true;
                    if let Some(key) = value.strip_prefix(b"Bearer ek_") {
                        session_key = key;
                    }
                }
                b"api-key" => self.api_key = true,
                name if is_credential_header(name) => self.note_credential(name),
                _ => {}
            }
        }
        if !protocols.is_empty() {
            session_key = session_key_in(&protocols).unwrap_or(session_key);
            self.clean_protocols = without_key(&protocols);
        }
        self.has_path = !path.is_empty();
        self.read_path(method, path, tags);
        if !session_key.is_empty() && self.operation.api == Some(Api::Realtime) {
            self.take_session_key(session_key, tags);
        }
    }

    /// Adds a line of `accept-encoding` with an unusual value.
    #[inline(never)]
    fn note_accepted(&mut self, line: &[u8]) {
        let line = core::str::from_utf8(line).unwrap_or_default();
        match (&mut self.accepted, readable_of(line)) {
            (Some(accepted), None) => accepted.extend([", ", line]),
            (Some(accepted), Some(readable)) => accepted.extend([", ", &*readable]),
            (none, readable) => *none = readable,
        }
    }

    /// Adds the content codings of one line of `content-encoding`.
    #[inline(never)]
    fn note_encoding(&mut self, value: &[u8]) {
        let line = String::from_utf8_lossy(value);
        for coding in line.split(',').map(str::trim) {
            // A charset is not a content coding, but some clients send it here.
            let is_plain = ["", "identity", "utf-8", "utf8"]
                .iter()
                .any(|plain| coding.eq_ignore_ascii_case(plain));
            if is_plain {
                continue;
            }
            let encoding = &mut self.unusual.get_or_insert_default().encoding;
            if !encoding.is_empty() {
                encoding.push_str(", ");
            }
            encoding.push_str(coding);
        }
    }

    /// Stores the key for a realtime session, without its prefix, if its tag names the resource that issued it.
    #[inline(never)]
    fn take_session_key(&mut self, rest: &[u8], tags: &Tags) {
        let key = format!("ek_{}", String::from_utf8_lossy(rest));
        let split = split_session_key(&key);
        let known = split.and_then(|(key, tag)| Some((key, tags.backend_of(tag)?)));
        if let Some((key, backend)) = known {
            self.unusual.get_or_insert_default().session_key = format!("Bearer {key}");
            self.objects = self.objects.also(Some(backend));
        }
    }

    /// The key for a realtime session, which authenticates the request on the one backend that can serve it.
    pub fn session_key(&self) -> Option<&str> {
        let key = self.unusual.as_ref()?.session_key.as_str();
        (!key.is_empty()).then_some(key)
    }

    #[inline(never)]
    fn note_credential(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name);
        let credentials = &mut self.unusual.get_or_insert_default().credentials;
        if !credentials.iter().any(|known| *known == name) {
            credentials.push(name.into_owned());
        }
    }

    /// The content coding of the body, such as `gzip`, if it has one.
    pub fn encoding(&self) -> Option<&str> {
        let encoding = self.unusual.as_ref()?.encoding.as_str();
        (!encoding.is_empty()).then_some(encoding)
    }

    fn read_path(&mut self, method: &str, path: &str, tags: &Tags) {
        let mut path = Path::of(path);
        self.surface = surface(&path);
        self.clean_path = without_credentials(&path);
        if self.surface.is_none() {
            return;
        }
        if let Some(clean) = &self.clean_path {
            path = Path::of(clean);
        }
        let untagged = without_tags(&path, tags);
        if let Some((untagged, backends)) = &untagged {
            let backends = backends.iter().copied();
            self.objects = backends.fold(self.objects, |objects, on| objects.also(Some(on)));
            path = Path::of(untagged);
        }
        self.operation = Operation::read(method, &path);
        if self.upgrade {
            self.operation = Operation::of_upgrade(core::mem::take(&mut self.operation));
        }
        if let Deployment::InPath(range) = &self.operation.deployment {
            self.deployment = match path.has_escape {
                true => {
                    deployment_name(path.text, range.clone()).map(|name| DeploymentId::of(&name))
                }
                false => path.text.get(range.clone()).map(DeploymentId::of),
            };
        }
        if let Some((untagged, _)) = untagged {
            self.clean_path = Some(untagged);
        }
    }

    /// The path without credentials and tags. `original` is the client's path.
    pub fn path<'a>(&'a self, original: &'a str) -> &'a str {
        self.clean_path.as_deref().unwrap_or(original)
    }

    /// The headers of this request with a client's credentials, each once.
    pub fn credential_headers(&self) -> impl Iterator<Item = &str> {
        let authorization = self.authorization.then_some("authorization");
        let api_key = self.api_key.then_some("api-key");
        let usual = authorization.into_iter().chain(api_key);
        let unusual = self.unusual.iter();
        usual.chain(unusual.flat_map(|unusual| unusual.credentials.iter().map(String::as_str)))
    }
}

fn is_multipart(content_type: &[u8]) -> bool {
    const MULTIPART: &[u8] = b"multipart/form-data";
    let start = content_type.trim_ascii_start().get(..MULTIPART.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(MULTIPART))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::State;
    use crate::outcome::Outcome;

    fn read(headers: &[(&str, &[u8])]) -> Request {
        Request::of(
            headers
                .iter()
                .map(|(name, value)| (name.as_bytes(), *value)),
            &Tags::default(),
        )
    }

    #[test]
    fn a_request_without_credentials_is_unchanged() {
        let request = read(&[
            (":method", b"POST"),
            (
                ":path",
                b"/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
            ),
            ("content-length", b"123"),
            ("x-api-key-hint", b"none"),
        ]);
        assert_eq!(request.clean_path, None);
        assert_eq!(request.content_length, Some(123));
        assert_eq!(request.credential_headers().count(), 0);
        assert!(!request.upgrade);
    }

    #[test]
    fn every_credential_header_is_found() {
        let request = read(&[
            ("ocp-apim-subscription-key", b"k"),
            ("api-key", b"k"),
            ("cookie", b"a=b"),
            ("authorization", b"Bearer k"),
            ("x-api-key", b"k"),
            ("cookie", b"c=d"),
        ]);
        let names: Vec<_> = request.credential_headers().collect();
        assert_eq!(
            names,
            [
                "authorization",
                "api-key",
                "ocp-apim-subscription-key",
                "cookie",
                "x-api-key",
            ]
        );
        let request = read(&[("api-key", b"k")]);
        assert!(request.credential_headers().eq(["api-key"]));
    }

    #[test]
    fn only_content_codings_make_a_body_unreadable() {
        for (lines, encoding) in [
            (&["gzip"][..], Some("gzip")),
            (&["GZIP"], Some("GZIP")),
            (&["br , identity"], Some("br")),
            (&["deflate, gzip"], Some("deflate, gzip")),
            (&["identity", "zstd"], Some("zstd")),
            (&["gzip", "br"], Some("gzip, br")),
            (&["identity"], None),
            (&["Identity, identity"], None),
            (&["", " , "], None),
            (&["UTF-8"], None),
            (&[], None),
        ] {
            let lines: Vec<_> = lines
                .iter()
                .map(|line| ("content-encoding", line.as_bytes()))
                .collect();
            assert_eq!(read(&lines).encoding(), encoding, "{lines:?}");
        }
        let chunked = read(&[
            ("transfer-encoding", b"gzip, chunked"),
            ("accept-encoding", b"gzip"),
        ]);
        assert_eq!(chunked.encoding(), None);
        let odd = read(&[("content-encoding", b"\xff")]);
        assert!(odd.encoding().is_some());
    }

    #[test]
    fn deployments_ignore_case() {
        assert_eq!(
            DeploymentId::of("GPT-5.Mini"),
            DeploymentId::of("gpt-5.mini")
        );
        assert_ne!(DeploymentId::of("gpt-5"), DeploymentId::of("gpt_5"));
        let of = |path: &str| read(&[(":path", path.as_bytes())]).deployment;
        for path in [
            "/openai/deployments/gpt-5/chat/completions?api-version=1",
            "/openai/deployments/GPT-5/chat/completions?api-version=1",
            "/openai/deployments/gpt%2D5/chat/completions?api-version=1",
            "/OpenAI/Deployments/Gpt-5/Chat/Completions?Api-Version=1",
            "/openai/realtime?api-version=1&Deployment=GPT-5",
            "/openai/v1/realtime?MODEL=gpt-%35",
        ] {
            assert_eq!(of(path), Some(DeploymentId::of("gpt-5")), "{path}");
        }
    }

    #[test]
    fn deployments_are_read_from_the_clean_path() {
        const KEYED: &str = "/openai/realtime?api-key=K&deployment=voice";
        let request = read(&[(":path", KEYED.as_bytes())]);
        assert_eq!(request.deployment, Some(DeploymentId::of("voice")));
        assert_eq!(request.path(KEYED), "/openai/realtime?deployment=voice");
        let Deployment::InPath(range) = request.operation.deployment.clone() else {
            panic!("{request:?}");
        };
        assert_eq!(&request.path(KEYED)[range], "voice");

        let tags = Tags::new(["a.example"]).unwrap();
        let tag = tags.of_backend(0).unwrap();
        let path = format!(
            "/openai/v1/responses/{}?api-key=K&x",
            tag.append_to("resp_1")
        );
        let headers = [(&b":path"[..], path.as_bytes())];
        let request = Request::of(headers.into_iter(), &tags);
        assert_eq!(request.path(&path), "/openai/v1/responses/resp_1?x");
        assert_eq!(request.objects, Objects::On(0));
        assert_eq!(request.operation.state, State::Uses);

        let path = format!("/openai/realtime?x={}&model=voice", tag.append_to("resp_1"));
        let headers = [(&b":path"[..], path.as_bytes())];
        let request = Request::of(headers.into_iter(), &tags);
        assert_eq!(request.path(&path), "/openai/realtime?x=resp_1&model=voice");
        let wanted = request.wanted(&path, Outcome::DeploymentNotFound);
        assert_eq!(wanted, "deployment \"voice\"");
    }

    #[test]
    fn a_session_key_names_the_resource_that_issued_it() {
        let tags = Tags::new(["a.example", "b.example"]).unwrap();
        let tag = tags.of_backend(1).unwrap();
        let key = tag.append_to("ek_1");
        let read = |path: &str, name: &str, value: &str| {
            let headers = [(":path", path), (name, value)];
            let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            Request::of(headers.into_iter(), &tags)
        };
        let realtime = "/openai/v1/realtime?model=gpt";
        for (path, name, value, is_taken) in [
            (realtime, "authorization", format!("Bearer {key}"), true),
            (
                realtime,
                "sec-websocket-protocol",
                format!("realtime, openai-insecure-api-key.{key}, x"),
                true,
            ),
            (realtime, "authorization", "Bearer ek_1".into(), false),
            (
                realtime,
                "authorization",
                "Bearer ek_1.b000000".into(),
                false,
            ),
            (realtime, "authorization", format!("Bearer {key}x"), false),
            (realtime, "api-key", key.clone(), false),
            (
                "/openai/v1/responses",
                "authorization",
                format!("Bearer {key}"),
                false,
            ),
        ] {
            let request = read(path, name, &value);
            let taken = is_taken.then_some("Bearer ek_1");
            assert_eq!(request.session_key(), taken, "{path} {name} {value}");
            let on = if is_taken {
                Objects::On(1)
            } else {
                Objects::None
            };
            assert_eq!(request.objects, on, "{path} {name} {value}");
        }
    }

    #[test]
    fn a_key_in_the_subprotocols_is_found() {
        for (offered, kept) in [
            ("realtime", None),
            ("realtime, openai-beta.realtime-v1", None),
            (
                "realtime, openai-insecure-api-key.KEY, openai-beta.realtime-v1",
                Some("realtime, openai-beta.realtime-v1"),
            ),
            ("OpenAI-Insecure-API-Key.KEY", Some("")),
            ("", None),
        ] {
            let request = read(&[("sec-websocket-protocol", offered.as_bytes())]);
            assert_eq!(request.clean_protocols.as_deref(), kept, "{offered}");
        }
    }

    #[test]
    fn a_browsers_key_is_removed_from_the_subprotocols() {
        const KEY: &[u8] = b"openai-insecure-api-key.KEY";
        for (lines, kept) in [
            ([KEY, b"realtime"], Some("realtime")),
            ([b"realtime", KEY], Some("realtime")),
            (
                [b"realtime, a", b"b,OPENAI-insecure-api-key.KEY"],
                Some("realtime, a, b"),
            ),
            (
                [b"realtime", b"\xe9, openai-insecure-api-key.KEY"],
                Some("realtime"),
            ),
            ([b"realtime", b"a"], None),
        ] {
            let request = read(&lines.map(|line: &[u8]| ("sec-websocket-protocol", line)));
            assert_eq!(request.clean_protocols.as_deref(), kept, "{lines:?}");
        }
    }

    #[test]
    fn upgrades_are_detected_and_odd_values_are_ignored() {
        assert!(read(&[("upgrade", b"websocket")]).upgrade);
        assert_eq!(read(&[(":path", b"/openai/\xe9")]).surface, None);
        assert_eq!(read(&[("content-length", b"many")]).content_length, None);
    }
}
