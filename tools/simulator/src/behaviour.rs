//! Behaviours of a backend, for tests and the admin endpoint.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::script::Scripted;
use crate::server::Break;

/// A backend's behaviour. The default is to answer as Azure would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// The number of requests for which it applies; `None` for all, and for one in a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// The requests to which it applies; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// The delay in milliseconds between the request's last byte and the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The answer.
    pub answer: Answer,
}

/// A condition on requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// The path and query contain this.
    pub path_contains: String,
}

/// Kinds of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// The answer of Azure, with a check of credentials. A bad credential is refused before the request's body is read.
    Normal {
        /// Headers to add to the answer, or to replace there.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// An error in Azure's shape, for any request.
    Error(Failure),
    /// Exactly this answer, for any request, without the headers that Azure puts on every answer.
    Exact(Exact),
    /// An error sent before the request's body is read. The body is then read and discarded.
    EarlyError(Failure),
    /// An error sent before the request's body is read. The body is never read.
    UnreadError(Unread),
    /// The first bytes of an error, and no more: its head is never complete.
    HalfHead(HalfHead),
    /// Raw bytes in place of an answer, over HTTP/1.1 without TLS.
    Raw(Raw),
    /// No answer: the request is read.
    Hang,
    /// A TCP reset after the request's headers, before any byte of an answer.
    Reset,
    /// An orderly close after the request, without an answer.
    Close,
    /// Azure's answer. If it is an event stream, it has this pace.
    Stream(Stream),
    /// Azure's answer. Unless it is an event stream, its body comes in pieces or in part.
    SlowBody(SlowBody),
}

impl Default for Answer {
    fn default() -> Self {
        Self::Normal {
            headers: Vec::new(),
        }
    }
}

/// An error answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The HTTP status.
    pub status: u16,
    /// `error.code`; the status by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `error.message`; by default a sentence with the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Headers to add to the answer, or to replace there.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The whole body, in place of an error in Azure's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The encoding of the body, if the request accepts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// The pace of the body, and the place where it breaks. By default the body comes whole and at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pace: Option<Box<SlowBody>>,
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// `gzip`
    Gzip,
    /// `deflate`, which is zlib's format.
    Deflate,
}

impl Encoding {
    /// The name in `content-encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// An answer with all its headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exact {
    /// The HTTP status.
    pub status: u16,
    /// All headers, except `date`, and `content-length` if it follows from the body.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(default)]
    pub body: String,
}

impl Failure {
    /// An error with this status alone.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            code: None,
            message: None,
            headers: Vec::new(),
            body: None,
            encoding: None,
            pace: None,
        }
    }

    /// An error with this status, and a body of 100 bytes at this pace.
    pub fn paced(status: u16, pace: SlowBody) -> Self {
        Self {
            body: Some(format!("{:<100}", r#"{"error":{"#)),
            pace: Some(Box::new(pace)),
            ..Self::new(status)
        }
    }

    /// An error with this status, code and message.
    pub fn coded(status: u16, code: &str, message: &str) -> Self {
        Self {
            code: Some(code.to_owned()),
            message: Some(message.to_owned()),
            ..Self::new(status)
        }
    }

    /// The error with an encoded body, if the request accepts that.
    #[must_use]
    pub fn encoded(self, encoding: Encoding) -> Self {
        Self {
            encoding: Some(encoding),
            ..self
        }
    }
}

/// An error sent without reading the request's body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unread {
    /// The error.
    pub failure: Failure,
    /// Whether the connection stays open, with the unread body in it. It then serves no other request. Otherwise it is
    /// closed after the answer. Over HTTP/2 this concerns the stream: it stays half open, or is reset.
    #[serde(default)]
    pub keep: bool,
}

/// The first bytes of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HalfHead {
    /// The status.
    pub status: u16,
    /// The number of bytes that are sent. Over HTTP/2, the number of bytes that the connection sends from then on.
    pub bytes: usize,
    /// The way in which it breaks.
    pub how: Break,
}

/// Raw bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// The bytes.
    pub text: String,
    /// The way in which the connection breaks afterwards.
    #[serde(default)]
    pub how: Break,
}

impl Raw {
    /// The status in the raw bytes, or 200.
    pub(crate) fn status(&self) -> u16 {
        let word = self.text.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or(200)
    }
}

