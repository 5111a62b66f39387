//! Trust in the waits that a backend states for a quota.
//!
//! Attempts made within a wait test it. Refused attempts confirm the wait. One attempt that is not refused outweighs
//! many refusals: the 429 then concerned one request rather than the quota. A throttled backend refuses at once. So an
//! attempt without a refusal for some time counts as accepted, however long its answer takes.
//!
//! As a result, a client whose requests every backend refuses does not block other clients, because some of their
//! requests are accepted.

use core::time::Duration;

use super::lasts;
use super::undecided::{Resolved, UndecidedAttempts};
use crate::codec::{Fields, Writer};
use crate::time::{millis, Timestamp};

/// The number of attempts that test a quota's first wait at once, before the wait is certain. Further attempts are
/// trials, one a second.
///
/// With one, a used-up quota gets no more than that. If clients' names are unknown, the cost falls on clients that
/// share a quota with a client whose requests are refused everywhere. They are refused until one of them makes the
/// trial. With known names they lose nothing (`notified.rs`). `case_60` in `tests/fleet/cases.rs` has such a client
/// with 4 requests a second beside one with 3, for 40 s from the first request on. The table has the second client's
/// losses without names, and the number of 429s that a wait of 30 s causes:
///
/// | at once | one backend | two | three | 429s |
/// |---|---|---|---|---|
/// | 1 | 11 to 27 % | 1.2 % | 0 to 0.6 % | 9 |
/// | 2 | 2 to 10 % | 0.1 % | 0 to 0.3 % | 9 |
/// | 3 | 0 to 0.5 % | none | none | 9.5 |
/// | 5 | none | none | none | 10 |
///
/// Other pauses between trials do not help. Pauses of 0.75 to 1.25 times the current ones lose as many requests. Pauses
/// of 1 to 2 times lose more beside a client with 20 requests a second.
const FIRST: u8 = 1;
/// The number of refusals that one accepted attempt outweighs.
const WORTH: u8 = 10;
/// The most refusals in a row that are tolerated.
const MOST: u8 = 40;
/// How long after a wrong wait the next waits are doubted.
const RECENT: Duration = Duration::from_secs(60);

/// The doubts about the waits of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubts {
    /// The number of first attempts that are left.
    first: u8,
    /// The number of refusals that accepted attempts outweigh.
    credit: u8,
    confirmed_at: Timestamp,
    undecided: UndecidedAttempts,
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            first: FIRST,
            credit: 0,
            confirmed_at: Timestamp::default(),
            undecided: UndecidedAttempts::default(),
        }
    }
}

impl Doubts {
    /// Whether waits are only advice, because enough attempts within them were accepted.
    pub(super) fn prevail(&self) -> bool {
        self.credit > 0
    }

    /// Whether every attempt that tested a wait was refused.
    pub(super) fn are_used_up(&self) -> bool {
        self.first == 0 && self.credit == 0
    }

    /// Whether a wait was recently found to be wrong.
    pub(super) fn are_recent(&self, now: Timestamp) -> bool {
        lasts(self.confirmed_at, self.confirmed_at + RECENT, now)
    }

    /// The time when a wait was last found to be wrong.
    pub(super) fn confirmed_at(&self) -> Timestamp {
        self.confirmed_at
    }

    /// Whether an attempt that was not refused in time proves the current wait wrong.
    pub(super) fn are_confirmed_by_silence(&self, now: Timestamp) -> bool {
        self.undecided.silent(now) > 0
    }

    /// Whether one more attempt may test a wait, in addition to the undecided ones.
    pub(super) fn allow_another(&self, now: Timestamp) -> bool {
        self.are_confirmed_by_silence(now)
            || self.first.saturating_add(self.credit) > self.undecided.pending()
    }

