//! One quota of a backend: when a 429 keeps requests away, and what ends that.
//!
//! A 429 states a wait. The wait is binding for requests at least half as large as the refused one. It stops being binding
//! when it is contradicted: an attempt that began after the 429 is served. For a minute after that, waits are advice: the
//! backend is asked last, but it is asked. A quota whose advice is confirmed five times in a row is believed for a second,
//! then for two, and so on.

use std::time::Duration;

use super::recovery::{Recovery, Silence};
use super::trials::Trials;
use super::{is_ahead, Blame, Change, Reason};
use crate::core::config::Cooldown;
use crate::core::demand::QuotaKey;
use crate::core::shared::{Fields, Writer};
use crate::core::time::Timestamp;

/// For so long after a contradiction waits are advice.
const DOUBTED: Duration = Duration::from_secs(60);
/// As many refusals in a row are believed in spite of doubt.
const BELIEVED: u8 = 5;
/// A quota recovers for no longer than this after its wait.
const RECOVERS: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Requests covered by the refusal are kept away.
    Hard(Timestamp),
    /// Requests go elsewhere if they can.
    Soft(Timestamp),
}

/// How a quota stands for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Open,
    Recovering,
    Soft(Timestamp),
    Hard(Timestamp),
}

/// A 429 of this quota.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    /// The wait that the backend stated.
    pub(super) stated: Option<Duration>,
    /// The size of the refused request.
    pub(super) size: Option<u32>,
    pub(super) blame: Blame,
    /// When the attempt began.
    pub(super) began: Timestamp,
}

/// One quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) key: QuotaKey,
    state: State,
    refused_at: Timestamp,
    /// The size of the smallest refused request.
    smallest: u32,
    trials: Trials,
    contradicted_at: Timestamp,
    recovery: Recovery,
}

impl Quota {
    pub(super) fn new(key: QuotaKey) -> Self {
        Self {
            key,
            state: State::Open,
            refused_at: Timestamp::default(),
            smallest: 0,
            trials: Trials::default(),
            contradicted_at: Timestamp::default(),
            recovery: Recovery::default(),
        }
    }

    /// How the quota stands for a request of this `size`.
    pub(super) fn standing(&self, size: Option<u32>, now: Timestamp) -> Standing {
        match self.state {
            State::Hard(until) if is_ahead(until, now) => match self.covers(size) {
                true => Standing::Hard(until),
                false => Standing::Soft(until),
            },
            State::Soft(until) if is_ahead(until, now) => Standing::Soft(until),
            State::Hard(until)
                if !self.recovery.is_complete() && is_ahead(until + RECOVERS, now) =>
            {
                Standing::Recovering
            }
            _ => Standing::Open,
        }
    }

    /// Whether the refusals so far say anything of a request of this `size`.
    fn covers(&self, size: Option<u32>) -> bool {
        size.is_none_or(|size| size >= self.smallest / 2)
    }

