//! The copy of a request body for further attempts.

use alloc::rc::Rc;
use core::cell::Cell;

use super::no_retry::{NoRetry, Replay};
use crate::prelude::*;

/// The longest body that is held until it is complete, in bytes.
///
/// Holding costs almost nothing: such a body usually arrives with its headers, and a backend starts only once it has
/// the whole body. In return every later failure can be retried, including an answer before the end of the request. The
/// limit is half of Envoy's default buffer limit (`per_connection_buffer_limit_bytes`), above which Envoy answers 413.
pub const HELD_UNTIL_COMPLETE: usize = 512 * 1024;

/// The memory for all copies of one worker. WebAssembly's memory is limited, and a module that exhausts it ends every
/// stream of its worker.
#[derive(Debug)]
pub struct ReplayMemory(Cell<usize>);

impl ReplayMemory {
    /// Memory of `bytes` bytes.
    pub fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self(Cell::new(bytes)))
    }
}

/// The part of the memory that one copy has reserved. Dropping it releases the memory.
#[derive(Debug)]
pub struct Room {
    memory: Rc<ReplayMemory>,
    taken: usize,
}

impl Room {
    /// Reserves memory up to `size` bytes. `false` if too little is left.
    fn grow_to(&mut self, size: usize) -> bool {
        let missing = size.saturating_sub(self.taken);
        let left = self.memory.0.get().checked_sub(missing);
        if let Some(left) = left {
            self.memory.0.set(left);
            self.taken += missing;
        }
        left.is_some()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.memory.0.set(self.memory.0.get() + self.taken);
    }
}

/// The copy of a request body that passes, or the reason for having none.
#[derive(Debug)]
pub enum BodyCopy {
    /// An incomplete copy.
    Growing {
        /// The bytes so far.
        bytes: Vec<u8>,
        /// The reserved memory.
        room: Room,
        /// The announced length, or 0.
        announced: usize,
        /// The longest body that is kept.
        limit: usize,
    },
    /// A complete copy.
    Complete {
        /// The body.
        bytes: Vec<u8>,
        /// The reserved memory.
        room: Room,
    },
    /// Envoy's router keeps the body.
    WithRouter,
    /// The body is not kept.
    Dropped(NoRetry),
}

impl BodyCopy {
    /// An empty copy of a body that may grow to `limit` bytes, while `memory` lasts. A body announced as larger is not
    /// copied.
    pub fn new(announced: Option<u64>, limit: usize, memory: &Rc<ReplayMemory>) -> Self {
        match announced.map_or(Ok(0), usize::try_from) {
            Ok(announced) if announced <= limit => Self::Growing {
                bytes: Vec::new(),
                room: Room {
                    memory: Rc::clone(memory),
                    taken: 0,
                },
                announced,
                limit,
            },
            _ => Self::Dropped(NoRetry::BodyTooLarge),
        }
    }

    /// The copy that Envoy's router keeps of a body, unless the body is announced as longer than `limit`.
    pub fn with_router(announced: Option<u64>, limit: usize) -> Self {
        match announced.map_or(Ok(0), usize::try_from) {
            Ok(announced) if announced <= limit => Self::WithRouter,
            _ => Self::Dropped(NoRetry::BodyTooLarge),
        }
    }

    /// Whether the request should be held until its body is complete. `announced` is the body's length.
    pub fn is_worth_holding(&self, announced: Option<u64>) -> bool {
        self.is_growing() && announced.is_some_and(|length| length <= HELD_UNTIL_COMPLETE as u64)
    }

    /// Whether the copy needs the next chunk.
    pub fn is_growing(&self) -> bool {
        matches!(self, Self::Growing { .. })
    }

    /// Appends `chunk`. Beyond the limit, or without memory, the copy is dropped and its memory freed. A chunk with the
    /// whole body is kept without copying.
    pub fn push(&mut self, chunk: Vec<u8>) {
        let Self::Growing {
            bytes,
            room,
            announced,
            limit,
        } = self
        else {
            return;
        };
        let size = bytes.len().saturating_add(chunk.len());
        if size > *limit {
            *self = Self::Dropped(NoRetry::BodyTooLarge);
        } else if !room.grow_to(size.max(*announced)) {
            *self = Self::Dropped(NoRetry::ReplayMemoryFull);
        } else if bytes.is_empty() && chunk.len() >= *announced {
            *bytes = chunk;
        } else {
            bytes.reserve(announced.saturating_sub(bytes.len()));
            bytes.extend_from_slice(&chunk);
        }
    }

    /// Marks the end of the body.
    pub fn finish(&mut self) {
        // The placeholder is replaced at once.
        let copy = core::mem::replace(self, Self::Dropped(NoRetry::RequestIncomplete));
        *self = match copy {
            Self::Growing { bytes, room, .. } => Self::Complete { bytes, room },
            other => other,
        };
    }

