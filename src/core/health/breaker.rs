//! The circuit breaker of a backend: closed, open, and recovering in between.
//!
//! The breaker counts failures to connect, resets, timeouts and retriable statuses other than 429. Only the first failure of a
//! request counts. An open breaker sends requests elsewhere. If the breakers of all backends are open, all of them are
//! ignored.

use core::time::Duration;

use super::recovery::{Recovery, Silence};
use super::{lasts, Blame, Change, Reason};
use crate::codec::{Fields, Writer};
use crate::config::Cooldown;
use crate::hash::scatter;
use crate::time::Timestamp;

/// The length of a bucket of attempts. The current and the previous bucket count.
const BUCKET: Duration = Duration::from_secs(5);
/// The fewest attempts for which the share of failures counts.
const FEWEST_ATTEMPTS: u32 = 20;
/// How long after its last opening a breaker starts with short cooldowns again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    /// Requests go elsewhere until this time. Then the backend recovers.
    Open(Timestamp),
}

/// The state of the breaker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Closed,
    Recovering,
    Open(Timestamp),
}

/// Attempts of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    failed: u32,
    succeeded: u32,
}

/// The breaker of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    state: State,
    opened_at: Timestamp,
    /// Failures in a row.
    streak: u32,
    bucket_start: Timestamp,
    current: Bucket,
    previous: Bucket,
    /// The number of cooldowns in a row, without a recovery in between.
    relapses: u8,
    recovery: Recovery,
}

/// A failed attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// The number of successes on the same worker since its last report.
    pub(super) others: u32,
    pub(super) blame: Blame,
    /// The start of the attempt.
    pub(super) began: Timestamp,
    /// Whether a recovering backend admitted the attempt.
    pub(super) admitted: bool,
}

