//! Fixed windows of time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

/// The length of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, which begins at midnight UTC.
    Day,
}

impl Unit {
    /// The length in seconds.
    pub fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    /// The beginning of the window that contains `now`, in seconds since 1970.
    pub(crate) fn start(self, now: u64) -> u64 {
        now - now % self.seconds()
    }

    /// Seconds from `now` to the end of its window.
    pub(crate) fn left(self, now: u64) -> u64 {
        self.seconds() - now % self.seconds()
    }
}

/// The clock of the service.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// A time that a test sets, in seconds since 1970.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at this time, in seconds since 1970, until the value is changed.
    pub fn manual(now: u64) -> (Self, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(now));
        (Self::Manual(Arc::clone(&time)), time)
    }

    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH);
                since.map_or(0, |since| since.as_secs())
            }
            Self::Manual(time) => time.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_begin_at_multiples_of_their_length() {
        let noon = 20_000 * 86_400 + 12 * 3600;
        for (unit, now, start, left) in [
            (Unit::Second, noon, noon, 1),
            (Unit::Minute, noon + 59, noon, 1),
            (Unit::Minute, noon + 60, noon + 60, 60),
            (Unit::Hour, noon + 61, noon, 3539),
            (Unit::Day, noon, 20_000 * 86_400, 43_200),
        ] {
            assert_eq!(
                (unit.start(now), unit.left(now)),
                (start, left),
                "{unit:?} at {now}"
            );
        }
    }
}