    /// Drops the copy, because no further attempt will be made.
    pub fn drop_because(&mut self, reason: NoRetry) {
        *self = Self::Dropped(reason);
    }

    /// Whether the request can be retried.
    pub fn replay(&self) -> Replay {
        match self {
            Self::Growing { .. } => Replay::Incomplete,
            Self::Complete { .. } | Self::WithRouter => Replay::Ready,
            Self::Dropped(reason) => Replay::Impossible(*reason),
        }
    }

    /// The copied bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Growing { bytes, .. } | Self::Complete { bytes, .. } => bytes,
            Self::WithRouter | Self::Dropped(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOO_LARGE: Replay = Replay::Impossible(NoRetry::BodyTooLarge);

    fn copy_of(announced: Option<u64>, limit: usize) -> BodyCopy {
        BodyCopy::new(announced, limit, &ReplayMemory::new(limit))
    }

    #[test]
    fn chunks_add_up_to_the_body() {
        for announced in [None, Some(5)] {
            let mut copy = copy_of(announced, 5);
            copy.push(b"he".to_vec());
            assert_eq!(copy.replay(), Replay::Incomplete);
            copy.push(b"llo".to_vec());
            copy.finish();
            assert_eq!(copy.replay(), Replay::Ready);
            assert_eq!(copy.bytes(), b"hello");
        }
    }

    #[test]
    fn a_body_in_one_chunk_is_not_copied() {
        let whole = b"hello".to_vec();
        let place = whole.as_ptr();
        let mut copy = copy_of(Some(5), 5);
        copy.push(whole);
        assert_eq!(copy.bytes().as_ptr(), place);
        let mut copy = copy_of(Some(1000), 1000);
        copy.push(vec![0; 100]);
        let place = copy.bytes().as_ptr();
        copy.push(vec![0; 900]);
        assert_eq!((copy.bytes().as_ptr(), copy.bytes().len()), (place, 1000));
    }

    #[test]
    fn a_copy_beyond_the_limit_is_dropped() {
        assert_eq!(copy_of(Some(6), 5).replay(), TOO_LARGE);
        assert_eq!(copy_of(Some(u64::MAX), 5).replay(), TOO_LARGE);
        let mut copy = copy_of(None, 5);
        copy.push(b"hello".to_vec());
        copy.push(b"!".to_vec());
        assert_eq!((copy.replay(), copy.bytes()), (TOO_LARGE, &b""[..]));
        copy.push(b"more".to_vec());
        copy.finish();
        assert_eq!(copy.replay(), TOO_LARGE);
    }

    #[test]
    fn copies_share_and_release_a_workers_memory() {
        const FULL: Replay = Replay::Impossible(NoRetry::ReplayMemoryFull);
        let memory = ReplayMemory::new(10);
        let copy_of = |announced, bytes: &[u8]| {
            let mut copy = BodyCopy::new(announced, 8, &memory);
            copy.push(bytes.to_vec());
            copy
        };
        let mut first = copy_of(Some(8), b"1");
        assert_eq!(
            copy_of(None, b"123").replay(),
            FULL,
            "what is announced counts"
        );
        let mut second = copy_of(None, b"12");
        second.push(b"3".to_vec());
        assert_eq!((second.replay(), second.bytes()), (FULL, &b""[..]));
        first.finish();
        assert_eq!(copy_of(None, b"123").replay(), FULL);
        first.drop_because(NoRetry::AttemptsExhausted);
        let third = copy_of(None, b"1234567");
        assert_eq!(third.replay(), Replay::Incomplete);
        drop(third);
        assert_eq!(memory.0.get(), 10);
    }

    #[test]
    fn bodies_longer_than_announced_are_bounded_too() {
        let mut copy = copy_of(Some(2), 5);
        copy.push(b"hello!".to_vec());
        assert_eq!(copy.replay(), TOO_LARGE);
    }

    #[test]
    fn small_bodies_that_may_be_retried_are_held() {
        let held = |announced, limit| copy_of(announced, limit).is_worth_holding(announced);
        assert!(held(Some(1000), 1_000_000));
        assert!(held(Some(HELD_UNTIL_COMPLETE as u64), 1_000_000));
        assert!(!held(Some(HELD_UNTIL_COMPLETE as u64 + 1), 1_000_000));
        assert!(!held(Some(1000), 999), "it cannot be replayed anyway");
        assert!(!held(None, 1_000_000), "it may take any time");
    }

    #[test]
    fn a_zero_limit_keeps_only_empty_bodies() {
        let mut copy = copy_of(None, 0);
        copy.finish();
        assert_eq!(copy.replay(), Replay::Ready);
    }
}
