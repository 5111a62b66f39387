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

/// As much as is kept of an event stream whose frames are short, in bytes: thousands of streams may be open for minutes. Their last events,
/// with `usage` in one of them, are shorter.
const SHORT_TAIL: usize = 1024;

/// A longer frame of an event stream may be the event that has the whole answer in it, with `usage` far from its end.
const SHORT_FRAME: usize = SHORT_TAIL;

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
        // Most keys do not matter, and eight letters tell all others apart.
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

    /// The numbers of the object that stands here; `None` if none does, or it has no end.
    fn numbers(&mut self) -> Option<Numbers> {
        let mut numbers = Numbers::default();
        let mut depth = 0_u32;
        if !matches!(self.rest.first(), Some(b'{')) {
            return None;
        }
        loop {
            // Between keys there are a few bytes.
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

/// The last bytes of what has come: at least [`TAIL`], and of an event stream whose frames are short [`SHORT_TAIL`].
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    /// Older bytes were dropped.
    is_cut: bool,
    /// The answer is an event stream.
    is_stream: bool,
    /// The longest frame since bytes were dropped.
    longest: usize,
}

impl Tail {
    /// Takes the next bytes.
    fn push(&mut self, chunk: Vec<u8>) {
        let length = self.bytes.len().wrapping_add(chunk.len());
        self.longest = self.longest.max(chunk.len());
        // As nearly always. Its memory is used up before older bytes are dropped.
        if length <= self.bytes.capacity() {
            self.bytes.extend_from_slice(&chunk);
        } else {
            self.make_room(chunk);
        }
    }

    /// Takes the next bytes, for which there is no memory. The first bytes' memory is kept: many answers come in one piece.
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

    /// The bytes in which `usage` is looked for.
    fn last(&self) -> &[u8] {
        let older = self.bytes.len().saturating_sub(TAIL);
        self.bytes.get(older..).unwrap_or_default()
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
            let last = end.get(end.len().saturating_sub(TAIL)..).unwrap_or(end);
            if last.len() < end.len() {
                self.tail.bytes.clear();
                self.tail.is_cut = true;
            }
            self.tail.push(last.to_vec());
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
        if !self.has_begun && !self.begin(&bytes) {
            return;
        }
        if let Some(end) = &mut self.stream_end {
            end.note(&bytes);
        }
        self.tail.push(bytes);
    }

    /// Takes a look at the first bytes. `false` if nothing is to be read.
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

    /// The error that the answer ended with, where that is an event stream.
    pub fn failure(&mut self) -> Option<Failure> {
        let end = self.stream_end.take()?;
        let is_whole = !self.tail.is_cut;
        end.failure(&self.tail.bytes, is_whole)
    }

    /// What the answer has reported.
    pub fn finish(&mut self) -> Option<Usage> {
        let found = Usage::last_in(self.tail.last());
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
    fn a_stream_of_short_frames_takes_little_memory() {
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
        // A long event is kept as far as that of a JSON answer, wherever its frames end and whatever follows.
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
        // The memory for it is given back.
        let mut reader = UsageReader::default();
        reader.take(event.as_bytes().to_vec());
        reader.take(long.clone().into_bytes());
        for _ in 0..1000 {
            reader.take(event.as_bytes().to_vec());
        }
        assert!(reader.tail.bytes.capacity() <= SHORT_TAIL);
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
