//! Removes the tokens from a chat's stream whose client did not request them.
//!
//! With `stream_options.include_usage` every event has `"usage":null`, and an additional event before the end has empty
//! `choices` and the tokens ([reference]). Without both, a stream equals the stream without the option, byte for byte.
//!
//! [reference]: https://platform.openai.com/docs/api-reference/chat/create#chat_create-stream_options

use core::ops::Range;

use super::text::find;
use super::usage::{last_key, KEY as USAGE};
use crate::prelude::*;

/// The largest event that is searched, in bytes. A larger event passes unchanged, and so do all later ones.
const LIMIT: usize = 64 * 1024;

const CHOICES: &[u8] = b"\"choices\"";

/// The bytes that begin or end an object, a list or a string.
const STRUCTURE: [u8; 5] = *b"\"{[}]";

/// The stripper of one stream.
#[derive(Debug, Default)]
pub struct Stripper {
    /// The bytes of the current event so far. The client cannot use an incomplete event.
    held: Vec<u8>,
    /// The client's version of the last chunk. The memory is reused.
    out: Vec<u8>,
    /// Set while the rest of an event passes unchanged.
    passing: Option<Blank>,
    is_off: bool,
}

/// The part of a blank line so far. A blank line ends an event.
#[derive(Clone, Copy, Debug, Default)]
enum Blank {
    Nothing,
    /// The end of the previous line, or the start of an event.
    #[default]
    LineEnd,
    /// The end of the previous line, and a carriage return.
    Return,
}

impl Blank {
    /// Reads the next bytes of an event. Returns the number of bytes up to its end, if it ends.
    fn take(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, byte) in bytes.iter().enumerate() {
            *self = match (*self, byte) {
                (Self::LineEnd | Self::Return, b'\n') => return at.checked_add(1),
                (Self::LineEnd, b'\r') => Self::Return,
                (_, b'\n') => Self::LineEnd,
                _ => Self::Nothing,
            };
        }
        None
    }
}

impl Stripper {
    /// The client's version of a whole stream. `None` if it is unchanged.
    pub fn of_whole(stream: &[u8]) -> Option<Vec<u8>> {
        Self::default().push(stream, true).map(<[u8]>::to_vec)
    }

    /// The client's version of the next chunk, which may be empty. `None` if it is unchanged. `end` marks the last
    /// chunk.
    pub fn push(&mut self, chunk: &[u8], end: bool) -> Option<&[u8]> {
        self.out.clear();
        if self.is_off {
            return None;
        }
        let mut chunk = chunk;
        if let Some(passing) = &mut self.passing {
            let passed = passing.take(chunk)?;
            self.passing = None;
            let (before, after) = chunk.split_at_checked(passed)?;
            self.out.extend_from_slice(before);
            chunk = after;
        }
        let is_joined = !self.held.is_empty();
        let mut held = core::mem::take(&mut self.held);
        if is_joined {
            held.extend_from_slice(chunk);
        }
        let mut rest: &[u8] = if is_joined { &held } else { chunk };
        let mut is_changed = is_joined;
        while let Some((event, after)) =
            end_of_event(rest).and_then(|end| rest.split_at_checked(end))
        {
            is_changed |= strip(event, &mut self.out);
            rest = after;
        }
        self.is_off = rest.len() > LIMIT;
        if end || self.is_off {
            is_changed |= strip(rest, &mut self.out);
        } else if rest.is_empty() {
            // The next chunk begins an event.
        } else if !may_be_changed(rest) {
            self.out.extend_from_slice(rest);
            let mut passing = Blank::default();
            passing.take(rest);
            self.passing = Some(passing);
        } else {
            is_changed = true;
            self.held = rest.to_vec();
        }
        is_changed.then_some(self.out.as_slice())
    }
}

/// Whether these bytes may begin an event with tokens, which starts with `data: {`.
fn may_be_changed(bytes: &[u8]) -> bool {
    const BEGIN: &[u8] = b"data:";
    if bytes.len() <= BEGIN.len() {
        return !bytes.is_empty() && BEGIN.starts_with(bytes);
    }
    let data = bytes.strip_prefix(BEGIN).map(<[u8]>::trim_ascii_start);
    data.is_some_and(|data| matches!(data.first(), None | Some(b'{')))
}

