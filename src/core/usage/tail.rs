//! The last bytes of an answer, and the tokens that dropped bytes reported.

use super::Usage;
use crate::prelude::*;
use crate::text::find;

/// The bytes that are kept of an answer's end. In JSON, `usage` must begin within them.
pub const TAIL: usize = 8 * 1024;

/// The bytes that are kept of an event stream whose short frames end within events. An error event at its end is
/// shorter.
const SHORT_TAIL: usize = 1024;

/// The longest short frame. Streams with longer frames may end with a longer error.
const SHORT_FRAME: usize = SHORT_TAIL;

/// The bytes that are kept before the next frame of an event stream, because `usage` may end in that frame.
const OVERLAP: usize = 512;

/// The last bytes of an answer so far: at least [`TAIL`], or what an event stream needs.
///
/// Thousands of streams may be open for minutes. While the frames of a stream have whole events, only the last frame is
/// kept, and the tokens of the frames before it are noted.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    /// The tokens that dropped bytes of an event stream reported.
    noted: Option<Usage>,
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
        if self.is_stream {
            self.note(Usage::last_in_events(&self.bytes, self.bytes.len()));
        }
        self.bytes.clear();
        self.is_cut = true;
    }

    /// Appends the next frame.
    pub fn push(&mut self, frame: Vec<u8>) {
        if self.is_stream && self.is_replaced_by(&frame) {
            self.note(Usage::last_in_events(&self.bytes, self.bytes.len()));
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

    /// Whether no bytes before the next frame of an event stream are needed, because the frame has whole events.
    ///
    /// An error counts only in the last event other than `[DONE]`, so the frame must begin with such an event.
    #[inline]
    fn is_replaced_by(&mut self, frame: &[u8]) -> bool {
        let begins_event = self.ends_event;
        self.ends_event = matches!(frame, [.., b'\n', b'\n']);
        // Of a very long frame only the last `TAIL` bytes were read.
        begins_event && self.ends_event && frame.len() < TAIL && begins_with_data(frame)
    }

    /// Notes the tokens in dropped bytes.
    fn note(&mut self, found: Option<Usage>) {
        if let Some(found) = found {
            self.noted = Some(found.completed_by(self.noted));
        }
    }

    /// Appends the next frame when the memory is full. The first frame's memory is reused, because many answers arrive
    /// in one frame.
    #[inline(never)]
    fn make_room(&mut self, frame: Vec<u8>) {
        let (least, most) = match self.is_stream && self.longest <= SHORT_FRAME {
            true => (SHORT_TAIL, SHORT_TAIL + OVERLAP),
            false => (TAIL, 2 * TAIL),
        };
        if self.bytes.is_empty() && frame.capacity() <= most {
            self.bytes = frame;
            return;
        }
        let length = self.bytes.len().saturating_add(frame.len());
        if length <= most {
            let wanted = length.saturating_mul(2).min(most);
            let more = wanted.saturating_sub(self.bytes.len());
            self.bytes.reserve_exact(more);
            self.bytes.extend_from_slice(&frame);
            return;
        }
        let overlap = if self.is_stream { OVERLAP } else { 0 };
        let front = frame.len().saturating_add(overlap).saturating_sub(most);
        let last = frame.get(front..).unwrap_or_default();
        let kept = match front {
            0 => least.saturating_sub(last.len()).max(overlap),
            _ => 0,
        };
        let dropped = self.bytes.len().saturating_sub(kept);
        if self.is_stream {
            self.note(Usage::last_in_events(&self.bytes, dropped));
            self.note(Usage::last_in_events(&frame, front));
        }
        self.bytes.drain(..dropped);
        if self.bytes.capacity() != most {
            let mut bytes = Vec::with_capacity(most);
            bytes.append(&mut self.bytes);
            self.bytes = bytes;
        }
        self.is_cut = true;
        self.longest = last.len();
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

    /// The last tokens that the answer reported.
    pub fn usage(&self) -> Option<Usage> {
        if self.is_stream {
            let found = Usage::last_in_events(&self.bytes, self.bytes.len());
            return found.map_or(self.noted, |found| Some(found.completed_by(self.noted)));
        }
        let older = self.bytes.len().saturating_sub(TAIL);
        Usage::last_in(self.bytes.get(older..).unwrap_or_default())
    }

    /// The allocated memory, in bytes.
    #[cfg(test)]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// Whether the frame begins with an event whose data is a JSON object. The event's name may precede the data.
#[inline]
fn begins_with_data(frame: &[u8]) -> bool {
    let data = match frame {
        [b'e', b'v', b'e', b'n', b't', b':', name @ ..] => {
            let end = find(name, [b'\n']);
            end.and_then(|end| name.get(end.checked_add(1)?..))
        }
        _ => Some(frame),
    };
    matches!(
        data,
        Some(
            [b'd', b'a', b't', b'a', b':', b' ', b'{', ..]
                | [b'd', b'a', b't', b'a', b':', b'{', ..]
        )
    )
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
        let text = "t".repeat(length.saturating_sub("data: {}\n\n".len()));
        format!("data: {{{text}}}\n\n")
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

    /// The error of a stream may be its last event but `[DONE]`.
    #[test]
    fn a_last_event_is_kept_with_what_follows_it() {
        for length in [20, 100, 500, 900, SHORT_FRAME, 7_000] {
            for pieces in [1, 2, 3, 10] {
                for after in [DONE, ": bye\n\n"] {
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
                assert!(tail.capacity() <= SHORT_TAIL + OVERLAP);
            }
            assert!(tail.bytes().len() >= SHORT_TAIL, "{size}");
            assert!(!tail.begins_with_event());
        }
    }

    #[test]
    fn the_memory_of_a_long_frame_is_released() {
        let mut tail = stream();
        tail.push(EVENT.into());
        tail.push(vec![b'x'; 7_000]);
        assert!(tail.capacity() > SHORT_TAIL + OVERLAP);
        for _ in 0..1000 {
            tail.push(EVENT.into());
        }
        assert!(tail.capacity() <= SHORT_TAIL + OVERLAP);
    }
}
