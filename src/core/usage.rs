//! The tokens that an answer reports.
//!
//! JSON answers and event streams have their `usage` near the end. So the last bytes of a body are kept, and searched
//! once at its end. Nothing is held for that, and nothing else of an answer is copied.
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

/// The bytes that are kept of an answer's end. `usage` must begin within them.
pub const TAIL: usize = 8 * 1024;

/// The bytes that are kept of an event stream with short frames. Thousands of streams may be open for minutes, and
/// their last events, which have `usage`, are shorter.
const SHORT_TAIL: usize = 1024;

/// The longest short frame. A longer frame may be an event with the whole answer, in which `usage` is far from the end.
const SHORT_FRAME: usize = SHORT_TAIL;

/// The longest frame of an event stream that is read completely, in bytes. Of longer frames only the end is read.
const LONGEST_READ: usize = 64 * 1024;

/// The tokens that an answer reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, including those from a cache, if known.
    pub prompt: Option<u32>,
    /// Tokens of the completion, including those of reasoning, if known.
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
    /// The number of tokens of this kind. 0 if unknown.
    pub fn of(&self, kind: Tokens) -> u32 {
        match kind {
            Tokens::Prompt => self.prompt.unwrap_or_default(),
            Tokens::Completion => self.completion.unwrap_or_default(),
            Tokens::Cached => self.cached,
            Tokens::Reasoning => self.reasoning,
        }
    }

    /// The last `usage` in these bytes with any tokens.
    #[inline(never)]
    pub fn last_in(bytes: &[u8]) -> Option<Self> {
        Self::from_the_end(bytes, &|_| true)
    }

    /// The last `usage` in these bytes with the tokens of a prompt.
    #[inline(never)]
    fn last_with_prompt_in(bytes: &[u8]) -> Option<Self> {
        Self::from_the_end(bytes, &|usage| usage.prompt.is_some())
    }

    /// The last `usage` in these bytes with tokens that satisfies `wanted`.
    fn from_the_end(bytes: &[u8], wanted: &dyn Fn(&Self) -> bool) -> Option<Self> {
        let mut before = bytes;
        loop {
            let at = last_key(before)?;
            let (rest, found) = before.split_at_checked(at)?;
            // Inside a string the quotation mark follows a backslash.
            let is_key = rest.last() != Some(&b'\\');
            let value = found.get(KEY.len()..).filter(|_| is_key);
            match value.and_then(Self::of_value) {
                Some(usage) if wanted(&usage) => return Some(usage),
                _ => before = rest,
            }
        }
    }

    /// The tokens in the value of `usage` that begins here, with its colon.
    fn of_value(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: bytes };
        reader.skip_blanks();
        reader.take(b':')?;
        reader.skip_blanks();
        let numbers = reader.numbers()?;
        let usage = numbers.usage();
        (usage.prompt.is_some() || usage.completion.is_some()).then_some(usage)
    }

    /// Adds the prompt's tokens of an `earlier` report of the same answer, if missing here.
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

/// The position of the last [`KEY`].
fn last_key(bytes: &[u8]) -> Option<usize> {
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

/// The last bytes so far: at least [`TAIL`], or [`SHORT_TAIL`] for an event stream with short frames.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Whether older bytes were dropped.
    is_cut: bool,
    /// Whether the answer is an event stream.
    is_stream: bool,
    /// The longest frame since bytes were dropped.
    longest: usize,
}

impl Tail {
    /// Appends the next bytes.
    fn push(&mut self, chunk: Vec<u8>) {
        let length = self.bytes.len().wrapping_add(chunk.len());
        self.longest = self.longest.max(chunk.len());
        // The allocated memory nearly always has room. Older bytes are dropped only when it is full.
        if length <= self.bytes.capacity() {
            self.bytes.extend_from_slice(&chunk);
        } else {
            self.make_room(chunk);
        }
    }

