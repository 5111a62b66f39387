//! The tokens that an answer reports.
//!
//! JSON answers have their `usage` near the end. So the last bytes of a body are kept, and searched once at its end. An
//! event stream may have anything after its tokens, so bytes are also searched when they are dropped. Nothing is held for
//! that, and nothing else of an answer is copied.
//!
//! Sources: the references of [Azure OpenAI], and of [Anthropic's Messages API].
//!
//! [Azure OpenAI]: https://learn.microsoft.com/azure/ai-foundry/openai/latest
//! [Anthropic's Messages API]: https://docs.anthropic.com/en/api/messages

mod search;
mod tail;

use core::ops::Range;

use super::stream_end::StreamEnd;
use super::stream_start::Failure;
use crate::prelude::*;
pub(crate) use search::{last_key, KEY};
pub use tail::TAIL;

use self::tail::Tail;

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

    /// Adds the prompt's tokens of an `earlier` report of the same answer, if missing here.
    fn completed_by(self, earlier: Option<Self>) -> Self {
        match earlier {
            Some(earlier) if self.prompt.is_none() && earlier.prompt.is_some() => Self {
                prompt: earlier.prompt,
                cached: earlier.cached,
                ..self
            },
            _ => self,
        }
    }
}

/// Reads the end of a passing answer.
#[derive(Debug, Default)]
pub struct UsageReader {
    tail: Tail,
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
                self.tail.cut();
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
            self.tail.begin_stream();
        }
        true
    }

    /// The error at the end of the answer, if the answer is an event stream.
    pub fn failure(&mut self) -> Option<Failure> {
        let end = self.stream_end.take()?;
        end.failure(self.tail.bytes(), self.tail.begins_with_event())
    }

    /// The tokens that the answer reported.
    pub fn finish(&self) -> Option<Usage> {
        self.tail.usage()
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

    pub(super) fn usage(prompt: u32, completion: u32, cached: u32, reasoning: u32) -> Usage {
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
        assert!(reader.tail.capacity() <= 2 * TAIL);
        reader.finish()
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
    fn usage_of_a_stream_is_found_wherever_its_frames_end() {
        let event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" well\"}}]}\n\n";
        let last = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\ndata: [DONE]\n\n";
        let long = format!(
            "data: {{\"response\":{{\"usage\":{{\"input_tokens\":9,\"output_tokens\":4}},\"metadata\":\"{}\"}}}}\n\n",
            "m".repeat(7_000)
        );
        for size in [1, 7, 60, event.len(), 200, 1024, 1100, 4096, 6000] {
            let stream = event.repeat(500) + last;
            assert_eq!(
                found(stream.as_bytes(), size),
                Some(usage(9, 4, 0, 0)),
                "{size}"
            );
        }
        // The tokens of a long event count, whatever follows.
        for size in [1, 300, 1024, 1100, 4096, 6000] {
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
            assert_eq!(reader.finish(), Some(usage(9, 4, 0, 0)), "{size}");
        }
        // A long frame may have them at its start.
        let stream = [event.to_owned(), last.to_owned() + &event.repeat(700)];
        assert_eq!(found_in(&stream, 1, usize::MAX), Some(usage(9, 4, 0, 0)));
    }

    /// The tokens found in a stream of these events, whose frames have at most `events` events and `size` bytes.
    fn found_in(stream: &[String], events: usize, size: usize) -> Option<Usage> {
        let mut reader = UsageReader::default();
        for frame in stream.chunks(events) {
            for part in frame.concat().as_bytes().chunks(size) {
                if let Some(wanted) = reader.wanted(part.len()) {
                    reader.take(part[wanted].to_vec());
                }
            }
        }
        reader.finish()
    }

    /// Annotations of Azure's asynchronous content filter come at any place, and as many as the content needs.
    #[test]
    fn usage_is_found_before_any_number_of_annotations() {
        let orders = [
            [
                r#"{"choices":[{"content_filter_results":{},"delta":{"content":" well"}}],"id":"chatcmpl-1","usage":null}"#,
                r#"{"choices":[],"id":"chatcmpl-1","usage":{"completion_tokens":4,"prompt_tokens":9}}"#,
                r#"{"choices":[{"content_filter_offsets":{"check_offset":0},"content_filter_results":{"hate":{"filtered":false}}}]}"#,
            ],
            // Other providers have another order of keys.
            [
                r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" well"}}],"model":"m","created":1760000000}"#,
                r#"{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4},"created":1760000000}"#,
                r#"{"id":"","choices":[{"index":0,"content_filter_results":{},"content_filter_offsets":{}}],"usage":null}"#,
            ],
        ];
        for order in orders {
            let [content, usage_event, annotation] = order.map(|data| format!("data: {data}\n\n"));
            for (contents, annotations) in [(1, 0), (2, 1), (3, 2), (7, 20), (16, 20)] {
                let mut stream = vec![content.clone(); contents];
                stream.extend([annotation.clone(), usage_event.clone()]);
                stream.extend(core::iter::repeat_n(annotation.clone(), annotations));
                stream.push("data: [DONE]\n\n".into());
                for events in [1, 2, 3, stream.len()] {
                    for size in [1, 7, 60, 300, 511].into_iter().chain(900..1030) {
                        let found = found_in(&stream, events, size);
                        let of = (contents, annotations, events, size);
                        assert_eq!(found, Some(usage(9, 4, 0, 0)), "{of:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_stream_that_breaks_off_has_its_last_tokens() {
        let begin =
            r#"{"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":1}}}"#;
        let content = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" well"}}"#;
        let named = |name: &str, data: &str| format!("event: {name}\ndata: {data}\n\n");
        let mut stream = vec![named("message_start", begin)];
        stream.extend(core::iter::repeat_n(
            named("content_block_delta", content),
            50,
        ));
        for size in [1, 60, 300, 4096] {
            assert_eq!(found_in(&stream, 1, size), Some(usage(9, 1, 0, 0)));
        }
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
        let mut readers = [(); 3].map(|()| UsageReader::default());
        readers[0].take_before(begin.as_bytes().to_vec());
        readers[0].take(whole.as_bytes()[begin.len()..].to_vec());
        for frame in [begin, &whole[begin.len()..]] {
            if let Some(wanted) = readers[1].wanted(frame.len()) {
                readers[1].take(frame.as_bytes()[wanted].to_vec());
            }
        }
        readers[2].take_whole(whole.as_bytes());
        for reader in readers {
            assert_eq!(reader.finish(), Some(usage(12, 40, 3, 0)));
        }
        // The whole stream arrives at once.
        let mut reader = UsageReader::default();
        reader.take(format!("{begin}\n\n{end}").into_bytes());
        assert_eq!(reader.finish(), Some(usage(12, 40, 3, 0)));
    }
}
