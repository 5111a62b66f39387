//! Answers of the API, before they are paced, broken or sent.

use bytes::Bytes;
use serde_json::Value;

use crate::behaviour::{Failure, Stream};

/// An answer.
pub(crate) enum Reply {
    /// An error.
    Error(Failure),
    /// A content type and a whole body.
    Whole(&'static str, Bytes),
    /// A new object: its place, a content type, and a whole body.
    Made(String, &'static str, Bytes),
    /// This many meaningless bytes.
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
    pub(super) fn data(data: impl ToString) -> Self {
        Self {
            name: None,
            data: data.to_string(),
        }
    }

    pub(super) fn named(name: &'static str, data: impl ToString) -> Self {
        Self {
            name: Some(name),
            data: data.to_string(),
        }
    }

    pub(super) fn done() -> Self {
        Self::data("[DONE]")
    }

    /// The event's data.
    pub(crate) fn text(&self) -> &str {
        &self.data
    }

    /// The event's bytes on the wire.
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
