//! The last bytes of an answer, as many as its `usage` may need.

use crate::prelude::*;
use crate::text::find_last;

/// The bytes that are kept of an answer's end. `usage` must begin within them.
pub const TAIL: usize = 8 * 1024;

/// The bytes that are kept of an event stream whose short frames end within events. Its last events, which have
/// `usage`, are shorter.
const SHORT_TAIL: usize = 1024;

/// The longest short frame. A longer frame may be an event with the whole answer, in which `usage` is far from the end.
const SHORT_FRAME: usize = SHORT_TAIL;

/// The most bytes of a closing event, such as `[DONE]` or `message_stop`, which may follow the event with `usage`.
/// Events with content are longer, because each names at least its type and its place.
const CLOSING_EVENT: usize = 96;

/// The length of the start in which events of one kind are equal. The annotations of Azure's asynchronous content
/// filter, which may come last, begin otherwise than a chat's other events.
const START: usize = 40;

/// The last bytes of an answer so far: at least [`TAIL`], or what an event stream needs.
///
/// Thousands of streams may be open for minutes. While the frames of a stream have whole events of one kind, only the
/// last frame is kept: an event with `usage` comes once, so the events before another one of their kind have none.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    /// Whether the kept bytes begin within an event, or within a JSON answer.
    is_cut: bool,
    is_stream: bool,
    /// Whether the bytes so far end with an event.
    ends_event: bool,
    /// The longest frame since bytes were dropped.
    longest: usize,
}

impl Tail {
    /// Declares the answer to be an event stream, before its first frame.
    pub fn begin_stream(&mut self) {
        self.is_stream = true;
        self.ends_event = true;
    }

    /// Forgets all bytes so far.
    pub fn cut(&mut self) {
        self.bytes.clear();
        self.is_cut = true;
    }

    /// Appends the next frame.
    pub fn push(&mut self, frame: Vec<u8>) {
        if self.is_stream && self.is_replaced_by(&frame) {
            self.is_cut = false;
            self.longest = frame.len();
            self.bytes = frame;
            self.bytes.shrink_to_fit();
            return;
        }
        let length = self.bytes.len().wrapping_add(frame.len());
        self.longest = self.longest.max(frame.len());
        // The allocated memory nearly always has room. Older bytes are dropped only when it is full.
        if length <= self.bytes.capacity() {
            self.bytes.extend_from_slice(&frame);
        } else {
            self.make_room(frame);
        }
    }

    /// Whether no bytes before the next frame of an event stream are needed, because the frame has whole events and
    /// begins like the last event.
    #[inline]
    fn is_replaced_by(&mut self, frame: &[u8]) -> bool {
        let begins_event = self.ends_event;
        self.ends_event = matches!(frame, [.., b'\n', b'\n']);
        // Of a very long frame only the last `TAIL` bytes were read.
        let is_whole = begins_event && self.ends_event && frame.len() < TAIL;
        is_whole && frame.len() > CLOSING_EVENT && self.last_event_begins_like(frame)
    }

    /// Whether the last event begins like `frame`, or the frame is the first one.
    #[inline]
    fn last_event_begins_like(&self, frame: &[u8]) -> bool {
        // Usually the kept bytes are one event.
        begin_alike(&self.bytes, frame)
            || self.bytes.is_empty()
            || begin_alike(self.last_event(), frame)
    }

    /// The last of the events that end here.
    #[inline(never)]
    fn last_event(&self) -> &[u8] {
        let end = self.bytes.len().saturating_sub(2);
        let mut before = self.bytes.get(..end).unwrap_or_default();
        while let Some(at) = find_last(before, b'\n') {
            before = before.get(..at).unwrap_or_default();
            if before.ends_with(b"\n") {
                return self.bytes.get(at.saturating_add(1)..).unwrap_or_default();
            }
        }
        &self.bytes
    }

    /// Appends the next frame when the memory is full. The first frame's memory is reused, because many answers arrive
    /// in one frame.
    #[inline(never)]
    fn make_room(&mut self, frame: Vec<u8>) {
        let (least, most) = match self.is_stream && self.longest <= SHORT_FRAME {
            true => (SHORT_TAIL, SHORT_TAIL),
            false => (TAIL, 2 * TAIL),
        };
        if self.bytes.is_empty() && frame.capacity() <= most {
            self.bytes = frame;
            return;
        }
        let length = self.bytes.len().saturating_add(frame.len());
        let last = frame.get(frame.len().saturating_sub(most)..);
        let last = last.unwrap_or_default();
        if length <= most {
            let wanted = length.saturating_mul(2).min(most);
            let more = wanted.saturating_sub(self.bytes.len());
            self.bytes.reserve_exact(more);
        } else {
            let kept = least.saturating_sub(last.len());
            let dropped = self.bytes.len().saturating_sub(kept);
            self.bytes.drain(..dropped);
            if self.bytes.capacity() != most {
                let mut bytes = Vec::with_capacity(most);
                bytes.append(&mut self.bytes);
                self.bytes = bytes;
            }
            self.is_cut = true;
            self.longest = last.len();
        }
        self.bytes.extend_from_slice(last);
    }

    /// All kept bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the kept bytes of an event stream begin with an event.
    pub fn begins_with_event(&self) -> bool {
        !self.is_cut
    }

