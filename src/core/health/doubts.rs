//! How far the waits that a backend states for a quota can be trusted.
//!
//! Whether a wait is true shows in the attempts that are made within it. Those that are refused confirm the wait. One that is not
//! refused makes up for many that are: then the 429 was not about the quota, but about one request, or by chance. A throttled
//! backend refuses at once, so an attempt that was not refused for some time counts as not refused, however long its answer takes.
//!
//! So requests that every backend refuses keep no others away: among them there are some that are not refused.

use core::time::Duration;

use super::asked::{Asked, Resolved};
use super::lasts;
use crate::codec::{Fields, Writer};
use crate::time::{millis, Timestamp};

/// So many attempts doubt a quota's first wait at once, before it is certain. The others are trials, of which one goes out a second.
///
/// With one, a quota that is used up gets no more than that. The price is paid by those who share a quota with a client whose
/// requests are refused everywhere, where nobody knows the clients' names: they are refused until one of them makes the trial. If the
/// names are known, the others lose nothing (`told.rs`). `case_60` in `tests/fleet/cases.rs` has such a client with 4 requests a second
/// beside one with 3, for 40 s from the first request on. What the second one loses without names, and how many 429s a wait of 30 s
/// brings:
///
/// | at once | one backend | two | three | 429s |
/// |---|---|---|---|---|
/// | 1 | 11 to 27 % | 1.2 % | 0 to 0.6 % | 9 |
/// | 2 | 2 to 10 % | 0.1 % | 0 to 0.3 % | 9 |
/// | 3 | 0 to 0.5 % | none | none | 9.5 |
/// | 5 | none | none | none | 10 |
///
/// Other pauses between trials do not help: 0.75 to 1.25 times the longer ones lose as many, and 1 to 2 times lose more beside a client
/// with 20 requests a second.
const FIRST: u8 = 1;
/// An attempt that is not refused makes up for so many that are.
const WORTH: u8 = 10;
/// More refusals in a row than this are never put up with.
const MOST: u8 = 40;
/// For so long after a wait was found to be untrue others are doubted.
const RECENT: Duration = Duration::from_secs(60);

/// Doubts about the waits of one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubts {
    /// How many of the first attempts are left.
    first: u8,
    /// How many refusals are made up for.
    credit: u8,
    confirmed_at: Timestamp,
    asked: Asked,
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            first: FIRST,
            credit: 0,
            confirmed_at: Timestamp::default(),
            asked: Asked::default(),
        }
    }
}

impl Doubts {
    /// Whether waits are advice: so many attempts within them were not refused.
    pub(super) fn prevail(&self) -> bool {
        self.credit > 0
    }

    /// Whether every attempt was refused that doubted a wait.
    pub(super) fn are_used_up(&self) -> bool {
        self.first == 0 && self.credit == 0
    }

    /// Whether a wait was found to be untrue lately.
    pub(super) fn are_recent(&self, now: Timestamp) -> bool {
        lasts(self.confirmed_at, self.confirmed_at + RECENT, now)
    }

    /// When a wait was last found to be untrue.
    pub(super) fn confirmed_at(&self) -> Timestamp {
        self.confirmed_at
    }

    /// Whether the current wait is untrue: an attempt was not refused in time.
    pub(super) fn are_confirmed_by_silence(&self, now: Timestamp) -> bool {
        self.asked.silent(now) > 0
    }

    /// Whether one more attempt may doubt a wait, beside those of which nothing is known yet.
    pub(super) fn allow_another(&self, now: Timestamp) -> bool {
        self.are_confirmed_by_silence(now)
            || self.first.saturating_add(self.credit) > self.asked.pending()
    }

