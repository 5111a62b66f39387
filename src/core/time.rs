//! Points in time as values, so that the core never reads a clock.

use crate::prelude::*;
use core::fmt;
use core::time::Duration;

/// A point in time in milliseconds since the Unix epoch, the form in which workers share it.
///
/// Arithmetic saturates, because a distant time is as good as never, and nothing here may panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `millis` milliseconds after the Unix epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// The time `seconds` seconds after the Unix epoch.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `now` until this point. Zero once it has passed.
    pub const fn since(self, now: Self) -> Duration {
        Duration::from_millis(self.millis_since(now))
    }

    /// Whether this point has passed. It was at most `longest` away when it was set. If it is further away now, the
    /// clock was set back, and the point counts as passed, so that nothing waits for it again.
    pub fn has_passed(self, now: Self, longest: Duration) -> bool {
        self.has_passed_millis(now, millis(longest))
    }

    /// [`Self::has_passed`] with `longest` in milliseconds. Every request asks this of each backend in cooldown, and a
    /// [`Duration`] would be converted back and forth.
    pub const fn has_passed_millis(self, now: Self, longest: u64) -> bool {
        self.0 <= now.0 || self.millis_since(now) > longest
    }

    /// [`Self::since`] in milliseconds.
    pub const fn millis_since(self, now: Self) -> u64 {
        self.0.saturating_sub(now.0)
    }
}

impl core::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }
}

/// A duration in whole milliseconds. `as_millis` returns 128 bits, which need more code and are of no use here.
pub fn millis(duration: Duration) -> u64 {
    let seconds = duration.as_secs();
    // Not `saturating_mul`, which WebAssembly does in 128 bits.
    if seconds > u64::MAX / 1000 {
        return u64::MAX;
    }
    let whole = seconds.wrapping_mul(1000);
    whole.saturating_add(u64::from(duration.subsec_millis()))
}

/// A duration in the form `250ms`, `1.5s`, `59m58s` or `23h59m`.
pub struct Pretty(pub Duration);

impl fmt::Display for Pretty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match (seconds / 60, seconds % 60) {
            (0, 0) => write!(f, "{}ms", self.0.subsec_millis()),
            (0, _) => {
                let text = format!("{seconds}.{:03}", self.0.subsec_millis());
                let text = text.trim_end_matches('0').trim_end_matches('.');
                write!(f, "{text}s")
            }
            (minutes, 0) if minutes < 60 => write!(f, "{minutes}m"),
            (minutes, seconds) if minutes < 60 => write!(f, "{minutes}m{seconds}s"),
            (minutes, _) => match (minutes / 60, minutes % 60) {
                (hours, 0) => write!(f, "{hours}h"),
                (hours, minutes) => write!(f, "{hours}h{minutes}m"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let late = Timestamp::from_millis(u64::MAX);
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(Timestamp::from_secs(1).since(late), Duration::ZERO);
        assert_eq!(
            late.since(Timestamp::default()),
            Duration::from_millis(u64::MAX)
        );
    }

    #[test]
    fn points_too_far_away_have_passed() {
        let longest = Duration::from_secs(10);
        let until = Timestamp::from_secs(1000);
        for (now, passed) in [
            (1000, true),
            (1001, true),
            (999, false),
            (990, false),
            (989, true),
        ] {
            assert_eq!(
                until.has_passed(Timestamp::from_secs(now), longest),
                passed,
                "{now}"
            );
        }
    }

    #[test]
    fn durations_are_formatted_like_the_configuration() {
        for (millis, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (1500, "1.5s"),
            (10_000, "10s"),
            (20_050, "20.05s"),
            (120_000, "2m"),
            (3_598_000, "59m58s"),
            (3_600_000, "1h"),
            (86_399_000, "23h59m"),
            (100_800_000, "28h"),
        ] {
            assert_eq!(Pretty(Duration::from_millis(millis)).to_string(), text);
        }
    }
}
