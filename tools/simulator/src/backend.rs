//! One simulated Azure OpenAI resource: its handle, and what it does with a request.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue, CONTENT_TYPE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use tokio::time::sleep;

use crate::audit::{Entry, Log, RecordedRequest};
use crate::azure::{errors, Call, Reply, Resource};
use crate::behaviour::{Answer, Behaviour, Failure, SlowBody, Stream};
use crate::body::{Body, OpenAnswer};
use crate::certificates::TlsPort;
use crate::echo;
use crate::script::Script;
use crate::server::{Break, Connection, Listener, Service};
use crate::settings::Auth;
use crate::tokens::{TokenCheck, Tokens};

/// A longer request body is answered 413.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// A simulated Azure OpenAI resource.
#[derive(Clone)]
pub struct BackendHandle {
    pub(crate) backend: Arc<Backend>,
    pub(crate) listener: Arc<Listener<Backend>>,
    pub(crate) tls_port: Option<Arc<TlsPort>>,
    pub(crate) host: String,
}

impl BackendHandle {
    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.backend.name
    }

    /// The host name its certificate was made for.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Whether it speaks TLS.
    pub fn tls(&self) -> bool {
        self.tls_port.is_some()
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// Replaces all behaviours by this one.
    pub fn set(&self, behaviour: Behaviour) {
        self.backend.script.set(behaviour);
    }

    /// Puts these in front of the standing behaviour, in the place of an earlier queue. Each is used once, or as often as
    /// its `remaining` says.
    pub fn queue(&self, behaviours: Vec<Behaviour>) {
        self.backend.script.queue(behaviours);
    }

    /// Answers as Azure would again.
    pub fn clear(&self) {
        self.backend.script.clear();
    }

    /// The requests received, oldest first.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.backend.log.requests()
    }

    /// How many requests were received.
    pub fn count(&self) -> u64 {
        self.backend.log.count()
    }

    /// Forgets the requests received.
    pub fn clear_requests(&self) {
        self.backend.log.clear();
    }

    /// TCP connections accepted since the start.
    pub fn connections(&self) -> u64 {
        self.listener.accepted()
    }

    /// Answers in progress right now, from the request's headers to the last byte of the answer.
    pub fn open_streams(&self) -> usize {
        self.backend.open.load(Ordering::SeqCst)
    }

    /// Closes the port and its connections: from now on connections are refused.
    pub fn stop(&self) {
        self.listener.stop();
    }

    /// Opens the same port again.
    ///
    /// # Errors
    /// When another process has taken the port meanwhile.
    pub fn restart(&self) -> io::Result<()> {
        self.listener.restart()
    }

    /// New TLS connections are shown a certificate for `host`, by the same authority.
    ///
    /// # Errors
    /// When the backend has no TLS or `host` cannot stand in a certificate.
    pub fn set_certificate_for(&self, host: &str) -> io::Result<()> {
        self.tls_port()?.present(host)
    }

    /// New TLS connections are closed during the handshake; or served again.
    ///
    /// # Errors
    /// When the backend has no TLS.
    pub fn set_tls_failure(&self, failing: bool) -> io::Result<()> {
        let port = self.tls_port()?;
        if failing {
            port.fail();
            return Ok(());
        }
        port.present(&self.host)
    }

    fn tls_port(&self) -> io::Result<&TlsPort> {
        let missing = || io::Error::other(format!("backend {}: it has no TLS", self.name()));
        self.tls_port.as_deref().ok_or_else(missing)
    }
}

/// The part of a backend that answers.
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) resource: Resource,
    pub(crate) api_key: Option<String>,
    pub(crate) auth: Auth,
    pub(crate) audience: String,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) script: Script<Behaviour>,
    pub(crate) log: Arc<Log>,
    pub(crate) open: Arc<AtomicUsize>,
    pub(crate) answers: AtomicU64,
}

