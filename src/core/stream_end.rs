//! Finds an error at the end of an event stream, after its content.
//!
//! After such an error backends send nothing but `[DONE]`. The forms of the error are those at a [stream's
//! start](super::stream_start).

use serde::Deserialize;
use serde_json::{Deserializer, Value};

use super::sse::Event;
use super::stream_start::Failure;
use super::text::{find, find_last};
use crate::prelude::*;

/// The most bytes that are kept of a failure's start. `response.failed` has its error before anything long.
const HEAD: usize = 2048;

/// The starts of frames that begin with a failure.
const FAILED_EVENTS: [&[u8]; 2] = [b"response.failed", b"error"];
const FAILED_DATA: [&[u8]; 3] = [
    b"{\"error\":",
    b"{\"type\":\"error\"",
    b"{\"type\":\"response.failed\"",
];

/// The last event of a stream of which only the end is kept.
#[derive(Debug)]
enum Last<'b> {
    Event(Event<'b>),
    /// The start of the event was not kept.
    Cut,
    None,
}

/// Looks for an error in the last event of a stream.
#[derive(Debug, Default)]
pub struct StreamEnd {
    /// The start of the last frame that began with a failure. The end of a long failure does not show that it is one.
    head: Option<Box<[u8]>>,
}

impl StreamEnd {
    /// Notes a passing frame that begins with these bytes.
    pub fn note(&mut self, frame: &[u8]) {
        if begins_with_failure(frame) {
            self.head = Some(frame.get(..HEAD).unwrap_or(frame).into());
        }
    }

    /// The failure at the end of the stream, whose last bytes are `tail`. `begins_event` if these begin with an event.
    pub fn failure(&self, tail: &[u8], begins_event: bool) -> Option<Failure> {
        match last_event(tail, begins_event) {
            Last::Event(event) => Failure::in_event(&event),
            Last::Cut => error_behind(self.head.as_deref()?).map(|error| Failure::of(&error)),
            Last::None => None,
        }
    }
}

fn begins_with_failure(frame: &[u8]) -> bool {
    // A few bytes suffice to rule out nearly every frame.
    let may_be_one = match frame {
        [b'd', _, _, _, b':', b' ', b'{', b'"', key, ..]
        | [b'd', _, _, _, b':', b'{', b'"', key, ..] => matches!(key, b'e' | b't'),
        [b'e', _, _, _, _, b':', b' ', name @ ..] | [b'e', _, _, _, _, b':', name @ ..] => {
            matches!(name, [b'e', ..] | [b'r', _, _, _, _, _, _, _, _, b'f', ..])
        }
        _ => false,
    };
    may_be_one && is_failure(frame)
}

#[inline(never)]
fn is_failure(frame: &[u8]) -> bool {
    let begins_with_one = |text: &[u8], of: &[&[u8]]| {
        let text = text.strip_prefix(b" ").unwrap_or(text);
        of.iter().any(|begin| text.starts_with(begin))
    };
    match frame {
        [b'e', rest @ ..] => {
            let name = rest.strip_prefix(b"vent:");
            name.is_some_and(|name| begins_with_one(name, &FAILED_EVENTS))
        }
        [b'd', rest @ ..] => {
            let data = rest.strip_prefix(b"ata:");
            data.is_some_and(|data| begins_with_one(data, &FAILED_DATA))
        }
        _ => false,
    }
}

/// The first non-null `error` in JSON that may be cut off after it.
fn error_behind(head: &[u8]) -> Option<Value> {
    const KEY: &[u8] = b"error\":";
    let mut rest = head;
    loop {
        rest = rest.get(find(rest, [b'"'])?.checked_add(1)?..)?;
        if let Some(value) = rest.strip_prefix(KEY) {
            let value = Value::deserialize(&mut Deserializer::from_slice(value)).ok()?;
            if !value.is_null() {
                return Some(value);
            }
        }
    }
}

/// The last event of these bytes other than `[DONE]`.
fn last_event(tail: &[u8], begins_event: bool) -> Last<'_> {
    let mut rest = tail;
    loop {
        rest = without_line_ends(rest);
        let begin = behind_last_blank_line(rest);
        if begin.is_none() && !begins_event {
            return Last::Cut;
        }
        let (before, lines) = rest
            .split_at_checked(begin.unwrap_or(0))
            .unwrap_or((&[], rest));
        match Event::of(lines) {
            Some(event) if &*event.data() != b"[DONE]" => return Last::Event(event),
            _ if before.is_empty() => return Last::None,
            _ => rest = before,
        }
    }
}

