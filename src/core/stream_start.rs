//! Decides whether an event stream begins with content or with a failure.
//!
//! Backends report rate limits and their own errors inside answers with status 200. The Responses API sends
//! `response.failed` or `error` after `response.created`, chat completions `data: {"error": {...}}`, and Anthropic's
//! messages `error`. Before the first content the request can still go to another backend.

use core::time::Duration;

use serde_json::Value;

use super::header_map::HeaderMap;
use super::retry_after::wait_in_words;
use super::sse::{Event, Events};
use super::text::find;
use crate::prelude::*;

/// The most bytes of a stream that are searched for its first content. A longer start counts as content.
pub const STREAM_START: usize = 64 * 1024;

/// The events before the first content.
const LIFECYCLE: [&str; 5] = [
    "response.created",
    "response.in_progress",
    "response.queued",
    "message_start",
    "ping",
];

/// The events that report a failure.
const FAILURES: [&str; 2] = ["response.failed", "error"];

/// Whether an answer with these headers is a readable event stream.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let mut is_stream = false;
    for (name, value) in headers.iter() {
        match name {
            b"content-type" => {
                let media = value.split(|byte| *byte == b';').next().unwrap_or_default();
                is_stream = media
                    .trim_ascii()
                    .eq_ignore_ascii_case(b"text/event-stream");
                // Most answers are not, and need no further checks.
                if !is_stream {
                    return false;
                }
            }
            b"content-encoding" if !value.eq_ignore_ascii_case(b"identity") => return false,
            _ => {}
        }
    }
    is_stream
}

/// The kind of a stream's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Neither content nor a failure arrived yet.
    Undecided,
    /// Content or an unknown event arrived.
    Content,
    /// The stream begins with an error.
    Failed(Failure),
}

/// An error of an event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The equivalent HTTP status. 400 for errors of the request and for unknown errors.
    pub status: u16,
    /// The wait that the error's message requests.
    pub wait: Option<Duration>,
}

/// The reader of a stream's start.
#[derive(Debug)]
pub struct StreamStart {
    events: Option<Events>,
    seen: Vec<u8>,
    start: Start,
}

impl Default for StreamStart {
    fn default() -> Self {
        Self {
            events: Some(Events::new(STREAM_START)),
            seen: Vec::new(),
            start: Start::Undecided,
        }
    }
}

impl StreamStart {
    /// The reader of a complete stream.
    pub fn of_whole(body: &[u8]) -> Self {
        let begin = body.get(..STREAM_START).unwrap_or(body);
        let mut reading = Self::default();
        reading.read(begin);
        if begin.len() == body.len() {
            reading.finish();
        }
        reading
    }

    /// The failure at the start of the stream, if any.
    pub fn failure(&self) -> Option<Failure> {
        match self.start {
            Start::Failed(failure) => Some(failure),
            Start::Undecided | Start::Content => None,
        }
    }

    /// The number of bytes so far.
    pub fn seen(&self) -> usize {
        self.seen.len()
    }

    /// The kind of the start so far.
    pub fn start(&self) -> Start {
        self.start
    }

    /// Reads the next bytes. `end` marks the last ones. Nothing is read after an error.
    pub fn push(&mut self, chunk: &[u8], end: bool) -> Start {
        if self.start == Start::Undecided {
            // Nothing is read beyond the limit, so that the result does not depend on the chunks.
            let room = STREAM_START.saturating_sub(self.seen.len());
            self.read(chunk.get(..room).unwrap_or(chunk));
        }
        self.seen.extend_from_slice(chunk);
        if end && self.seen.len() <= STREAM_START {
            self.finish();
        }
        if self.start == Start::Undecided && self.is_full() {
            self.start = Start::Content;
        }
        self.start
    }

    /// Whether no more bytes are read.
    pub fn is_full(&self) -> bool {
        self.seen.len() >= STREAM_START
    }

    /// Takes all bytes so far. The result stays.
    pub fn take_seen(&mut self) -> Vec<u8> {
        self.events = None;
        core::mem::take(&mut self.seen)
    }

    fn read(&mut self, chunk: &[u8]) {
        let (start, events) = (&mut self.start, &mut self.events);
        let Some(reader) = events else {
            return;
        };
        let read = reader.push(chunk, &mut |event| start.learn(&event));
        if read.is_err() && *start == Start::Undecided {
            *start = Start::Content;
        }
    }

    fn finish(&mut self) {
        let start = &mut self.start;
        if let Some(events) = self.events.take() {
            events.finish(&mut |event| start.learn(&event));
        }
    }
}

