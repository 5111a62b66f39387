//! The speed of streams: the time to the first content, and the tokens per second after it.

use super::config::Backend;
use super::time::{millis, Timestamp};
use crate::prelude::*;

/// The shortest duration for which a rate is computed, in milliseconds.
const SHORTEST: u64 = 100;

/// A measure of each backend's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Milliseconds from the client's request to the first content.
    FirstContent,
    /// Tokens of the completion per second, from the first content to the end.
    TokensPerSecond,
}

impl Measure {
    /// Both measures.
    pub const ALL: [Self; 2] = [Self::FirstContent, Self::TokensPerSecond];

    /// The name of the histogram of a backend's streams.
    pub fn histogram_name(self, backend: &Backend) -> String {
        let measure = match self {
            Self::FirstContent => "first_content_ms",
            Self::TokensPerSecond => "tokens_per_second",
        };
        format!("aoai.backend.{}.{measure}", backend.name)
    }
}

/// The start of a stream's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// The answer is not a stream, or has no content yet.
    #[default]
    Unknown,
    /// The stream passes before its first content, which will be in its next frame.
    Late,
    /// The content began at this time.
    Since(Timestamp),
}

impl Pace {
    /// The milliseconds until the first content, for a request that began at `began`.
    pub fn first_content(self, began: Timestamp) -> Option<u64> {
        match self {
            Self::Since(first) => Some(millis(first.since(began))),
            Self::Unknown | Self::Late => None,
        }
    }

    /// The tokens per second, for `tokens` tokens until now.
    pub fn tokens_per_second(self, tokens: u32, now: Timestamp) -> Option<u64> {
        let Self::Since(first) = self else {
            return None;
        };
        let taken = millis(now.since(first));
        let per_second = u64::from(tokens).checked_mul(1000)?.checked_div(taken)?;
        (taken >= SHORTEST && tokens > 0).then_some(per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn after(millis: u64) -> Timestamp {
        BEGAN + core::time::Duration::from_millis(millis)
    }

    #[test]
    fn the_pace_counts_from_the_first_content() {
        let pace = Pace::Since(after(420));
        assert_eq!(pace.first_content(BEGAN), Some(420));
        assert_eq!(pace.tokens_per_second(90, after(2420)), Some(45));
        assert_eq!(pace.tokens_per_second(1, after(60_420)), Some(0));
    }

    #[test]
    fn short_streams_have_no_rate() {
        let pace = Pace::Since(after(420));
        for (tokens, end) in [(90, 420), (90, 519), (0, 2420), (90, 0)] {
            assert_eq!(
                pace.tokens_per_second(tokens, after(end)),
                None,
                "{tokens} {end}"
            );
        }
        // The clock was set back.
        assert_eq!(pace.first_content(after(500)), Some(0));
        for pace in [Pace::Unknown, Pace::Late] {
            assert_eq!(pace.first_content(BEGAN), None);
            assert_eq!(pace.tokens_per_second(90, after(2000)), None);
        }
    }
}
