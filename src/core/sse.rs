//! Splits an event stream (`text/event-stream`) into events. Chunks may end anywhere.
//!
//! The format is the [HTML standard's]: lines end with CRLF, LF or CR, and a blank line ends an event. A byte order
//! mark may come first. Comments and events without data are skipped. Unlike a browser, [`Events::finish`] returns a
//! last event without a blank line, because some model servers omit it.
//!
//! [HTML standard's]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

use alloc::borrow::Cow;

use super::text::find;
use crate::prelude::*;

const LINE_ENDS: [u8; 2] = [b'\n', b'\r'];

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads one event stream.
///
/// An event within one chunk is not copied. Only the unfinished rest of a chunk is copied, into a buffer that is
/// reused.
#[derive(Debug)]
pub struct Events {
    /// The bytes of the current event so far.
    begun: Vec<u8>,
    /// The largest event in bytes.
    limit: usize,
    /// Whether the current line is empty so far.
    at_line_start: bool,
    /// Whether the last byte was a CR. A following LF ends the same line.
    after_cr: bool,
    /// Whether no event has ended yet, so that a byte order mark may come.
    is_first: bool,
    /// Whether an event was larger than the limit.
    is_too_long: bool,
}

/// An event is larger than the limit. The reader returns no further events of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// An event with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    lines: &'a [u8],
    name: &'a [u8],
    /// The first line of its data.
    data: &'a [u8],
    /// Whether the data has further lines.
    has_more_data: bool,
}

impl Events {
    /// A reader of a stream whose events have at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            begun: Vec::new(),
            limit,
            at_line_start: true,
            after_cr: false,
            is_first: true,
            is_too_long: false,
        }
    }

    /// Reads the next bytes, and passes each event that ends in them to `on_event`.
    ///
    /// # Errors
    /// An event is larger than the limit. The events before it were passed on.
    pub fn push(
        &mut self,
        chunk: &[u8],
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TooLong> {
        let mut rest = chunk;
        while let (Some(end), false) = (self.end_of_event(rest), self.is_too_long) {
            let (ended, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            rest = after;
            self.end_event(ended, on_event);
        }
        self.keep(rest);
        match self.is_too_long {
            true => Err(TooLong),
            false => Ok(()),
        }
    }

    /// Passes on a last event that has no blank line after it.
    pub fn finish(mut self, on_event: &mut dyn FnMut(Event<'_>)) {
        if !self.is_too_long {
            self.end_event(&[], on_event);
        }
    }

    /// The number of bytes up to the end of the current event, if it ends in them.
    fn end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0_usize;
        loop {
            let rest = bytes.get(at..)?;
            let text = find(rest, LINE_ENDS).unwrap_or(rest.len());
            if text > 0 {
                self.at_line_start = false;
                self.after_cr = false;
            }
            let byte = *rest.get(text)?;
            at = at.checked_add(text)?.checked_add(1)?;
            let is_rest_of_line_end = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            if is_rest_of_line_end {
                continue;
            }
            if self.at_line_start {
                return Some(at);
            }
            self.at_line_start = true;
        }
    }

    fn end_event(&mut self, rest: &[u8], on_event: &mut dyn FnMut(Event<'_>)) {
        let mut lines = rest;
        if !self.begun.is_empty() {
            self.keep(rest);
            lines = &self.begun;
        } else if rest.len() > self.limit {
            self.is_too_long = true;
        }
        if self.is_too_long {
            return;
        }
        if core::mem::take(&mut self.is_first) {
            lines = lines.strip_prefix(BYTE_ORDER_MARK).unwrap_or(lines);
        }
        if let Some(event) = Event::of(lines) {
            on_event(event);
        }
        self.begun.clear();
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.begun.len());
        self.is_too_long |= bytes.len() > room;
        if self.is_too_long {
            self.begun = Vec::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }
}

impl<'a> Event<'a> {
    /// The event with these lines, if it has data.
    pub(super) fn of(lines: &'a [u8]) -> Option<Self> {
        let (mut name, mut data) = (&[][..], None);
        let mut has_more_data = false;
        for line in lines_of(lines) {
            if let Some(value) = value_of(line, b"data") {
                has_more_data |= data.is_some();
                data = data.or(Some(value));
            } else if let Some(value) = value_of(line, b"event") {
                name = value;
            }
        }
        Some(Self {
            lines,
            name,
            data: data?,
            has_more_data,
        })
    }

    /// The event's name. Empty if it has none.
    pub fn name(&self) -> &'a [u8] {
        self.name
    }

    /// The event's data. Only data of several lines is copied.
    pub fn data(&self) -> Cow<'a, [u8]> {
        match self.has_more_data {
            false => Cow::Borrowed(self.data),
            true => Cow::Owned(self.all_data()),
        }
    }

    #[inline(never)]
    fn all_data(&self) -> Vec<u8> {
        let mut values = lines_of(self.lines).filter_map(|line| value_of(line, b"data"));
        let mut data = values.next().unwrap_or_default().to_vec();
        for value in values {
            data.push(b'\n');
            data.extend_from_slice(value);
        }
        data
    }
}

fn lines_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    core::iter::from_fn(move || {
        let text = rest?;
        let end = find(text, LINE_ENDS);
        rest = end.and_then(|end| text.get(end.checked_add(1)?..));
        text.get(..end.unwrap_or(text.len()))
    })
}

