//! The tokens that an answer reports.
//!
//! JSON answers and event streams alike have their `usage` near their end, so the last bytes of a body are kept and looked through once
//! when it is over. Nothing is held for that, and nothing else of an answer is copied.
//!
//! Sources: the references of [Azure OpenAI], and of [Anthropic's Messages API].
//!
//! [Azure OpenAI]: https://learn.microsoft.com/azure/ai-foundry/openai/latest
//! [Anthropic's Messages API]: https://docs.anthropic.com/en/api/messages

use core::ops::Range;

use super::stream_end::StreamEnd;
use super::stream_start::Failure;
use super::text::{find, find_last};
use crate::prelude::*;

/// As much of the end of an answer as is kept, in bytes. `usage` must begin within it.
pub const TAIL: usize = 8 * 1024;

/// Of longer frames of an event stream only the end is read, in bytes.
const LONGEST_READ: usize = 64 * 1024;

/// The tokens that one answer reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those from a cache included, where that is known.
    pub prompt: Option<u32>,
    /// Tokens of the completion, those of reasoning included, where that is known.
    pub completion: Option<u32>,
    /// Tokens of the prompt that came from a cache.
    pub cached: u32,
    /// Tokens of the completion that were spent on reasoning.
    pub reasoning: u32,
}

/// A kind of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tokens {
    /// [`Usage::prompt`].
    Prompt,
    /// [`Usage::completion`].
    Completion,
    /// [`Usage::cached`].
    Cached,
    /// [`Usage::reasoning`].
    Reasoning,
}

impl Tokens {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Prompt,
        Self::Completion,
        Self::Cached,
        Self::Reasoning,
    ];

    /// The name in statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Completion => "completion",
            Self::Cached => "cached",
            Self::Reasoning => "reasoning",
        }
    }
}

impl Usage {
    /// How many tokens of this kind; 0 where that is not known.
    pub fn of(&self, kind: Tokens) -> u32 {
        match kind {
            Tokens::Prompt => self.prompt.unwrap_or_default(),
            Tokens::Completion => self.completion.unwrap_or_default(),
            Tokens::Cached => self.cached,
            Tokens::Reasoning => self.reasoning,
        }
    }

    /// What the last `usage` in these bytes reports that reports any tokens.
    #[inline(never)]
    pub fn last_in(bytes: &[u8]) -> Option<Self> {
        Self::from_the_end(bytes, &|_| true)
    }

    /// What the last `usage` in these bytes reports that reports the tokens of a prompt.
    #[inline(never)]
    fn last_with_prompt_in(bytes: &[u8]) -> Option<Self> {
        Self::from_the_end(bytes, &|usage| usage.prompt.is_some())
    }

    /// What the last `usage` in these bytes reports that reports tokens, and `wanted` ones.
    fn from_the_end(bytes: &[u8], wanted: &dyn Fn(&Self) -> bool) -> Option<Self> {
        let mut before = bytes;
        loop {
            let at = last_key(before)?;
            let (rest, found) = before.split_at_checked(at)?;
            // In a string a quotation mark stands behind a backslash.
            let is_key = rest.last() != Some(&b'\\');
            let value = found.get(KEY.len()..).filter(|_| is_key);
            match value.and_then(Self::of_value) {
                Some(usage) if wanted(&usage) => return Some(usage),
                _ => before = rest,
            }
        }
    }

    /// What the value of `usage` reports that begins here, with its colon.
    fn of_value(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes };
        reader.skip_blanks();
        reader.take(b':')?;
        reader.skip_blanks();
        let numbers = reader.numbers()?;
        let usage = numbers.usage();
        (usage.prompt.is_some() || usage.completion.is_some()).then_some(usage)
    }

    /// This one, completed by what an `earlier` one of the same answer has besides.
    fn completed_by(self, earlier: Self) -> Self {
        match (self.prompt, earlier.prompt) {
            (None, Some(_)) => Self {
                prompt: earlier.prompt,
                cached: earlier.cached,
                ..self
            },
            _ => self,
        }
    }
}

const KEY: &[u8] = b"\"usage\"";

/// Where the last [`KEY`] stands.
fn last_key(bytes: &[u8]) -> Option<usize> {
    // The rarest letter of it, and where that stands.
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
    /// Anthropic counts these beside `input_tokens`; the others count them in.
    read_from_cache: Option<u32>,
    written_to_cache: Option<u32>,
}

