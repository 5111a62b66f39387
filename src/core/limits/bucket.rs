//! The used part of one limit, and its return over time.
//!
//! A bucket may have a debt. The tokens of a request are known when its answer is over, and are taken even if fewer are
//! left. No request passes before the debt is paid back.

use core::time::Duration;

use crate::time::Timestamp;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

/// The time in which a limit returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// A minute. The limit returns steadily.
    Minute,
    /// A day in UTC. The limit returns at its end.
    Day,
}

impl Window {
    /// The parts into which a unit is divided, chosen so that each millisecond returns as many parts as the limit has
    /// units.
    const fn parts(self) -> u64 {
        match self {
            Self::Minute => MINUTE,
            Self::Day => 1,
        }
    }

    /// The length of the window.
    pub(super) const fn length(self) -> Duration {
        Duration::from_millis(match self {
            Self::Minute => MINUTE,
            Self::Day => DAY,
        })
    }

    /// The start of the day, or the time itself.
    fn floor(self, now: Timestamp) -> u64 {
        let now = now.as_millis();
        match self {
            Self::Minute => now,
            Self::Day => now.saturating_sub(now % DAY),
        }
    }
}

/// An amount per window. `most` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) most: u64,
    pub(super) window: Window,
}

impl Rate {
    fn all(self) -> u64 {
        self.most.saturating_mul(self.window.parts())
    }
}

/// The used part of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    /// In parts of units.
    pub(super) used: u64,
    /// The time of the last return.
    pub(super) at: Timestamp,
}

impl Bucket {
    /// Returns the parts since the last call.
    ///
    /// A clock that was set back returns nothing, and counts from its new time on.
    pub(super) fn pay_back(&mut self, rate: Rate, now: Timestamp) {
        let (now, at) = (rate.window.floor(now), self.at.as_millis());
        let passed = now.saturating_sub(at);
        let returned = match rate.window {
            Window::Minute => passed.saturating_mul(rate.most),
            Window::Day => (passed / DAY).saturating_mul(rate.most),
        };
        self.used = self.used.saturating_sub(returned);
        self.at = Timestamp::from_millis(now);
    }

    /// The number of whole units left. A bucket with a debt has none.
    pub(super) fn left(&self, rate: Rate) -> u64 {
        let left = rate.all().saturating_sub(self.used);
        left.checked_div(rate.window.parts()).unwrap_or_default()
    }

    /// Takes `units`, even if fewer are left.
    pub(super) fn take(&mut self, rate: Rate, units: u64) {
        let parts = units.saturating_mul(rate.window.parts());
        self.used = self.used.saturating_add(parts);
    }

    /// Returns `units`.
    pub(super) fn put_back(&mut self, rate: Rate, units: u64) {
        let parts = units.saturating_mul(rate.window.parts());
        self.used = self.used.saturating_sub(parts);
    }

    /// The time until a unit is left.
    pub(super) fn wait(&self, rate: Rate, now: Timestamp) -> Duration {
        let free = rate.most.saturating_sub(1);
        self.until(free.saturating_mul(rate.window.parts()), rate, now)
    }

    /// The time until nothing is used.
    pub(super) fn reset(&self, rate: Rate, now: Timestamp) -> Duration {
        self.until(0, rate, now)
    }

    /// The time until at most `used` parts are used.
    fn until(&self, used: u64, rate: Rate, now: Timestamp) -> Duration {
        let returning = self.used.saturating_sub(used);
        let most = rate.most.max(1);
        let end = match rate.window {
            Window::Minute => self.at + Duration::from_millis(returning.div_ceil(most)),
            Window::Day => {
                let days = returning.div_ceil(most);
                self.at + Duration::from_millis(days.saturating_mul(DAY))
            }
        };
        end.since(now)
    }
}