/// The pace and the flaws of an event stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// The number of pieces of text, without the other frames.
    pub events: u32,
    /// The milliseconds between two frames.
    pub interval_ms: u64,
    /// The milliseconds between the headers and the first frame.
    pub first_event_delay_ms: u64,
    /// The number of frames after which the stream breaks. In a realtime session, the number of messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_after: Option<u32>,
    /// The way in which the stream breaks.
    pub how: Break,
    /// Whether lines end with CR LF.
    pub crlf: bool,
    /// Trailers after the last frame. HTTP/1.1 carries them only to a client that sent `te: trailers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trailers: Option<Vec<(String, String)>>,
    /// Whether each frame is written in two pieces, split inside a UTF-8 character if the frame has one.
    pub split_frames: bool,
    /// Whether the content type is missing, and `[DONE]` has no `data:` before it.
    pub bare: bool,
    /// Frames to send in place of a model's, unchanged, for any request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
    /// Headers to add to the answer, or to replace there.
    pub headers: Vec<(String, String)>,
}

impl Stream {
    /// The stream of a response that fails with this code after its creation.
    pub fn failed_response(code: &str, message: &str) -> Self {
        let mut frames = Self::created_response().frames;
        let error = json!({"code": code, "message": message});
        let response =
            json!({"id": "resp_failed", "object": "response", "status": "failed", "error": error});
        let data = json!({"type": "response.failed", "sequence_number": 2, "response": response});
        frames.push(format!("event: response.failed\ndata: {data}\n\n"));
        Self {
            frames,
            ..Self::default()
        }
    }

    /// The stream of a created response, up to its content.
    pub fn created_response() -> Self {
        let events = ["response.created", "response.in_progress"];
        let frames = events.iter().enumerate().map(|(number, event)| {
            let response = json!({"id": "resp_failed", "object": "response", "status": "in_progress", "error": null});
            let data = json!({"type": event, "sequence_number": number, "response": response});
            format!("event: {event}\ndata: {data}\n\n")
        });
        Self {
            frames: frames.collect(),
            ..Self::default()
        }
    }

    /// The stream of a chat that fails with this code before its content.
    pub fn failed_chat(code: &str, message: &str) -> Self {
        let error = json!({"error": {"code": code, "message": message}});
        Self {
            frames: vec![format!("data: {error}\n\n"), "data: [DONE]\n\n".to_owned()],
            ..Self::default()
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            events: 20,
            interval_ms: 5,
            first_event_delay_ms: 0,
            break_after: None,
            how: Break::Reset,
            crlf: false,
            trailers: None,
            split_frames: false,
            bare: false,
            frames: Vec::new(),
            headers: Vec::new(),
        }
    }
}

/// The pace of a plain body, and the place where it breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowBody {
    /// The bytes of each piece.
    pub piece: usize,
    /// The milliseconds before each piece.
    pub interval_ms: u64,
    /// The number of bytes after which the body breaks, although `content-length` may announce more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_after: Option<usize>,
    /// The way in which the body breaks.
    pub how: Break,
    /// Whether the body is chunked, without `content-length`.
    pub chunked: bool,
    /// Whether the body is repeated without an end. There is no `content-length`.
    pub endless: bool,
}

impl Default for SlowBody {
    fn default() -> Self {
        Self {
            piece: 64,
            interval_ms: 5,
            break_after: None,
            how: Break::Reset,
            chunked: false,
            endless: false,
        }
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self {
            answer,
            ..Self::default()
        }
    }
}

impl Behaviour {
    /// The answer of Azure.
    pub fn normal() -> Self {
        Self::default()
    }

    /// The answer of Azure, with these headers.
    pub fn normal_with(headers: &[(&str, &str)]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Answer::Normal { headers }.into()
    }

    /// The given error.
    pub fn error(failure: Failure) -> Self {
        Answer::Error(failure).into()
    }

