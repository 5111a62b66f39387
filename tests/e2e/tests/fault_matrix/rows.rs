//! The rows of the matrix: faults under their plain names.

use std::time::{Duration, SystemTime};

use simulator::{Behaviour, Break, Encoding, Failure, SlowBody, Stream};

use super::requests::Kind;
use crate::faults::faults;

/// One fault of one backend.
pub(super) struct Row {
    pub(super) group: &'static str,
    pub(super) fault: &'static str,
    pub(super) kinds: &'static [Kind],
    pub(super) setup: Setup,
}

/// The way in which a backend gets the fault.
#[derive(Clone, Debug)]
pub(super) enum Setup {
    Behaves(Behaviour),
    /// The backend has an API key.
    BehavesToKey(Behaviour),
    /// The backend has an identity of its own, because its tokens are refused.
    BehavesToToken(Behaviour),
    /// A 429 whose `retry-after` is the date after this time.
    ThrottledUntil(Duration),
    Stopped,
    /// The backend's certificate is for another host.
    WrongCertificate,
    TlsFailure,
}

/// Requests whose answers are whole documents.
const WHOLE: &[Kind] = &[Kind::Chat, Kind::V1, Kind::Upload, Kind::Background];

fn error(status: u16, code: &str, message: &str) -> Behaviour {
    Behaviour::error(Failure::coded(status, code, message))
}

fn ended(slow: SlowBody) -> Behaviour {
    Behaviour::slow_body(SlowBody {
        break_after: Some(50),
        ..slow
    })
}

fn cut(frames: u32, how: Break) -> Behaviour {
    Behaviour::stream(Stream {
        break_after: Some(frames),
        how,
        ..Stream::default()
    })
}

fn events(frames: &[&str]) -> Behaviour {
    let frames = frames.iter().map(|frame| format!("data: {frame}\n\n"));
    Behaviour::stream(Stream {
        frames: frames.collect(),
        ..Stream::default()
    })
}

/// A whole answer in chunks.
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
/// A stream of events in chunks.
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
/// The first content of a chat.
const CONTENT: &str = r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;

impl Setup {
    pub(super) fn needs_tls(&self) -> bool {
        matches!(self, Self::WrongCertificate | Self::TlsFailure)
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        match self {
            Self::Behaves(behaviour)
            | Self::BehavesToKey(behaviour)
            | Self::BehavesToToken(behaviour) => behaviour.clone(),
            Self::ThrottledUntil(wait) => {
                let date = httpdate::fmt_http_date(SystemTime::now() + *wait);
                Behaviour::throttled_with(&[("retry-after", &date)])
            }
            Self::Stopped | Self::WrongCertificate | Self::TlsFailure => Behaviour::normal(),
        }
    }
}

