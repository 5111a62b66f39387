//! How fast streams are: when their content begins, and how many tokens a second come from then on.

use super::config::Backend;
use super::time::{millis, Timestamp};
use crate::prelude::*;

/// Shorter streams say nothing of a rate, in milliseconds.
const SHORTEST: u64 = 100;

/// Something that is measured of the streams of each backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Milliseconds from the client's request to the first content.
    FirstContent,
    /// Tokens of the completion, by the seconds from the first content to the end.
    TokensPerSecond,
}

impl Measure {
    /// Both.
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

/// When the content of a stream began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// It is no stream, or has no content yet.
    #[default]
    Unknown,
    /// It passes before its content has come, which will be its next frame.
    Late,
    /// Then.
    Since(Timestamp),
}

impl Pace {
    /// The milliseconds until the first content came, of a request that began then.
    pub fn first_content(self, began: Timestamp) -> Option<u64> {
        match self {
            Self::Since(first) => Some(millis(first.since(began))),
            Self::Unknown | Self::Late => None,
        }
    }

    /// So many tokens have come until now: how many a second.
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
    fn the_pace_is_that_of_the_content() {
        let pace = Pace::Since(after(420));
        assert_eq!(pace.first_content(BEGAN), Some(420));
        assert_eq!(pace.tokens_per_second(90, after(2420)), Some(45));
        assert_eq!(pace.tokens_per_second(1, after(60_420)), Some(0));
    }

    #[test]
    fn what_is_too_short_has_no_rate() {
        let pace = Pace::Since(after(420));
        for (tokens, end) in [(90, 420), (90, 519), (0, 2420), (90, 0)] {
            assert_eq!(
                pace.tokens_per_second(tokens, after(end)),
                None,
                "{tokens} {end}"
            );
        }
        // Clocks are set back.
        assert_eq!(pace.first_content(after(500)), Some(0));
        for pace in [Pace::Unknown, Pace::Late] {
            assert_eq!(pace.first_content(BEGAN), None);
            assert_eq!(pace.tokens_per_second(90, after(2000)), None);
        }
    }
}