impl Start {
    fn learn(&mut self, event: &Event<'_>) {
        if *self == Self::Undecided {
            *self = Self::of(event);
        }
    }

    /// Decides without parsing on the events with which most chats begin. They have no choices, a choice with only a
    /// role, or a choice with text. `None` if the event must be parsed.
    fn at_a_glance(data: &[u8]) -> Option<Self> {
        let (mut has_text, mut has_no_choices, mut has_silent_delta) = (false, false, false);
        // A key of unknown meaning occurred.
        let mut is_unclear = false;
        let mut rest = data;
        // Quotes inside strings are escaped, so no string matches one of these keys.
        while let Some(at) = find(rest, [b'"']) {
            rest = rest.get(at.checked_add(1)?..)?;
            match rest {
                [b'e', key @ ..] if key.starts_with(b"rror\"") => return None,
                [b'c', key @ ..] => {
                    has_no_choices |= key.starts_with(b"hoices\":[]");
                    let text = key.strip_prefix(b"ontent\":\"");
                    has_text |= text.is_some_and(|text| !text.starts_with(b"\""));
                }
                [b'd', key @ ..] => {
                    if let Some(delta) = key.strip_prefix(b"elta\"") {
                        match delta.strip_prefix(b":{").and_then(silent_fields) {
                            Some(after) => (has_silent_delta, rest) = (true, after),
                            None => is_unclear = true,
                        }
                    }
                }
                [b'f', key @ ..] => {
                    let reason = key.strip_prefix(b"inish_reason\"");
                    is_unclear |= reason.is_some_and(|reason| !reason.starts_with(b":null"));
                }
                [b't', key @ ..] => {
                    is_unclear |= key.starts_with(b"ext\"") || key.starts_with(b"ype\"");
                }
                _ => {}
            }
        }
        match (has_text, has_no_choices, has_silent_delta && !is_unclear) {
            (true, false, _) => Some(Self::Content),
            (false, true, false) | (false, false, true) => Some(Self::Undecided),
            _ => None,
        }
    }

    /// The kind of one event.
    #[inline(never)]
    fn of(event: &Event<'_>) -> Self {
        let is_one_of = |names: &[&str], name: &[u8]| names.iter().any(|n| n.as_bytes() == name);
        let name = event.name();
        if is_one_of(&LIFECYCLE, name) {
            return Self::Undecided;
        }
        let is_failure = is_one_of(&FAILURES, name);
        if !is_failure && !matches!(name, b"" | b"message") {
            return Self::Content;
        }
        let data = event.data();
        if let (false, Some(start)) = (is_failure, Self::at_a_glance(&data)) {
            return start;
        }
        Self::of_data(&data, is_failure)
    }

    /// The kind of an event's data. `is_failure` if its name already marks a failure.
    #[inline(never)]
    fn of_data(data: &[u8], is_failure: bool) -> Self {
        let data: Value = serde_json::from_slice(data).unwrap_or_default();
        let error = error_in(&data);
        let of_type = data.get("type").and_then(Value::as_str).unwrap_or_default();
        if is_failure || FAILURES.contains(&of_type) {
            return Self::Failed(Failure::of(error.unwrap_or(&data)));
        }
        if LIFECYCLE.contains(&of_type) {
            return Self::Undecided;
        }
        if let Some(error) = error {
            return Self::Failed(Failure::of(error));
        }
        match data.get("choices").and_then(Value::as_array) {
            Some(choices) if !choices.iter().any(has_content) => Self::Undecided,
            _ => Self::Content,
        }
    }
}

/// The rest after the fields of a choice's `delta`, if they contain at most a role. `None` if they may contain content.
fn silent_fields(fields: &[u8]) -> Option<&[u8]> {
    let mut rest = fields;
    loop {
        let name = rest.strip_prefix(b"\"")?;
        let is_role = name.starts_with(b"role\"");
        let (_, value) = name.split_at_checked(find(name, [b'"', b'\\'])?)?;
        let value = value.strip_prefix(b"\":")?;
        rest = match value {
            [b'"', b'"', after @ ..] | [b'n', b'u', b'l', b'l', after @ ..] => after,
            [b'"', text @ ..] if is_role => {
                let (_, after) = text.split_at_checked(find(text, [b'"', b'\\'])?)?;
                after.strip_prefix(b"\"")?
            }
            _ => return None,
        };
        match rest {
            [b'}', after @ ..] => return Some(after),
            [b',', after @ ..] => rest = after,
            _ => return None,
        }
    }
}

