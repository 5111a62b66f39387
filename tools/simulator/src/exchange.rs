//! One request to a backend, answered by its behaviour.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::Compression;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    HeaderName, HeaderValue, ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use crate::account::ACCOUNT;
use crate::audit::Entry;
use crate::azure::{errors, Call, Event, Reply};
use crate::backend::Backend;
use crate::behaviour::{
    Answer, Behaviour, Encoding, Exact, Failure, HalfHead, Raw, SlowBody, Stream, Unread,
};
use crate::body::{Body, OpenAnswer};
use crate::echo;
use crate::realtime;
use crate::server::{Break, Connection};
use crate::settings::Auth;
use crate::tokens::Credential;

/// The longest request body. A longer one is answered 413.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// One request and its answer.
pub(crate) struct Exchange<'a> {
    pub(crate) backend: &'a Backend,
    pub(crate) connection: Arc<Connection>,
    pub(crate) http2: bool,
}

impl Exchange<'_> {
    pub(crate) async fn answer(
        &self,
        head: Parts,
        body: Incoming,
        mut entry: Entry,
        mut behaviour: Behaviour,
        credential: &Credential,
    ) -> Response<Body> {
        if let Some(failure) = self.refusal(&head, &behaviour.answer, credential) {
            behaviour.answer = Answer::EarlyError(failure);
        }
        match &behaviour.answer {
            Answer::EarlyError(failure) => {
                pause(behaviour.delay_ms).await;
                entry.status(failure.status);
                // The body is read during the answer, so that the connection can serve another request.
                tokio::spawn(async move { read(body, &mut entry).await });
                return self.failure(failure, &head);
            }
            Answer::UnreadError(Unread { failure, keep }) => {
                pause(behaviour.delay_ms).await;
                entry.status(failure.status);
                let mut response = self.failure(failure, &head);
                if *keep {
                    self.connection.leave_unread(body);
                    if !self.http2 {
                        // Another request would wait behind the unread body forever.
                        let close = HeaderValue::from_static("close");
                        response.headers_mut().insert(CONNECTION, close);
                    }
                }
                return response;
            }
            Answer::Reset => {
                pause(behaviour.delay_ms).await;
                match self.connection.cut(Break::Reset).await {}
            }
            _ => {}
        }
        let body = read(body, &mut entry).await;
        pause(behaviour.delay_ms).await;
        let response = match behaviour.answer {
            Answer::Error(failure)
            | Answer::EarlyError(failure)
            | Answer::UnreadError(Unread { failure, .. }) => self.failure(&failure, &head),
            Answer::HalfHead(half) => self.half_head(&half, &head),
            Answer::Raw(raw) => self.raw(raw, &head),
            Answer::Exact(exact) => exactly(exact),
            Answer::Hang => std::future::pending().await,
            Answer::Close | Answer::Reset => match self.connection.cut(Break::Close).await {},
            Answer::Normal { headers } => {
                let mut response = self.reply(&head, body, credential, Stream::default(), None);
                put(response.headers_mut(), &headers);
                response
            }
            Answer::Stream(pace) => {
                let headers = pace.headers.clone();
                let mut response = match pace.frames.is_empty() {
                    true => self.reply(&head, body, credential, pace, None),
                    false => {
                        let frames = pace.frames.iter().cloned().map(Bytes::from).collect();
                        self.frames(frames, pace)
                    }
                };
                put(response.headers_mut(), &headers);
                response
            }
            Answer::SlowBody(slow) => {
                self.reply(&head, body, credential, Stream::default(), Some(slow))
            }
        };
        entry.status(response.status().as_u16());
        response
    }

    /// The error for a bad credential, if the answer depends on credentials.
    fn refusal(&self, head: &Parts, answer: &Answer, credential: &Credential) -> Option<Failure> {
        let headers = match answer {
            Answer::Normal { headers } | Answer::Stream(Stream { headers, .. }) => headers.clone(),
            Answer::SlowBody(_) => Vec::new(),
            _ => return None,
        };
        let is_checked = self.backend.auth == Auth::On && !head.uri.path().starts_with("/sim/");
        (is_checked && !credential.check.passes()).then(|| Failure {
            headers,
            ..errors::unauthorized(credential.check)
        })
    }

    /// An answer of which only the first bytes are sent.
    fn half_head(&self, half: &HalfHead, head: &Parts) -> Response<Body> {
        self.connection.mute_after(half.bytes);
        self.broken(half.status, half.how, head)
    }

    /// Raw bytes in place of an answer.
    fn raw(&self, raw: Raw, head: &Parts) -> Response<Body> {
        let (status, how) = (raw.status(), raw.how);
        self.connection.replace(raw.text.into());
        self.broken(status, how, head)
    }

    /// An answer that breaks after its head.
    fn broken(&self, status: u16, how: Break, head: &Parts) -> Response<Body> {
        let mut response = self.failure(&Failure::new(status), head);
        let broken = SlowBody {
            break_after: Some(0),
            how,
            chunked: true,
            ..SlowBody::default()
        };
        // The whole connection breaks, over HTTP/2 too.
        let connection = Arc::clone(&self.connection);
        *response.body_mut() = Body::slow(Bytes::new(), broken, connection, false);
        response
    }

    fn failure(&self, failure: &Failure, head: &Parts) -> Response<Body> {
        let bytes = match head.uri.path().starts_with("/anthropic/") {
            true => errors::body_for_anthropic(failure),
            false => errors::body(failure),
        };
        let encoding = failure.encoding.filter(|encoding| accepts(head, *encoding));
        let bytes = match encoding {
            Some(encoding) => encoded(encoding, &bytes),
            None => bytes,
        };
        let body = match &failure.pace {
            Some(pace) => {
                let connection = Arc::clone(&self.connection);
                Body::slow(bytes, SlowBody::clone(pace), connection, self.http2)
            }
            None => Body::whole(bytes),
        };
        let mut response = Response::new(body);
        *response.status_mut() =
            StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
        }
        self.backend.sign(headers);
        put(headers, &failure.headers);
        response
    }

    fn reply(
        &self,
        head: &Parts,
        body: Result<Bytes, Failure>,
        credential: &Credential,
        pace: Stream,
        slow: Option<SlowBody>,
    ) -> Response<Body> {
        let body = match body {
            Ok(body) => body,
            Err(failure) => return self.failure(&failure, head),
        };
        let reply = if head.uri.path().starts_with("/sim/") {
            echo::reply(&self.backend.name, head, &body)
        } else if realtime::wanted(head) {
            return self.realtime(head, credential, &pace);
        } else {
            self.backend
                .resource
                .reply(&Call::new(head, body), pace.events)
        };
        // A retrieved object was counted when it was made.
        if head.method == Method::POST {
            let name = head.headers.get(ACCOUNT);
            let name = name.and_then(|name| name.to_str().ok());
            self.backend.accounts.add(name.unwrap_or_default(), &reply);
        }
        let (content_type, body) = match reply {
            Reply::Error(failure) => return self.failure(&failure, head),
            Reply::Whole(content_type, bytes) => {
                let body = match slow {
                    Some(slow) => Body::slow(bytes, slow, Arc::clone(&self.connection), self.http2),
                    None => Body::whole(bytes),
                };
                (Some(content_type), body)
            }
            Reply::Made(location, content_type, bytes) => {
                let mut response = self.success(Some(content_type), Body::whole(bytes));
                *response.status_mut() = StatusCode::CREATED;
                put(response.headers_mut(), &[("location".to_owned(), location)]);
                return response;
            }
            Reply::Filler(length) => (Some("application/octet-stream"), Body::filler(length)),
            Reply::Events(events) => return self.events(&events, pace),
        };
        self.success(content_type, body)
    }

    fn events(&self, events: &[Event], pace: Stream) -> Response<Body> {
        let frames = events.iter().map(|event| event.frame(&pace)).collect();
        self.frames(frames, pace)
    }

    fn frames(&self, frames: Vec<Bytes>, pace: Stream) -> Response<Body> {
        let content_type = (!pace.bare).then_some("text/event-stream; charset=utf-8");
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
        response
    }

    fn realtime(&self, head: &Parts, credential: &Credential, pace: &Stream) -> Response<Body> {
        let open = OpenAnswer::new(&self.backend.open);
        let session = self.backend.resource.session(&head.uri);
        let opened = session.and_then(|mut greeting| {
            // The simulator's own addition: the backend, the deployment and the credential.
            greeting["asked"] = json!({
                "backend": self.backend.name,
                "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
                "credential": credential.check,
                "identity": credential.identity,
            });
            let connection = Arc::clone(&self.connection);
            let broken = pace.break_after.map(|messages| (messages, pace.how));
            realtime::open(head, greeting, open, connection, broken)
        });
        match opened {
            Ok(mut response) => {
                self.backend.sign(response.headers_mut());
                response
            }
            Err(failure) => self.failure(&failure, head),
        }
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

/// Reads a request body to its end, and records it in the audit.
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

/// Whether the request accepts this encoding.
fn accepts(head: &Parts, encoding: Encoding) -> bool {
    let lines = head.headers.get_all(ACCEPT_ENCODING).iter();
    let mut named = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    named.any(|named| named.split(';').next().unwrap_or_default().trim() == encoding.name())
}

fn encoded(encoding: Encoding, body: &[u8]) -> Bytes {
    let level = Compression::default();
    let encoded = match encoding {
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
    };
    // Writing to a vector cannot fail.
    encoded.unwrap_or_default().into()
}

fn exactly(exact: Exact) -> Response<Body> {
    let mut response = Response::new(Body::whole(exact.body));
    *response.status_mut() = StatusCode::from_u16(exact.status).unwrap_or_default();
    put(response.headers_mut(), &exact.headers);
    response
}

/// Sets headers. A repeated name keeps all its values.
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