impl Numbers {
    /// The number that stands under this key, where that matters.
    fn named(&mut self, key: &[u8], depth: u32) -> Option<&mut Option<u32>> {
        Some(match (depth, key) {
            (1, b"prompt_tokens" | b"input_tokens") => &mut self.prompt,
            (1, b"completion_tokens" | b"output_tokens") => &mut self.completion,
            (1, b"cache_read_input_tokens") => &mut self.read_from_cache,
            (1, b"cache_creation_input_tokens") => &mut self.written_to_cache,
            (2, b"cached_tokens") => &mut self.cached,
            (2, b"reasoning_tokens") => &mut self.reasoning,
            _ => return None,
        })
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

/// Reads an object of numbers. What is between brackets, quotes and commas is not looked at closely.
struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
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

    /// What comes before one of these bytes, which is next.
    fn until<const N: usize>(&mut self, wanted: [u8; N]) -> Option<&'b [u8]> {
        let (before, rest) = self.rest.split_at_checked(find(self.rest, wanted)?)?;
        self.rest = rest;
        Some(before)
    }

    /// The key, or other string, whose opening quote was read. One with escapes has no name that matters.
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

    /// The whole number that stands here.
    fn number(&mut self) -> Option<u32> {
        let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit());
        let (digits, rest) = self.rest.split_at_checked(digits.count())?;
        if digits.is_empty() || matches!(rest.first(), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        let value = digits.iter().fold(0_u32, |value, digit| {
            let digit = u32::from(digit.wrapping_sub(b'0'));
            value.saturating_mul(10).saturating_add(digit)
        });
        Some(value)
    }

    /// The numbers of the object that stands here; `None` if none does, or it has no end.
    fn numbers(&mut self) -> Option<Numbers> {
        let mut numbers = Numbers::default();
        let mut depth = 0_u32;
        if !matches!(self.rest.first(), Some(b'{')) {
            return None;
        }
        loop {
            self.until([b'"', b'{', b'}', b'[', b']'])?;
            match self.next()? {
                b'{' | b'[' => depth = depth.saturating_add(1),
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {
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
            }
            if depth == 0 {
                return Some(numbers);
            }
        }
    }
}

/// The last [`TAIL`] bytes of what has come.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Where the oldest byte is, once there are more than fit.
    oldest: usize,
    /// Older bytes were dropped.
    is_cut: bool,
}

impl Tail {
    /// Takes the next bytes. Their memory is kept if they are the first: many answers come in one piece.
    fn push(&mut self, chunk: Vec<u8>) {
        if self.bytes.is_empty() && chunk.len() <= TAIL {
            self.bytes = chunk;
            return;
        }
        let last = chunk.len().saturating_sub(TAIL);
        self.is_cut |= last > 0;
        let mut chunk = chunk.get(last..).unwrap_or_default();
        if self.bytes.capacity() < TAIL {
            self.bytes
                .reserve_exact(TAIL.saturating_sub(self.bytes.len()));
        }
        if let Some((fits, more)) = chunk.split_at_checked(TAIL.saturating_sub(self.bytes.len())) {
            self.bytes.extend_from_slice(fits);
            chunk = more;
        } else {
            self.bytes.extend_from_slice(chunk);
            return;
        }
        self.is_cut |= !chunk.is_empty();
        while !chunk.is_empty() {
            let old = self.bytes.get_mut(self.oldest..).unwrap_or_default();
            let now = old.len().min(chunk.len());
            let (Some(old), Some((new, more))) = (old.get_mut(..now), chunk.split_at_checked(now))
            else {
                return;
            };
            old.copy_from_slice(new);
            chunk = more;
            self.oldest = self.oldest.saturating_add(now);
            if self.oldest >= self.bytes.len() {
                self.oldest = 0;
            }
        }
    }

    /// The bytes in their order. They are copied: to rotate them takes a hundred times as long.
    fn in_order(&mut self) -> &[u8] {
        let oldest = core::mem::take(&mut self.oldest);
        if let Some((new, old)) = self.bytes.split_at_checked(oldest) {
            if !new.is_empty() {
                self.bytes = [old, new].concat();
            }
        }
        &self.bytes
    }
}

