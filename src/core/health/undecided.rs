//! Attempts within a wait whose outcome is still unknown.

use core::time::Duration;

use crate::codec::{Fields, Writer};
use crate::time::{millis, Timestamp};

/// How long an attempt stays undecided before any refusal was seen.
const USUAL: Duration = Duration::from_millis(500);
/// The shortest time that an attempt stays undecided, even after quick refusals.
const SHORTEST: Duration = Duration::from_millis(200);
/// The longest time that an attempt stays undecided, even after slow refusals.
const LONGEST: Duration = Duration::from_secs(10);

/// The undecided attempts of the current and the previous time span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UndecidedAttempts {
    /// The slowest refusal so far. Zero if none was seen.
    slowest: Duration,
    /// The start of the current span.
    start: Timestamp,
    current: Span,
    previous: Span,
    /// Attempts that began until then already counted as accepted.
    counted_until: Timestamp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Span {
    attempts: u8,
    /// The weight of one attempt that is not refused.
    worth: u8,
    /// The start of the last attempt.
    last: Timestamp,
}

/// The state of an attempt when it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The attempt was undecided, and has this weight if it was not refused.
    Pending(u8),
    /// The attempt had already counted as accepted.
    Counted,
    /// The attempt was not recorded.
    Unknown,
}

impl Span {
    /// Takes the attempts if none of them was refused within `patience`. Returns their weight and the start of the last
    /// one.
    fn take_silent(&mut self, patience: Duration, now: Timestamp) -> Option<(u8, Timestamp)> {
        let is_silent = self.attempts > 0 && (self.last + patience).has_passed(now, patience);
        is_silent.then(|| {
            let taken = core::mem::take(self);
            (taken.attempts.saturating_mul(taken.worth), taken.last)
        })
    }
}

impl UndecidedAttempts {
    /// Drops the attempts.
    pub(super) fn clear(&mut self) {
        *self = Self {
            slowest: self.slowest,
            ..Self::default()
        };
    }

    /// Notes an attempt that was refused after this time.
    pub(super) fn was_refused_after(&mut self, time: Duration) {
        self.slowest = self.slowest.max(time.max(Duration::from_millis(1)));
    }

    /// How long an attempt stays undecided, and the length of a span. Backends refuse within this time.
    fn patience(&self) -> Duration {
        match self.slowest.is_zero() {
            true => USUAL,
            // The next refusal may take longer.
            false => self.slowest.saturating_mul(2).clamp(SHORTEST, LONGEST),
        }
    }

    /// Notes the start of an attempt, with its weight if it is not refused.
    pub(super) fn add(&mut self, worth: u8, now: Timestamp) {
        if self.current.attempts == 0 {
            self.start = now;
            self.current.worth = worth;
        }
        self.current.attempts = self.current.attempts.saturating_add(1);
        self.current.last = now;
    }

    /// Ends an attempt from `began`.
    pub(super) fn resolve(&mut self, began: Timestamp) -> Resolved {
        if began <= self.counted_until {
            return Resolved::Counted;
        }
        let is_current = self.current.attempts > 0 && began >= self.start;
        let span = match is_current {
            true => &mut self.current,
            false => &mut self.previous,
        };
        match span.attempts.checked_sub(1) {
            None => Resolved::Unknown,
            Some(rest) => {
                span.attempts = rest;
                Resolved::Pending(span.worth)
            }
        }
    }

    /// The number of undecided attempts.
    pub(super) fn pending(&self) -> u8 {
        self.current.attempts.saturating_add(self.previous.attempts)
    }

    /// The weight of the attempts that were not refused in time.
    pub(super) fn silent(&self, now: Timestamp) -> u8 {
        // Most quotas have none, and every request asks this of each backend in cooldown.
        if self.pending() == 0 {
            return 0;
        }
        let mut turned = *self;
        turned.turn(now)
    }