    /// Appends the next bytes when the memory is full. The first chunk's memory is reused, because many answers arrive
    /// in one chunk.
    #[inline(never)]
    fn make_room(&mut self, chunk: Vec<u8>) {
        let (least, most) = match self.is_stream && self.longest <= SHORT_FRAME {
            true => (SHORT_TAIL, SHORT_TAIL),
            false => (TAIL, 2 * TAIL),
        };
        if self.bytes.is_empty() && chunk.capacity() <= most {
            self.bytes = chunk;
            return;
        }
        let length = self.bytes.len().saturating_add(chunk.len());
        let chunk = chunk.get(chunk.len().saturating_sub(most)..);
        let chunk = chunk.unwrap_or_default();
        if length <= most {
            let wanted = length.saturating_mul(2).min(most);
            let more = wanted.saturating_sub(self.bytes.len());
            self.bytes.reserve_exact(more);
        } else {
            let kept = least.saturating_sub(chunk.len());
            let dropped = self.bytes.len().saturating_sub(kept);
            self.bytes.drain(..dropped);
            if self.bytes.capacity() != most {
                let mut bytes = Vec::with_capacity(most);
                bytes.append(&mut self.bytes);
                self.bytes = bytes;
            }
            self.is_cut = true;
            self.longest = chunk.len();
        }
        self.bytes.extend_from_slice(chunk);
    }

    /// The bytes that are searched for `usage`.
    fn last(&self) -> &[u8] {
        let older = self.bytes.len().saturating_sub(TAIL);
        self.bytes.get(older..).unwrap_or_default()
    }
}

/// Reads the end of a passing answer.
#[derive(Debug, Default)]
pub struct UsageReader {
    tail: Tail,
    /// The tokens at the start of the answer, for APIs that report them there.
    earlier: Option<Usage>,
    /// The number of bytes that were read before they pass.
    read_before: usize,
    /// Whether the first byte of the answer has passed.
    has_begun: bool,
    /// Whether the answer is unreadable, because it is compressed or not text.
    is_closed: bool,
    /// The end of the answer, if it is an event stream.
    stream_end: Option<StreamEnd>,
}

impl UsageReader {
    /// A reader for Anthropic's answers, whose streams report the prompt's tokens at the start.
    pub fn with_beginning() -> Self {
        Self {
            earlier: Some(Usage::default()),
            ..Self::default()
        }
    }

    /// Reads the first bytes of an answer before they pass.
    pub fn take_before(&mut self, begin: Vec<u8>) {
        self.read_before = begin.len();
        self.take(begin);
    }

    /// Reads a complete answer.
    pub fn take_whole(&mut self, body: &[u8]) {
        let begin = body.get(..TAIL).unwrap_or(body);
        self.take(begin.to_vec());
        if let (Some(end), false) = (body.get(begin.len()..), self.is_closed) {
            let last = end.get(end.len().saturating_sub(TAIL)..).unwrap_or(end);
            if last.len() < end.len() {
                self.tail.bytes.clear();
                self.tail.is_cut = true;
            }
            self.tail.push(last.to_vec());
        }
    }

    /// Whether all bytes that were read in advance have passed.
    pub fn has_seen_begin(&self) -> bool {
        self.read_before == 0
    }

    /// The bytes of a passing frame that [`Self::take`] needs, if any. `size` is the frame's length, or [`usize::MAX`]
    /// if unknown.
    pub fn wanted(&mut self, size: usize) -> Option<Range<usize>> {
        let start = self.read_before.min(size);
        self.read_before = self.read_before.saturating_sub(size);
        if self.is_closed || start == size {
            return None;
        }
        let last = match (size, &self.stream_end) {
            (usize::MAX, _) => start,
            // The start of the frame shows whether it begins an error.
            (..=LONGEST_READ, Some(_)) => start,
            (size, _) => start.max(size.saturating_sub(TAIL)),
        };
        // The first byte distinguishes text from compressed data, if it is among the bytes to read.
        self.has_begun |= last > start;
        Some(last..size)
    }

    /// Reads the requested bytes.
    pub fn take(&mut self, bytes: Vec<u8>) {
        if !self.has_begun && !self.begin(&bytes) {
            return;
        }
        if let Some(end) = &mut self.stream_end {
            end.note(&bytes);
        }
        self.tail.push(bytes);
    }

