//! What one worker knows of all backends, and the choice among them.
//!
//! Preference comes before refusal. A request goes to a backend that is free; else to one that recovers; else to one that
//! advised to wait, the earliest end first; else to one whose breaker is open. Only where every backend asked to wait, refuses the
//! identity or was tried already, the request is refused, and even then one request a second finds out whether that is still true.

use std::time::Duration;

use crate::core::config::{Apis, Backend, Config, Policy, Unlisted};
use crate::core::demand::{Demand, QuotaKey};
use crate::core::exchange::NoRetry;
use crate::core::health::{Health, Standing};
use crate::core::plan::{BackendSet, Plan};
use crate::core::request::deployment_id;
use crate::core::schedule::{Schedule, Usable};
use crate::core::time::Timestamp;

use super::capacity::Capacities;

/// A worker's view of its backends.
#[derive(Clone, Debug)]
pub struct View {
    schedule: Schedule,
    policy: Policy,
    health: Vec<Health>,
    capacities: Capacities,
    offers: Vec<Offer>,
    /// By its configuration every backend has everything.
    offers_are_open: bool,
    all: BackendSet,
    /// The backends that cannot be asked now: their identities have no access token.
    tokenless: BackendSet,
    /// Every backend is free for all and everything, so that nobody needs to look closer.
    plain: bool,
    /// Some backend is known to lack a deployment or an API.
    lacking: bool,
    /// Some backend has quotas that were refused, or lacks something.
    tells_deployments_apart: bool,
}

/// What a backend has, by its configuration.
#[derive(Clone, Debug)]
struct Offer {
    /// Its deployments, where the configuration names all of them.
    deployments: Option<Vec<u64>>,
    apis: Apis,
}

/// A backend that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It is free.
    Free(usize),
    /// It recovers: it may be used by an attempt that it admits.
    Recovering(usize),
    /// It recovers and admits no more, and no other backend is free.
    Crowded(usize),
    /// It advised to wait, and nothing better is left.
    Soft(usize),
    /// Its breaker is open, and nothing better is left.
    Failing(usize),
    /// It asked to wait or refuses the identity, as all others do: an attempt finds out whether that is still true.
    Trial(usize),
}

impl Choice {
    /// The backend.
    pub fn backend(self) -> usize {
        match self {
            Self::Free(backend)
            | Self::Recovering(backend)
            | Self::Crowded(backend)
            | Self::Soft(backend)
            | Self::Failing(backend)
            | Self::Trial(backend) => backend,
        }
    }
}

/// The backends that did not let an attempt begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Declined {
    /// They recover and admit no more.
    pub crowded: BackendSet,
    /// Another request makes their trial.
    pub tested: BackendSet,
}

/// Why there was none to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// No backend has the API, by the configuration.
    NoApi,
    /// No backend has the deployment, by the configuration.
    NoDeployment,
    /// There may be one for a request that has a token, and there is no token.
    NoToken,
    /// The request has been to every one.
    AllTried,
    /// Those that are left are in cooldown.
    AllOut(Wait),
}

impl From<NoChoice> for NoRetry {
    fn from(none: NoChoice) -> Self {
        match none {
            NoChoice::NoApi | NoChoice::NoDeployment | NoChoice::AllTried => {
                Self::BackendsExhausted
            }
            NoChoice::NoToken | NoChoice::AllOut(_) => Self::BackendsOut,
        }
    }
}

/// How long until a backend may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The smallest of all waits.
    pub left: Duration,
    /// One of them at least is for a used-up quota, which time alone brings back.
    pub throttled: bool,
}

/// Backends by how they stand for one request.
#[derive(Clone, Copy, Debug, Default)]
struct Sorted {
    free: BackendSet,
    recovering: BackendSet,
    /// The one whose advice to wait ends first.
    soft: Option<(Timestamp, usize)>,
    failing: BackendSet,
    closed: BackendSet,
}

impl View {
    /// The backends of `config`, of which nothing is known.
    pub fn new(config: &Config) -> Self {
        let backends = config.backends.len();
        let offers: Vec<_> = config.backends.iter().map(Offer::of).collect();
        Self {
            schedule: Schedule::new(&config.backends),
            policy: config.policy,
            health: vec![Health::default(); backends],
            capacities: Capacities::new(backends),
            offers_are_open: offers.iter().all(Offer::is_open),
            offers,
            all: (0..backends).collect(),
            tokenless: BackendSet::default(),
            plain: true,
            lacking: false,
            tells_deployments_apart: false,
        }
    }

