//! How a backend answers, as tests and the admin endpoint say it.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::script::Scripted;
use crate::server::Break;

/// What a backend does with a request. The default is to answer as Azure would.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// It applies to this many requests and then falls away; `None` means for good, and once in a queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// It applies to these requests only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<When>,
    /// Milliseconds to wait, once the request is read, before anything is answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The answer.
    pub answer: Answer,
}

/// Which requests a behaviour applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// Those whose path and query contain this.
    pub path_contains: String,
}

/// The kinds of answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Answer {
    /// As Azure would, credentials checked: those that are not good are answered before the request's body is read.
    Normal {
        /// Added to the answer, or put in the place of a header of that name.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// An error in Azure's shape, whatever the request was.
    Error(Failure),
    /// This and nothing else, whatever the request was: none of the headers that Azure puts on every answer.
    Exact(Exact),
    /// The same, answered before the request's body is read; the body is then read and thrown away.
    EarlyError(Failure),
    /// The same, and the request's body is never read.
    UnreadError(Unread),
    /// The first bytes of an answer, an error's, and no more: its head is never complete.
    HalfHead(HalfHead),
    /// Bytes in place of an answer, over HTTP/1.1 without TLS.
    Raw(Raw),
    /// Reads the request and never answers.
    Hang,
    /// A TCP reset after the request's headers, before any byte of an answer.
    Reset,
    /// Reads the request, then closes the connection in order, without an answer.
    Close,
    /// A normal answer whose event stream, if it is one, is paced like this.
    Stream(Stream),
    /// A normal answer whose body, unless it is an event stream, comes in pieces or only in part.
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
    /// `error.code`; the status when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `error.message`; a sentence naming the status when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Added to the answer, or put in the place of a header of that name.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The whole body instead, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// How the body is encoded, where the request accepts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<Encoding>,
    /// The body's pace, and where it breaks; it comes at once and whole when there is none.
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

/// An answer, header by header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exact {
    /// The HTTP status.
    pub status: u16,
    /// All headers but `date`, and `content-length` where it follows from the body.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(default)]
    pub body: String,
}

impl Failure {
    /// A status with nothing more said about it.
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

    /// A status with a body of 100 bytes that comes at this pace.
    pub fn paced(status: u16, pace: SlowBody) -> Self {
        Self {
            body: Some(format!("{:<100}", r#"{"error":{"#)),
            pace: Some(Box::new(pace)),
            ..Self::new(status)
        }
    }

    /// A status with a code and a message.
    pub fn coded(status: u16, code: &str, message: &str) -> Self {
        Self {
            code: Some(code.to_owned()),
            message: Some(message.to_owned()),
            ..Self::new(status)
        }
    }

    /// The same with an encoded body, where the request accepts that.
    #[must_use]
    pub fn encoded(self, encoding: Encoding) -> Self {
        Self {
            encoding: Some(encoding),
            ..self
        }
    }
}

/// An error that is answered without reading the request's body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unread {
    /// The error.
    pub failure: Failure,
    /// The connection stays open, with what was sent of the body in it, though it serves no other request; otherwise it is closed
    /// after the answer. Over HTTP/2 that is the stream: it stays half open, or is reset.
    #[serde(default)]
    pub keep: bool,
}

/// The start of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HalfHead {
    /// Its status.
    pub status: u16,
    /// How many bytes of it leave; of an HTTP/2 connection, how many bytes it sends from then on.
    pub bytes: usize,
    /// What follows.
    pub how: Break,
}

/// Bytes that leave as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    /// All that leaves.
    pub text: String,
    /// How the connection then breaks.
    #[serde(default)]
    pub how: Break,
}

impl Raw {
    /// The status that the bytes begin with, or 200.
    pub(crate) fn status(&self) -> u16 {
        let word = self.text.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or(200)
    }
}

/// The pace and the flaws of an event stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// How many pieces of text it has; the frames around them come on top.
    pub events: u32,
    /// Milliseconds between two frames.
    pub interval_ms: u64,
    /// Milliseconds between the headers and the first frame.
    pub first_event_delay_ms: u64,
    /// It breaks after this many frames; a realtime session after this many messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_after: Option<u32>,
    /// How it breaks.
    pub how: Break,
    /// Lines end with CR LF.
    pub crlf: bool,
    /// Trailers after the last frame. HTTP/1.1 carries them only to a client that sent `te: trailers`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trailers: Option<Vec<(String, String)>>,
    /// Each frame is written in two pieces, split inside a UTF-8 character where the frame has one.
    pub split_frames: bool,
    /// The answer has no content type, and its `[DONE]` stands without `data:`.
    pub bare: bool,
    /// These frames instead of a model's, each as it is, whatever the request was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<String>,
    /// Added to the answer, or put in the place of a header of that name.
    pub headers: Vec<(String, String)>,
}