/// Whether an action from `then` may be repeated, once per window.
pub(super) fn is_due(then: Timestamp, window: Window, now: Timestamp) -> bool {
    match window {
        Window::Minute => (then + window.length()).has_passed(now, window.length()),
        Window::Day => window.floor(then) != window.floor(now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTELY: Rate = Rate {
        most: 600,
        window: Window::Minute,
    };
    const DAILY: Rate = Rate {
        most: 1000,
        window: Window::Day,
    };
    /// A midnight.
    const START: Timestamp = Timestamp::from_secs(1_700_006_400);

    fn after(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    fn taken(rate: Rate, units: u64, now: Timestamp) -> Bucket {
        let mut bucket = Bucket::default();
        bucket.pay_back(rate, now);
        bucket.take(rate, units);
        bucket
    }

    #[test]
    fn a_minutes_limit_comes_back_steadily() {
        let mut bucket = taken(MINUTELY, 600, START);
        assert_eq!(bucket.left(MINUTELY), 0);
        assert_eq!(bucket.wait(MINUTELY, START), Duration::from_millis(100));
        assert_eq!(bucket.reset(MINUTELY, START), Duration::from_secs(60));
        for (millis, left) in [
            (99, 0),
            (100, 1),
            (30_000, 300),
            (59_999, 599),
            (60_000, 600),
            (90_000, 600),
        ] {
            bucket.pay_back(MINUTELY, after(millis));
            assert_eq!(bucket.left(MINUTELY), left, "{millis}");
        }
    }

    #[test]
    fn a_debt_is_paid_back_before_anything_is_left() {
        let mut bucket = taken(MINUTELY, 1800, START);
        let wait = Duration::from_millis(120_100);
        assert_eq!(bucket.wait(MINUTELY, START), wait);
        bucket.pay_back(MINUTELY, after(120_099));
        assert_eq!(bucket.left(MINUTELY), 0);
        bucket.pay_back(MINUTELY, START + wait);
        assert_eq!(bucket.left(MINUTELY), 1);
    }

    #[test]
    fn a_days_limit_comes_back_at_midnight() {
        let evening = after(DAY - 5000);
        let mut bucket = taken(DAILY, 1000, evening);
        assert_eq!(bucket.left(DAILY), 0);
        assert_eq!(bucket.wait(DAILY, evening), Duration::from_secs(5));
        assert_eq!(bucket.reset(DAILY, evening), Duration::from_secs(5));
        bucket.pay_back(DAILY, after(DAY - 1));
        assert_eq!(bucket.left(DAILY), 0);
        bucket.pay_back(DAILY, after(DAY));
        assert_eq!(bucket.left(DAILY), 1000);
    }

    #[test]
    fn a_days_debt_counts_for_the_next_day() {
        let mut bucket = taken(DAILY, 2300, START);
        assert_eq!(bucket.wait(DAILY, START), Duration::from_millis(2 * DAY));
        bucket.pay_back(DAILY, after(DAY));
        assert_eq!((bucket.left(DAILY), bucket.used), (0, 1300));
        bucket.pay_back(DAILY, after(2 * DAY));
        assert_eq!(bucket.left(DAILY), 700);
    }

    #[test]
    fn a_clock_that_was_set_back_returns_nothing_and_blocks_no_one() {
        let later = after(365 * DAY);
        for rate in [MINUTELY, DAILY] {
            let mut bucket = taken(rate, rate.most, later);
            bucket.pay_back(rate, START);
            assert_eq!(bucket.left(rate), 0, "{rate:?}");
            assert!(
                bucket.reset(rate, START) <= rate.window.length(),
                "{rate:?}"
            );
            bucket.pay_back(rate, START + rate.window.length());
            assert_eq!(bucket.left(rate), rate.most, "{rate:?}");
        }
    }

    #[test]
    fn something_is_due_once_in_a_window() {
        for (window, then, now, due) in [
            (Window::Minute, 0, 59_999, false),
            (Window::Minute, 0, 60_000, true),
            (Window::Minute, 70_000, 0, true),
            (Window::Day, 0, DAY - 1, false),
            (Window::Day, DAY - 1, DAY, true),
            (Window::Day, DAY, 0, true),
        ] {
            assert_eq!(
                is_due(after(then), window, after(now)),
                due,
                "{window:?} {then} {now}"
            );
        }
    }
}