impl Breaker {
    /// The state of the breaker at `now`.
    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        match self.state {
            State::Closed => Standing::Closed,
            State::Open(until) if lasts(self.opened_at, until, now) => Standing::Open(until),
            // A backend that no request needed has recovered without an attempt.
            State::Open(until) if !lasts(self.opened_at, until + FORGIVEN_AFTER, now) => {
                Standing::Closed
            }
            State::Open(_) => Standing::Recovering,
        }
    }

    /// Whether the breaker has never opened, or has closed after a complete recovery.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether the breaker is closed, and the last attempt did not fail.
    pub(super) fn is_untroubled(&self) -> bool {
        self.is_closed() && self.streak == 0
    }

    /// Whether a recovering backend admits an attempt.
    pub(super) fn admits(&self, now: Timestamp) -> bool {
        self.recovery.admits(Silence::IsLoss, now)
    }

    /// Begins an attempt on a recovering backend, if it admits one.
    pub(super) fn admit(&mut self, now: Timestamp) -> bool {
        self.recovery.admit(Silence::IsLoss, now)
    }

    /// Notes that an admitted attempt from `began` ended without a useful outcome.
    pub(super) fn leave(&mut self, began: Timestamp) {
        // An attempt of an earlier recovery has no place in this one.
        if began > self.opened_at {
            self.recovery.leave();
        }
    }

    /// Whether a success of an attempt from `began` changes more than the count.
    pub(super) fn is_news(&self, began: Timestamp) -> bool {
        match self.state {
            State::Closed => self.streak > 0,
            State::Open(_) => began > self.opened_at,
        }
    }

    /// Whether the share of failures needs the number of successes.
    pub(super) fn counts_successes(&self, now: Timestamp) -> bool {
        let (current, previous) = self.buckets(now);
        current.failed > 0 || previous.failed > 0
    }

    /// Adds successful attempts to the share of failures.
    pub(super) fn count_successes(&mut self, count: u32, now: Timestamp) {
        self.turn_buckets(now);
        self.current.succeeded = self.current.succeeded.saturating_add(count);
    }

    /// Learns that the backend answered an attempt from `began`.
    #[inline(never)]
    pub(super) fn succeed(&mut self, began: Timestamp, now: Timestamp) -> Option<Change> {
        self.count_successes(1, now);
        match self.standing(now) {
            Standing::Closed => {
                self.streak = 0;
                self.state = State::Closed;
                None
            }
            // The backend answered during its cooldown, so its recovery begins now.
            Standing::Open(_) if began > self.opened_at => {
                self.state = State::Open(now);
                self.recovery.succeed();
                None
            }
            Standing::Open(_) => None,
            Standing::Recovering => {
                self.recovery.succeed();
                self.recovery.is_complete().then(|| {
                    self.state = State::Closed;
                    self.streak = 0;
                    Change::Recovered(Reason::Failing)
                })
            }
        }
    }

    /// Learns that the backend failed. `seed` makes the cooldowns of different Envoys differ.
    #[inline(never)]
    pub(super) fn fail(
        &mut self,
        failure: Failure,
        rules: &Cooldown,
        seed: u64,
        now: Timestamp,
    ) -> Option<Change> {
        let standing = self.standing(now);
        if failure.admitted {
            self.leave(failure.began);
        }
        self.count_successes(failure.others, now);
        // A request that failed on another backend before may itself be the cause.
        if failure.blame == Blame::Repeated || matches!(standing, Standing::Open(_)) {
            return None;
        }
        if standing == Standing::Closed {
            self.state = State::Closed;
        }
        self.streak = self.streak.saturating_add(1);
        self.current.failed = self.current.failed.saturating_add(1);
        let relapsed = standing == Standing::Recovering && failure.began > self.opened_at;
        if !(relapsed || self.fails_too_often(rules)) {
            return None;
        }
        let forgiven = !lasts(self.opened_at, self.opened_at + FORGIVEN_AFTER, now) && !relapsed;
        self.relapses = if forgiven { 0 } else { self.relapses };
        self.open(rules, seed, now)
    }

    fn fails_too_often(&self, rules: &Cooldown) -> bool {
        let failed = self.current.failed.saturating_add(self.previous.failed);
        let succeeded = self
            .current
            .succeeded
            .saturating_add(self.previous.succeeded);
        let attempts = failed.saturating_add(succeeded);
        let share = attempts >= FEWEST_ATTEMPTS
            && u64::from(failed) * 100 >= u64::from(attempts) * u64::from(rules.failure_percent);
        share || self.streak >= rules.consecutive_failures
    }

    fn open(&mut self, rules: &Cooldown, seed: u64, now: Timestamp) -> Option<Change> {
        let doubled = rules
            .failing
            .saturating_mul(1 << u32::from(self.relapses.min(16)));
        self.relapses = self.relapses.saturating_add(1);
        // The jitter shortens the wait by up to a fifth, also at the bound. Otherwise Envoys whose backends failed
        // together would probe them together.
        let longest = doubled.saturating_add(doubled / 4).min(rules.longest);
        let jitter = scatter(seed ^ now.as_millis()) % 1024;
        let wait = longest.saturating_sub(longest.saturating_mul(jitter as u32) / 5120);
        (self.streak, self.current, self.previous) = (0, Bucket::default(), Bucket::default());
        self.recovery = Recovery::default();
        // A zero cooldown is disabled.
        if wait.is_zero() {
            self.state = State::Closed;
            return None;
        }
        self.state = State::Open(now + wait);
        self.opened_at = now;
        Some(Change::CoolsDown(Reason::Failing, wait))
    }

    /// The current and the previous bucket.
    fn buckets(&self, now: Timestamp) -> (Bucket, Bucket) {
        let age = now
            .as_millis()
            .saturating_sub(self.bucket_start.as_millis());
        let bucket = BUCKET.as_secs() * 1000;
        if self.bucket_start > now || age >= 2 * bucket {
            (Bucket::default(), Bucket::default())
        } else if age >= bucket {
            (Bucket::default(), self.current)
        } else {
            (self.current, self.previous)
        }
    }

    #[inline(never)]
    fn turn_buckets(&mut self, now: Timestamp) {
        let buckets = self.buckets(now);
        if buckets != (self.current, self.previous) || self.bucket_start == Timestamp::default() {
            (self.current, self.previous) = buckets;
            self.bucket_start = now;
        }
    }

    /// Closes the breaker if its cooldown and recovery are over.
    pub(super) fn tidy(&mut self, now: Timestamp) {
        if self.standing(now) == Standing::Closed {
            self.state = State::Closed;
        }
    }

    /// Whether workers that choose a backend or report successes can ignore the difference to `other`.
    pub(super) fn looks_like(&self, other: &Self) -> bool {
        self.state == other.state
            && self.opened_at == other.opened_at
            && (self.streak > 0) == (other.streak > 0)
    }

    pub(super) fn encode(&self, writer: &mut Writer) {
        let (state, until) = match self.state {
            State::Closed => (0, Timestamp::default()),
            State::Open(until) => (1, until),
        };
        writer.u8(state);
        writer.time(until);
        writer.time(self.opened_at);
        writer.u32(self.streak);
        writer.time(self.bucket_start);
        for bucket in [self.current, self.previous] {
            writer.u32(bucket.failed);
            writer.u32(bucket.succeeded);
        }
        writer.u8(self.relapses);
        self.recovery.encode(writer);
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (state, until) = (fields.u8()?, fields.time()?);
        let bucket = |fields: &mut Fields<'_>| {
            Some(Bucket {
                failed: fields.u32()?,
                succeeded: fields.u32()?,
            })
        };
        Some(Self {
            state: match state {
                0 => State::Closed,
                1 => State::Open(until),
                _ => return None,
            },
            opened_at: fields.time()?,
            streak: fields.u32()?,
            bucket_start: fields.time()?,
            current: bucket(fields)?,
            previous: bucket(fields)?,
            relapses: fields.u8()?,
            recovery: Recovery::decode(fields)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::{at, roundtrip, RULES, START};
    use crate::prelude::*;

    const FAILURE: Failure = Failure {
        others: 0,
        blame: Blame::First,
        began: START,
        admitted: false,
    };

    /// A failure of an attempt that began just before.
    fn fail(breaker: &mut Breaker, millis: u64) -> Option<Change> {
        let began = at(millis);
        breaker.fail(Failure { began, ..FAILURE }, &RULES, 0, at(millis))
    }

    /// A breaker that opened at the start, and the end of its cooldown.
    fn open() -> (Breaker, u64) {
        let mut breaker = Breaker::default();
        let changes: Vec<_> = (0..5).map(|_| fail(&mut breaker, 0)).collect();
        let Some(Some(Change::CoolsDown(Reason::Failing, wait))) = changes.last() else {
            panic!("{changes:?}");
        };
        (breaker, wait.as_millis() as u64)
    }

    #[test]
    fn five_failures_in_a_row_open_the_breaker() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(fail(&mut breaker, 0), None);
            }
            assert!(breaker.is_news(START));
            breaker.succeed(START, START);
        }
        assert_eq!(breaker.standing(START), Standing::Closed);
        let (breaker, wait) = open();
        assert_eq!(breaker.standing(START), Standing::Open(at(wait)));
        assert_eq!(breaker.standing(at(wait)), Standing::Recovering);
    }

    /// The number of failures at this distance, each with `others` successes, until the breaker opens.
    fn failures_until_open(others: u32, millis_apart: u64) -> Option<u64> {
        let mut breaker = Breaker::default();
        (1..200).find(|n| {
            let now = at(n * millis_apart);
            let opened = breaker.fail(
                Failure {
                    others,
                    began: now,
                    ..FAILURE
                },
                &RULES,
                0,
                now,
            );
            breaker.succeed(now, now);
            opened.is_some()
        })
    }

    #[test]
    fn ten_failures_in_twenty_attempts_open_the_breaker() {
        assert_eq!(failures_until_open(0, 1), Some(11));
        assert_eq!(failures_until_open(1, 1), None, "a third");
        assert_eq!(
            failures_until_open(0, 1_112),
            None,
            "too few within ten seconds"
        );
        assert!(failures_until_open(0, 400).is_some(), "across two buckets");
    }

    #[test]
    fn later_failures_of_a_request_do_not_count() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            let failure = Failure {
                blame: Blame::Repeated,
                ..FAILURE
            };
            assert_eq!(breaker.fail(failure, &RULES, 0, START), None);
        }
        assert_eq!(
            breaker,
            Breaker {
                bucket_start: START,
                ..Breaker::default()
            }
        );
    }

    #[test]
    fn failures_during_a_cooldown_do_not_prolong_it() {
        let (mut breaker, wait) = open();
        for _ in 0..100 {
            assert_eq!(fail(&mut breaker, 1_000), None);
        }
        assert_eq!(breaker.standing(at(wait)), Standing::Recovering);
    }

    #[test]
    fn a_relapse_doubles_the_wait_up_to_the_bound() {
        let (mut breaker, mut wait) = open();
        let mut now = 0;
        for seconds in [5, 10, 20, 40, 80, 160, 300, 300] {
            let (least, most) = (seconds * 1000, seconds * 1250);
            let bounds = least..=most.min(300_000);
            let bounds = if seconds == 300 {
                240_000..=300_000
            } else {
                bounds
            };
            assert!(bounds.contains(&wait), "{seconds}: {wait}");
            now += wait;
            wait = match fail(&mut breaker, now) {
                Some(Change::CoolsDown(Reason::Failing, wait)) => wait.as_millis() as u64,
                other => panic!("{other:?}"),
            };
        }
    }

    #[test]
    fn jitter_holds_at_the_bound() {
        let waits = |seed: u64| {
            let mut breaker = Breaker {
                relapses: 16,
                ..Breaker::default()
            };
            breaker.opened_at = START;
            breaker.streak = 4;
            let failure = FAILURE;
            match breaker.fail(failure, &RULES, seed, START) {
                Some(Change::CoolsDown(Reason::Failing, wait)) => wait,
                other => panic!("{other:?}"),
            }
        };
        let different: std::collections::BTreeSet<_> = (0..100).map(waits).collect();
        assert!(different.len() > 50, "{different:?}");
        assert!(different.iter().all(|wait| *wait <= RULES.longest));
    }

    #[test]
    fn successes_double_and_complete_a_recovery() {
        let (mut breaker, wait) = open();
        let now = at(wait);
        for successes in 1..=3 {
            assert!(breaker.admit(now));
            assert_eq!(breaker.succeed(now, now), None, "{successes}");
        }
        assert!(breaker.admit(now));
        assert_eq!(
            breaker.succeed(now, now),
            Some(Change::Recovered(Reason::Failing))
        );
        assert_eq!(breaker.standing(now), Standing::Closed);
    }

    #[test]
    fn a_success_during_a_cooldown_begins_the_recovery() {
        let (mut breaker, _) = open();
        assert!(!breaker.is_news(START), "the attempt began before");
        breaker.succeed(START, at(500));
        assert!(matches!(breaker.standing(at(500)), Standing::Open(_)));
        assert!(breaker.is_news(at(100)));
        breaker.succeed(at(100), at(500));
        assert_eq!(breaker.standing(at(500)), Standing::Recovering);
    }

    #[test]
    fn an_unused_backend_recovers_in_a_minute() {
        let (mut breaker, wait) = open();
        assert_eq!(breaker.standing(at(wait + 59_999)), Standing::Recovering);
        assert_eq!(breaker.standing(at(wait + 60_000)), Standing::Closed);
        breaker.tidy(at(wait + 60_000));
        assert!(breaker.is_closed());
    }

    #[test]
    fn without_cooldowns_the_breaker_never_opens() {
        let none = Cooldown {
            failing: Duration::ZERO,
            longest: Duration::ZERO,
            ..RULES
        };
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            assert_eq!(breaker.fail(FAILURE, &none, 0, START), None);
        }
        assert_eq!(breaker.standing(START), Standing::Closed);
    }

    #[test]
    fn the_record_of_a_breaker_can_be_read() {
        for breaker in [Breaker::default(), open().0] {
            assert_eq!(
                roundtrip(&breaker, Breaker::encode, Breaker::decode),
                breaker
            );
        }
    }
}
