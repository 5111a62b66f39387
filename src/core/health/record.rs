//! The record of one backend's health, and the machine that moves it.
//!
//! Whoever learns something reads the record, changes its copy and stores that with compare-and-swap.

use std::time::Duration;

use super::{Change, Claim, Finding, Reason, Standing};
use crate::core::config::Cooldown;
use crate::core::shared::{scatter, Fields};
use crate::core::time::Timestamp;

const VERSION: u8 = 1;

/// Failures are counted over this time.
const WINDOW: Duration = Duration::from_secs(10);
/// A share of fewer attempts than this says nothing.
const FEWEST_ATTEMPTS: u32 = 20;
/// A backend that has been well for this long starts anew with short cooldowns.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// A throttled backend refuses at once, so a probe that it has not refused by then was accepted.
const CONSENT: Duration = Duration::from_secs(1);
/// How much longer than the attempt itself a probe's claim lives.
const CLAIM_MARGIN: Duration = Duration::from_secs(2);
/// Who has served within this time lets the identity in: a refusal is about the one operation that was asked for.
const SERVED_LATELY: Duration = Duration::from_secs(60);
/// It is written down this often that a backend serves.
const SERVICE_NOTED_EVERY: Duration = Duration::from_secs(20);
/// No cooldown lasts longer, whatever the configuration says.
const LONGEST_EVER: Duration = Duration::from_secs(24 * 3600);
/// More missing deployments than this are not remembered of one backend.
const MOST_MISSING: usize = 16;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    CoolingDown(Reason, Timestamp),
    /// A probe is under way; its claim ends at this time.
    Probing(Reason, Timestamp),
}

/// The health of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    state: State,
    /// Failures in a row.
    streak: u32,
    /// The window over which failures are counted: when its first one was, and what came since.
    window_start: Timestamp,
    failed: u32,
    succeeded: u32,
    /// Cooldowns for failing that followed one another.
    relapses: u32,
    recovered_at: Timestamp,
    served_at: Timestamp,
    missing: Vec<Missing>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Missing {
    deployment: u64,
    until: Timestamp,
}

impl Health {
    /// Whether it is free for all and everything, whatever the time.
    pub fn is_plain(&self) -> bool {
        self.state == State::Free && self.missing.is_empty()
    }