impl Stream {
    /// The stream of a response that fails with this code after it was created.
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

    /// The stream of a response that was created, as far as it comes before its content.
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

    /// The stream of a chat that fails with this code before it has said anything.
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

/// The pace of a plain body, and where it breaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SlowBody {
    /// Bytes per piece.
    pub piece: usize,
    /// Milliseconds before each piece.
    pub interval_ms: u64,
    /// It breaks after this many bytes, though `content-length`, if there is one, promises all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub break_after: Option<usize>,
    /// How it breaks.
    pub how: Break,
    /// There is no `content-length`.
    pub chunked: bool,
    /// It begins again whenever it is at its end, and so never ends. There is no `content-length`.
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
    /// As Azure would answer.
    pub fn normal() -> Self {
        Self::default()
    }

    /// As Azure would answer, with these headers on top.
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

    /// An error with this status and no more.
    pub fn status(status: u16) -> Self {
        Self::error(Failure::new(status))
    }

    /// An error with this status, sent before the request's body is read.
    pub fn early(status: u16) -> Self {
        Answer::EarlyError(Failure::new(status)).into()
    }

    /// An error with this status; the request's body is never read, and the connection is closed.
    pub fn unread(status: u16) -> Self {
        Self::unread_error(status, false)
    }

    /// An error with this status; the request's body is never read, and the connection stays open.
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

    /// 30 bytes of an answer with this status, and then this.
    pub fn half_head(status: u16, how: Break) -> Self {
        let bytes = 30;
        Answer::HalfHead(HalfHead { status, bytes, how }).into()
    }

    /// These bytes in place of an answer, and then this.
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

    /// 401 of a token that is missing, bad or too old.
    pub fn unauthorized_token() -> Self {
        Self::error(Failure::coded(
            401,
            "401",
            "Unauthorized. Access token is missing, invalid, audience is incorrect, or have expired.",
        ))
    }

    /// 401 of an identity that lacks the role on this resource.
    pub fn permission_denied() -> Self {
        Self::error(crate::azure::errors::permission_denied())
    }

    /// 404 of a deployment this resource does not have.
    pub fn deployment_not_found() -> Self {
        Self::error(crate::azure::errors::deployment_not_found())
    }

    /// 404 of a feature the resource's region does not offer.
    pub fn not_enabled_in_region() -> Self {
        Self::error(crate::azure::errors::not_enabled_in_region())
    }

    /// 400 of a prompt the content filter refused.
    pub fn content_filter() -> Self {
        Self::error(crate::azure::errors::content_filter())
    }

    /// 400 of a prompt longer than the model reads.
    pub fn context_length() -> Self {
        Self::error(crate::azure::errors::context_length())
    }

    /// 500.
    pub fn internal_error() -> Self {
        Self::error(Failure::coded(
            500,
            "InternalServerError",
            "The server had an error while processing your request.",
        ))
    }

    /// Never answers.
    pub fn hang() -> Self {
        Answer::Hang.into()
    }

    /// Resets the connection.
    pub fn reset() -> Self {
        Answer::Reset.into()
    }

    /// Closes the connection.
    pub fn close() -> Self {
        Answer::Close.into()
    }

    /// Paces event streams.
    pub fn stream(stream: Stream) -> Self {
        Answer::Stream(stream).into()
    }

    /// Paces or breaks plain bodies.
    pub fn slow_body(slow: SlowBody) -> Self {
        Answer::SlowBody(slow).into()
    }

    /// The same for the next `count` requests only.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.remaining = Some(count);
        self
    }

    /// The same for requests whose path and query contain `part` only.
    #[must_use]
    pub fn on_path(mut self, part: &str) -> Self {
        self.when = Some(When {
            path_contains: part.to_owned(),
        });
        self
    }

    /// The same after a delay in milliseconds.
    #[must_use]
    pub fn after_ms(mut self, delay: u64) -> Self {
        self.delay_ms = Some(delay);
        self
    }

    /// The same with one more header on the answer, where there is one that can carry it.
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