impl Service for Backend {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<Connection>,
    ) -> Response<Body> {
        let open = OpenAnswer::new(&self.open);
        let (head, body) = request.into_parts();
        let check = self.check(&head);
        let entry = self.log.open(&head, &connection, check);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let behaviour = self.script.next(path);
        let exchange = Exchange {
            backend: &self,
            connection,
            http2: head.version == Version::HTTP_2,
        };
        exchange
            .answer(head, body, entry, behaviour, check)
            .await
            .map(|body| body.counted(open))
    }
}

impl Backend {
    fn check(&self, head: &Parts) -> TokenCheck {
        if !head.uri.path().starts_with("/openai/") {
            return TokenCheck::NotChecked;
        }
        let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
        let known = |key: &str| self.api_key.as_deref() == Some(key);
        match (text("authorization"), text("api-key")) {
            (Some(authorization), _) => {
                let (scheme, token) = authorization.split_once(' ').unwrap_or_default();
                if !scheme.eq_ignore_ascii_case("bearer") {
                    TokenCheck::Unknown
                } else if known(token) {
                    TokenCheck::Key
                } else {
                    self.tokens.check(token, &self.audience)
                }
            }
            (None, Some(key)) if known(key) => TokenCheck::Key,
            (None, Some(_)) => TokenCheck::WrongKey,
            (None, None) => TokenCheck::Missing,
        }
    }

    /// The headers Azure puts on every answer.
    fn sign(&self, headers: &mut HeaderMap) {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        let id = HeaderValue::from_str(&format!(
            "{:08x}-0000-4000-8000-{number:012x}",
            std::process::id()
        ));
        let name = HeaderValue::from_str(&self.name);
        if let (Ok(id), Ok(name)) = (id, name) {
            headers.insert("x-ms-region", name.clone());
            headers.insert("x-sim-backend", name);
            headers.insert("apim-request-id", id.clone());
            headers.insert("x-request-id", id);
        }
        headers.insert(
            "azureml-model-session",
            HeaderValue::from_static("d0-simulated"),
        );
    }
}

/// One request and its answer.
struct Exchange<'a> {
    backend: &'a Backend,
    connection: Arc<Connection>,
    http2: bool,
}

