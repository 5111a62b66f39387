//! Finds the last `usage` in the end of an answer.
//!
//! The bytes may begin anywhere in the answer, so they are searched from their end.

use super::Usage;
use crate::text::{find, find_last};

impl Usage {
    /// The last `usage` in these bytes with any tokens.
    pub fn last_in(bytes: &[u8]) -> Option<Self> {
        Self::from_the_end(bytes, bytes.len(), Self::of_value)
    }

    /// The last `usage` with any tokens that begins in the first `count` bytes of these events.
    pub(super) fn last_in_events(bytes: &[u8], count: usize) -> Option<Self> {
        Self::from_the_end(bytes, count, Self::of_value_in_event)
    }

    /// The last `usage` with any tokens that begins in the first `count` bytes, with tokens as `read` from its value.
    ///
    /// Anthropic's streams report the prompt's tokens at their start. They are added if the last `usage` lacks them.
    #[inline(never)]
    fn from_the_end(bytes: &[u8], count: usize, read: fn(&[u8]) -> Option<Self>) -> Option<Self> {
        const REST_OF_KEY: usize = KEY.len() - 1;
        let end = count.saturating_add(REST_OF_KEY);
        let mut before = bytes.get(..end).unwrap_or(bytes);
        let mut last: Option<Self> = None;
        while let Some(at) = last_key(before) {
            let (rest, found) = bytes.split_at_checked(at)?;
            before = rest;
            // Inside a string the quotation mark follows a backslash.
            let is_key = rest.last() != Some(&b'\\');
            let value = found.get(KEY.len()..).filter(|_| is_key);
            if let Some(usage) = value.and_then(read) {
                let usage = last.map_or(usage, |last| last.completed_by(Some(usage)));
                if usage.prompt.is_some() {
                    return Some(usage);
                }
                last = Some(usage);
            }
        }
        last
    }

    /// The tokens in the value of `usage` that begins here, with its colon.
    fn of_value(bytes: &[u8]) -> Option<Self> {
        Reader { rest: bytes }.usage()
    }

    /// The same, if the value ends within its event.
    fn of_value_in_event(bytes: &[u8]) -> Option<Self> {
        // Bytes with many unclosed values would otherwise be read once for each.
        let bytes = bytes.get(..LONGEST_VALUE).unwrap_or(bytes);
        let mut reader = Reader { rest: bytes };
        let usage = reader.usage()?;
        let mut value = bytes.get(..bytes.len().saturating_sub(reader.rest.len()))?;
        while let Some(end) = find(value, [b'\n']) {
            value = value.get(end.checked_add(1)?..)?;
            if value.first() == Some(&b'\n') {
                return None;
            }
        }
        Some(usage)
    }
}

/// The longest value of `usage` in an event, in bytes. Azure's have some 300.
const LONGEST_VALUE: usize = 2048;

/// The key of an answer's tokens, with its quotes.
pub(crate) const KEY: &[u8] = b"\"usage\"";

/// The position of the last [`KEY`].
pub(crate) fn last_key(bytes: &[u8]) -> Option<usize> {
    // The rarest letter of the key, and its position in the key.
    const RARE: (u8, usize) = (b'g', 4);
    let mut before = bytes;
    loop {
        let rare = find_last(before, RARE.0)?;
        if let Some(at) = rare.checked_sub(RARE.1) {
            if bytes.get(at..)?.starts_with(KEY) {
                return Some(at);
            }
        }
        before = before.get(..rare)?;
    }
}

/// The numbers of a `usage`.
#[derive(Debug, Default)]
struct Numbers {
    prompt: Option<u32>,
    completion: Option<u32>,
    cached: Option<u32>,
    reasoning: Option<u32>,
    /// Anthropic counts these separately from `input_tokens`. Other APIs include them.
    read_from_cache: Option<u32>,
    written_to_cache: Option<u32>,
}

impl Numbers {
    /// The number with this key, if the key matters.
    fn named(&mut self, key: &[u8], depth: u32) -> Option<&mut Option<u32>> {
        // Most keys do not matter, and eight letters distinguish the others.
        let (of, name, number): (_, &[u8], _) = match key.first_chunk()? {
            b"prompt_t" => (1, b"prompt_tokens", &mut self.prompt),
            b"input_to" => (1, b"input_tokens", &mut self.prompt),
            b"completi" => (1, b"completion_tokens", &mut self.completion),
            b"output_t" => (1, b"output_tokens", &mut self.completion),
            b"cache_re" => (1, b"cache_read_input_tokens", &mut self.read_from_cache),
            b"cache_cr" => (
                1,
                b"cache_creation_input_tokens",
                &mut self.written_to_cache,
            ),
            b"cached_t" => (2, b"cached_tokens", &mut self.cached),
            b"reasonin" => (2, b"reasoning_tokens", &mut self.reasoning),
            _ => return None,
        };
        (depth == of && key == name).then_some(number)
    }

    fn usage(&self) -> Usage {
        let [read, written] =
            [self.read_from_cache, self.written_to_cache].map(Option::unwrap_or_default);
        let beside = read.saturating_add(written);
        Usage {
            prompt: self.prompt.map(|prompt| prompt.saturating_add(beside)),
            completion: self.completion,
            cached: self.cached.unwrap_or(read),
            reasoning: self.reasoning.unwrap_or_default(),
        }
    }
}