    /// Exactly this answer.
    pub fn exact(status: u16, headers: &[(&str, &str)], body: &str) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Answer::Exact(Exact {
            status,
            headers: headers.collect(),
            body: body.to_owned(),
        })
        .into()
    }

    /// An error with this status alone.
    pub fn status(status: u16) -> Self {
        Self::error(Failure::new(status))
    }

    /// An error with this status, sent before the request's body is read.
    pub fn early(status: u16) -> Self {
        Answer::EarlyError(Failure::new(status)).into()
    }

    /// An error with this status. The request's body is never read, and the connection is closed.
    pub fn unread(status: u16) -> Self {
        Self::unread_error(status, false)
    }

    /// An error with this status. The request's body is never read, and the connection stays open.
    pub fn unread_kept(status: u16) -> Self {
        Self::unread_error(status, true)
    }

    fn unread_error(status: u16, keep: bool) -> Self {
        let failure = Failure::new(status);
        Answer::UnreadError(Unread { failure, keep }).into()
    }

    /// An error with this status, a `content-length` of 100, nine bytes, and silence.
    pub fn stalled(status: u16) -> Self {
        let pace = SlowBody {
            interval_ms: 0,
            break_after: Some(9),
            how: Break::Silence,
            ..SlowBody::default()
        };
        Self::error(Failure::paced(status, pace))
    }

    /// 30 bytes of an answer with this status, and then this break.
    pub fn half_head(status: u16, how: Break) -> Self {
        let bytes = 30;
        Answer::HalfHead(HalfHead { status, bytes, how }).into()
    }

    /// These bytes in place of an answer, and then this break.
    pub fn raw(text: &str, how: Break) -> Self {
        let text = text.to_owned();
        Answer::Raw(Raw { text, how }).into()
    }

    /// 429 with `retry-after` in seconds.
    pub fn throttled(retry_after: u64) -> Self {
        Self::throttled_with(&[("retry-after", &retry_after.to_string())])
    }

    /// 429 with exactly these headers.
    pub fn throttled_with(headers: &[(&str, &str)]) -> Self {
        let mut behaviour = Self::error(Failure::coded(
            429,
            "429",
            "Requests to this deployment have exceeded the call rate limit of your current pricing tier.",
        ));
        for (name, value) in headers {
            behaviour = behaviour.with_header(name, value);
        }
        behaviour
    }

    /// A 401 for a token that is missing, wrong or expired.
    pub fn unauthorized_token() -> Self {
        Self::error(Failure::coded(
            401,
            "401",
            "Unauthorized. Access token is missing, invalid, audience is incorrect, or have expired.",
        ))
    }

    /// A 401 for an identity without the role on this resource.
    pub fn permission_denied() -> Self {
        Self::error(crate::azure::errors::permission_denied())
    }

    /// A 404 for a deployment that this resource lacks.
    pub fn deployment_not_found() -> Self {
        Self::error(crate::azure::errors::deployment_not_found())
    }

    /// A 404 for an API that the resource's region does not offer.
    pub fn not_enabled_in_region() -> Self {
        Self::error(crate::azure::errors::not_enabled_in_region())
    }

    /// A 400 for a prompt that the content filter refuses.
    pub fn content_filter() -> Self {
        Self::error(crate::azure::errors::content_filter())
    }

    /// A 400 for a prompt longer than the model's context.
    pub fn context_length() -> Self {
        Self::error(crate::azure::errors::context_length())
    }

    /// A 500.
    pub fn internal_error() -> Self {
        Self::error(Failure::coded(
            500,
            "InternalServerError",
            "The server had an error while processing your request.",
        ))
    }

    /// No answer.
    pub fn hang() -> Self {
        Answer::Hang.into()
    }

    /// A reset of the connection.
    pub fn reset() -> Self {
        Answer::Reset.into()
    }

    /// A close of the connection.
    pub fn close() -> Self {
        Answer::Close.into()
    }

    /// Event streams at this pace.
    pub fn stream(stream: Stream) -> Self {
        Answer::Stream(stream).into()
    }

    /// Plain bodies at this pace, or broken.
    pub fn slow_body(slow: SlowBody) -> Self {
        Answer::SlowBody(slow).into()
    }

    /// The behaviour, for the next `count` requests only.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.remaining = Some(count);
        self
    }

    /// The behaviour, only for requests whose path and query contain `part`.
    #[must_use]
    pub fn on_path(mut self, part: &str) -> Self {
        self.when = Some(When {
            path_contains: part.to_owned(),
        });
        self
    }

    /// The behaviour, after a delay in milliseconds.
    #[must_use]
    pub fn after_ms(mut self, delay: u64) -> Self {
        self.delay_ms = Some(delay);
        self
    }

    /// The behaviour, with one more header on the answer if its kind can have one.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        match &mut self.answer {
            Answer::Normal { headers }
            | Answer::Error(Failure { headers, .. })
            | Answer::EarlyError(Failure { headers, .. })
            | Answer::Exact(Exact { headers, .. })
            | Answer::UnreadError(Unread {
                failure: Failure { headers, .. },
                ..
            })
            | Answer::Stream(Stream { headers, .. }) => {
                headers.push((name.to_owned(), value.to_owned()))
            }
            Answer::HalfHead(_)
            | Answer::Raw(_)
            | Answer::Hang
            | Answer::Reset
            | Answer::Close
            | Answer::SlowBody(_) => {}
        }
        self
    }
}

impl Scripted for Behaviour {
    fn remaining(&mut self) -> &mut Option<u32> {
        &mut self.remaining
    }

    fn applies_to(&self, path: &str) -> bool {
        self.when
            .as_ref()
            .is_none_or(|when| path.contains(&when.path_contains))
    }
}
