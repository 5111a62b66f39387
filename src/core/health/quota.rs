//! One quota of a backend: the wait after a 429, and its end.
//!
//! A 429 states a wait. The wait is binding for requests at least half as large as the refused one, until
//! [doubts](super::doubts) turn it into advice. It binds only clients that [were notified](super::notified); for others
//! it is advice. Requests that no other backend can take test the wait: one at once, then one a second. The more often
//! the wait proves right, the fewer test it. Where waits proved wrong, a quota is closed for at most a second.

use core::time::Duration;

use super::doubts::Doubts;
use super::notified::Notified;
use super::recovery::{Recovery, Silence};
use super::trials::Trials;
use super::{lasts, Blame, Change, Reason};
use crate::codec::{Fields, Writer};
use crate::config::Cooldown;
use crate::demand::{Client, Demand, QuotaKey};
use crate::time::Timestamp;

/// The longest wait that is believed after wrong ones.
const BELIEVED: Duration = Duration::from_secs(1);
/// The longest recovery of a quota after its wait.
const RECOVERS: Duration = Duration::from_secs(10);
/// How long after its last refusal a quota is forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Requests covered by the refusal avoid the backend.
    Hard(Timestamp),
    /// Requests go elsewhere if they can.
    Soft(Timestamp),
}

/// The state of a quota for one request.
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
    /// The client of the refused request.
    pub(super) client: Client,
    pub(super) blame: Blame,
    /// The start of the attempt.
    pub(super) began: Timestamp,
}

/// One quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) key: QuotaKey,
    state: State,
    /// The start of the wait, which later refusals may have extended.
    since: Timestamp,
    refused_at: Timestamp,
    /// The size of the smallest request refused since then.
    smallest: u32,
    /// The clients that a binding wait binds.
    notified: Notified,
    trials: Trials,
    doubts: Doubts,
    recovery: Recovery,
}

impl Quota {
    pub(super) fn new(key: QuotaKey) -> Self {
        Self {
            key,
            state: State::Open,
            since: Timestamp::default(),
            refused_at: Timestamp::default(),
            smallest: 0,
            notified: Notified::default(),
            trials: Trials::default(),
            doubts: Doubts::default(),
            recovery: Recovery::default(),
        }
    }

    /// The state of the quota for a request of this `demand`.
    pub(super) fn standing(&self, demand: &Demand, now: Timestamp) -> Standing {
        match (self.wait(now), self.state) {
            // There may be room for a small request. Such backends come before others that advise to wait.
            (Some(_), _) if !self.covers(demand.size) => Standing::Soft(now),
            (Some((until, true)), _) => match self.notified.until(demand.client, now) {
                Some(notified) => Standing::Hard(notified.min(until)),
                None => Standing::Soft(until),
            },
            (Some((until, false)), _) => Standing::Soft(until),
            (None, State::Hard(until))
                if !self.recovery.is_complete()
                    && lasts(self.refused_at, until + RECOVERS, now) =>
            {
                Standing::Recovering
            }
            (None, _) => Standing::Open,
        }
    }

    /// The end of the current wait, and whether it is binding.
    pub(super) fn wait(&self, now: Timestamp) -> Option<(Timestamp, bool)> {
        let (until, is_binding) = match self.state {
            State::Open => return None,
            State::Hard(until) => (until, !self.doubts.are_confirmed_by_silence(now)),
            State::Soft(until) => (until, false),
        };
        lasts(self.refused_at, until, now).then_some((until, is_binding))
    }

    /// Whether the refusals so far cover a request of this `size`.
    fn covers(&self, size: Option<u32>) -> bool {
        size.is_none_or(|size| size >= self.smallest / 2)
    }

    /// Whether the quota's state for this client may differ from its state for most clients.
    pub(super) fn distinguishes(&self, client: Client) -> bool {
        self.notified.distinguishes(client)
    }

    /// Whether a recovering quota admits an attempt.
    pub(super) fn admits(&self, now: Timestamp) -> bool {
        self.recovery.admits(Silence::IsConsent, now)
    }