    /// Whether every backend is free for all and everything: then the time does not matter.
    pub fn is_plain(&self) -> bool {
        self.plain && self.policy == Policy::RoundRobin
    }

    /// Whether it matters which deployment a request names: quotas differ, or a backend lacks a deployment.
    pub fn tells_deployments_apart(&self) -> bool {
        self.tells_deployments_apart || self.policy == Policy::LeastThrottled
    }

    /// What is known of a backend's health.
    pub fn health(&self, backend: usize) -> Option<&Health> {
        self.health.get(backend)
    }

    /// Takes over what was found of a backend's health.
    pub fn set_health(&mut self, backend: usize, health: Health) {
        if let Some(known) = self.health.get_mut(backend) {
            *known = health;
        }
        let mut health = self.health.iter();
        self.plain = health.clone().all(Health::is_plain);
        self.lacking = health.clone().any(Health::lacks_any);
        self.tells_deployments_apart = health.any(Health::tells_deployments_apart);
    }

    /// These backends cannot be asked now: their identities have no access token.
    pub fn set_tokenless(&mut self, backends: BackendSet) {
        self.tokenless = backends;
    }

    /// An answer said how many tokens are left of a backend's quota. Some say 0 or -1 for "unknown".
    pub fn set_capacity(&mut self, backend: usize, quota: QuotaKey, tokens: i64, at: Timestamp) {
        self.capacities.set(backend, quota, tokens, at);
    }