    /// Checks the first bytes. `false` if the answer is not to be read.
    #[inline(never)]
    fn begin(&mut self, bytes: &[u8]) -> bool {
        let Some(first) = bytes.first() else {
            return false;
        };
        self.has_begun = true;
        if !may_begin(*first) {
            self.is_closed = true;
            return false;
        }
        if !matches!(first, b'{' | b'[') {
            self.stream_end = Some(StreamEnd::default());
            self.tail.is_stream = true;
        }
        if let Some(earlier) = &mut self.earlier {
            *earlier = Usage::last_with_prompt_in(bytes).unwrap_or_default();
        }
        true
    }

    /// The error at the end of the answer, if the answer is an event stream.
    pub fn failure(&mut self) -> Option<Failure> {
        let end = self.stream_end.take()?;
        let is_whole = !self.tail.is_cut;
        end.failure(&self.tail.bytes, is_whole)
    }

    /// The tokens that the answer reported.
    pub fn finish(&mut self) -> Option<Usage> {
        let found = Usage::last_in(self.tail.last());
        found.map(|usage| usage.completed_by(self.earlier.unwrap_or_default()))
    }
}

/// Whether JSON or an event stream may begin with this byte.
fn may_begin(byte: u8) -> bool {
    // An event's fields are `data`, `event`, `id` and `retry`. 0xEF begins a byte order mark.
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

    /// The tokens found in a body that passes in frames of this size.
    fn found(body: &[u8], size: usize) -> Option<Usage> {
        let mut reader = UsageReader::default();
        for frame in body.chunks(size) {
            if let Some(wanted) = reader.wanted(frame.len()) {
                reader.take(frame[wanted].to_vec());
            }
        }
        assert!(reader.tail.bytes.capacity() <= 2 * TAIL);
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
    fn the_last_usage_with_tokens_counts() {
        let one = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
        let two = r#"{"usage":{"prompt_tokens":2,"completion_tokens":2}}"#;
        for rest in ["", r#"{"usage":null}"#, r#"{"usage":{"x":{"#] {
            let body = [one, two, rest].concat();
            assert_eq!(Usage::last_in(body.as_bytes()), Some(usage(2, 2, 0, 0)));
        }
    }

    #[test]
    fn answers_may_be_split_at_every_byte() {
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
    fn streams_with_short_frames_take_little_memory() {
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" well\"}}]}\n\n";
        let last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n";
        let long = format!(
            "data: {{\"response\":{{\"usage\":{{\"input_tokens\":9,\"output_tokens\":4}},\"metadata\":\"{}\"}}}}\n\n",
            "m".repeat(7_000)
        );
        for size in [1, 7, 60, 200, SHORT_FRAME] {
            let stream = event.repeat(500) + last;
            let mut reader = UsageReader::default();
            for frame in stream.as_bytes().chunks(size) {
                reader.take(frame.to_vec());
                assert!(reader.tail.bytes.capacity() <= SHORT_TAIL);
            }
            assert_eq!(reader.finish(), Some(usage(9, 4, 0, 0)), "{size}");
        }
        // A long event is kept as far as a JSON answer, wherever its frames end and whatever follows.
        for size in [SHORT_FRAME + 100, 4096, 6000] {
            let mut reader = UsageReader::default();
            for frame in [event; 100] {
                reader.take(frame.as_bytes().to_vec());
            }
            for frame in long.as_bytes().chunks(size) {
                reader.take(frame.to_vec());
            }
            for frame in [": bye\n\n"; 100] {
                reader.take(frame.as_bytes().to_vec());
            }
            assert!(reader.tail.bytes.capacity() <= 2 * TAIL);
            assert_eq!(reader.finish(), Some(usage(9, 4, 0, 0)), "{size}");
        }
        // The memory is released.
        let mut reader = UsageReader::default();
        reader.take(event.as_bytes().to_vec());
        reader.take(long.clone().into_bytes());
        for _ in 0..1000 {
            reader.take(event.as_bytes().to_vec());
        }
        assert!(reader.tail.bytes.capacity() <= SHORT_TAIL);
    }

    #[test]
    fn bytes_read_in_advance_are_not_read_again() {
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
    fn unreadable_answers_are_not_read_further() {
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
    fn prompts_of_claude_streams_are_read_at_the_start() {
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
        // The whole stream arrives at once.
        let mut reader = UsageReader::with_beginning();
        reader.take(format!("{begin}\n\n{end}").into_bytes());
        assert_eq!(reader.finish(), Some(usage(12, 40, 3, 0)));
    }
}