    /// Takes the attempts that were not refused in time, and returns their weight.
    pub(super) fn turn(&mut self, now: Timestamp) -> u8 {
        let patience = self.patience();
        let mut consents: u8 = 0;
        for span in [&mut self.previous, &mut self.current] {
            if let Some((worth, last)) = span.take_silent(patience, now) {
                consents = consents.saturating_add(worth);
                self.counted_until = last;
            }
        }
        // Later attempts must not put off the decision about these.
        let is_over = (self.start + patience).has_passed(now, patience);
        if self.current.attempts > 0 && self.previous.attempts == 0 && is_over {
            self.previous = core::mem::take(&mut self.current);
        }
        consents
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u64(millis(self.slowest));
        writer.time(self.start);
        for span in [self.current, self.previous] {
            writer.u8(span.attempts);
            writer.u8(span.worth);
            writer.time(span.last);
        }
        writer.time(self.counted_until);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let span = |fields: &mut Fields<'_>| {
            Some(Span {
                attempts: fields.u8()?,
                worth: fields.u8()?,
                last: fields.time()?,
            })
        };
        Some(Self {
            slowest: Duration::from_millis(fields.u64()?),
            start: fields.time()?,
            current: span(fields)?,
            previous: span(fields)?,
            counted_until: fields.time()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip};
    use crate::prelude::*;

    #[test]
    fn an_attempt_that_is_not_refused_in_time_counts() {
        let mut undecided = UndecidedAttempts::default();
        undecided.add(8, at(0));
        assert_eq!((undecided.pending(), undecided.silent(at(499))), (1, 0));
        assert_eq!(undecided.silent(at(500)), 8);
        assert_eq!(undecided.turn(at(500)), 8);
        assert_eq!(undecided.pending(), 0);
    }

    #[test]
    fn later_attempts_delay_the_first_by_its_own_time_at_most() {
        let mut undecided = UndecidedAttempts::default();
        let mut counted = Vec::new();
        for millis in (0..2_000).step_by(100) {
            if undecided.turn(at(millis)) > 0 {
                counted.push(millis);
            }
            undecided.add(1, at(millis));
        }
        assert_eq!(counted, [900, 1_400, 1_900]);
    }

    #[test]
    fn silence_counts_after_twice_the_slowest_refusal() {
        for (took, span) in [(0, 200), (15, 200), (400, 800), (60_000, 10_000)] {
            let mut undecided = UndecidedAttempts::default();
            undecided.was_refused_after(Duration::from_millis(took));
            undecided.was_refused_after(Duration::ZERO);
            undecided.clear();
            undecided.add(8, at(0));
            assert_eq!(undecided.silent(at(span - 1)), 0, "{took}");
            assert_eq!(undecided.silent(at(span)), 8, "{took}");
        }
    }

    #[test]
    fn an_attempt_that_ends_is_no_longer_pending() {
        let mut undecided = UndecidedAttempts::default();
        undecided.add(8, at(0));
        undecided.add(8, at(10));
        assert_eq!(undecided.resolve(at(10)), Resolved::Pending(8));
        assert_eq!(undecided.resolve(at(0)), Resolved::Pending(8));
        assert_eq!(undecided.resolve(at(0)), Resolved::Unknown);
        assert_eq!(undecided.silent(at(1_000)), 0);
    }

    #[test]
    fn a_counted_attempt_is_recognized() {
        let mut undecided = UndecidedAttempts::default();
        undecided.add(8, at(0));
        undecided.turn(at(1_000));
        assert_eq!(undecided.resolve(at(0)), Resolved::Counted);
    }

    #[test]
    fn the_record_of_attempts_can_be_read() {
        let mut undecided = UndecidedAttempts::default();
        undecided.was_refused_after(Duration::from_millis(70));
        undecided.add(8, at(0));
        undecided.turn(at(300));
        undecided.add(3, at(310));
        assert_eq!(
            roundtrip(
                &undecided,
                UndecidedAttempts::encode,
                UndecidedAttempts::decode
            ),
            undecided
        );
    }
}