    /// Begins an attempt on a recovering quota, if it admits one.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        self.recovery.admit(Silence::IsConsent, now)
    }

    /// Notes that an admitted attempt from `began` ended without a useful outcome.
    pub(super) fn leave(&mut self, began: Timestamp) {
        // An attempt of an earlier recovery has no place in this one.
        if began > self.refused_at {
            self.recovery.leave();
        }
    }

    /// Whether a request that no other backend can take may be tried during a binding wait.
    pub(super) fn trial_is_due(&self, now: Timestamp) -> bool {
        self.doubts.allow_another(now) || self.trials.is_due(now)
    }

    /// Begins a trial, if one is due.
    pub(super) fn claim_trial(&mut self, now: Timestamp) -> bool {
        if !self.trial_is_due(now) {
            return false;
        }
        self.trials.begin(now);
        self.doubt(now);
        true
    }

    /// Begins an attempt within a wait that does not bind it.
    pub(super) fn ask(&mut self, demand: &Demand, now: Timestamp) {
        let is_binding = self.wait(now).is_some_and(|(_, is_binding)| is_binding);
        let is_notified = self.notified.until(demand.client, now).is_some();
        // The attempt is as informative as a trial by a client that the wait binds.
        if is_binding && !is_notified && self.covers(demand.size) {
            self.trials.begin(now);
        }
        self.doubt(now);
    }

    fn doubt(&mut self, now: Timestamp) {
        if let State::Hard(until) | State::Soft(until) = self.state {
            self.count_silent_attempts(now);
            let (left, wait) = (until.since(now), until.since(self.refused_at));
            self.doubts.ask(left, wait, now);
        }
    }

    fn count_silent_attempts(&mut self, now: Timestamp) {
        if self.doubts.count_silent_attempts(now) {
            self.soften();
        }
    }

    /// Turns the wait, which proved wrong, into advice.
    fn soften(&mut self) {
        self.trials.served();
        self.notified = Notified::default();
        if let State::Hard(until) = self.state {
            self.state = State::Soft(until);
        }
    }

    /// Learns that the backend answered 429.
    #[inline(never)]
    pub(super) fn refuse(
        &mut self,
        refusal: Refusal,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        let stated = refusal.stated.unwrap_or(rules.throttled);
        // A zero cooldown is disabled.
        if rules.longest.is_zero() || stated.max(rules.shortest).is_zero() {
            return None;
        }
        // The start is unset if all backends were healthy then.
        if refusal.began > Timestamp::default() {
            self.doubts.was_refused_after(now.since(refusal.began));
        }
        let stated = stated.max(rules.shortest).min(rules.longest);
        let wait = match self.doubts.are_recent(now) {
            true => stated.min(BELIEVED),
            false => stated,
        };
        let before = self.wait(now);
        let was_hard = before.is_some() && matches!(self.state, State::Hard(_));
        if was_hard {
            self.notified.note_another(refusal.client, now + wait, now);
        }
        let was_covered = self.covers(refusal.size);
        let size = refusal.size.unwrap_or_default();
        self.smallest = match before {
            Some(_) => self.smallest.min(size),
            None => size,
        };
        if before.is_some() {
            // An attempt from before the wait only confirms it.
            if refusal.began <= self.since && was_covered {
                if refusal.began == self.since {
                    self.doubts.disprove_if_tested(refusal.began);
                }
                return None;
            }
            self.count_silent_attempts(now);
            let was_hard = matches!(self.state, State::Hard(_));
            let counts = was_hard || refusal.blame == Blame::First;
            self.doubts.disprove(refusal.began, counts);
            if refusal.blame == Blame::Repeated && was_hard {
                return None;
            }
        } else {
            self.since = now;
            self.notified = Notified::default();
            self.doubts.begin(now);
        }
        self.refused_at = now;
        self.recovery = Recovery::default();
        let is_certain = self.doubts.are_used_up();
        if is_certain && refusal.blame == Blame::First {
            self.trials.refused();
        }
        let is_binding = match refusal.blame {
            Blame::First => !self.doubts.prevail(),
            Blame::Repeated => is_certain,
        };
        let (state, change) = if !is_binding {
            (State::Soft(now + stated), Change::Advised(stated))
        } else {
            self.notified.note(refusal.client, now + wait, now);
            let change = Change::CoolsDown(Reason::Throttled, wait);
            (State::Hard(now + wait), change)
        };
        self.state = state;
        let is_new = before.is_none_or(|(_, was_binding)| is_binding && !was_binding);
        is_new.then_some(change)
    }

    /// Whether a served attempt from `began` changes anything.
    pub(super) fn is_news(&self, began: Timestamp) -> bool {
        self.state != State::Open && began > self.since
    }

    /// Learns that the backend served an attempt of this `size` from `began`.
    #[inline(never)]
    pub(super) fn serve(
        &mut self,
        began: Timestamp,
        size: Option<u32>,
        now: Timestamp,
    ) -> Option<Change> {
        if self.state == State::Open {
            return None;
        }
        let Some((_, was_binding)) = self.wait(now) else {
            return self.recover(began, now);
        };
        if began <= self.since {
            return None;
        }
        let is_large = size.is_none_or(|size| size >= self.smallest);
        if self.doubts.confirm(began, is_large, now) {
            self.soften();
        }
        // There is room for this request, but perhaps not for a larger one.
        if !is_large {
            return None;
        }
        let is_last = began > self.refused_at;
        if is_last {
            self.state = State::Open;
        }
        (is_last || was_binding).then_some(Change::Contradicted)
    }

    /// Learns that the backend served an attempt after the wait.
    fn recover(&mut self, began: Timestamp, now: Timestamp) -> Option<Change> {
        if began <= self.refused_at {
            return None;
        }
        self.trials.served();
        self.recovery.succeed();
        let was_hard = matches!(self.state, State::Hard(_));
        if was_hard && self.standing(&Demand::default(), now) == Standing::Recovering {
            return None;
        }
        self.state = State::Open;
        was_hard.then_some(Change::Recovered(Reason::Throttled))
    }

    /// Whether the quota can be forgotten.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.standing(&Demand::default(), now) == Standing::Open
            && !self.doubts.are_recent(now)
            && !lasts(self.refused_at, self.refused_at + FORGOTTEN_AFTER, now)
    }

    /// The last use of the quota. The longest idle quota is forgotten first.
    pub(super) fn used_at(&self) -> Timestamp {
        self.refused_at.max(self.doubts.confirmed_at())
    }

    /// Whether workers that choose a backend can ignore the difference to `other`.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.key == other.key
            && self.state == other.state
            && self.refused_at == other.refused_at
            && self.smallest == other.smallest
            && self.notified == other.notified
            && self.recovery.is_complete() == other.recovery.is_complete()
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let (state, until) = match self.state {
            State::Open => (0, Timestamp::default()),
            State::Hard(until) => (1, until),
            State::Soft(until) => (2, until),
        };
        writer.u64(self.key.number());
        writer.u8(state);
        for time in [until, self.since, self.refused_at] {
            writer.time(time);
        }
        writer.u32(self.smallest);
        self.notified.encode(writer);
        self.trials.encode(writer);
        self.doubts.encode(writer);
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
            since: fields.time()?,
            refused_at: fields.time()?,
            smallest: fields.u32()?,
            notified: Notified::decode(fields)?,
            trials: Trials::decode(fields)?,
            doubts: Doubts::decode(fields)?,
            recovery: Recovery::decode(fields)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demand::DeploymentId;
    use crate::health::tests::{at, roundtrip, RULES, START};
    use crate::prelude::*;

    fn refusal(seconds: u64) -> Refusal {
        Refusal {
            stated: Some(Duration::from_secs(seconds)),
            size: Some(1000),
            client: Client::UNKNOWN,
            blame: Blame::First,
            began: START,
        }
    }

    fn sized(size: Option<u32>) -> Demand {
        Demand {
            size,
            ..Demand::default()
        }
    }

    fn quota() -> Quota {
        Quota::new(QuotaKey::of_deployment(DeploymentId::from_number(7)))
    }

    fn standing(quota: &Quota, millis: u64) -> Standing {
        quota.standing(&sized(Some(1000)), at(millis))
    }

    /// A quota that was refused at the start, for ten seconds.
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

    /// The quota after the backend served an attempt at `millis` that began after the refusal.
    fn contradicted(millis: u64) -> Quota {
        let mut quota = throttled();
        assert!(quota.claim_trial(at(millis - 1)));
        assert_eq!(
            quota.serve(at(millis - 1), Some(1000), at(millis)),
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
        assert_eq!(
            quota.standing(&sized(Some(500)), START),
            Standing::Hard(at(10_000))
        );
        assert_eq!(
            quota.standing(&sized(Some(499)), START),
            Standing::Soft(START)
        );
        assert_eq!(
            quota.standing(&sized(None), START),
            Standing::Hard(at(10_000))
        );
        let smaller = Refusal {
            size: Some(100),
            began: at(1),
            ..refusal(10)
        };
        quota.refuse(smaller, &RULES, at(2));
        assert_eq!(
            quota.standing(&sized(Some(50)), at(2)),
            Standing::Hard(at(10_002))
        );
    }

    #[test]
    fn later_refusals_of_one_request_are_advice() {
        let mut quota = quota();
        let later = Refusal {
            blame: Blame::Repeated,
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
        assert_eq!(quota.serve(START, Some(1000), at(1_000)), None);
        assert_eq!(standing(&quota, 1_000), Standing::Hard(at(10_000)));
    }

    #[test]
    fn a_later_refusal_restarts_the_wait_without_a_report() {
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
    fn often_confirmed_advice_binds_for_a_second() {
        let mut quota = contradicted(1_000);
        let mut waits = Vec::new();
        let mut now = 2_000;
        for _ in 0..20 {
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
        let advice = waits.iter().take_while(|wait| **wait == 0).count();
        assert!((5..=10).contains(&advice), "{waits:?}");
        assert!(
            waits.iter().skip(advice).all(|wait| *wait == 1),
            "{waits:?}"
        );
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
        assert_eq!(quota.standing(&sized(None), before), Standing::Open);
    }

    #[test]
    fn the_record_of_a_quota_can_be_read() {
        for quota in [quota(), throttled(), contradicted(1_000)] {
            assert_eq!(roundtrip(&quota, Quota::encode, Quota::decode), quota);
        }
    }

    fn from(client: u32) -> Demand {
        Demand {
            client: Client::from_number(client),
            ..sized(Some(1000))
        }
    }

    /// Refuses a client's request from `millis` at once, with a wait of `seconds`.
    fn refuse(quota: &mut Quota, client: u32, seconds: u64, millis: u64) -> Option<Change> {
        let refusal = Refusal {
            client: Client::from_number(client),
            began: at(millis),
            ..refusal(seconds)
        };
        quota.refuse(refusal, &RULES, at(millis))
    }

    #[test]
    fn a_wait_is_advice_to_clients_that_were_not_notified() {
        let mut quota = quota();
        refuse(&mut quota, 1, 10, 0);
        assert_eq!(quota.standing(&from(1), at(1)), Standing::Hard(at(10_000)));
        assert_eq!(quota.standing(&from(2), at(1)), Standing::Soft(at(10_000)));
        // The second client is refused too, with a shorter wait.
        quota.ask(&from(2), at(1000));
        refuse(&mut quota, 2, 5, 1000);
        quota.ask(&from(2), at(2000));
        refuse(&mut quota, 1, 20, 2000);
        assert_eq!(quota.standing(&from(2), at(5999)), Standing::Hard(at(6000)));
        assert_eq!(
            quota.standing(&from(2), at(6000)),
            Standing::Soft(at(22_000))
        );
        assert_eq!(
            quota.standing(&from(1), at(6000)),
            Standing::Hard(at(22_000))
        );
    }

    #[test]
    fn a_third_refused_client_makes_the_wait_bind_all() {
        let mut quota = quota();
        for client in 1..=3 {
            assert_eq!(quota.standing(&from(9), at(1)), {
                match client {
                    1 => Standing::Open,
                    _ => Standing::Soft(at(10_000)),
                }
            });
            // The three attempts were in flight together.
            refuse(&mut quota, client, 10, 0);
        }
        assert_eq!(quota.standing(&from(9), at(1)), Standing::Hard(at(10_000)));
    }

    #[test]
    fn a_client_served_within_anothers_wait_ends_it() {
        let mut quota = quota();
        refuse(&mut quota, 1, 10, 0);
        quota.ask(&from(2), at(100));
        let change = quota.serve(at(100), Some(1000), at(900));
        assert_eq!(change, Some(Change::Contradicted));
        assert_eq!(quota.standing(&from(1), at(901)), Standing::Open);
        // The first client's next waits are advice to all.
        refuse(&mut quota, 1, 10, 1000);
        assert_eq!(
            quota.standing(&from(1), at(1001)),
            Standing::Soft(at(11_000))
        );
    }

    #[test]
    fn workers_learn_of_a_newly_notified_client() {
        let mut quota = quota();
        refuse(&mut quota, 1, 10, 0);
        let before = quota;
        assert_eq!(refuse(&mut quota, 2, 10, 0), None, "not reported again");
        assert!(!quota.looks_like(&before));
        let before = quota;
        refuse(&mut quota, 1, 10, 0);
        assert!(quota.looks_like(&before));
    }
}