/// The value in this line, if its field is `name`.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::String;

    const LIMIT: usize = 200;

    /// The names and data of all events, and whether an event was too long.
    fn read<'c>(chunks: impl Iterator<Item = &'c [u8]>) -> (Vec<(String, String)>, bool) {
        let mut found = Vec::new();
        let mut on_event = |event: Event<'_>| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            found.push((text(event.name()), text(&event.data())));
        };
        let mut events = Events::new(LIMIT);
        let mut is_too_long = false;
        for chunk in chunks {
            is_too_long |= events.push(chunk, &mut on_event).is_err();
        }
        events.finish(&mut on_event);
        (found, is_too_long)
    }

    fn read_whole(stream: &str) -> Vec<(String, String)> {
        let (found, is_too_long) = read([stream.as_bytes()].into_iter());
        assert!(!is_too_long);
        found
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = expected.iter();
        owned.map(|(n, d)| ((*n).into(), (*d).into())).collect()
    }

    #[test]
    fn events_are_read_by_the_html_standard() {
        for (stream, expected) in [
            ("data: a\n\ndata: b\n\n", &[("", "a"), ("", "b")][..]),
            ("event: e\ndata: a\n\ndata:b\n\n", &[("e", "a"), ("", "b")]),
            ("data: a\r\n\r\ndata: b\r\n\r\n", &[("", "a"), ("", "b")]),
            ("data: a\r\rdata: b\r\r", &[("", "a"), ("", "b")]),
            ("data: a\n\r\ndata: b\r\n\n", &[("", "a"), ("", "b")]),
            ("data: a\ndata:\ndata:  b\n\n", &[("", "a\n\n b")]),
            ("data\n\ndata:\n\n", &[("", ""), ("", "")]),
            (": keep-alive\n\n:\n\n", &[]),
            ("event: e\n\nid: 7\n\n\n\n\n", &[]),
            (
                "event: e\nevent: f\nid: 7\ndata: a\nretry: 1\n\n",
                &[("f", "a")],
            ),
            ("datax: a\n\n data: b\n\nx\ndata: c\n\n", &[("", "c")]),
            ("\u{feff}data: a\n\n\u{feff}data: b\n\n", &[("", "a")]),
            ("\u{feff}\n\ndata: b\n\n", &[("", "b")]),
            ("\n\n\ndata: é\n\n", &[("", "é")]),
        ] {
            assert_eq!(read_whole(stream), pairs(expected), "{stream:?}");
        }
    }

    #[test]
    fn a_last_event_needs_no_blank_line() {
        for stream in ["data: a\n\ndata: b", "data: a\n\ndata: b\n"] {
            let expected = pairs(&[("", "a"), ("", "b")]);
            assert_eq!(read_whole(stream), expected, "{stream:?}");
        }
        assert_eq!(read_whole(""), []);
    }

    #[test]
    fn events_within_a_chunk_are_not_copied() {
        let chunk = b"event: e\ndata: {}\n\ndata: x\n\n".as_slice();
        let mut events = Events::new(LIMIT);
        let mut count = 0;
        let is_within = |part: &[u8]| chunk.as_ptr_range().contains(&part.as_ptr());
        let pushed = events.push(chunk, &mut |event| {
            count += 1;
            assert!(matches!(event.data(), Cow::Borrowed(data) if is_within(data)));
        });
        assert_eq!((pushed, count, events.begun.capacity()), (Ok(()), 2, 0));
    }

    #[test]
    fn too_long_events_end_the_reading() {
        let fits = "d".repeat(LIMIT - "data: \n\n".len());
        let stream = format!("data: {fits}\n\n");
        for size in [1, 7, LIMIT] {
            let (found, is_too_long) = read(stream.as_bytes().chunks(size));
            assert_eq!((found, is_too_long), (pairs(&[("", &fits)]), false));
            let longer = format!("data: a\n\ndata: {fits}d\n\ndata: b\n\n");
            let (found, is_too_long) = read(longer.as_bytes().chunks(size));
            assert_eq!((found, is_too_long), (pairs(&[("", "a")]), true), "{size}");
        }
        let whole = format!("data: {fits}d\n\ndata: b\n\n");
        assert_eq!(read([whole.as_bytes()].into_iter()), (Vec::new(), true));
    }

    /// The standard's algorithm, step by step, on a whole stream.
    fn naive(stream: &[u8]) -> Vec<(String, String)> {
        let text = String::from_utf8_lossy(stream);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let text = text.replace("\r\n", "\n").replace('\r', "\n") + "\n\n";
        let (mut found, mut name, mut data) = (Vec::new(), String::new(), None::<String>);
        for line in text.split('\n') {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    if let Some(data) = data.take() {
                        found.push((name.clone(), data));
                    }
                    name.clear();
                }
                "event" => name = value.into(),
                "data" => {
                    data = Some(match data.take() {
                        None => value.into(),
                        Some(before) => before + "\n" + value,
                    });
                }
                _ => {}
            }
        }
        found
    }

    #[test]
    fn all_splits_give_the_standards_events() {
        const PIECES: [&str; 14] = [
            "data",
            "event",
            ":",
            ": ",
            " ",
            "\n",
            "\r",
            "\r\n",
            "\n\n",
            "x",
            "é",
            "data: {\"a\":1}",
            "\u{feff}",
            "id",
        ];
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = |bound: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % bound as u64).unwrap()
        };
        for _ in 0..20_000 {
            let stream: String = (0..draw(24)).map(|_| PIECES[draw(14)]).collect();
            let expected = naive(stream.as_bytes());
            let mut chunks = Vec::new();
            let mut rest = stream.as_bytes();
            while !rest.is_empty() {
                let (chunk, after) = rest.split_at(1 + draw(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            let (found, _) = read(chunks.iter().copied());
            assert_eq!(found, expected, "{chunks:?}");
        }
    }
}