    /// Whether it is the same as `other` to those who have no failure to report: the counts apart, unless a row of failures
    /// begins or ends, which a success is to end.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.state == other.state
            && self.missing == other.missing
            && (self.streak > 0) == (other.streak > 0)
    }

    /// Whether it may be sent a request.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match self.state {
            State::Free => Standing::Free,
            State::CoolingDown(reason, until) if is_ahead(until, now) => {
                Standing::Out(reason, until)
            }
            State::CoolingDown(..) => Standing::Due,
            State::Probing(reason, until) if is_ahead(until, now) => {
                // The probe ends with its answer, and no one knows when that comes.
                Standing::Out(reason, until.min(now + CONSENT))
            }
            State::Probing(Reason::Throttled, _) => Standing::Free,
            // The probe was lost with its worker.
            State::Probing(..) => Standing::Due,
        }
    }

    /// Whether it is known not to have this deployment.
    pub fn lacks(&self, deployment: u64, now: Timestamp) -> bool {
        let mut missing = self.missing.iter();
        missing.any(|known| known.deployment == deployment && is_ahead(known.until, now))
    }

    /// Whether it is known not to have something.
    pub fn lacks_any(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Why it is not free, if it is not.
    pub fn trouble(&self) -> Option<Reason> {
        match self.state {
            State::Free => None,
            State::CoolingDown(reason, _) | State::Probing(reason, _) => Some(reason),
        }
    }

    /// Whether a probe is under way.
    pub fn is_probing(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Probing(_, until) if is_ahead(until, now))
    }

    /// Claims the probe, for an attempt that takes no longer than `limit`: the caller is to make it, and no one else will.
    pub fn claim_probe(&mut self, now: Timestamp, limit: Duration) -> Option<Claim> {
        let (State::CoolingDown(reason, _) | State::Probing(reason, _)) = self.state else {
            return None;
        };
        if self.standing(now) != Standing::Due {
            return None;
        }
        let lasts = match reason {
            Reason::Throttled => CONSENT,
            Reason::Failing | Reason::Misconfigured => limit + CLAIM_MARGIN,
        };
        let ends = now + lasts;
        self.state = State::Probing(reason, ends);
        Some(Claim(ends))
    }

    /// The claim of the probe that is under way.
    #[cfg(test)]
    fn claim(&self) -> Option<Claim> {
        match self.state {
            State::Probing(_, ends) => Some(Claim(ends)),
            _ => None,
        }
    }

    /// Whether `finding`, of an attempt with or without the `claim` of the probe, is worth telling the other workers.
    pub fn is_news(&self, finding: Finding, claim: Option<Claim>) -> bool {
        claim.is_some()
            || match finding {
                Finding::Answered => self.state == State::Free && self.streak > 0,
                Finding::Nothing => false,
                Finding::Throttled(_)
                | Finding::Failed(_)
                | Finding::Denied
                | Finding::Missing(_) => true,
            }
    }

    /// Learns from an attempt, made with or without the `claim` of the probe.
    ///
    /// An attempt that began before the backend cooled down tells what is known by now; while it cools down, and while the
    /// probe is under way, that changes nothing. Nor does a probe whose claim has ended decide for the next one.
    pub fn learn(
        &mut self,
        finding: Finding,
        claim: Option<Claim>,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        let probe = matches!((claim, self.state), (Some(Claim(own)), State::Probing(_, ends)) if own == ends);
        let recovered = self.tidy(now);
        if let Finding::Missing(deployment) = finding {
            let answered = self.answered(probe, now).or(recovered);
            return self.miss(deployment, rules, now).or(answered);
        }
        let decides = match self.standing(now) {
            Standing::Free => true,
            Standing::Due | Standing::Out(..) => probe,
        };
        let change = match finding {
            Finding::Answered => self.answered(probe, now),
            Finding::Nothing => {
                if let (true, State::Probing(reason, _)) = (probe, self.state) {
                    // Due again, for another request's probe.
                    self.state = State::CoolingDown(reason, now);
                }
                None
            }
            _ if !decides => None,
            Finding::Throttled(stated) => {
                let wait = stated.map_or(rules.throttled, |wait| wait.max(rules.shortest));
                self.cool_down(Reason::Throttled, wait.min(rules.longest), now)
            }
            // No client may take a backend from all others by asking for what the identity's role does not include.
            Finding::Denied if self.serves(now) && !probe => None,
            Finding::Denied => self.cool_down(Reason::Misconfigured, rules.misconfigured, now),
            Finding::Failed(others) => self.fail(others, probe, rules, now),
            Finding::Missing(_) => None,
        };
        change.or(recovered)
    }

    /// Forgets what is over: a probe that was not refused in time, deployments that may be there by now.
    pub fn tidy(&mut self, now: Timestamp) -> Option<Change> {
        self.missing.retain(|known| is_ahead(known.until, now));
        let accepted =
            matches!(self.state, State::Probing(Reason::Throttled, until) if !is_ahead(until, now));
        accepted.then(|| {
            self.state = State::Free;
            Change::Recovered
        })
    }

    /// Whether it has served lately.
    fn serves(&self, now: Timestamp) -> bool {
        !(self.served_at + SERVED_LATELY).has_passed(now, SERVED_LATELY)
    }

    /// Whether it is worth writing down that it serves.
    pub fn wants_service_noted(&self, now: Timestamp) -> bool {
        (self.served_at + SERVICE_NOTED_EVERY).has_passed(now, SERVICE_NOTED_EVERY)
    }

    /// It serves.
    pub fn note_service(&mut self, now: Timestamp) {
        self.served_at = now;
    }

    /// Takes over how many attempts succeeded, for the share of those that fail.
    pub fn succeed(&mut self, count: u32) {
        self.succeeded = self.succeeded.saturating_add(count);
    }

    /// Whether it matters how many attempts succeed.
    pub fn counts_successes(&self, now: Timestamp) -> bool {
        self.failed > 0 && !self.window_is_over(now)
    }

    fn window_is_over(&self, now: Timestamp) -> bool {
        (self.window_start + WINDOW).has_passed(now, WINDOW)
    }

    fn answered(&mut self, probe: bool, now: Timestamp) -> Option<Change> {
        if self.standing(now) == Standing::Free {
            self.streak = 0;
            self.succeed(1);
            self.note_service(now);
        }
        if !(probe && matches!(self.state, State::Probing(..))) {
            return None;
        }
        self.state = State::Free;
        self.recovered_at = now;
        self.note_service(now);
        Some(Change::Recovered)
    }

    fn fail(
        &mut self,
        others: u32,
        probe: bool,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        if self.window_is_over(now) {
            (self.window_start, self.failed, self.succeeded) = (now, 0, 0);
        }
        self.streak = self.streak.saturating_add(1);
        self.failed = self.failed.saturating_add(1);
        self.succeeded = self.succeeded.saturating_add(others);
        let attempts = self.failed.saturating_add(self.succeeded);
        let too_many = attempts >= FEWEST_ATTEMPTS
            && u64::from(self.failed) * 100
                >= u64::from(attempts) * u64::from(rules.failure_percent);
        if !(probe || too_many || self.streak >= rules.consecutive_failures) {
            return None;
        }
        let forgiven = (self.recovered_at + FORGIVEN_AFTER).has_passed(now, FORGIVEN_AFTER);
        if forgiven && !probe {
            self.relapses = 0;
        }
        let doubled = rules.failing.saturating_mul(1 << self.relapses.min(16));
        self.relapses = self.relapses.saturating_add(1);
        // Up to a quarter more, so that backends that failed together are not probed together.
        let jitter = scatter(now.as_millis() ^ u64::from(self.relapses)) % 256;
        let wait = doubled.saturating_add(doubled.saturating_mul(jitter as u32) / 1024);
        self.cool_down(Reason::Failing, wait.min(rules.longest), now)
    }

    fn cool_down(&mut self, reason: Reason, wait: Duration, now: Timestamp) -> Option<Change> {
        (self.streak, self.failed, self.succeeded) = (0, 0, 0);
        self.state = State::Free;
        // A cooldown of no length is none.
        if wait.is_zero() {
            return None;
        }
        self.state = State::CoolingDown(reason, now + wait);
        Some(Change::CoolsDown(reason, wait))
    }

    fn miss(&mut self, deployment: u64, rules: &Cooldown, now: Timestamp) -> Option<Change> {
        let wait = rules.misconfigured;
        if wait.is_zero() || self.lacks(deployment, now) {
            return None;
        }
        if self.missing.len() >= MOST_MISSING {
            self.missing.remove(0);
        }
        let until = now + wait;
        self.missing.push(Missing { deployment, until });
        Some(Change::Lacks(wait))
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (state, reason, until) = match self.state {
            State::Free => (0, Reason::Throttled, Timestamp::default()),
            State::CoolingDown(reason, until) => (1, reason, until),
            State::Probing(reason, until) => (2, reason, until),
        };
        let mut bytes = vec![VERSION, state, reason as u8];
        for number in [self.streak, self.failed, self.succeeded, self.relapses] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [until, self.window_start, self.recovered_at, self.served_at] {
            bytes.extend_from_slice(&time.as_millis().to_le_bytes());
        }
        for missing in &self.missing {
            bytes.extend_from_slice(&missing.deployment.to_le_bytes());
            bytes.extend_from_slice(&missing.until.as_millis().to_le_bytes());
        }
        bytes
    }

    /// The record in `bytes`; that of a backend of which nothing is known if there is none or it is not understood.
    pub fn decode(bytes: Option<&[u8]>) -> Self {
        bytes.and_then(Self::try_decode).unwrap_or_default()
    }

    #[inline(never)]
    fn try_decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes, VERSION)?;
        let state = fields.u8()?;
        let reason = *Reason::ALL.get(usize::from(fields.u8()?))?;
        let mut health = Self {
            streak: fields.u32()?,
            failed: fields.u32()?,
            succeeded: fields.u32()?,
            relapses: fields.u32()?,
            ..Self::default()
        };
        let until = Timestamp::from_millis(fields.u64()?);
        health.window_start = Timestamp::from_millis(fields.u64()?);
        health.recovered_at = Timestamp::from_millis(fields.u64()?);
        health.served_at = Timestamp::from_millis(fields.u64()?);
        health.state = match state {
            0 => State::Free,
            1 => State::CoolingDown(reason, until),
            2 => State::Probing(reason, until),
            _ => return None,
        };
        while let Some(deployment) = fields.u64() {
            let until = Timestamp::from_millis(fields.u64()?);
            health.missing.push(Missing { deployment, until });
        }
        Some(health)
    }
}

