//! The copy of a request body that another attempt needs.

use super::exchange::{NoRetry, Replay};

/// A body announced to be no larger than this is held until it is complete.
///
/// It costs next to nothing, because such a body comes with its headers and a backend does nothing before it has all of it;
/// and it means that whatever goes wrong then, an answer before the request's end included, the request can be sent again.
/// Half of Envoy's default buffer limit, above which Envoy would refuse what it is told to hold.
const HELD_UNTIL_COMPLETE: u64 = 512 * 1024;

/// A request body being copied while it passes, or the reason why there is no copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyCopy {
    /// More of it may come.
    Growing {
        /// What came so far.
        bytes: Vec<u8>,
        /// How much will come, where the client said so.
        announced: usize,
        /// The most that is kept.
        limit: usize,
    },
    /// All of it.
    Complete(Vec<u8>),
    /// It is not kept.
    Dropped(NoRetry),
}

impl BodyCopy {
    /// An empty copy of a body that may grow to `limit` bytes. A body known to be larger is not copied at all.
    pub fn new(announced: Option<u64>, limit: usize) -> Self {
        match announced.map_or(Ok(0), usize::try_from) {
            Ok(announced) if announced <= limit => Self::Growing {
                bytes: Vec::new(),
                announced,
                limit,
            },
            _ => Self::Dropped(NoRetry::BodyTooLarge),
        }
    }

    /// Whether the request should be held until its body, announced to be this long, is complete.
    pub fn is_worth_holding(&self, announced: Option<u64>) -> bool {
        self.is_growing() && announced.is_some_and(|length| length <= HELD_UNTIL_COMPLETE)
    }

    /// Whether the next chunk is wanted.
    pub fn is_growing(&self) -> bool {
        matches!(self, Self::Growing { .. })
    }

    /// Appends `chunk`; beyond the limit the whole copy is given up and its memory freed. A chunk that is all of the body is kept
    /// as it is, without being copied.
    pub fn push(&mut self, chunk: Vec<u8>) {
        let Self::Growing {
            bytes,
            announced,
            limit,
        } = self
        else {
            return;
        };
        if bytes.len().saturating_add(chunk.len()) > *limit {
            *self = Self::Dropped(NoRetry::BodyTooLarge);
        } else if bytes.is_empty() && chunk.len() >= *announced {
            *bytes = chunk;
        } else {
            bytes.reserve(announced.saturating_sub(bytes.len()));
            bytes.extend_from_slice(&chunk);
        }
    }

    /// The body has ended.
    pub fn finish(&mut self) {
        if let Self::Growing { bytes, .. } = self {
            *self = Self::Complete(std::mem::take(bytes));
        }
    }

    /// Gives the copy up: no further attempt will be made.
    pub fn drop_because(&mut self, reason: NoRetry) {
        *self = Self::Dropped(reason);
    }

    /// Whether the request can be sent once more.
    pub fn replay(&self) -> Replay {
        match self {
            Self::Growing { .. } => Replay::Incomplete,
            Self::Complete(_) => Replay::Ready,
            Self::Dropped(reason) => Replay::Impossible(*reason),
        }
    }

    /// What was copied.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Growing { bytes, .. } | Self::Complete(bytes) => bytes,
            Self::Dropped(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOO_LARGE: Replay = Replay::Impossible(NoRetry::BodyTooLarge);

    #[test]
    fn chunks_add_up_to_the_body() {
        for announced in [None, Some(5)] {
            let mut copy = BodyCopy::new(announced, 5);
            copy.push(b"he".to_vec());
            assert_eq!(copy.replay(), Replay::Incomplete);
            copy.push(b"llo".to_vec());
            copy.finish();
            assert_eq!(copy.replay(), Replay::Ready);
            assert_eq!(copy.bytes(), b"hello");
        }
    }

    #[test]
    fn a_body_in_one_piece_is_not_copied_and_one_in_pieces_finds_its_place_ready() {
        let whole = b"hello".to_vec();
        let place = whole.as_ptr();
        let mut copy = BodyCopy::new(Some(5), 5);
        copy.push(whole);
        assert_eq!(copy.bytes().as_ptr(), place);
        let mut copy = BodyCopy::new(Some(1000), 1000);
        copy.push(vec![0; 100]);
        let place = copy.bytes().as_ptr();
        copy.push(vec![0; 900]);
        assert_eq!((copy.bytes().as_ptr(), copy.bytes().len()), (place, 1000));
    }

    #[test]
    fn a_body_beyond_the_limit_is_given_up() {
        assert_eq!(BodyCopy::new(Some(6), 5).replay(), TOO_LARGE);
        assert_eq!(BodyCopy::new(Some(u64::MAX), 5).replay(), TOO_LARGE);
        let mut copy = BodyCopy::new(None, 5);
        copy.push(b"hello".to_vec());
        copy.push(b"!".to_vec());
        assert_eq!((copy.replay(), copy.bytes()), (TOO_LARGE, &b""[..]));
        copy.push(b"more".to_vec());
        copy.finish();
        assert_eq!(copy.replay(), TOO_LARGE);
    }

    #[test]
    fn a_client_that_sends_more_than_announced_is_bounded_too() {
        let mut copy = BodyCopy::new(Some(2), 5);
        copy.push(b"hello!".to_vec());
        assert_eq!(copy.replay(), TOO_LARGE);
    }

    #[test]
    fn a_body_is_held_if_it_is_small_and_may_be_needed_again() {
        let held = |announced, limit| BodyCopy::new(announced, limit).is_worth_holding(announced);
        assert!(held(Some(1000), 1_000_000));
        assert!(held(Some(HELD_UNTIL_COMPLETE), 1_000_000));
        assert!(!held(Some(HELD_UNTIL_COMPLETE + 1), 1_000_000));
        assert!(!held(Some(1000), 999), "it cannot be replayed anyway");
        assert!(!held(None, 1_000_000), "it may take any time");
    }

    #[test]
    fn no_limit_at_all_is_zero_bytes_not_no_requests() {
        let mut copy = BodyCopy::new(None, 0);
        copy.finish();
        assert_eq!(copy.replay(), Replay::Ready);
    }
}