/// Faults under one heading, and the requests for which they exist.
type Group = (&'static str, &'static [Kind], Vec<(&'static str, Setup)>);

/// All rows, in the order of the page.
pub(super) fn rows() -> Vec<Row> {
    let net = faults();
    let shared = |name: &str| Setup::Behaves(net[name].1.clone());
    let behaves = Setup::Behaves;
    let slow = SlowBody::default;
    let breaking = SlowBody {
        interval_ms: 1000,
        break_after: Some(50),
        how: Break::Close,
        ..slow()
    };
    let throttled = |header: &[(&str, &str)]| Setup::Behaves(Behaviour::throttled_with(header));
    let status = |status| Setup::Behaves(Behaviour::status(status));
    let waits = ("retry-after", "20");
    let groups: Vec<Group> = vec![
        ("No answer", Kind::ALL, vec![
            ("connection refused", Setup::Stopped),
            ("TLS: a certificate of another host", Setup::WrongCertificate),
            ("TLS: the handshake fails", Setup::TlsFailure),
            ("reset before the headers", shared("resets")),
            ("closed before the headers", shared("closes")),
            ("no response", shared("hangs")),
            ("stalls in its headers", shared("half-head")),
            ("reset in its headers", shared("half-head-resets")),
            ("an answer that is not HTTP", behaves(Behaviour::raw("SSH-2.0-OpenSSH_9.6\r\n\r\n", Break::Close))),
        ]),
        ("Server errors", Kind::ALL, vec![
            ("500", shared("failing")),
            ("500, once", behaves(Behaviour::internal_error().times(1))),
            ("500 before it has read the request", shared("failing-early")),
            ("500 whose body stalls", behaves(Behaviour::stalled(500))),
            (
                    "500 whose body is cut off after 1 s",
                    behaves(Behaviour::error(Failure::paced(500, breaking))),
                ),
            ("500 whose body never ends", shared("failing-endless")),
            ("502", status(502)),
            ("503", status(503)),
            ("503 with `retry-after: 20`", behaves(Behaviour::status(503).with_header(waits.0, waits.1))),
            ("504", status(504)),
            ("408", status(408)),
            ("501", status(501)),
        ]),
        ("429", Kind::ALL, vec![
            ("429 with `retry-after: 20`", throttled(&[waits])),
            ("429 with `retry-after` as a date", Setup::ThrottledUntil(Duration::from_secs(20))),
            ("429 with `retry-after-ms: 20000`", throttled(&[("retry-after-ms", "20000")])),
            ("429 with `x-ms-retry-after-ms: 20000`", throttled(&[("x-ms-retry-after-ms", "20000")])),
            ("429 with `x-ratelimit-reset-tokens: 20s`", throttled(&[("x-ratelimit-reset-tokens", "20s")])),
            ("429 with `x-ratelimit-reset-requests: 20`", throttled(&[("x-ratelimit-reset-requests", "20")])),
            ("429 that names no wait", throttled(&[])),
            ("429 with `retry-after: soon`", throttled(&[("retry-after", "soon")])),
            ("429 with `retry-after: 0`", throttled(&[("retry-after", "0")])),
            ("429 with a wait of a day", throttled(&[("retry-after", "86400")])),
            ("429 with `x-envoy-ratelimited`", throttled(&[waits, ("x-envoy-ratelimited", "true")])),
            ("429 before it has read the request", behaves(Behaviour::early(429).with_header(waits.0, waits.1))),
            ("429 whose body stalls", behaves(Behaviour::stalled(429).with_header(waits.0, waits.1))),
        ]),
        ("Refused credentials", Kind::ALL, vec![
            ("401 to a token, once", Setup::BehavesToToken(Behaviour::unauthorized_token().times(1))),
            ("401 to every token", Setup::BehavesToToken(Behaviour::unauthorized_token())),
            ("401 `PermissionDenied`: a role is missing", behaves(Behaviour::permission_denied())),
            ("401 to an API key", Setup::BehavesToKey(error(401, "401", "Access denied due to invalid subscription key or wrong API endpoint."))),
            ("403 `AuthenticationTypeDisabled`: no API keys", Setup::BehavesToKey(error(403, "AuthenticationTypeDisabled", "Key based authentication is disabled for this resource."))),
            ("403 `PermissionDenied`", shared("forbidden")),
            ("403 of the firewall", behaves(error(403, "403", "Access denied due to Virtual Network/Firewall rules."))),
            ("403: the resource is suspended", behaves(error(403, "Forbidden", "Your resource has been temporarily blocked because we detected behavior that may violate our policies."))),
            ("400: the token is of another tenant", behaves(error(400, "BadRequest", "Tenant provided in token does not match resource token"))),
            ("403 with another code", behaves(error(403, "OperationForbidden", "This operation is forbidden."))),
        ]),
        ("Missing deployments and APIs", Kind::ALL, vec![
            ("404 `DeploymentNotFound`", shared("missing")),
            ("404 `DeploymentNotFound`, compressed", behaves(Behaviour::error(Failure::coded(404, "DeploymentNotFound", "The API deployment for this resource does not exist.").encoded(Encoding::Gzip)))),
            ("400 `unknown_model`", behaves(error(400, "unknown_model", "Unknown model: gpt-4o"))),
            ("410 `ModelDeprecated`", behaves(error(410, "ModelDeprecated", "The model associated with the deployment is deprecated."))),
            ("404: not enabled in this region", behaves(Behaviour::not_enabled_in_region())),
            ("404: the host is no resource", behaves(error(404, "404", "Subdomain does not map to a resource."))),
            ("404 of anything else", behaves(error(404, "404", "Resource not found"))),
        ]),
        ("Errors of the request", Kind::ALL, vec![
            ("400: context length", behaves(Behaviour::context_length())),
            ("400: content filter", behaves(Behaviour::content_filter())),
            ("400 of anything else", behaves(error(400, "BadRequest", "The request is malformed."))),
            ("413", status(413)),
            ("422", status(422)),
        ]),
        ("Broken answers", WHOLE, vec![
            ("an answer after 2 s", behaves(Behaviour::normal().after_ms(2000))),
            ("half a body, then closed", shared("cut-body")),
            ("half a body, then reset", behaves(ended(slow()))),
            ("half a body, then nothing more", behaves(ended(SlowBody { how: Break::Silence, ..slow() }))),
            ("`content-length` is too small", behaves(Behaviour::raw("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{\"id\":\"c\",\"object\":\"chat.completion\"}", Break::Close))),
            ("a malformed chunk", behaves(Behaviour::raw(&format!("{CHUNKED}5\r\n{{\"a\":\r\nzz\r\nmalformed\r\n"), Break::Close))),
        ]),
        ("Streams", &[Kind::Stream], vec![
            ("slow first token (2 s)", behaves(Behaviour::stream(Stream { first_event_delay_ms: 2000, ..Stream::default() }))),
            ("no first token", behaves(cut(0, Break::Silence))),
            ("closed before the first event", shared("no-stream")),
            ("an error as the first event", behaves(events(&[r#"{"error":{"code":"server_error","message":"It failed."}}"#, "[DONE]"]))),
            ("a rate limit as the first event", behaves(events(&[r#"{"error":{"code":"rate_limit_exceeded","message":"Please try again in 20 seconds."}}"#, "[DONE]"]))),
            ("an error after content", behaves(events(&[CONTENT, r#"{"error":{"code":"server_error","message":"It failed."}}"#]))),
            ("an event that is not JSON", behaves(events(&[CONTENT, "{malformed", "[DONE]"]))),
            ("missing `[DONE]`", behaves(events(&[CONTENT]))),
            ("closed after some events", shared("cut-stream")),
            ("reset after some events", behaves(cut(4, Break::Reset))),
            ("stalls after some events", behaves(cut(4, Break::Silence))),
            ("a malformed chunk", behaves(Behaviour::raw(&format!("{EVENTS}{:x}\r\ndata: {CONTENT}\n\n\r\nzz\r\nmalformed\r\n", CONTENT.len() + 8), Break::Close))),
        ]),
        ("Realtime sessions", &[Kind::Realtime], vec![
            ("closed after its first message", behaves(cut(1, Break::Close))),
            ("reset after its first message", behaves(cut(1, Break::Reset))),
        ]),
    ];
    let rows = groups.into_iter().flat_map(|(group, kinds, faults)| {
        faults.into_iter().map(move |(fault, setup)| Row {
            group,
            fault,
            kinds,
            setup,
        })
    });
    rows.collect()
}