    fn is_throttled(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Hard(until) | State::Soft(until) if is_ahead(until, now))
    }

    fn is_doubted(&self, now: Timestamp) -> bool {
        is_ahead(self.contradicted_at + DOUBTED, now)
    }

    /// Whether a recovering quota admits an attempt.
    pub(super) fn admits(&self, now: Timestamp) -> bool {
        self.recovery.admits(Silence::IsConsent, now)
    }

    /// Begins an attempt on a recovering quota, if it admits one.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        self.recovery.admit(Silence::IsConsent, now)
    }

    /// An admitted attempt that began at `began` ended without an outcome that counts.
    pub(super) fn leave(&mut self, began: Timestamp) {
        // An earlier recovery's attempt has no place in this one.
        if began > self.refused_at {
            self.recovery.leave();
        }
    }

    pub(super) fn trial_is_due(&self, now: Timestamp) -> bool {
        self.trials.is_due(now)
    }

    pub(super) fn claim_trial(&mut self, now: Timestamp) -> bool {
        self.trials.claim(now)
    }

    /// The backend answered 429.
    #[inline(never)]
    pub(super) fn refuse(
        &mut self,
        refusal: Refusal,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        let wait = refusal
            .stated
            .map_or(rules.throttled, |wait| wait.max(rules.shortest));
        let wait = wait.min(rules.longest);
        // A cooldown of no length is none.
        if wait.is_zero() {
            return None;
        }
        let was_throttled = self.is_throttled(now);
        let was_hard = was_throttled && matches!(self.state, State::Hard(_));
        let size = refusal.size.unwrap_or_default();
        let was_covered = self.covers(refusal.size);
        self.smallest = match was_throttled {
            true => self.smallest.min(size),
            false => size,
        };
        // An attempt from before the last refusal confirms what is known by now.
        let is_late = was_throttled && refusal.began <= self.refused_at;
        if is_late && was_covered || refusal.blame == Blame::Spent && was_hard {
            return None;
        }
        self.refused_at = now;
        self.recovery = Recovery::default();
        if refusal.blame == Blame::Due {
            self.trials.refused();
        }
        let believed = self.trials.refusals().checked_sub(BELIEVED);
        let hard = match (refusal.blame, believed) {
            (Blame::Spent, _) => None,
            (Blame::Due, _) if !self.is_doubted(now) => Some(wait),
            (Blame::Due, None) => None,
            (Blame::Due, Some(times)) => {
                Some(wait.min(Duration::from_secs(1 << u32::from(times).min(16))))
            }
        };
        self.state = match hard {
            Some(wait) => State::Hard(now + wait),
            None => State::Soft(now + wait),
        };
        let is_new = !was_throttled || !was_hard && hard.is_some();
        is_new.then_some(match hard {
            Some(wait) => Change::CoolsDown(Reason::Throttled, wait),
            None => Change::Advised(wait),
        })
    }

    /// Whether a service by an attempt that began at `began` changes anything.
    pub(super) fn is_news(&self, began: Timestamp) -> bool {
        match self.state {
            State::Open => self.trials.refusals() > 0,
            State::Hard(_) | State::Soft(_) => began > self.refused_at,
        }
    }

    /// The backend served an attempt that began at `began`.
    #[inline(never)]
    pub(super) fn serve(&mut self, began: Timestamp, now: Timestamp) -> Option<Change> {
        if began <= self.refused_at && self.state != State::Open {
            return None;
        }
        self.trials.served();
        if self.is_throttled(now) {
            self.state = State::Open;
            self.contradicted_at = now;
            return Some(Change::Contradicted);
        }
        self.recovery.succeed();
        let was_hard = matches!(self.state, State::Hard(_));
        if was_hard && self.standing(None, now) == Standing::Recovering {
            return None;
        }
        self.state = State::Open;
        was_hard.then_some(Change::Recovered(Reason::Throttled))
    }

    /// Whether nothing needs to be known of it any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        !self.is_throttled(now)
            && self.standing(None, now) == Standing::Open
            && !self.is_doubted(now)
            && !is_ahead(self.refused_at + DOUBTED, now)
    }

    /// When the quota was last used: the one that is idle for longest is forgotten first.
    pub(super) fn used_at(&self) -> Timestamp {
        self.refused_at.max(self.contradicted_at)
    }

    /// Whether `other` looks the same to workers that choose a backend.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.key == other.key
            && self.state == other.state
            && self.refused_at == other.refused_at
            && self.smallest == other.smallest
            && (self.trials.refusals() > 0) == (other.trials.refusals() > 0)
            && self.recovery.is_complete() == other.recovery.is_complete()
    }

    /// The end of the current wait, and whether it is binding.
    pub(super) fn wait(&self, now: Timestamp) -> Option<(Timestamp, bool)> {
        match self.state {
            State::Hard(until) if is_ahead(until, now) => Some((until, true)),
            State::Soft(until) if is_ahead(until, now) => Some((until, false)),
            _ => None,
        }
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let (state, until) = match self.state {
            State::Open => (0, Timestamp::default()),
            State::Hard(until) => (1, until),
            State::Soft(until) => (2, until),
        };
        writer.u64(self.key.number());
        writer.u8(state);
        writer.time(until);
        writer.time(self.refused_at);
        writer.u32(self.smallest);
        self.trials.encode(writer);
        writer.time(self.contradicted_at);
        self.recovery.encode(writer);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let key = QuotaKey::from_number(fields.u64()?);
        let (state, until) = (fields.u8()?, fields.time()?);
        Some(Self {
            key,
            state: match state {
                0 => State::Open,
                1 => State::Hard(until),
                2 => State::Soft(until),
                _ => return None,
            },
            refused_at: fields.time()?,
            smallest: fields.u32()?,
            trials: Trials::decode(fields)?,
            contradicted_at: fields.time()?,
            recovery: Recovery::decode(fields)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::health::tests::{at, roundtrip, RULES, START};

    fn refusal(seconds: u64) -> Refusal {
        Refusal {
            stated: Some(Duration::from_secs(seconds)),
            size: Some(1000),
            blame: Blame::Due,
            began: START,
        }
    }

    fn quota() -> Quota {
        Quota::new(QuotaKey::of_deployment(7))
    }

    fn standing(quota: &Quota, millis: u64) -> Standing {
        quota.standing(Some(1000), at(millis))
    }

    /// A quota refused at the start, for ten seconds.
    fn throttled() -> Quota {
        let mut quota = quota();
        let change = quota.refuse(refusal(10), &RULES, START);
        assert_eq!(
            change,
            Some(Change::CoolsDown(
                Reason::Throttled,
                Duration::from_secs(10)
            ))
        );
        quota
    }

    /// The quota after an attempt that began after the refusal was served at `millis`.
    fn contradicted(millis: u64) -> Quota {
        let mut quota = throttled();
        assert_eq!(
            quota.serve(at(millis - 1), at(millis)),
            Some(Change::Contradicted)
        );
        quota
    }

    #[test]
    fn a_stated_wait_is_kept_within_bounds() {
        for (stated, millis) in [
            (Some(7_000), 7_000),
            (Some(0), 1_000),
            (Some(1_234), 1_234),
            (Some(86_400_000), 300_000),
            (None, 10_000),
        ] {
            let mut quota = quota();
            let stated = stated.map(Duration::from_millis);
            quota.refuse(
                Refusal {
                    stated,
                    ..refusal(0)
                },
                &RULES,
                START,
            );
            assert_eq!(standing(&quota, millis - 1), Standing::Hard(at(millis)));
            assert_eq!(standing(&quota, millis), Standing::Recovering);
        }
    }

    #[test]
    fn without_cooldowns_a_429_changes_nothing() {
        let mut quota = quota();
        let none = Cooldown {
            longest: Duration::ZERO,
            ..RULES
        };
        assert_eq!(quota.refuse(refusal(10), &none, START), None);
        assert_eq!(quota, Quota::new(quota.key));
    }

    #[test]
    fn a_recovering_quota_opens_by_itself() {
        let quota = throttled();
        assert_eq!(standing(&quota, 19_999), Standing::Recovering);
        assert_eq!(standing(&quota, 20_000), Standing::Open);
    }

    #[test]
    fn a_refusal_does_not_cover_much_smaller_requests() {
        let mut quota = throttled();
        assert_eq!(quota.standing(Some(500), START), Standing::Hard(at(10_000)));
        assert_eq!(quota.standing(Some(499), START), Standing::Soft(at(10_000)));
        assert_eq!(quota.standing(None, START), Standing::Hard(at(10_000)));
        let smaller = Refusal {
            size: Some(100),
            began: at(1),
            ..refusal(10)
        };
        quota.refuse(smaller, &RULES, at(2));
        assert_eq!(quota.standing(Some(50), at(2)), Standing::Hard(at(10_002)));
    }

    #[test]
    fn later_refusals_of_one_request_are_advice() {
        let mut quota = quota();
        let later = Refusal {
            blame: Blame::Spent,
            ..refusal(10)
        };
        assert_eq!(
            quota.refuse(later, &RULES, START),
            Some(Change::Advised(Duration::from_secs(10)))
        );
        assert_eq!(standing(&quota, 0), Standing::Soft(at(10_000)));
        assert_eq!(standing(&quota, 10_000), Standing::Open);
        let mut hard = throttled();
        assert_eq!(
            hard.refuse(
                Refusal {
                    began: at(1),
                    ..later
                },
                &RULES,
                at(5_000)
            ),
            None
        );
        assert_eq!(
            standing(&hard, 5_000),
            Standing::Hard(at(10_000)),
            "a hard wait stays as it is"
        );
    }

    #[test]
    fn an_attempt_from_before_the_refusal_changes_nothing() {
        let mut quota = throttled();
        assert_eq!(quota.refuse(refusal(60), &RULES, at(1_000)), None);
        assert_eq!(standing(&quota, 1_000), Standing::Hard(at(10_000)));
        assert!(!quota.is_news(START));
        assert_eq!(quota.serve(START, at(1_000)), None);
        assert_eq!(standing(&quota, 1_000), Standing::Hard(at(10_000)));
    }

    #[test]
    fn a_later_refusal_begins_the_wait_again_without_telling() {
        let mut quota = throttled();
        assert_eq!(
            quota.refuse(
                Refusal {
                    began: at(4_000),
                    ..refusal(10)
                },
                &RULES,
                at(4_001)
            ),
            None
        );
        assert_eq!(standing(&quota, 4_001), Standing::Hard(at(14_001)));
    }

    #[test]
    fn a_served_attempt_opens_the_quota_and_makes_waits_advice() {
        let mut quota = contradicted(1_000);
        assert_eq!(standing(&quota, 1_000), Standing::Open);
        quota.refuse(
            Refusal {
                began: at(2_000),
                ..refusal(10)
            },
            &RULES,
            at(2_001),
        );
        assert_eq!(standing(&quota, 2_001), Standing::Soft(at(12_001)));
        let mut forgotten = contradicted(1_000);
        forgotten.refuse(
            Refusal {
                began: at(61_000),
                ..refusal(10)
            },
            &RULES,
            at(61_001),
        );
        assert_eq!(standing(&forgotten, 61_001), Standing::Hard(at(71_001)));
    }

    #[test]
    fn advice_that_is_confirmed_often_is_believed_for_a_while() {
        let mut quota = contradicted(1_000);
        let mut waits = Vec::new();
        let mut now = 2_000;
        for _ in 0..8 {
            quota.refuse(
                Refusal {
                    began: at(now),
                    ..refusal(60)
                },
                &RULES,
                at(now + 1),
            );
            waits.push(match standing(&quota, now + 1) {
                Standing::Hard(until) => until.since(at(now + 1)).as_secs(),
                _ => 0,
            });
            now += 2;
        }
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8]);
    }

    #[test]
    fn a_quota_is_forgotten_a_minute_after_its_last_refusal() {
        let quota = throttled();
        assert!(!quota.is_over(at(59_999)));
        assert!(quota.is_over(at(60_000)));
        assert!(!contradicted(5_000).is_over(at(64_999)));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_a_wait() {
        let quota = throttled();
        let days = Duration::from_secs(2 * 24 * 3600);
        let before = Timestamp::from_millis(START.as_millis() - days.as_millis() as u64);
        assert_eq!(quota.standing(None, before), Standing::Open);
    }

    #[test]
    fn the_record_of_a_quota_can_be_read() {
        for quota in [quota(), throttled(), contradicted(1_000)] {
            assert_eq!(roundtrip(&quota, Quota::encode, Quota::decode), quota);
        }
    }
}