    /// A wait begins.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.asked.clear();
        if !self.are_recent(now) {
            self.credit = 0;
        }
    }

    /// An attempt begins when so much of a `wait` is left.
    pub(super) fn ask(&mut self, left: Duration, wait: Duration, now: Timestamp) {
        self.asked.add(worth(left, wait), now);
    }

    /// Takes attempts that were not refused in time for accepted. `true` if that shows that the wait is untrue.
    pub(super) fn heed_silence(&mut self, now: Timestamp) -> bool {
        let worth = self.asked.turn(now);
        self.add(worth, now)
    }

    /// An attempt within a wait was served that began at `began`. `true` if that shows that the wait is untrue: not if the wait
    /// was for requests `as_large`.
    pub(super) fn confirm(&mut self, began: Timestamp, as_large: bool, now: Timestamp) -> bool {
        match self.asked.resolve(began) {
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

    /// An attempt was refused after this time.
    pub(super) fn was_refused_after(&mut self, time: Duration) {
        self.asked.was_refused_after(time);
    }

    /// An attempt within a wait was refused that began at `began`. It `counts` unless the request was refused elsewhere before.
    pub(super) fn disprove(&mut self, began: Timestamp, counts: bool) {
        // What was taken for accepted was not.
        let counted = self.asked.resolve(began) == Resolved::Counted;
        let taken_back = if counted { WORTH } else { 0 };
        self.credit = self.credit.saturating_sub(taken_back);
        if counts {
            self.use_up_one();
        }
    }

    /// An attempt was refused that began in the same millisecond as the wait, and may have doubted it.
    pub(super) fn disprove_if_asked(&mut self, began: Timestamp) {
        if let Resolved::Pending(_) = self.asked.resolve(began) {
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
        self.asked.encode(writer);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            first: fields.u8()?,
            credit: fields.u8()?,
            confirmed_at: fields.time()?,
            asked: Asked::decode(fields)?,
        })
    }
}

/// How much it says that an attempt is not refused when so much of a `wait` is left: backends round the ends of their waits up.
fn worth(left: Duration, wait: Duration) -> u8 {
    // More than all is left where the clock was set back.
    let percent = (millis(left).saturating_mul(100) / millis(wait).max(1)).min(100);
    let worth = u64::from(WORTH) * percent * percent / 10_000;
    u8::try_from(worth).unwrap_or(WORTH).min(WORTH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip, START};

    const WAIT: Duration = Duration::from_secs(10);

    /// Doubts about a wait, of which an attempt right at its start was not refused.
    fn confirmed() -> Doubts {
        let mut doubts = Doubts::default();
        doubts.begin(START);
        doubts.ask(WAIT, WAIT, at(1));
        assert!(doubts.confirm(at(1), true, at(2)));
        doubts
    }

    #[test]
    fn one_attempt_doubts_a_wait_at_once() {
        let mut doubts = Doubts::default();
        assert!(doubts.allow_another(START));
        doubts.ask(WAIT, WAIT, START);
        assert!(!doubts.allow_another(at(1)), "nothing is known of it yet");
        doubts.disprove(START, true);
        assert!(doubts.are_used_up() && !doubts.allow_another(at(2)));
    }

    #[test]
    fn an_attempt_that_is_not_refused_makes_up_for_ten() {
        let mut doubts = confirmed();
        for _ in 0..WORTH {
            assert!(doubts.prevail());
            doubts.ask(WAIT, WAIT, at(3));
            doubts.disprove(at(3), true);
        }
        assert!(!doubts.prevail());
    }

    #[test]
    fn silence_is_consent() {
        let mut doubts = Doubts::default();
        doubts.ask(WAIT, WAIT, START);
        assert!(!doubts.heed_silence(at(499)));
        assert!(doubts.heed_silence(at(500)));
        assert!(doubts.prevail() && doubts.are_recent(at(60_499)));
        assert!(!doubts.are_recent(at(60_500)));
        // It was refused after all.
        doubts.disprove(START, true);
        assert!(!doubts.prevail());
    }

    #[test]
    fn an_attempt_at_the_end_of_a_wait_says_little() {
        assert_eq!(worth(WAIT, WAIT), WORTH);
        assert_eq!(worth(WAIT / 2, WAIT), 2);
        assert_eq!(worth(WAIT / 10, WAIT), 0);
    }

    #[test]
    fn an_attempt_says_all_where_more_than_the_wait_is_left() {
        assert_eq!(worth(WAIT * 2, WAIT), WORTH);
        assert_eq!(worth(Duration::MAX, Duration::from_millis(1)), WORTH);
        assert_eq!(worth(Duration::MAX, Duration::ZERO), WORTH);
    }

    #[test]
    fn a_smaller_request_confirms_nothing() {
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
