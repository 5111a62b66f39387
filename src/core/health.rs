//! The health of one backend, shared by all workers: what its answers said about it, and since when it is left alone.
//!
//! A backend is free until an answer says otherwise; then it cools down; then it is due, and one request, the probe, decides.
//! Whoever learns something reads the record, changes its copy and stores that with compare-and-swap.

use std::time::Duration;

use super::config::Cooldown;
use super::outcome::Outcome;
use super::shared::{scatter, Fields};
use super::time::Timestamp;

const VERSION: u8 = 1;

/// Failures are counted over this time.
pub const WINDOW: Duration = Duration::from_secs(10);
/// A share of fewer attempts than this says nothing.
pub const FEWEST_ATTEMPTS: u32 = 20;
/// A backend that has been well for this long starts anew with short cooldowns.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// A throttled backend refuses at once, so a probe that it has not refused by then was accepted.
const CONSENT: Duration = Duration::from_secs(1);
/// How much longer than the attempt itself a probe's claim lives.
const CLAIM_MARGIN: Duration = Duration::from_secs(2);
/// More missing deployments than this are not remembered of one backend.
const MOST_MISSING: usize = 16;

/// Why a backend cools down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its quota is used up.
    Throttled,
    /// It failed too often.
    Failing,
    /// It refuses the identity: someone has to mend that.
    Misconfigured,
}

impl Reason {
    /// Every reason, in the order of their statistics.
    pub const ALL: [Self; 3] = [Self::Throttled, Self::Failing, Self::Misconfigured];

    /// The name in statistics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::Failing => "failing",
            Self::Misconfigured => "misconfigured",
        }
    }
}

/// Whether a backend may be sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Any.
    Free,
    /// One, to see whether it is well again.
    Due,
    /// None before this, as far as one can tell.
    Out(Reason, Timestamp),
}

impl Standing {
    #[cfg(test)]
    pub(super) const TAKEN: Self = Self::Out(Reason::Throttled, Timestamp::from_millis(u64::MAX));

    /// Whether there is a request it may be sent.
    pub fn is_usable(self) -> bool {
        !matches!(self, Self::Out(..))
    }
}

/// What an attempt's outcome says about its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It works.
    Answered,
    /// It is throttled, for this long if it said so.
    Throttled(Option<Duration>),
    /// It failed. So many other attempts of the same worker on it did not, since the last that was told.
    Failed(u32),
    /// It refuses the identity.
    Denied,
    /// It does not have this deployment.
    Missing(u64),
    /// Nothing: the token was at fault, or the client left.
    Nothing,
}

impl Finding {
    /// What `outcome` says; with the wait that a throttled backend stated, and the deployment the request was for.
    pub fn of(outcome: Outcome, stated_wait: Option<Duration>, deployment: Option<u64>) -> Self {
        match outcome {
            Outcome::Success | Outcome::ClientError => Self::Answered,
            Outcome::Throttled => Self::Throttled(stated_wait),
            Outcome::Unavailable => Self::Failed(0),
            Outcome::PermissionDenied => Self::Denied,
            Outcome::DeploymentNotFound => deployment.map_or(Self::Answered, Self::Missing),
            Outcome::BadToken => Self::Nothing,
        }
    }
}

/// A change of a backend's health that people want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It cools down for this long.
    CoolsDown(Reason, Duration),
    /// It is free again.
    Recovered,
    /// A deployment it does not have is not asked of it for this long.
    Lacks(Duration),
}

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

    /// Whether it is the same as `other` to those who only choose: the counts apart, unless they begin or end.
    pub fn looks_like(&self, other: &Self) -> bool {
        self.state == other.state
            && self.missing == other.missing
            && (self.streak > 0) == (other.streak > 0)
            && (self.failed > 0) == (other.failed > 0)
    }

    /// Whether it may be sent a request.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match self.state {
            State::Free => Standing::Free,
            State::CoolingDown(reason, until) if now < until => Standing::Out(reason, until),
            State::CoolingDown(..) => Standing::Due,
            State::Probing(reason, until) if now < until => {
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
        missing.any(|known| known.deployment == deployment && now < known.until)
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
        matches!(self.state, State::Probing(_, until) if now < until)
    }

    /// Claims the probe, for an attempt that takes no longer than `limit`: the caller is to make it, and no one else will.
    pub fn claim_probe(&mut self, now: Timestamp, limit: Duration) -> bool {
        let (State::CoolingDown(reason, _) | State::Probing(reason, _)) = self.state else {
            return false;
        };
        let due = self.standing(now) == Standing::Due;
        if due {
            let claim = match reason {
                Reason::Throttled => CONSENT,
                Reason::Failing | Reason::Misconfigured => limit + CLAIM_MARGIN,
            };
            self.state = State::Probing(reason, now + claim);
        }
        due
    }

    /// Whether `finding`, of an attempt that was or was not the `probe`, is worth telling the other workers.
    pub fn is_news(&self, finding: Finding, probe: bool) -> bool {
        probe
            || match finding {
                Finding::Answered => self.state == State::Free && self.streak > 0,
                Finding::Nothing => false,
                Finding::Throttled(_)
                | Finding::Failed(_)
                | Finding::Denied
                | Finding::Missing(_) => true,
            }
    }

    /// Learns from an attempt, which was or was not the `probe`.
    ///
    /// An attempt that began before the backend cooled down tells what is known by now; while it cools down, and while the
    /// probe is under way, that changes nothing.
    pub fn learn(
        &mut self,
        finding: Finding,
        probe: bool,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        let recovered = self.tidy(now);
        if let Finding::Missing(deployment) = finding {
            let answered = self.answered(probe, now).or(recovered);
            return self.miss(deployment, rules, now).or(answered);
        }
        let decides = match self.standing(now) {
            Standing::Free => true,
            Standing::Due | Standing::Out(..) => probe && matches!(self.state, State::Probing(..)),
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
            Finding::Denied => self.cool_down(Reason::Misconfigured, rules.misconfigured, now),
            Finding::Failed(others) => self.fail(others, probe, rules, now),
            Finding::Missing(_) => None,
        };
        change.or(recovered)
    }

    /// Forgets what is over: a probe that was not refused in time, deployments that may be there by now.
    pub fn tidy(&mut self, now: Timestamp) -> Option<Change> {
        self.missing.retain(|known| now < known.until);
        let accepted =
            matches!(self.state, State::Probing(Reason::Throttled, until) if until <= now);
        accepted.then(|| {
            self.state = State::Free;
            self.recovered_at = now;
            Change::Recovered
        })
    }

    /// Takes over how many attempts succeeded, for the share of those that fail.
    pub fn succeed(&mut self, count: u32) {
        self.succeeded = self.succeeded.saturating_add(count);
    }

    /// Whether it matters how many attempts succeed.
    pub fn counts_successes(&self, now: Timestamp) -> bool {
        self.failed > 0 && now < self.window_start + WINDOW
    }

    fn answered(&mut self, probe: bool, now: Timestamp) -> Option<Change> {
        if self.standing(now) == Standing::Free {
            self.streak = 0;
        }
        if !(probe && matches!(self.state, State::Probing(..))) {
            return None;
        }
        self.state = State::Free;
        self.recovered_at = now;
        Some(Change::Recovered)
    }

    fn fail(
        &mut self,
        others: u32,
        probe: bool,
        rules: &Cooldown,
        now: Timestamp,
    ) -> Option<Change> {
        if self.window_start + WINDOW <= now {
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
        if self.recovered_at + FORGIVEN_AFTER <= now && !probe {
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
        for time in [until, self.window_start, self.recovered_at] {
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