/// The number of bytes up to the end of the event, including its blank line.
fn end_of_event(bytes: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    loop {
        match bytes.get(at..)? {
            [b'\n', ..] => return at.checked_add(1),
            [b'\r', b'\n', ..] => return at.checked_add(2),
            line => at = at.checked_add(find(line, [b'\n'])?)?.checked_add(1)?,
        }
    }
}

/// Appends the client's version of an event. `true` if it differs from the event.
fn strip(event: &[u8], out: &mut Vec<u8>) -> bool {
    let cut = cut_of(event);
    let cut_or_end = cut.clone().unwrap_or(event.len()..event.len());
    out.extend_from_slice(event.get(..cut_or_end.start).unwrap_or_default());
    out.extend_from_slice(event.get(cut_or_end.end..).unwrap_or_default());
    cut.is_some()
}

/// The range of an event that the option added.
fn cut_of(event: &[u8]) -> Option<Range<usize>> {
    let data = event.strip_prefix(b"data:")?;
    if !data.trim_ascii_start().starts_with(b"{") {
        return None;
    }
    let start = event.len().checked_sub(data.len())?;
    let at = own_usage(event, start)?;
    let value = value_of(event, at, USAGE)?;
    let rest = event.get(value..)?;
    if rest.starts_with(b"{") {
        let choices = own_key(event, start, CHOICES).and_then(|at| value_of(event, at, CHOICES));
        let list = choices.and_then(|at| event.get(at..)?.strip_prefix(b"["));
        let is_empty = list.is_some_and(|list| list.trim_ascii_start().starts_with(b"]"));
        return is_empty.then_some(0..event.len());
    }
    if !rest.starts_with(b"null") {
        return None;
    }
    // The comma before or after the key is removed too.
    let end = value.checked_add(b"null".len())?;
    let before = event.get(..at)?.trim_ascii_end();
    if before.ends_with(b",") {
        return Some(before.len().checked_sub(1)?..end);
    }
    let behind = event.get(end..)?.trim_ascii_start().strip_prefix(b",")?;
    let next = event.len().checked_sub(behind.trim_ascii_start().len())?;
    Some(at..next)
}

/// The position of the document's own `usage`. The document begins at `start`.
fn own_usage(event: &[u8], start: usize) -> Option<usize> {
    let at = last_key(event)?;
    // Few keys follow `usage`, so it is checked from there to the document's end.
    match is_in_whole_document(event, at) {
        true => Some(at),
        false => own_key(event, start, USAGE),
    }
}

/// Whether the object with the `usage` at `at` is the whole document: nothing comes after the object's end.
fn is_in_whole_document(event: &[u8], at: usize) -> bool {
    let is_key = event
        .get(..at)
        .is_some_and(|before| !before.ends_with(b"\\"));
    let value = value_of(event, at, USAGE).filter(|_| is_key);
    let end = value.and_then(|value| end_of_object(event, value));
    let behind = end.and_then(|end| event.get(end..));
    behind.is_some_and(|behind| behind.trim_ascii().is_empty())
}

/// The position behind the end of the object that has the value at `value`.
fn end_of_object(event: &[u8], value: usize) -> Option<usize> {
    let (mut depth, mut at) = (1_usize, value);
    while depth > 0 {
        at = at.checked_add(find(event.get(at..)?, STRUCTURE)?)?;
        match event.get(at)? {
            b'{' | b'[' => depth = depth.checked_add(1)?,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => at = end_of_string(event, at)?,
        }
        at = at.checked_add(1)?;
    }
    Some(at)
}

/// The position of the document's own key. The document begins at `start`.
fn own_key(event: &[u8], start: usize, key: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, start);
    loop {
        at = at.checked_add(find(event.get(at..)?, STRUCTURE)?)?;
        match event.get(at)? {
            b'{' | b'[' => depth = depth.checked_add(1)?,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ if depth == 1
                && event.get(at..)?.starts_with(key)
                && value_of(event, at, key).is_some() =>
            {
                return Some(at);
            }
            _ => at = end_of_string(event, at)?,
        }
        at = at.checked_add(1)?;
    }
}

/// The position of the quote that closes the string opened at `open`.
fn end_of_string(event: &[u8], open: usize) -> Option<usize> {
    let mut at = open.checked_add(1)?;
    loop {
        let rest = event.get(at..)?;
        at = at.checked_add(find(rest, [b'"', b'\\'])?)?;
        match event.get(at)? {
            b'"' => return Some(at),
            _ => at = at.checked_add(2)?,
        }
    }
}