/// The error in an event's data, or in its response.
fn error_in(data: &Value) -> Option<&Value> {
    let of = |value: &'_ Value| value.get("error").is_some_and(|error| !error.is_null());
    let response = || data.get("response").filter(|response| of(response));
    let holder = if of(data) { Some(data) } else { response() };
    holder?.get("error")
}

/// Whether a choice of a chat or a completion has more than a role.
fn has_content(choice: &Value) -> bool {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let delta = choice.get("delta").and_then(Value::as_object);
    let mut fields = delta.into_iter().flatten();
    fields.any(|(name, value)| name != "role" && says(value))
        || ["finish_reason", "text"]
            .into_iter()
            .any(|name| choice.get(name).is_some_and(says))
}

impl Failure {
    /// The failure that an event reports, if any.
    pub(super) fn in_event(event: &Event<'_>) -> Option<Self> {
        let is_failure = FAILURES.iter().any(|name| name.as_bytes() == event.name());
        let data = event.data();
        let may_be_one =
            is_failure || matches!(event.name(), b"" | b"message") && mentions_failure(&data);
        match may_be_one.then(|| Start::of_data(&data, is_failure))? {
            Start::Failed(failure) => Some(failure),
            Start::Undecided | Start::Content => None,
        }
    }

    /// The failure of an error `{"code": ..., "type": ..., "message": ...}`.
    pub(super) fn of(error: &Value) -> Self {
        let field = |name| error.get(name).and_then(Value::as_str);
        let number = error.get("code").and_then(Value::as_u64);
        let number = number.and_then(|code| u16::try_from(code).ok());
        let named = || {
            ["code", "type"]
                .into_iter()
                .find_map(|name| status_of(field(name)?))
        };
        Self {
            status: number.or_else(named).unwrap_or(400),
            wait: field("message").and_then(wait_in_words),
        }
    }
}

/// Whether a failure's name occurs in quotes. Most data need not be parsed.
fn mentions_failure(data: &[u8]) -> bool {
    let mut rest = data;
    while let Some((_, behind)) = find(rest, [b'"']).and_then(|at| rest.split_at_checked(at)) {
        rest = behind.get(1..).unwrap_or_default();
        if rest.starts_with(b"error\"") || rest.starts_with(b"response.failed\"") {
            return true;
        }
    }
    false
}