/// Reads the end of an answer that passes by.
#[derive(Debug, Default)]
pub struct UsageReader {
    tail: Tail,
    /// What the beginning of the answer reports, where that matters.
    earlier: Option<Usage>,
    /// How many bytes are yet to pass that were read before.
    read_before: usize,
    /// The first byte of the answer has passed.
    has_begun: bool,
    /// Nothing can be read in the answer: it is compressed, or no text.
    is_closed: bool,
    /// The end of the answer, where that is an event stream.
    stream_end: Option<StreamEnd>,
}

impl UsageReader {
    /// Reads an answer of which Anthropic's streams report the tokens of the prompt at their beginning.
    pub fn with_beginning() -> Self {
        Self {
            earlier: Some(Usage::default()),
            ..Self::default()
        }
    }

    /// Takes the first bytes of an answer, which are yet to pass.
    pub fn take_before(&mut self, begin: Vec<u8>) {
        self.read_before = begin.len();
        self.take(begin);
    }

    /// Takes an answer that is there as a whole.
    pub fn take_whole(&mut self, body: &[u8]) {
        let begin = body.get(..TAIL).unwrap_or(body);
        self.take(begin.to_vec());
        if let (Some(end), false) = (body.get(begin.len()..), self.is_closed) {
            let last = end.get(end.len().saturating_sub(TAIL)..);
            self.tail.push(last.unwrap_or(end).to_vec());
        }
    }

    /// Whether everything has passed that was read before it did.
    pub fn has_seen_begin(&self) -> bool {
        self.read_before == 0
    }

    /// A frame of so many bytes passes: which of them [`Self::take`] needs, if any. A frame whose size is not known has
    /// [`usize::MAX`].
    pub fn wanted(&mut self, size: usize) -> Option<Range<usize>> {
        let start = self.read_before.min(size);
        self.read_before = self.read_before.saturating_sub(size);
        if self.is_closed || start == size {
            return None;
        }
        let last = match (size, &self.stream_end) {
            (usize::MAX, _) => start,
            // Its beginning tells whether an error begins.
            (..=LONGEST_READ, Some(_)) => start,
            (size, _) => start.max(size.saturating_sub(TAIL)),
        };
        // The first byte tells text from what is compressed, where it is among those that are read.
        self.has_begun |= last > start;
        Some(last..size)
    }

    /// Takes the bytes that were wanted.
    pub fn take(&mut self, bytes: Vec<u8>) {
        let Some(first) = bytes.first() else {
            return;
        };
        let is_first = !core::mem::replace(&mut self.has_begun, true);
        if is_first && !may_begin(*first) {
            self.is_closed = true;
            return;
        }
        if is_first && !matches!(first, b'{' | b'[') {
            self.stream_end = Some(StreamEnd::default());
        }
        if let Some(end) = &mut self.stream_end {
            end.note(&bytes);
        }
        if let (Some(earlier), true) = (&mut self.earlier, is_first) {
            *earlier = Usage::last_with_prompt_in(&bytes).unwrap_or_default();
        }
        self.tail.push(bytes);
    }

    /// The error that the answer ended with, where that is an event stream.
    pub fn failure(&mut self) -> Option<Failure> {
        let end = self.stream_end.take()?;
        let is_whole = !self.tail.is_cut;
        end.failure(self.tail.in_order(), is_whole)
    }

    /// What the answer has reported.
    pub fn finish(&mut self) -> Option<Usage> {
        let found = Usage::last_in(self.tail.in_order());
        found.map(|usage| usage.completed_by(self.earlier.unwrap_or_default()))
    }
}

