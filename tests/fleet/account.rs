//! A second account of what the backends answered. It checks every choice and every refusal.

use std::collections::HashSet;
use std::time::Duration;

use azure_openai_balancer::core::config::{Config, Cooldown};
use azure_openai_balancer::core::demand::{Client, Demand};
use azure_openai_balancer::core::health::Health;
use azure_openai_balancer::core::outcome::Outcome;
use azure_openai_balancer::core::time::Timestamp;

use super::driver::Journey;
use super::simulation::DEPLOYMENTS;

/// The time for which the sizes of refused requests count for later waits.
const LATELY: Duration = Duration::from_secs(60);

/// The most by which a wait that was too short may be extended.
const STRETCHED: Duration = Duration::from_secs(4);

/// The number of refused clients from which on a wait binds all clients.
const ENOUGH: usize = 3;

/// One backend's answers.
#[derive(Clone, Debug, Default)]
struct Words {
    /// The waits of each deployment.
    waits: [Vec<Wait>; DEPLOYMENTS.len()],
    /// The time of the last refusal of the identity, and the end of that refusal.
    refused_at: Timestamp,
    refuses: Timestamp,
    /// For each deployment, the time when the backend last answered that it lacks it, and until when that counts.
    lacks: [(Timestamp, Timestamp); DEPLOYMENTS.len()],
    /// For each deployment's quota, the trials since an attempt was accepted.
    trials: [Trials; DEPLOYMENTS.len()],
    /// The last trial of the identity.
    access_trial: Option<Timestamp>,
}

/// The trials, less one for each second and ten for each accepted attempt.
#[derive(Clone, Copy, Debug, Default)]
struct Trials {
    made: f64,
    last: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    said_at: Timestamp,
    until: Timestamp,
    /// The size of the refused request.
    size: u32,
    client: Client,
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
            for trials in &mut words.trials {
                trials.last = None;
            }
            words.access_trial = None;
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
        let words = &mut self.backends[journey.attempts.backend()];
        match outcome {
            Outcome::Success => {
                let began = journey.attempts.chosen().began;
                // A larger request may still be refused.
                let waits = &mut words.waits[deployment];
                let contradicts = |wait: &Wait| {
                    wait.said_at < began && demand.size.is_none_or(|size| size >= wait.size)
                };
                if waits.iter().all(contradicts) {
                    waits.clear();
                }
                // An answer to an earlier attempt does not contradict a refusal.
                if began > words.refused_at {
                    words.refuses = Timestamp::default();
                }
            }
            Outcome::Throttled if !journey.request.names_unread_deployment() => {
                let wait = stated.map_or(rules.throttled, |wait| wait.max(rules.shortest));
                let until = now + wait.min(rules.longest);
                let waits = &mut words.waits[deployment];
                waits.retain(|wait| wait.until + LATELY > now);
                waits.push(Wait {
                    said_at: now,
                    until,
                    size: demand.size.unwrap_or_default(),
                    client: demand.client,
                });
            }
            Outcome::PermissionDenied | Outcome::BadToken => {
                words.refused_at = now;
                words.refuses = now + rules.misconfigured;
            }
            Outcome::DeploymentNotFound => {
                words.lacks[deployment] = (now, now + rules.misconfigured);
            }
            _ => {}
        }
    }

    pub(crate) fn check_sent(&self, attempts: u8, config: &Config) {
        self.check(attempts <= config.retry.max_attempts, || {
            format!("attempt {attempts}")
        });
    }

    /// The first five trials of a quota may come at once, and further ones once a second. Trials of an identity come
    /// once a second. An attempt that is not refused makes up for ten.
    pub(crate) fn check_trial(
        &mut self,
        backend: usize,
        deployment: usize,
        of_identity: bool,
        now: Timestamp,
    ) {
        let words = &mut self.backends[backend];
        if of_identity {
            let last = words.access_trial.replace(now);
            let pause = last.map(|last| now.since(last));
            let is_long = pause.is_none_or(|pause| pause >= Duration::from_secs(1));
            self.check(is_long, || format!("trials of {backend} within {pause:?}"));
            return;
        }
        let trials = &mut words.trials[deployment];
        let last = trials.last.replace(now);
        let passed = last.map_or(0.0, |last| now.since(last).as_secs_f64());
        trials.made = (trials.made - passed).max(trials.made.min(0.0)) + 1.0;
        let made = trials.made;
        self.check(made <= 9.0, || {
            format!("{made} trials of {backend} for {deployment} at once")
        });
    }

    /// A backend does not refuse an attempt with 429.
    pub(crate) fn note_accepted(&mut self, backend: usize, deployment: usize) {
        let trials = &mut self.backends[backend].trials[deployment];
        trials.made = (trials.made - 10.0).max(-40.0);
    }

    /// A request may be refused only if no backend is left. A backend is left if it does not refuse the identity, and
    /// asked neither this client to wait nor so many clients that the quota must be used up.
    pub(crate) fn check_refusal(&self, journey: &Journey, deployment: usize, now: Timestamp) {
        let Demand { size, client, .. } = journey.request.demand();
        // Answers from before the clock was set back may be forgotten.
        let all_lack = self.backends.iter().all(|words| {
            let (said_at, until) = words.lacks[deployment];
            said_at <= now && until > now
        });
        for (backend, words) in self.backends.iter().enumerate() {
            let waits = || words.waits[deployment].iter();
            let smallest = waits().map(|wait| wait.size).min().unwrap_or_default();
            let lasting = waits().filter(|wait| wait.until + STRETCHED > now);
            let clients: HashSet<_> = lasting.map(|wait| wait.client.number()).collect();
            let said = (clients.contains(&client.number()) || clients.len() >= ENOUGH)
                && size.is_none_or(|size| size >= smallest / 2);
            let refuses = words.refuses > now;
            let lacks = !all_lack && words.lacks[deployment].1 > now;
            self.check(said || refuses || lacks, || {
                format!("at {now:?} {size:?} refused, though backend {backend} said nothing against it: {words:?}")
            });
        }
    }

    /// No wait sent to a client is longer than any state lasts.
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