/// The status equivalent to an error's code or type. `None` for errors of the request, and for unknown ones.
///
/// The Responses API has `rate_limit_exceeded` and `server_error` ([`ResponseError`]), and Azure adds
/// `too_many_requests`. Anthropic's types are `rate_limit_error`, `api_error`, `overloaded_error` and `timeout_error`
/// ([errors]). Gateways use the same words with other separators and in other cases.
///
/// [`ResponseError`]: https://platform.openai.com/docs/api-reference/responses/object
/// [errors]: https://docs.anthropic.com/en/api/errors
fn status_of(code: &str) -> Option<u16> {
    let plain: String = code
        .chars()
        .filter(|c| !matches!(c, '_' | '-' | ' '))
        .collect();
    Some(match plain.to_ascii_lowercase().as_str() {
        "ratelimitexceeded" | "ratelimitreached" | "ratelimiterror" | "toomanyrequests"
        | "insufficientquota" | "429" => 429,
        "servererror" | "internalerror" | "internalservererror" | "apierror" | "500" => 500,
        "serviceunavailable" | "503" => 503,
        "overloadederror" | "529" => 529,
        "timeout" | "timeouterror" | "gatewaytimeout" | "504" => 504,
        "badgateway" | "502" => 502,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n";
    const IN_PROGRESS: &str = "event: response.in_progress\ndata: {}\n\n";
    const FILTERS: &str =
        "data: {\"choices\":[],\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n";
    const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},\
                        \"finish_reason\":null,\"logprobs\":null,\"content_filter_results\":{}}]}\n\n";

    fn delta(delta: &str) -> String {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n"
        )
    }

    fn failed(code: &str) -> String {
        format!(
            "event: response.failed\ndata: {{\"type\":\"response.failed\",\"response\":{{\"status\":\"failed\",\
             \"error\":{{\"code\":\"{code}\",\"message\":\"Rate limit. Please try again in 7.2s.\"}}}}}}\n\n"
        )
    }

    fn start(stream: &str) -> Start {
        let mut start = StreamStart::default();
        start.push(stream.as_bytes(), false)
    }

    fn status(stream: &str) -> u16 {
        match start(stream) {
            Start::Failed(failure) => failure.status,
            other => panic!("{stream}: {other:?}"),
        }
    }

    #[test]
    fn events_before_content_are_undecided() {
        for stream in [
            "",
            ": keep-alive\n\n",
            CREATED,
            IN_PROGRESS,
            "event: response.queued\ndata: {}\n\n",
            "data: {\"type\":\"response.created\"}\n\n",
            "event: message_start\ndata: {\"type\":\"message_start\"}\n\n",
            "event: ping\ndata: {\"type\":\"ping\"}\n\n",
            FILTERS,
            ROLE,
            "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":null}]}\n\n",
            "data: {\"choices\":[],\"error\":null}\n\n",
            "data: {\"choices\": [], \"usage\": null}\n\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"\"}}],\"x\":\"\\\"content\\\":\\\"y\"}\n\n",
        ] {
            assert_eq!(start(stream), Start::Undecided, "{stream}");
            assert_eq!(
                start(&format!("{stream}{}", delta(r#"{"content":"H"}"#))),
                Start::Content
            );
        }
    }

    #[test]
    fn decisions_without_parsing_equal_those_with_parsing() {
        const FIELDS: [&str; 14] = [
            r#""role":"assistant""#,
            r#""role":null"#,
            r#""content":"""#,
            r#""content":null"#,
            r#""content":"\"""#,
            r#""content": "x""#,
            r#""content":"x""#,
            r#""refusal":null"#,
            r#""refusal":"no""#,
            r#""tool_calls":[]"#,
            r#""tool_calls":[{"index":0}]"#,
            r#""role":"a\"b""#,
            r#""audio":{"id":"a"}"#,
            r#""x":0"#,
        ];
        const AFTER: [&str; 7] = [
            "",
            r#","finish_reason":null,"logprobs":null"#,
            r#","finish_reason": "stop""#,
            r#","finish_reason":"stop""#,
            r#","text":"x""#,
            r#","content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}"#,
            r#","delta" :{"content":"y"}"#,
        ];
        let mut glances = 0;
        let pairs = FIELDS.iter().flat_map(|a| FIELDS.map(|b| (*a, b)));
        let name = |field: &str| field.split(':').next().map(str::to_owned);
        for (a, b) in pairs.filter(|(a, b)| name(a) != name(b)) {
            for after in AFTER {
                let data = format!(r#"{{"choices":[{{"index":0,"delta":{{{a},{b}}}{after}}}]}}"#);
                if let Some(glance) = Start::at_a_glance(data.as_bytes()) {
                    glances += 1;
                    assert_eq!(glance, Start::of_data(data.as_bytes(), false), "{data}");
                }
            }
        }
        assert!(glances > 150, "{glances}");
        let role = ROLE.strip_prefix("data: ").unwrap();
        assert_eq!(Start::at_a_glance(role.as_bytes()), Some(Start::Undecided));
    }

    #[test]
    fn content_and_unknown_events_are_content() {
        for stream in [
            delta(r#"{"content":"H"}"#),
            delta(r#"{"tool_calls":[{"index":0}]}"#),
            delta(r#"{"role":"assistant","reasoning_content":"H"}"#),
            "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".into(),
            "data: {\"choices\":[{\"text\":\"H\"}]}\n\n".into(),
            "data: {\"choices\":{}}\n\n".into(),
            "data: [DONE]\n\n".into(),
            "data: no JSON\n\n".into(),
            "data: {}\n\n".into(),
            "event: response.output_item.added\ndata: {}\n\n".into(),
            "event: content_block_start\ndata: {}\n\n".into(),
            "event: novelty\ndata: {\"error\":{\"code\":\"server_error\"}}\n\n".into(),
            "data: {\"type\":\"novelty\"}\n\n".into(),
        ] {
            assert_eq!(start(&stream), Start::Content, "{stream}");
            let late = format!("{stream}{}", failed("server_error"));
            assert_eq!(start(&late), Start::Content, "{stream}");
        }
    }

    #[test]
    fn an_error_before_content_has_the_status_of_its_code() {
        let chat = |error: &str| format!("{FILTERS}data: {{\"error\":{error}}}\n\n");
        for (stream, expected) in [
            (failed("rate_limit_exceeded"), 429),
            (failed("too_many_requests"), 429),
            (failed("server_error"), 500),
            (failed("invalid_prompt"), 400),
            (
                "event: error\ndata: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\"}\n\n".into(),
                429,
            ),
            (
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"too_many_requests\"}}\n\n".into(),
                429,
            ),
            (
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n".into(),
                529,
            ),
            ("event: error\ndata: no JSON\n\n".into(), 400),
            ("data: {\"type\":\"error\",\"code\":\"server_error\"}\n\n".into(), 500),
            (chat(r#"{"code":"429"}"#), 429),
            (chat(r#"{"code":429}"#), 429),
            (chat(r#"{"code":"RateLimitReached"}"#), 429),
            (chat(r#"{"code":null,"type":"server_error"}"#), 500),
            (chat(r#"{"code":"Timeout"}"#), 504),
            (chat(r#"{"code":"content_filter"}"#), 400),
            (chat(r#"{"code":"context_length_exceeded"}"#), 400),
            (chat(r#""words""#), 400),
            (chat(r#"{"code":"server_error","content":"x"},"choices":[]"#), 500),
        ] {
            assert_eq!(status(&stream), expected, "{stream}");
            assert_eq!(status(&format!("{CREATED}{IN_PROGRESS}{stream}")), expected);
        }
    }

    #[test]
    fn the_wait_is_read_from_the_message() {
        let Start::Failed(failure) = start(&failed("rate_limit_exceeded")) else {
            panic!("no failure");
        };
        assert_eq!(failure.wait, Some(Duration::from_millis(7_200)));
    }

    #[test]
    fn chunks_do_not_change_the_result() {
        let content = format!(
            "{CREATED}{IN_PROGRESS}{FILTERS}{ROLE}{}",
            delta(r#"{"content":"é"}"#)
        );
        let error = format!("{CREATED}{IN_PROGRESS}{}", failed("server_error"));
        for stream in [content, error] {
            let stream = stream.as_bytes();
            let whole = StreamStart::of_whole(stream).start();
            assert_ne!(whole, Start::Undecided);
            for size in [1, 2, 3, 7, 50] {
                let mut start = StreamStart::default();
                for chunk in stream.chunks(size) {
                    start.push(chunk, false);
                }
                assert_eq!((start.start(), start.seen()), (whole, stream.len()));
                assert_eq!(start.take_seen(), stream);
                assert_eq!(start.start(), whole);
            }
        }
    }

    #[test]
    fn a_last_event_needs_no_blank_line() {
        let stream = failed("server_error");
        let cut = stream.trim_end();
        let mut start = StreamStart::default();
        assert_eq!(start.push(cut.as_bytes(), false), Start::Undecided);
        assert!(matches!(start.push(b"", true), Start::Failed(_)));
        assert!(StreamStart::of_whole(cut.as_bytes()).failure().is_some());
    }

    #[test]
    fn a_long_start_counts_as_content() {
        let comments = ": keep-alive\n\n".repeat(STREAM_START / 14 + 1);
        assert_eq!(start(&comments), Start::Content);
        let long = format!(
            "data: {}\n\n{}",
            "x".repeat(STREAM_START),
            failed("server_error")
        );
        assert_eq!(start(&long), Start::Content);
        assert_eq!(StreamStart::of_whole(long.as_bytes()).failure(), None);
    }

    #[test]
    fn an_error_beyond_the_limit_is_content_in_any_chunks() {
        let comments = ":".repeat(STREAM_START - 2) + "\n\n";
        let stream = format!("{comments}{}", failed("server_error"));
        for (size, end) in [(stream.len(), false), (1000, false), (stream.len(), true)] {
            let mut start = StreamStart::default();
            for chunk in stream.as_bytes().chunks(size) {
                start.push(chunk, end);
            }
            assert_eq!(start.start(), Start::Content, "{size} {end}");
            assert_eq!(start.take_seen(), stream.as_bytes());
        }
        assert_eq!(StreamStart::of_whole(stream.as_bytes()).failure(), None);
    }

    #[test]
    fn event_streams_are_recognized_by_their_type() {
        for (pairs, expected) in [
            (&[("content-type", "text/event-stream")][..], true),
            (
                &[("content-type", "Text/Event-Stream; charset=utf-8")],
                true,
            ),
            (&[("content-type", "application/json")], false),
            (
                &[
                    ("content-type", "text/event-stream"),
                    ("content-encoding", "gzip"),
                ],
                false,
            ),
            (
                &[
                    ("content-type", "text/event-stream"),
                    ("content-encoding", "identity"),
                ],
                true,
            ),
            (&[], false),
        ] {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
                .collect();
            let headers = HeaderMap::new(HeaderMap::encode(&pairs));
            assert_eq!(is_event_stream(&headers), expected, "{pairs:?}");
        }
    }
}
