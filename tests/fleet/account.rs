//! A second account of what the backends said, with which every choice and refusal is compared.

use std::time::Duration;

use azure_openai_balancer::core::config::{Config, Cooldown};
use azure_openai_balancer::core::health::Health;
use azure_openai_balancer::core::outcome::Outcome;
use azure_openai_balancer::core::time::Timestamp;

use super::driver::Journey;
use super::simulation::DEPLOYMENTS;

/// What one backend said.
#[derive(Clone, Debug, Default)]
struct Words {
    /// The wait of each deployment.
    waits: [Option<Wait>; DEPLOYMENTS.len()],
    /// Until when it refuses the identity.
    refuses: Timestamp,
    /// Until when it lacks each deployment.
    lacks: [Timestamp; DEPLOYMENTS.len()],
    trials: [Option<Timestamp>; DEPLOYMENTS.len()],
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    said_at: Timestamp,
    until: Timestamp,
    /// The size of the smallest request that was refused since no wait was under way.
    smallest: u32,
}

pub(crate) struct Account {
    seed: u64,
    backends: Vec<Words>,
}

impl Account {
    pub(crate) fn new(seed: u64, backends: usize) -> Self {
        Self {
            seed,
            backends: vec![Words::default(); backends],
        }
    }

    fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        assert!(holds, "AOAI_SEED={}: {}", self.seed, what());
    }

    pub(crate) fn clock_was_set_back(&mut self) {
        for words in &mut self.backends {
            words.trials = Default::default();
        }
    }

    /// The current attempt of `journey` ended.
    pub(crate) fn note(
        &mut self,
        journey: &Journey,
        deployment: usize,
        outcome: Outcome,
        stated: Option<Duration>,
        rules: &Cooldown,
        now: Timestamp,
    ) {
        let demand = journey.request.demand();
        let words = &mut self.backends[journey.exchange.backend()];
        match outcome {
            Outcome::Success => {
                let began = journey.exchange.chosen().began;
                words.waits[deployment].take_if(|wait| wait.said_at < began);
                words.refuses = Timestamp::default();
            }
            Outcome::Throttled if !journey.request.names_unread_deployment() => {
                let wait = stated.map_or(rules.throttled, |wait| wait.max(rules.shortest));
                let until = now + wait.min(rules.longest);
                let size = demand.size.unwrap_or_default();
                let before = words.waits[deployment].filter(|wait| wait.until > now);
                words.waits[deployment] = Some(Wait {
                    said_at: now,
                    until: before.map_or(until, |wait| wait.until.max(until)),
                    smallest: before.map_or(size, |wait| wait.smallest.min(size)),
                });
            }
            Outcome::PermissionDenied | Outcome::BadToken => {
                words.refuses = now + rules.misconfigured;
            }
            Outcome::DeploymentNotFound => words.lacks[deployment] = now + rules.misconfigured,
            _ => {}
        }
    }

    pub(crate) fn check_sent(&self, attempts: u8, config: &Config) {
        self.check(attempts <= config.retry.max_attempts, || {
            format!("attempt {attempts}")
        });
    }

    /// At most one trial a second and quota.
    pub(crate) fn check_trial(&mut self, backend: usize, deployment: usize, now: Timestamp) {
        let last = self.backends[backend].trials[deployment].replace(now);
        let pause = last.map(|last| now.since(last));
        self.check(
            pause.is_none_or(|pause| pause >= Duration::from_secs(1)),
            || format!("two trials of {backend} within {pause:?}"),
        );
    }

    /// Nothing is refused while a backend is left that neither asked to wait nor refuses the identity.
    pub(crate) fn check_refusal(&self, journey: &Journey, deployment: usize, now: Timestamp) {
        let size = journey.request.demand().size;
        let all_lack = self
            .backends
            .iter()
            .all(|words| words.lacks[deployment] > now);
        for (backend, words) in self.backends.iter().enumerate() {
            let said = words.waits[deployment].is_some_and(|wait| {
                wait.until > now && size.is_none_or(|size| size >= wait.smallest / 2)
            });
            let refuses = words.refuses > now;
            let lacks = !all_lack && words.lacks[deployment] > now;
            self.check(said || refuses || lacks, || {
                format!("at {now:?} {size:?} refused, though backend {backend} said nothing against it: {words:?}")
            });
        }
    }

    /// A client is not told to wait for longer than any state lasts.
    pub(crate) fn check_wait(&self, wait: Duration, rules: &Cooldown) {
        let longest = rules.longest.max(rules.misconfigured);
        self.check(wait <= longest && !wait.is_zero(), || format!("{wait:?}"));
    }

    /// No state lasts longer than its bound.
    pub(crate) fn check_bounds(
        &self,
        backend: usize,
        health: &Health,
        rules: &Cooldown,
        now: Timestamp,
    ) {
        for wait in health.quota_waits(now) {
            let left = wait.until.since(now);
            self.check(left <= rules.longest, || {
                format!("backend {backend} is throttled for {left:?}")
            });
        }
        let until = health.trouble(now).and_then(|(_, until)| until);
        let left = until.map(|until| until.since(now));
        let longest = rules.longest.max(rules.misconfigured);
        self.check(left.is_none_or(|left| left <= longest), || {
            format!("backend {backend} is in cooldown for {left:?}")
        });
    }
}