    /// The backend that the request with this `plan` goes to next, other than those that `declined`.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(
        &self,
        plan: &Plan,
        declined: &Declined,
        demand: &Demand,
        now: Timestamp,
    ) -> Result<Choice, NoChoice> {
        let offering = self.offering(demand);
        if offering.is_empty() {
            return Err(self.nothing_offered(demand));
        }
        let candidates = self.having(offering, demand, now).without(plan.tried);
        let candidates = candidates.without(self.tokenless);
        let sorted = self.sort(candidates, demand, now);
        let pick = |usable: Usable| match self.policy {
            Policy::RoundRobin => self.schedule.pick(plan.turn, &usable),
            Policy::LeastThrottled => {
                let capacity = |index| self.capacities.get(index, demand.quota, now);
                self.schedule.pick_by_capacity(plan.turn, &usable, capacity)
            }
        };
        let all = |free: BackendSet| Usable {
            free,
            due: BackendSet::default(),
        };
        let recovering = sorted.recovering.without(declined.crowded);
        let usable = Usable {
            free: sorted.free,
            due: recovering,
        };
        if let Some(index) = pick(usable) {
            return Ok(match recovering.contains(index) {
                true => Choice::Recovering(index),
                false => Choice::Free(index),
            });
        }
        if let Some(index) = pick(all(sorted.recovering)) {
            return Ok(Choice::Crowded(index));
        }
        if let Some((_, index)) = sorted.soft {
            return Ok(Choice::Soft(index));
        }
        if let Some(index) = pick(all(sorted.failing)) {
            return Ok(Choice::Failing(index));
        }
        if self.waits_for_token(offering.without(plan.tried)) {
            return Err(NoChoice::NoToken);
        }
        if !plan.has_tested {
            let due = self.those(sorted.closed.without(declined.tested));
            let due = due.filter(|(_, health)| health.trial_is_due(demand, now));
            if let Some(index) = pick(all(due.map(|(index, _)| index).collect())) {
                return Ok(Choice::Trial(index));
            }
        }
        Err(self.wait(candidates, demand, now))
    }

    /// The backends that meet the demand, by their configuration.
    fn offering(&self, demand: &Demand) -> BackendSet {
        if self.offers_are_open {
            return self.all;
        }
        let offers = self.offers.iter().enumerate();
        let meeting = offers.filter(|(_, offer)| offer.meets(demand));
        meeting.map(|(index, _)| index).collect()
    }

    /// Those of the `offering` that did not say they lack what is demanded. Where all of them say so, that is no reason to choose
    /// none: the answer is for them to give.
    fn having(&self, offering: BackendSet, demand: &Demand, now: Timestamp) -> BackendSet {
        if !self.lacking {
            return offering;
        }
        let health = self.health.iter().enumerate();
        let lacking = health.filter(|(_, health)| health.lacks(demand, now));
        let having = offering.without(lacking.map(|(index, _)| index).collect());
        match having.is_empty() {
            true => offering,
            false => having,
        }
    }

    fn sort(&self, candidates: BackendSet, demand: &Demand, now: Timestamp) -> Sorted {
        let mut sorted = Sorted::default();
        if self.plain {
            sorted.free = candidates;
            return sorted;
        }
        for (index, health) in self.those(candidates) {
            match health.standing(demand, now) {
                Standing::Free => sorted.free.add(index),
                Standing::Recovering => sorted.recovering.add(index),
                Standing::Soft(until) => {
                    sorted.soft = sorted.soft.into_iter().chain([(until, index)]).min();
                }
                Standing::Failing(_) => sorted.failing.add(index),
                Standing::Throttled(_) | Standing::Misconfigured(_) => sorted.closed.add(index),
            }
        }
        sorted
    }

    fn those(&self, backends: BackendSet) -> impl Iterator<Item = (usize, &Health)> {
        let health = self.health.iter().enumerate();
        health.filter(move |(index, _)| backends.contains(*index))
    }

    fn nothing_offered(&self, demand: &Demand) -> NoChoice {
        let api = Demand {
            deployment: None,
            ..*demand
        };
        match self.offering(&api).is_empty() {
            true => NoChoice::NoApi,
            false => NoChoice::NoDeployment,
        }
    }

    /// How long until a request of this `demand` makes sense, where every backend of the `plan` asked to wait.
    pub fn wait_of_all(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Option<Duration> {
        let candidates = self.having(self.offering(demand), demand, now);
        let candidates = candidates.without(plan.tried).without(self.tokenless);
        let waits = self.those(candidates);
        let mut waits = waits.map(|(_, health)| match health.standing(demand, now) {
            Standing::Soft(until) | Standing::Throttled(until) | Standing::Misconfigured(until) => {
                Some(until.since(now))
            }
            Standing::Free | Standing::Recovering | Standing::Failing(_) => None,
        });
        waits.try_fold(None, |least: Option<Duration>, wait| {
            let wait = wait?;
            Some(Some(least.map_or(wait, |least| least.min(wait))))
        })?
    }

    /// Why none of the `candidates` can be chosen.
    #[inline(never)]
    fn wait(&self, candidates: BackendSet, demand: &Demand, now: Timestamp) -> NoChoice {
        let waits = self.those(candidates);
        let waits = waits.filter_map(|(_, health)| match health.standing(demand, now) {
            Standing::Throttled(until) => Some((until.since(now), true)),
            Standing::Misconfigured(until) => Some((until.since(now), false)),
            _ => None,
        });
        let wait = waits.fold(None, |wait: Option<Wait>, (left, throttled)| {
            Some(wait.map_or(Wait { left, throttled }, |wait| Wait {
                left: wait.left.min(left),
                throttled: wait.throttled | throttled,
            }))
        });
        wait.map_or(NoChoice::AllTried, NoChoice::AllOut)
    }

    /// Whether one of these would be asked if it had a token.
    fn waits_for_token(&self, untried: BackendSet) -> bool {
        untried.without(self.tokenless) != untried
    }
}

impl Offer {
    fn of(backend: &Backend) -> Self {
        let deployments = &backend.deployments;
        let names = deployments.names().map(deployment_id);
        Self {
            deployments: (deployments.unlisted == Unlisted::Refuse).then(|| names.collect()),
            apis: backend.apis.clone(),
        }
    }

    fn is_open(&self) -> bool {
        self.deployments.is_none() && self.apis == Apis::All
    }

    fn meets(&self, demand: &Demand) -> bool {
        let deployment = match (&self.deployments, demand.deployment) {
            (Some(offered), Some(deployment)) => offered.contains(&deployment),
            _ => true,
        };
        deployment && demand.api.is_none_or(|api| self.apis.include(api))
    }
}