    /// The last [`TAIL`] bytes.
    pub fn last(&self) -> &[u8] {
        let older = self.bytes.len().saturating_sub(TAIL);
        self.bytes.get(older..).unwrap_or_default()
    }

    /// The allocated memory, in bytes.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Whether two events have the same first [`START`] bytes.
#[inline]
fn begin_alike(one: &[u8], other: &[u8]) -> bool {
    let (Some(one), Some(other)) = (one.first_chunk::<START>(), other.first_chunk::<START>())
    else {
        return false;
    };
    // Equal words take fewer instructions than equal texts.
    let mut words = one.chunks_exact(8).zip(other.chunks_exact(8));
    words.all(|(one, other)| one.first_chunk::<8>() == other.first_chunk::<8>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" well\"}}],\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\"}\n\n";

    const DONE: &str = "data: [DONE]\n\n";

    fn stream() -> Tail {
        let mut tail = Tail::default();
        tail.begin_stream();
        tail
    }

    fn last_event(length: usize) -> String {
        let text = "t".repeat(length.saturating_sub("data: \n\n".len()));
        format!("data: {text}\n\n")
    }

    #[test]
    fn streams_of_whole_events_take_little_memory() {
        let mut tail = stream();
        for _ in 0..500 {
            tail.push(EVENT.into());
            assert_eq!(tail.bytes(), EVENT.as_bytes());
            assert!(tail.begins_with_event() && tail.capacity() == EVENT.len());
        }
    }

    #[test]
    fn a_last_event_is_kept_with_what_follows_it() {
        let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
        for length in [20, CLOSING_EVENT, 100, 500, 900, SHORT_FRAME, 7_000] {
            for pieces in [1, 2, 3, 10] {
                for after in [DONE, stop] {
                    let last = last_event(length);
                    let mut tail = stream();
                    for _ in 0..500 {
                        tail.push(EVENT.into());
                    }
                    for piece in last.as_bytes().chunks(length.div_ceil(pieces)) {
                        tail.push(piece.to_vec());
                    }
                    tail.push(after.into());
                    let end = last + after;
                    let kept = tail.bytes();
                    let is_kept = kept.ends_with(end.as_bytes());
                    // The start of a longer event in pieces may be dropped.
                    let is_short = end.len() <= SHORT_TAIL || pieces == 1 && length > SHORT_FRAME;
                    assert!(
                        is_kept || !is_short && kept.len() >= SHORT_TAIL,
                        "{length} {pieces}"
                    );
                }
            }
        }
    }

    /// The order of keys is Azure's, or that of other providers.
    #[test]
    fn usage_is_kept_before_an_annotation() {
        let orders = [
            [
                r#"{"choices":[{"content_filter_results":{},"delta":{"content":" well"}}],"id":"chatcmpl-1","model":"gpt-4o"}"#,
                r#"{"choices":[{"content_filter_results":{},"delta":{}}],"usage":{"completion_tokens":4,"prompt_tokens":9}}"#,
                r#"{"choices":[{"content_filter_offsets":{"check_offset":0},"content_filter_results":{"hate":{"filtered":false}}}]}"#,
            ],
            [
                r#"{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" well"}}],"model":"gpt-4o","created":1760000000}"#,
                r#"{"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4},"created":1760000000}"#,
                r#"{"id":"","choices":[{"index":0,"content_filter_results":{},"content_filter_offsets":{}}],"usage":null}"#,
            ],
        ];
        for order in orders {
            let [content, usage, annotation] = order.map(|data| format!("data: {data}\n\n"));
            let mut tail = stream();
            for _ in 0..10 {
                tail.push(content.clone().into());
            }
            assert_eq!(tail.bytes(), content.as_bytes());
            let end = [&*usage, &*annotation, DONE];
            for event in end {
                tail.push(event.into());
            }
            assert!(tail.bytes().ends_with(end.concat().as_bytes()), "{usage}");
        }
    }

    #[test]
    fn several_events_in_a_frame_are_replaced_by_the_next_one() {
        let first = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
        let mut tail = stream();
        tail.push([first, EVENT, EVENT].concat().into());
        tail.push(EVENT.into());
        assert_eq!(tail.bytes(), EVENT.as_bytes());
        assert!(tail.begins_with_event());
    }

    #[test]
    fn split_events_are_kept_longer() {
        for size in [1, 7, 60, 200, SHORT_TAIL] {
            let text = EVENT.repeat(500);
            let mut tail = stream();
            for frame in text.as_bytes().chunks(size) {
                tail.push(frame.to_vec());
                assert!(tail.capacity() <= SHORT_TAIL);
            }
            assert_eq!(tail.bytes().len(), SHORT_TAIL, "{size}");
            assert!(!tail.begins_with_event());
        }
    }

    #[test]
    fn the_memory_of_a_long_frame_is_released() {
        let mut tail = stream();
        tail.push(EVENT.into());
        tail.push(vec![b'x'; 7_000]);
        assert!(tail.capacity() > SHORT_TAIL);
        for _ in 0..1000 {
            tail.push(EVENT.into());
        }
        assert!(tail.capacity() <= SHORT_TAIL);
    }
}