impl Exchange<'_> {
    async fn answer(
        &self,
        head: Parts,
        body: Incoming,
        mut entry: Entry,
        behaviour: Behaviour,
        check: TokenCheck,
    ) -> Response<Body> {
        if let Answer::EarlyError(failure) = &behaviour.answer {
            pause(behaviour.delay_ms).await;
            entry.status(failure.status);
            // Read on while the answer is sent, so that the connection stays in step.
            tokio::spawn(async move { read(body, &mut entry).await });
            return self.failure(failure);
        }
        if behaviour.answer == Answer::Reset {
            pause(behaviour.delay_ms).await;
            match self.connection.cut(Break::Reset).await {}
        }
        let body = read(body, &mut entry).await;
        pause(behaviour.delay_ms).await;
        let response = match behaviour.answer {
            Answer::Error(failure) | Answer::EarlyError(failure) => self.failure(&failure),
            Answer::Hang => std::future::pending().await,
            Answer::Close | Answer::Reset => match self.connection.cut(Break::Close).await {},
            Answer::Normal { headers } => {
                let pace = Stream {
                    headers: Vec::new(),
                    ..Stream::default()
                };
                let mut response = self.reply(&head, body, check, pace, None);
                put(response.headers_mut(), &headers);
                response
            }
            Answer::Stream(pace) => self.reply(&head, body, check, pace, None),
            Answer::SlowBody(slow) => self.reply(&head, body, check, Stream::default(), Some(slow)),
        };
        entry.status(response.status().as_u16());
        response
    }

    fn failure(&self, failure: &Failure) -> Response<Body> {
        let mut response = Response::new(Body::whole(errors::body(failure)));
        *response.status_mut() =
            StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.backend.sign(headers);
        put(headers, &failure.headers);
        response
    }

    fn reply(
        &self,
        head: &Parts,
        body: Result<Bytes, Failure>,
        check: TokenCheck,
        pace: Stream,
        slow: Option<SlowBody>,
    ) -> Response<Body> {
        let body = match body {
            Ok(body) => body,
            Err(failure) => return self.failure(&failure),
        };
        let reply = if head.uri.path().starts_with("/sim/") {
            echo::reply(&self.backend.name, head, &body)
        } else if self.backend.auth == Auth::On && !check.passes() {
            Reply::Error(errors::unauthorized(check))
        } else {
            self.backend
                .resource
                .reply(&Call::new(head, body), pace.events)
        };
        let (content_type, body) = match reply {
            Reply::Error(failure) => return self.failure(&failure),
            Reply::Whole(content_type, bytes) => {
                let body = match slow {
                    Some(slow) => Body::slow(bytes, slow, Arc::clone(&self.connection), self.http2),
                    None => Body::whole(bytes),
                };
                (Some(content_type), body)
            }
            Reply::Filler(length) => (Some("application/octet-stream"), Body::filler(length)),
            Reply::Events(events) => return self.events(&events, pace),
        };
        self.success(content_type, body)
    }

    fn events(&self, events: &[crate::azure::Event], pace: Stream) -> Response<Body> {
        let frames = events.iter().map(|event| event.frame(&pace)).collect();
        let content_type = (!pace.bare).then_some("text/event-stream; charset=utf-8");
        let added = pace.headers.clone();
        let trailers = pace
            .trailers
            .iter()
            .flatten()
            .map(|(name, _)| name.as_str());
        let trailers = trailers.collect::<Vec<_>>().join(", ");
        let body = Body::events(frames, pace, Arc::clone(&self.connection), self.http2);
        let mut response = self.success(content_type, body);
        if !trailers.is_empty() {
            put(response.headers_mut(), &[("trailer".to_owned(), trailers)]);
        }
        put(response.headers_mut(), &added);
        response
    }

    fn success(&self, content_type: Option<&'static str>, body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        if let Some(content_type) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        headers.insert(
            "x-ratelimit-remaining-requests",
            HeaderValue::from_static("999"),
        );
        headers.insert(
            "x-ratelimit-remaining-tokens",
            HeaderValue::from_static("99000"),
        );
        self.backend.sign(headers);
        response
    }
}

async fn pause(delay_ms: Option<u64>) {
    if let Some(delay) = delay_ms.filter(|delay| *delay > 0) {
        sleep(Duration::from_millis(delay)).await;
    }
}

/// Reads a request body to its end, noting it in the audit.
async fn read(mut body: Incoming, entry: &mut Entry) -> Result<Bytes, Failure> {
    let mut first = Bytes::new();
    let mut all = BytesMut::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            entry.body_ended(false);
            return Err(Failure::coded(
                400,
                "BadRequest",
                "The request body broke off.",
            ));
        };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        entry.body(&piece);
        length += piece.len();
        if length == piece.len() {
            first = piece;
        } else if length <= BODY_LIMIT {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&piece);
        }
    }
    entry.body_ended(true);
    if length > BODY_LIMIT {
        return Err(Failure::coded(
            413,
            "RequestEntityTooLarge",
            "The request body is too large.",
        ));
    }
    Ok(if all.is_empty() { first } else { all.freeze() })
}

/// Sets headers; a name given several times keeps all its values.
fn put(headers: &mut HeaderMap, added: &[(String, String)]) {
    let parsed = added.iter().filter_map(|(name, value)| {
        let name: HeaderName = name.parse().ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    });
    let parsed: Vec<_> = parsed.collect();
    for (name, _) in &parsed {
        headers.remove(name);
    }
    for (name, value) in parsed {
        headers.append(name, value);
    }
}