/// The start of the value of the key at `at`. `None` if no key is there.
fn value_of(event: &[u8], at: usize, key: &[u8]) -> Option<usize> {
    let behind = event.get(at..)?.strip_prefix(key)?.trim_ascii_start();
    let value = behind.strip_prefix(b":")?.trim_ascii_start();
    event.len().checked_sub(value.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client's version of a stream in chunks of this size.
    fn through(stream: &[u8], size: usize) -> String {
        let mut stripper = Stripper::default();
        let mut got = Vec::new();
        for chunk in stream.chunks(size) {
            match stripper.push(chunk, false) {
                Some(changed) => got.extend_from_slice(changed),
                None => got.extend_from_slice(chunk),
            }
        }
        got.extend_from_slice(stripper.push(b"", true).unwrap_or_default());
        String::from_utf8(got).unwrap()
    }

    fn check(with: &str, without: &str) {
        for size in 1..=with.len() {
            assert_eq!(
                through(with.as_bytes(), size),
                without,
                "in chunks of {size}"
            );
        }
        let whole = Stripper::of_whole(with.as_bytes());
        assert_eq!(
            whole.as_deref().unwrap_or(with.as_bytes()),
            without.as_bytes()
        );
    }

    const WITH: &str = concat!(
        "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"prompt_filter_results\":[{\"prompt_index\":0}],\"usage\":null}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":null, naïve \\\\\"}}],\"usage\":null,\"z\":1}\n\n",
        "data: {\"usage\":null,\"choices\":[{\"delta\":{\"content\":\"usage\",\"usage\":null}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":null,\"obfuscation\":\"{]\\\"\\\\\",\"z\":[{}]}\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}], \"usage\": null}\r\n\r\n",
        "data: {\"choices\":[],\"created\":1,\"usage\":{\"prompt_tokens\":9,\"total_tokens\":13}}\n\n",
        "data: [DONE]\n\n",
    );
    const WITHOUT: &str = concat!(
        "data: {\"choices\":[],\"created\":0,\"id\":\"\",\"prompt_filter_results\":[{\"prompt_index\":0}]}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"usage\\\":null, naïve \\\\\"}}],\"z\":1}\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"usage\",\"usage\":null}}]}\n\n",
        "data: {\"choices\":[{\"delta\":{}}],\"obfuscation\":\"{]\\\"\\\\\",\"z\":[{}]}\n\n",
        "data: {\"choices\":[{\"finish_reason\":\"stop\"}]}\r\n\r\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn the_client_gets_the_stream_without_the_option() {
        check(WITH, WITHOUT);
    }

    #[test]
    fn streams_of_backends_without_the_option_are_unchanged() {
        for stream in [
            WITHOUT,
            "data: {\"error\":{\"code\":\"429\",\"usage\":null}}\n\n",
            ": keep-alive\n\ndata: {\"choices\":[{}],\"usage\":{\"prompt_tokens\":1}}",
            "data: {\"usage\":null}\n\n",
            "data: {\"usage\n\ndata: {",
            "[DONE]",
            "",
        ] {
            check(stream, stream);
        }
    }

    #[test]
    fn the_rest_of_a_passing_event_is_not_an_event() {
        let event = "data: {\"choices\":[{}],\"usage\":null}\n\n";
        let stripped = "data: {\"choices\":[{}]}\n\n";
        for passing in [": x data: {", "event: chunk\ndata: {", "[DONE] data: {"] {
            let stream = format!("{passing}\"choices\":[],\"usage\":null}}\r\n\r\n{event}");
            check(&stream, &stream.replace(event, stripped));
        }
        check(&format!("\n\r\n{event}"), &format!("\n\r\n{stripped}"));
    }

    #[test]
    fn complete_events_are_not_held() {
        let mut stripper = Stripper::default();
        assert_eq!(stripper.push(b"data: {\"choices\":[{}]}\n\n", false), None);
        let without = &b"data: {\"choices\":[{}]}\n\n"[..];
        let with = b"data: {\"choices\":[{}],\"usage\":null}\n\n";
        assert_eq!(stripper.push(with, false), Some(without));
        assert_eq!(stripper.push(b"data: [DONE]", false), None);
    }

    #[test]
    fn held_bytes_are_limited() {
        let huge = format!(
            "data: {{\"choices\":[\"{}\"]}}\n\n{WITH}",
            "x".repeat(2 * LIMIT)
        );
        assert_eq!(through(huge.as_bytes(), 9000), huge);
    }
}