/// Reads an object of numbers. The syntax between its tokens is not checked.
struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// The tokens in the value of `usage` at this position, with its colon.
    fn usage(&mut self) -> Option<Usage> {
        self.skip_blanks();
        self.take(b':')?;
        self.skip_blanks();
        let usage = self.numbers()?.usage();
        (usage.prompt.is_some() || usage.completion.is_some()).then_some(usage)
    }

    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn take(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// The bytes before the first byte in `wanted`, which becomes the next byte.
    fn until<const N: usize>(&mut self, wanted: [u8; N]) -> Option<&'b [u8]> {
        let (before, rest) = self.rest.split_at_checked(find(self.rest, wanted)?)?;
        self.rest = rest;
        Some(before)
    }

    /// The key or other string whose opening quote was read. Empty if it has escapes, because no key of interest has
    /// any.
    fn string(&mut self) -> Option<&'b [u8]> {
        let text = self.until([b'"', b'\\'])?;
        let mut is_plain = true;
        while self.next()? == b'\\' {
            is_plain = false;
            self.next()?;
            self.until([b'"', b'\\'])?;
        }
        Some(if is_plain { text } else { b"" })
    }

    /// The whole number at this position.
    fn number(&mut self) -> Option<u32> {
        let (mut value, mut is_any) = (0_u32, false);
        while let Some((byte, rest)) = self.rest.split_first() {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                let is_whole = !matches!(byte, b'.' | b'e' | b'E');
                return (is_any && is_whole).then_some(value);
            }
            value = value.saturating_mul(10).saturating_add(u32::from(digit));
            is_any = true;
            self.rest = rest;
        }
        is_any.then_some(value)
    }

    /// The numbers of the object at this position. `None` without a complete object.
    fn numbers(&mut self) -> Option<Numbers> {
        let mut numbers = Numbers::default();
        let mut depth = 0_u32;
        if !matches!(self.rest.first(), Some(b'{')) {
            return None;
        }
        loop {
            // A few bytes are between keys.
            match self.next()? {
                b'{' | b'[' => depth = depth.saturating_add(1),
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Some(numbers);
                    }
                }
                b'"' => {
                    let key = self.string()?;
                    self.skip_blanks();
                    if self.rest.first() == Some(&b':') {
                        self.next();
                        self.skip_blanks();
                        if let Some(number) = numbers.named(key, depth) {
                            *number = self.number();
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::usage;
    use super::*;

    #[test]
    fn each_api_has_its_own_names() {
        for (body, expected) in [
            (
                r#"{"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"audio_tokens":1,"cached_tokens":5},"completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":0}},"x":1}"#,
                usage(9, 4, 5, 3),
            ),
            (
                r#"{"usage": {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 4, "output_tokens_details": {"reasoning_tokens": 3}}, "user": null}"#,
                usage(9, 4, 5, 3),
            ),
            (
                r#"{"usage":{"input_tokens":9,"cache_creation_input_tokens":20,"cache_read_input_tokens":100,"output_tokens":4}}"#,
                usage(129, 4, 100, 0),
            ),
            (
                "{ \"usage\" :\r\n\t{ \"type\" : \"tok\\\"ens\" , \"input_tokens\" : 9 , \"output_tokens\":4 } }",
                usage(9, 4, 0, 0),
            ),
            (
                r#"{"usage":{"prompt_tokens":99999999999,"completion_tokens":0}}"#,
                usage(u32::MAX, 0, 0, 0),
            ),
        ] {
            assert_eq!(Usage::last_in(body.as_bytes()), Some(expected), "{body}");
        }
        let embedding = br#"{"usage":{"prompt_tokens":9,"total_tokens":9}}"#;
        let expected = Usage {
            prompt: Some(9),
            ..Usage::default()
        };
        assert_eq!(Usage::last_in(embedding), Some(expected));
    }

    #[test]
    fn other_values_are_not_usage() {
        for body in [
            "",
            "\"usage\"",
            r#""usage":"#,
            r#""usage":{"#,
            r#"{"usage":null}"#,
            r#"{"usage":{}}"#,
            r#"{"usage":{"type":"duration","seconds":9}}"#,
            r#"{"usage":{"prompt_tokens":9"#,
            r#"{"usage":{"prompt_tokens":-9}}"#,
            r#"{"usage":{"prompt_tokens":9.5}}"#,
            r#"{"usage":{"prompt_tokens":"9"}}"#,
            r#"{"usage":{"type":"object","properties":{"prompt_tokens":{"minimum":9}}}}"#,
            r#"{"usage":{"details":{"prompt_tokens":9}}}"#,
            r#"{"text":"{\"usage\":{\"prompt_tokens\":9}}"}"#,
            r#"{"text":"\"usage":{"prompt_tokens":9}}"#,
        ] {
            assert_eq!(Usage::last_in(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn a_value_ends_within_its_event() {
        for (value, is_found) in [
            (":{\"prompt_tokens\":9}\n\n", true),
            (":\n{\n\"prompt_tokens\":\n9\n}", true),
            (":{\"prompt_tokens\":9\n\n}", false),
            (":\n\n{\"prompt_tokens\":9}", false),
            (":{\"text\":\"\n\n\",\"prompt_tokens\":9}", false),
        ] {
            let event = std::format!("data: {{\"usage\"{value}");
            let found = Usage::last_in_events(event.as_bytes(), event.len());
            assert_eq!(found.is_some(), is_found, "{event}");
        }
        let long = " ".repeat(LONGEST_VALUE);
        let event = std::format!("data: {{\"usage\":{{\"prompt_tokens\":9{long}}}}}");
        assert_eq!(Usage::last_in_events(event.as_bytes(), event.len()), None);
    }

    #[test]
    fn the_last_usage_with_tokens_counts() {
        let one = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        let two = r#"{"usage":{"prompt_tokens":2,"completion_tokens":2}}"#;
        for rest in ["", r#"{"usage":null}"#, r#"{"usage":{"x":{"#] {
            let body = [one, two, rest].concat();
            assert_eq!(Usage::last_in(body.as_bytes()), Some(usage(2, 2, 0, 0)));
        }
    }
}