    /// Notes the start of a wait.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.undecided.clear();
        if !self.are_recent(now) {
            self.credit = 0;
        }
    }

    /// Notes the start of an attempt when `left` of a `wait` is left.
    pub(super) fn ask(&mut self, left: Duration, wait: Duration, now: Timestamp) {
        self.undecided.add(worth(left, wait), now);
    }

    /// Counts attempts that were not refused in time as accepted. `true` if this proves the wait wrong.
    pub(super) fn count_silent_attempts(&mut self, now: Timestamp) -> bool {
        let worth = self.undecided.turn(now);
        self.add(worth, now)
    }

    /// Learns that an attempt within a wait, from `began`, was served. `true` if this proves the wait wrong. An attempt
    /// not `as_large` as the refused requests proves nothing.
    pub(super) fn confirm(&mut self, began: Timestamp, as_large: bool, now: Timestamp) -> bool {
        match self.undecided.resolve(began) {
            Resolved::Pending(worth) if as_large => self.add(worth, now),
            _ => false,
        }
    }

    fn add(&mut self, worth: u8, now: Timestamp) -> bool {
        if worth == 0 {
            return false;
        }
        self.credit = self.credit.saturating_add(worth).min(MOST);
        self.confirmed_at = now;
        true
    }

    /// Notes an attempt that was refused after this time.
    pub(super) fn was_refused_after(&mut self, time: Duration) {
        self.undecided.was_refused_after(time);
    }

    /// Learns that an attempt within a wait, from `began`, was refused. It `counts` unless another backend refused the
    /// request before.
    pub(super) fn disprove(&mut self, began: Timestamp, counts: bool) {
        // The attempt may have counted as accepted already.
        let counted = self.undecided.resolve(began) == Resolved::Counted;
        let taken_back = if counted { WORTH } else { 0 };
        self.credit = self.credit.saturating_sub(taken_back);
        if counts {
            self.use_up_one();
        }
    }

    /// Learns that an attempt from the same millisecond as the wait was refused. It may have tested the wait.
    pub(super) fn disprove_if_tested(&mut self, began: Timestamp) {
        if let Resolved::Pending(_) = self.undecided.resolve(began) {
            self.use_up_one();
        }
    }

    fn use_up_one(&mut self) {
        match self.credit.checked_sub(1) {
            Some(rest) => self.credit = rest,
            None => self.first = self.first.saturating_sub(1),
        }
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        writer.u8(self.first);
        writer.u8(self.credit);
        writer.time(self.confirmed_at);
        self.undecided.encode(writer);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            first: fields.u8()?,
            credit: fields.u8()?,
            confirmed_at: fields.time()?,
            undecided: UndecidedAttempts::decode(fields)?,
        })
    }
}

/// The weight of an attempt that is not refused when `left` of a `wait` is left. Backends round their waits up, so late
/// attempts prove little.
fn worth(left: Duration, wait: Duration) -> u8 {
    // After the clock was set back, more than the whole wait may be left.
    let percent = (millis(left).saturating_mul(100) / millis(wait).max(1)).min(100);
    let worth = u64::from(WORTH) * percent * percent / 10_000;
    u8::try_from(worth).unwrap_or(WORTH).min(WORTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip, START};

    const WAIT: Duration = Duration::from_secs(10);

    /// Doubts after an attempt at the very start of a wait was not refused.
    fn confirmed() -> Doubts {
        let mut doubts = Doubts::default();
        doubts.begin(START);
        doubts.ask(WAIT, WAIT, at(1));
        assert!(doubts.confirm(at(1), true, at(2)));
        doubts
    }

    #[test]
    fn one_attempt_tests_a_wait_at_once() {
        let mut doubts = Doubts::default();
        assert!(doubts.allow_another(START));
        doubts.ask(WAIT, WAIT, START);
        assert!(!doubts.allow_another(at(1)), "the attempt is undecided");
        doubts.disprove(START, true);
        assert!(doubts.are_used_up() && !doubts.allow_another(at(2)));
    }

    #[test]
    fn an_accepted_attempt_outweighs_ten_refusals() {
        let mut doubts = confirmed();
        for _ in 0..WORTH {
            assert!(doubts.prevail());
            doubts.ask(WAIT, WAIT, at(3));
            doubts.disprove(at(3), true);
        }
        assert!(!doubts.prevail());
    }

    #[test]
    fn silence_counts_as_acceptance() {
        let mut doubts = Doubts::default();
        doubts.ask(WAIT, WAIT, START);
        assert!(!doubts.count_silent_attempts(at(499)));
        assert!(doubts.count_silent_attempts(at(500)));
        assert!(doubts.prevail() && doubts.are_recent(at(60_499)));
        assert!(!doubts.are_recent(at(60_500)));
        // The attempt was refused after all.
        doubts.disprove(START, true);
        assert!(!doubts.prevail());
    }

    #[test]
    fn an_attempt_at_the_end_of_a_wait_has_little_weight() {
        assert_eq!(worth(WAIT, WAIT), WORTH);
        assert_eq!(worth(WAIT / 2, WAIT), 2);
        assert_eq!(worth(WAIT / 10, WAIT), 0);
    }

    #[test]
    fn an_attempt_has_full_weight_after_a_clock_was_set_back() {
        assert_eq!(worth(WAIT * 2, WAIT), WORTH);
        assert_eq!(worth(Duration::MAX, Duration::from_millis(1)), WORTH);
        assert_eq!(worth(Duration::MAX, Duration::ZERO), WORTH);
    }

    #[test]
    fn a_smaller_request_proves_nothing() {
        let mut doubts = Doubts::default();
        doubts.ask(WAIT, WAIT, START);
        assert!(!doubts.confirm(START, false, at(1)));
        assert!(!doubts.prevail());
    }

    #[test]
    fn the_record_of_doubts_can_be_read() {
        for doubts in [Doubts::default(), confirmed()] {
            assert_eq!(roundtrip(&doubts, Doubts::encode, Doubts::decode), doubts);
        }
    }
}