/// Whether JSON or a stream of events may begin with this byte.
fn may_begin(byte: u8) -> bool {
    // The fields of an event are `data`, `event`, `id` and `retry`. The last byte begins a byte order mark.
    matches!(byte, b'{' | b'[' | b':' | b'd' | b'e' | b'i' | b'r' | 0xEF)
        || byte.is_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt: u32, completion: u32, cached: u32, reasoning: u32) -> Usage {
        Usage {
            prompt: Some(prompt),
            completion: Some(completion),
            cached,
            reasoning,
        }
    }

    /// What is found in a body that passes in frames of this size.
    fn found(body: &[u8], size: usize) -> Option<Usage> {
        let mut reader = UsageReader::default();
        for frame in body.chunks(size) {
            if let Some(wanted) = reader.wanted(frame.len()) {
                reader.take(frame[wanted].to_vec());
            }
        }
        assert!(reader.tail.bytes.capacity() <= TAIL);
        reader.finish()
    }

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
    fn what_is_no_usage_says_nothing() {
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
    fn the_last_one_that_reports_tokens_counts() {
        let one = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        let two = r#"{"usage":{"prompt_tokens":2,"completion_tokens":2}}"#;
        for rest in ["", r#"{"usage":null}"#, r#"{"usage":{"x":{"#] {
            let body = [one, two, rest].concat();
            assert_eq!(Usage::last_in(body.as_bytes()), Some(usage(2, 2, 0, 0)));
        }
    }

    #[test]
    fn an_answer_may_be_cut_at_every_byte() {
        let end = r#","usage":{"prompt_tokens":9,"completion_tokens":4},"z":1}"#;
        for length in [0, TAIL - 100, TAIL - 20, TAIL, 2 * TAIL + 7] {
            let body = format!("{{\"text\":\"{}\"{end}", "x".repeat(length));
            for at in 0..=body.len().min(300) {
                let (one, other) = body.as_bytes().split_at(body.len() - at);
                let mut reader = UsageReader::default();
                for frame in [one, other] {
                    if let Some(wanted) = reader.wanted(frame.len()) {
                        assert!(wanted.len() <= TAIL);
                        reader.take(frame[wanted].to_vec());
                    }
                }
                assert_eq!(reader.finish(), Some(usage(9, 4, 0, 0)), "{length} {at}");
            }
            for size in [1, 2, 3, 1000, TAIL - 1, TAIL, TAIL + 1] {
                assert_eq!(found(body.as_bytes(), size), Some(usage(9, 4, 0, 0)));
            }
        }
        let far = format!("{{{end}{}", " ".repeat(TAIL));
        assert_eq!(found(far.as_bytes(), 100), None, "too far from the end");
    }

    #[test]
    fn what_was_read_before_is_not_read_again() {
        let body = br#"{"usage":{"prompt_tokens":9,"completion_tokens":4}}"#;
        for read in 1..body.len() {
            for size in 1..body.len() {
                let mut reader = UsageReader::default();
                reader.take_before(body[..read].to_vec());
                let mut taken = 0;
                for frame in body.chunks(size) {
                    if let Some(wanted) = reader.wanted(frame.len()) {
                        taken += wanted.len();
                        reader.take(frame[wanted].to_vec());
                    }
                }
                assert_eq!(taken, body.len() - read);
                assert_eq!(reader.finish(), Some(usage(9, 4, 0, 0)));
            }
        }
        let mut reader = UsageReader::default();
        reader.take_before(b"data: 12345".to_vec());
        assert_eq!(reader.wanted(usize::MAX), Some(11..usize::MAX));
        assert_eq!(reader.wanted(0), None);
        assert_eq!(reader.wanted(9), Some(0..9));
    }

    #[test]
    fn what_is_no_text_is_read_no_further() {
        for first in [b"\x1f\x8b" as &[u8], b"x\x9c", b"ID3", b"\xff\xfb"] {
            let mut reader = UsageReader::default();
            assert_eq!(reader.wanted(2), Some(0..2));
            reader.take(first.to_vec());
            assert_eq!(reader.wanted(500), None);
            assert_eq!(reader.finish(), None);
            let mut reader = UsageReader::default();
            reader.take_whole(first);
            assert!(reader.is_closed);
        }
    }

    #[test]
    fn a_claude_streams_prompt_stands_at_its_beginning() {
        let begin = r#"data: {"message":{"usage":{"input_tokens":9,"cache_read_input_tokens":3,"output_tokens":1}}}"#;
        let end = r#"data: {"usage":{"output_tokens":40}}"#;
        let whole = format!("{begin}\n\n{}\n\n{end}", " ".repeat(TAIL));
        let mut readers = [(); 3].map(|()| UsageReader::with_beginning());
        readers[0].take_before(begin.as_bytes().to_vec());
        readers[0].take(whole.as_bytes()[begin.len()..].to_vec());
        for frame in [begin, &whole[begin.len()..]] {
            if let Some(wanted) = readers[1].wanted(frame.len()) {
                readers[1].take(frame.as_bytes()[wanted].to_vec());
            }
        }
        readers[2].take_whole(whole.as_bytes());
        for mut reader in readers {
            assert_eq!(reader.finish(), Some(usage(12, 40, 3, 0)));
        }
        // All of it comes at once.
        let mut reader = UsageReader::with_beginning();
        reader.take(format!("{begin}\n\n{end}").into_bytes());
        assert_eq!(reader.finish(), Some(usage(12, 40, 3, 0)));
    }
}