fn is_ahead(until: Timestamp, now: Timestamp) -> bool {
    !until.has_passed(now, LONGEST_EVER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fleet::Demand;
    use crate::core::operation::Api;
    use crate::core::outcome::Outcome;

    const START: Timestamp = Timestamp::from_secs(1_700_000_000);
    const LIMIT: Duration = Duration::from_secs(30);
    const RULES: Cooldown = Cooldown {
        throttled: Duration::from_secs(10),
        shortest: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        failing: Duration::from_secs(5),
        consecutive_failures: 5,
        failure_percent: 50,
        misconfigured: Duration::from_secs(600),
        wait_timeout: Duration::ZERO,
    };
    const FAILED: Finding = Finding::Failed(0);

    fn at(millis: u64) -> Timestamp {
        START + Duration::from_millis(millis)
    }

    fn throttled(seconds: u64) -> Finding {
        Finding::Throttled(Some(Duration::from_secs(seconds)))
    }

    /// A backend that cools down for this reason from the start, and for how long.
    fn cooling(reason: Reason) -> (Health, Duration) {
        let mut health = Health::default();
        let findings = match reason {
            Reason::Throttled => vec![throttled(7)],
            Reason::Failing => vec![FAILED; 5],
            Reason::Misconfigured => vec![Finding::Denied],
        };
        let mut last = None;
        for finding in findings {
            assert_eq!(last, None);
            last = health.learn(finding, None, &RULES, START);
        }
        match last {
            Some(Change::CoolsDown(because, wait)) if because == reason => (health, wait),
            other => panic!("{other:?}"),
        }
    }

    /// The same, its cooldown just over.
    fn due(reason: Reason) -> (Health, Timestamp) {
        let (health, wait) = cooling(reason);
        (health, START + wait)
    }

    /// The same, being probed.
    fn probed(reason: Reason) -> (Health, Timestamp) {
        let (mut health, now) = due(reason);
        assert!(health.claim_probe(now, LIMIT).is_some());
        (health, now)
    }

    #[test]
    fn a_stated_wait_is_obeyed_within_bounds() {
        for (finding, millis) in [
            (throttled(7), 7_000),
            (throttled(0), 1_000),
            (throttled(86_400), 300_000),
            (
                Finding::Throttled(Some(Duration::from_millis(1_234))),
                1_234,
            ),
            (Finding::Throttled(None), 10_000),
        ] {
            let mut health = Health::default();
            let wait = Duration::from_millis(millis);
            assert_eq!(
                health.learn(finding, None, &RULES, START),
                Some(Change::CoolsDown(Reason::Throttled, wait))
            );
            let out = Standing::Out(Reason::Throttled, START + wait);
            assert_eq!(health.standing(START), out);
            assert_eq!(health.standing(at(millis - 1)), out);
            assert_eq!(health.standing(at(millis)), Standing::Due);
        }
    }

    #[test]
    fn so_many_failures_in_a_row_are_too_many_and_a_success_begins_anew() {
        let mut health = Health::default();
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(health.learn(FAILED, None, &RULES, START), None);
            }
            assert_eq!(health.learn(Finding::Answered, None, &RULES, START), None);
        }
        assert_eq!(health.standing(START), Standing::Free);
        for _ in 0..4 {
            assert_eq!(health.learn(FAILED, None, &RULES, START), None);
        }
        let change = health.learn(FAILED, None, &RULES, START);
        assert!(matches!(
            change,
            Some(Change::CoolsDown(Reason::Failing, _))
        ));
    }

    /// Failures, each with so many successes that are told with it and one that is not; how many until the backend is out.
    fn failures_until_out(others: u32, most: u64, millis_apart: u64) -> Option<u64> {
        let mut health = Health::default();
        (1..=most).find(|n| {
            let now = at(n * millis_apart);
            let change = health.learn(Finding::Failed(others), None, &RULES, now);
            health.learn(Finding::Answered, None, &RULES, now);
            change.is_some()
        })
    }

    #[test]
    fn a_large_share_of_failures_is_too_many_where_there_are_enough_attempts() {
        // One success for each: half fail, and with the eleventh failure there are twenty attempts.
        assert_eq!(failures_until_out(0, 100, 1), Some(11));
        assert_eq!(failures_until_out(1, 1000, 1), None, "a third");
        assert_eq!(
            failures_until_out(0, 1000, 1_112),
            None,
            "too few within ten seconds"
        );
    }

    #[test]
    fn successes_told_later_count_too() {
        let mut health = Health::default();
        assert!(!health.counts_successes(START));
        health.learn(FAILED, None, &RULES, START);
        assert!(health.counts_successes(at(9_999)));
        assert!(!health.counts_successes(at(10_000)));
        health.succeed(30);
        for n in 0..25 {
            health.learn(Finding::Answered, None, &RULES, at(n));
            assert_eq!(health.learn(FAILED, None, &RULES, at(n)), None, "{n}");
        }
        health.succeed(u32::MAX);
        assert_eq!(health.learn(FAILED, None, &RULES, at(30)), None);
    }

    #[test]
    fn cooldowns_double_with_jitter_up_to_the_longest() {
        let (mut health, mut wait) = cooling(Reason::Failing);
        let mut now = START;
        let mut exact = 0;
        for expected in [5, 10, 20, 40, 80, 160, 300, 300] {
            let (least, most) = (
                Duration::from_secs(expected),
                Duration::from_millis(expected * 1250),
            );
            assert!(
                wait >= least && wait <= most.min(RULES.longest),
                "{expected}: {wait:?}"
            );
            exact += u32::from(wait == least);
            now = now + wait;
            assert!(health.claim_probe(now, LIMIT).is_some());
            wait = match health.learn(FAILED, health.claim(), &RULES, now) {
                Some(Change::CoolsDown(Reason::Failing, wait)) => wait,
                other => panic!("{other:?}"),
            };
        }
        assert!(exact <= 4, "there is jitter");
    }

    #[test]
    fn who_was_well_for_a_minute_begins_with_a_short_cooldown_again() {
        for (well_for, seconds) in [(59_999, 10), (60_000, 5)] {
            let (mut health, now) = probed(Reason::Failing);
            assert_eq!(
                health.learn(Finding::Answered, health.claim(), &RULES, now),
                Some(Change::Recovered)
            );
            let later = now + Duration::from_millis(well_for);
            let mut change = None;
            for _ in 0..5 {
                change = health.learn(FAILED, None, &RULES, later);
            }
            let Some(Change::CoolsDown(Reason::Failing, wait)) = change else {
                panic!("{change:?}");
            };
            let least = Duration::from_secs(seconds);
            assert!(
                wait >= least && wait < least * 5 / 4,
                "{well_for}: {wait:?}"
            );
        }
    }

    #[test]
    fn who_has_served_lately_is_not_out_for_one_refusal_of_the_identity() {
        let out = Some(Change::CoolsDown(
            Reason::Misconfigured,
            RULES.misconfigured,
        ));
        for (millis, change) in [(0, None), (59_999, None), (60_000, out)] {
            let mut health = Health::default();
            health.note_service(START);
            let learnt = health.learn(Finding::Denied, None, &RULES, at(millis));
            assert_eq!(learnt, change, "{millis}");
        }
        let (mut health, now) = probed(Reason::Failing);
        health.note_service(now);
        let learnt = health.learn(Finding::Denied, health.claim(), &RULES, now);
        assert_eq!(learnt, out, "the probe decides");
    }

    #[test]
    fn service_is_noted_now_and_then() {
        let mut health = Health::default();
        assert!(health.wants_service_noted(START));
        health.note_service(START);
        assert!(!health.wants_service_noted(at(19_999)));
        assert!(health.wants_service_noted(at(20_000)));
        let (mut health, now) = probed(Reason::Throttled);
        health.learn(Finding::Answered, health.claim(), &RULES, now);
        assert!(!health.wants_service_noted(now), "the probe served");
    }

    #[test]
    fn only_one_probe_is_claimed() {
        for reason in Reason::ALL {
            let (mut health, wait) = cooling(reason);
            let over = START + wait;
            let before = Timestamp::from_millis(over.as_millis() - 1);
            assert!(health.claim_probe(before, LIMIT).is_none(), "{reason:?}");
            assert!(health.claim_probe(over, LIMIT).is_some(), "{reason:?}");
            assert!(health.is_probing(over));
            assert!(health.claim_probe(over, LIMIT).is_none(), "{reason:?}");
            assert!(!health.standing(over).is_usable());
        }
        assert!(Health::default().claim_probe(START, LIMIT).is_none());
    }

    #[test]
    fn a_lost_probe_is_made_again() {
        for reason in [Reason::Failing, Reason::Misconfigured] {
            let (mut health, now) = probed(reason);
            let claimed = LIMIT + Duration::from_secs(2);
            let almost = now + (claimed - Duration::from_millis(1));
            assert!(!health.standing(almost).is_usable());
            assert_eq!(health.standing(now + claimed), Standing::Due);
            assert_eq!(health.tidy(now + claimed), None);
            assert!(health.claim_probe(now + claimed, LIMIT).is_some());
        }
    }

    #[test]
    fn a_throttled_backends_probe_that_is_not_refused_at_once_was_accepted() {
        let (mut health, now) = probed(Reason::Throttled);
        let almost = now + Duration::from_millis(999);
        assert!(matches!(
            health.standing(almost),
            Standing::Out(Reason::Throttled, _)
        ));
        assert_eq!(health.tidy(almost), None);
        let second = now + Duration::from_secs(1);
        assert_eq!(health.standing(second), Standing::Free);
        assert!(health.claim_probe(second, LIMIT).is_none());
        let mut tidied = health.clone();
        assert_eq!(tidied.tidy(second), Some(Change::Recovered));
        assert!(tidied.is_plain());
        // Whatever is learnt first: it is free, and what counts against it counts.
        assert_eq!(
            health.learn(Finding::Answered, health.claim(), &RULES, second),
            Some(Change::Recovered)
        );
        let (mut health, _) = probed(Reason::Throttled);
        assert_eq!(
            health.learn(throttled(3), health.claim(), &RULES, second),
            Some(Change::CoolsDown(Reason::Throttled, Duration::from_secs(3)))
        );
    }

    #[test]
    fn a_probes_wait_ends_within_a_second_for_all_one_can_tell() {
        let (health, now) = probed(Reason::Failing);
        let out = Standing::Out(Reason::Failing, now + Duration::from_secs(1));
        assert_eq!(health.standing(now), out);
    }

    #[test]
    fn the_probes_outcome_decides() {
        for reason in Reason::ALL {
            let (mut health, now) = probed(reason);
            let change = health.learn(Finding::Answered, health.claim(), &RULES, now);
            assert_eq!(change, Some(Change::Recovered));
            assert!(health.is_plain() && health.trouble().is_none());

            for (finding, because) in [
                (throttled(2), Reason::Throttled),
                (FAILED, Reason::Failing),
                (Finding::Denied, Reason::Misconfigured),
            ] {
                let (mut health, now) = probed(reason);
                let change = health.learn(finding, health.claim(), &RULES, now);
                assert!(
                    matches!(change, Some(Change::CoolsDown(why, _)) if why == because),
                    "{reason:?} {finding:?} {change:?}"
                );
            }
        }
    }

    #[test]
    fn a_probe_that_says_nothing_is_due_again_at_once() {
        for reason in Reason::ALL {
            let (mut health, now) = probed(reason);
            assert!(health.is_news(Finding::Nothing, health.claim()));
            assert_eq!(
                health.learn(Finding::Nothing, health.claim(), &RULES, now),
                None
            );
            assert_eq!(health.standing(now), Standing::Due);
            assert_eq!(health.trouble(), Some(reason));
            assert!(health.claim_probe(now, LIMIT).is_some());
        }
    }

    #[test]
    fn what_comes_late_changes_nothing() {
        for reason in Reason::ALL {
            for (mut health, now) in [cooling(reason).0, due(reason).0, probed(reason).0]
                .into_iter()
                .zip([START, due(reason).1, due(reason).1])
            {
                let before = health.clone();
                for finding in [
                    Finding::Answered,
                    throttled(100),
                    FAILED,
                    Finding::Denied,
                    Finding::Nothing,
                ] {
                    assert_eq!(
                        health.learn(finding, None, &RULES, now),
                        None,
                        "{finding:?}"
                    );
                    assert_eq!(health, before, "{reason:?} {finding:?}");
                }
            }
        }
    }

    #[test]
    fn a_probe_that_was_overtaken_changes_nothing() {
        let (mut health, _) = cooling(Reason::Throttled);
        let before = health.clone();
        for finding in [
            Finding::Answered,
            throttled(100),
            FAILED,
            Finding::Denied,
            Finding::Nothing,
        ] {
            assert_eq!(health.learn(finding, health.claim(), &RULES, START), None);
            assert_eq!(health, before, "{finding:?}");
        }
    }

    #[test]
    fn a_missing_deployment_is_remembered_for_a_while() {
        let mut health = Health::default();
        let change = Some(Change::Lacks(RULES.misconfigured));
        assert_eq!(
            health.learn(Finding::Missing(1), None, &RULES, START),
            change
        );
        assert_eq!(
            health.learn(Finding::Missing(1), None, &RULES, at(1)),
            None,
            "known"
        );
        assert!(health.lacks(1, at(599_999)) && !health.lacks(2, START));
        assert!(!health.lacks(1, at(600_000)));
        assert_eq!(health.standing(START), Standing::Free);
        assert!(!health.is_plain());
        assert_eq!(health.tidy(at(600_000)), None);
        assert!(health.is_plain());
    }

    #[test]
    fn a_probe_that_finds_a_deployment_missing_frees_the_backend() {
        let (mut health, now) = probed(Reason::Failing);
        let change = health.learn(Finding::Missing(1), health.claim(), &RULES, now);
        assert_eq!(change, Some(Change::Lacks(RULES.misconfigured)));
        assert_eq!(health.standing(now), Standing::Free);
        let (mut health, now) = probed(Reason::Failing);
        health.miss(1, &RULES, now);
        let change = health.learn(Finding::Missing(1), health.claim(), &RULES, now);
        assert_eq!(change, Some(Change::Recovered));
    }

    #[test]
    fn the_memory_for_missing_deployments_has_an_end() {
        let mut health = Health::default();
        for deployment in 0..100 {
            health.learn(Finding::Missing(deployment), None, &RULES, START);
        }
        assert_eq!(health.missing.len(), MOST_MISSING);
        assert!(!health.lacks(83, START) && health.lacks(84, START) && health.lacks(99, START));
    }

    #[test]
    fn cooldowns_of_no_length_are_none() {
        let rules = Cooldown {
            longest: Duration::ZERO,
            misconfigured: Duration::ZERO,
            ..RULES
        };
        let mut health = Health::default();
        for finding in [
            throttled(7),
            Finding::Throttled(None),
            Finding::Denied,
            Finding::Missing(3),
        ] {
            assert_eq!(health.learn(finding, None, &rules, START), None);
        }
        for _ in 0..100 {
            assert_eq!(health.learn(FAILED, None, &rules, START), None);
        }
        assert!(health.is_plain());
    }

    #[test]
    fn only_news_is_told() {
        let mut well = Health::default();
        for finding in [throttled(1), FAILED, Finding::Denied, Finding::Missing(1)] {
            assert!(well.is_news(finding, None), "{finding:?}");
        }
        for finding in [Finding::Answered, Finding::Nothing] {
            assert!(!well.is_news(finding, None), "{finding:?}");
            assert!(well.is_news(finding, Some(Claim::ANY)), "{finding:?}");
        }
        well.learn(FAILED, None, &RULES, START);
        assert!(well.is_news(Finding::Answered, None), "it ends the row");
        assert!(!cooling(Reason::Throttled)
            .0
            .is_news(Finding::Answered, None));
    }

    #[test]
    fn counts_are_no_news_to_those_who_choose() {
        let well = Health::default();
        let mut failed = well.clone();
        failed.learn(FAILED, None, &RULES, START);
        assert!(!failed.looks_like(&well), "its successes are news now");
        let mut again = failed.clone();
        again.learn(FAILED, None, &RULES, START);
        again.succeed(7);
        assert!(again.looks_like(&failed));
        again.learn(Finding::Answered, None, &RULES, START);
        assert!(!again.looks_like(&failed), "the row has ended");
        assert!(!cooling(Reason::Throttled).0.looks_like(&well));
        let mut lacking = well.clone();
        lacking.learn(Finding::Missing(1), None, &RULES, START);
        assert!(!lacking.looks_like(&well));
    }

    #[test]
    fn a_clock_that_is_put_back_leaves_no_one_out_for_years() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for reason in Reason::ALL {
            let (mut health, _) = cooling(reason);
            let earlier = Timestamp::from_millis(START.as_millis() - year.as_millis() as u64);
            assert_eq!(health.standing(earlier), Standing::Due);
            assert!(health.claim_probe(earlier, LIMIT).is_some());
            let (health, _) = probed(reason);
            assert!(health.standing(earlier).is_usable());
        }
        let mut health = Health::default();
        health.learn(Finding::Missing(1), None, &RULES, START + year);
        assert!(!health.lacks(1, START));
        health.tidy(START);
        assert!(health.is_plain());
    }

    #[test]
    fn it_survives_encoding() {
        let mut all = vec![Health::default()];
        for reason in Reason::ALL {
            all.extend([cooling(reason).0, probed(reason).0]);
        }
        for mut health in all {
            health.learn(Finding::Missing(u64::MAX), None, &RULES, START);
            health.learn(Finding::Missing(7), None, &RULES, at(5));
            health.succeed(3);
            let bytes = health.encode();
            assert_eq!(Health::decode(Some(&bytes)), health);
            for cut in 0..bytes.len() {
                let decoded = Health::decode(bytes.get(..cut));
                // A deployment more or less is no harm; half a state would be.
                let but_deployments = cut >= bytes.len() - 32 && decoded.state == health.state;
                assert!(decoded == Health::default() || but_deployments, "{cut}");
            }
            for position in 0..bytes.len() {
                let mut junk = bytes.clone();
                junk[position] ^= 0xff;
                let _ = Health::decode(Some(&junk)).standing(START);
            }
        }
        assert_eq!(Health::decode(Some(&[9; 60])), Health::default());
        assert_eq!(Health::decode(None), Health::default());
    }

    #[test]
    fn outcomes_become_findings() {
        let wait = Some(Duration::from_secs(3));
        let demand = Demand {
            deployment: Some(9),
            api: Some(Api::Audio),
        };
        for (outcome, finding) in [
            (Outcome::Success, Finding::Answered),
            (Outcome::ClientError, Finding::Answered),
            (Outcome::Throttled, Finding::Throttled(wait)),
            (Outcome::Unavailable, Finding::Failed(0)),
            (Outcome::PermissionDenied, Finding::Denied),
            (
                Outcome::DeploymentNotFound,
                Finding::Missing(demand.deployment_in_api().unwrap()),
            ),
            (Outcome::ApiNotEnabled, Finding::Missing(Api::Audio.id())),
            (Outcome::BadToken, Finding::Nothing),
        ] {
            assert_eq!(Finding::of(outcome, wait, demand), finding);
        }
        // Without a name there is nothing to remember.
        assert_eq!(
            Finding::of(Outcome::DeploymentNotFound, None, Demand::default()),
            Finding::Answered
        );
    }
}