fn without_line_ends(text: &[u8]) -> &[u8] {
    let mut rest = text;
    while let [before @ .., b'\n' | b'\r'] = rest {
        rest = before;
    }
    rest
}

fn behind_last_blank_line(text: &[u8]) -> Option<usize> {
    let mut before = text;
    while let Some(end) = find_last(before, b'\n') {
        let behind = end.checked_add(1)?;
        match text.get(behind) {
            // A blank line ends here, or begins.
            Some(b'\n') => return behind.checked_add(1),
            Some(b'\r') => {
                let after = behind.checked_add(1)?;
                return after.checked_add(usize::from(text.get(after) == Some(&b'\n')));
            }
            _ => before = before.get(..end)?,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &str =
        "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" well\"}}]}\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    const ERROR: &str = "data: {\"error\":{\"code\":\"server_error\",\"message\":\"m\"}}\n\n";
    const LIMIT: &str = "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"Please try again in 2s.\"}\n\n";

    fn status(stream: &str) -> Option<u16> {
        let failure = StreamEnd::default().failure(stream.as_bytes(), true);
        failure.map(|failure| failure.status)
    }

    #[test]
    fn an_error_at_the_end_is_found() {
        for (end, expected) in [
            (ERROR.to_owned(), 500),
            (format!("{ERROR}{DONE}"), 500),
            (format!("{ERROR}: bye\n\n{DONE}\n\n"), 500),
            (ERROR.trim_end().to_owned(), 500),
            (LIMIT.to_owned(), 429),
            (LIMIT.replace('\n', "\r\n"), 429),
            ("event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n".into(), 500),
            ("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n".into(), 529),
            ("data: {\"error\":{\"code\":\"content_filter\"}}\n\n".into(), 400),
        ] {
            let content = match end.contains('\r') {
                true => CONTENT.replace('\n', "\r\n"),
                false => CONTENT.to_owned(),
            };
            assert_eq!(status(&format!("{content}{end}")), Some(expected), "{end}");
            assert_eq!(status(&end), Some(expected), "{end}");
        }
    }

    #[test]
    fn streams_without_an_error_have_no_failure() {
        for end in [
            "",
            "\n\n",
            DONE,
            CONTENT,
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n",
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\",\"content_filter_result\":{\"error\":{\"code\":\"content_filter_error\"}}}]}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"{\\\"error\\\":1}\"}}]}\n\n",
            "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"error\":null}}\n\n",
            "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            "{\"error\":{\"code\":\"server_error\"}}",
            "data: {\"choices\":[],\"error\":null}\n\n",
        ] {
            assert_eq!(status(&format!("{ERROR}{CONTENT}{end}")), None, "{end}");
        }
    }

    #[test]
    fn long_failures_are_recognized_by_their_start() {
        let long = "x".repeat(20_000);
        let failed = format!(
            "event: response.failed\ndata: {{\"type\":\"response.failed\",\"response\":{{\"id\":\"resp_1\",\"error\":{{\"code\":\
             \"rate_limit_exceeded\",\"message\":\"Please try again in 3s.\"}},\"instructions\":\"{long}\"}}}}\n\n"
        );
        let tail = &failed.as_bytes()[failed.len() - 8192..];
        let mut end = StreamEnd::default();
        end.note(CONTENT.as_bytes());
        assert!(end.failure(tail, false).is_none());
        end.note(&failed.as_bytes()[..4096]);
        let failure = end.failure(tail, false).expect("a failure");
        assert_eq!(failure.status, 429);
        assert_eq!(failure.wait, Some(core::time::Duration::from_secs(3)));
        // Another event came after the failure.
        let later = [&tail[4096..], CONTENT.as_bytes()].concat();
        assert!(end.failure(&later, false).is_none());
    }

    #[test]
    fn starts_cut_before_their_error_have_no_failure() {
        for head in [
            "event: error\ndata: {\"type\":\"error\",\"err",
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"code\":\"server",
        ] {
            let mut end = StreamEnd::default();
            end.note(head.as_bytes());
            assert!(end.failure(b"x", false).is_none(), "{head}");
        }
    }
}
