//! The backends on one worker: the [fleet](Fleet) over Envoy's shared data and clock, and the gauges that show it.

use std::time::Duration;

use super::announce::Gauges;
use super::host::{self, HostError};
use super::swap::SharedData;
use crate::core::config::Config;
use crate::core::demand::{Demand, QuotaKey};
use crate::core::exchange::{Because, Chosen, Lesson, NoRetry};
use crate::core::fleet::{Fleet, Names, NoChoice, Openings};
use crate::core::health::Change;
use crate::core::outcome::Outcome;
use crate::core::plan::{BackendSet, Plan};
use crate::core::time::Timestamp;
use crate::core::why::{Obstacle, Why};

/// One worker's view of the backends.
pub(crate) struct Backends {
    fleet: Fleet<SharedData>,
    gauges: Vec<Gauges>,
    names: Names<SharedData>,
}

impl Backends {
    /// The view of the backends of `config`, and the shared values that no other worker has made.
    #[inline(never)]
    pub(crate) fn new(config: &Config) -> Result<Self, HostError> {
        Ok(Self {
            fleet: Fleet::new(SharedData, config, host::entropy(), host::now())?,
            gauges: config
                .backends
                .iter()
                .map(Gauges::of)
                .collect::<Result<_, _>>()?,
            names: Names::new(SharedData, config)?,
        })
    }

    /// Takes over what other workers learnt, for a request that takes no turn.
    pub(crate) fn look_around(&self) {
        self.fleet.look_around();
    }

    /// What is free now for requests that wait.
    pub(super) fn openings(&self, now: Timestamp) -> Openings<'_, SharedData> {
        self.fleet.openings(now)
    }

    /// Draws a request's turn, and takes over what other workers learnt.
    pub(crate) fn draw(&self) -> u64 {
        self.fleet.draw()
    }

    /// Chooses the backend that the request with this `plan` goes to next.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::filter) fn choose(
        &self,
        plan: &Plan,
        demand: impl FnOnce() -> Demand,
    ) -> Result<Chosen, NoChoice> {
        match self.fleet.choose_plainly(plan) {
            Some(chosen) => Ok(chosen),
            None => self.choose_for(plan, &demand()),
        }
    }

    #[inline(never)]
    fn choose_for(&self, plan: &Plan, demand: &Demand) -> Result<Chosen, NoChoice> {
        self.fleet
            .choose(plan, demand, self.fleet.time_of_choice(&host::now))
    }

    /// The backend that would be chosen now.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::filter) fn foresee(
        &self,
        plan: &Plan,
        demand: impl FnOnce() -> Demand,
    ) -> Result<usize, NoChoice> {
        match self.fleet.choose_plainly(plan) {
            Some(chosen) => Ok(chosen.backend),
            None => self.foresee_for(plan, &demand()),
        }
    }

    #[inline(never)]
    fn foresee_for(&self, plan: &Plan, demand: &Demand) -> Result<usize, NoChoice> {
        self.fleet
            .foresee(plan, demand, self.fleet.time_of_choice(&host::now))
    }

    /// Chooses the backend for another attempt, after one with this `outcome`.
    ///
    /// # Errors
    /// There is none, or the budget is spent.
    pub(in crate::filter) fn choose_next(
        &self,
        config: &Config,
        plan: &Plan,
        demand: &Demand,
        outcome: Outcome,
    ) -> Result<Chosen, NoRetry> {
        self.fleet
            .choose_next(&config.retry, plan, demand, outcome, &host::now)
    }

    /// [`Self::choose_next`] where it was foreseen: the router is there already.
    ///
    /// # Errors
    /// Nothing was foreseen, or the budget is spent.
    pub(in crate::filter) fn choose_foreseen(
        &self,
        config: &Config,
        plan: &Plan,
        demand: &Demand,
        foreseen: Option<usize>,
        outcome: Outcome,
    ) -> Result<Chosen, NoRetry> {
        let Some(backend) = foreseen else {
            self.foresee_for(plan, demand)?;
            // One has become free a moment ago.
            return Err(NoRetry::BackendsOut);
        };
        self.fleet
            .withdraw_after(&config.retry, plan, outcome, &host::now)?;
        let only = Plan {
            tried: BackendSet::all_but(backend, self.gauges.len()),
            ..*plan
        };
        // A backend that is out since a moment ago is asked all the same: there is no going back.
        Ok(self.choose_for(&only, demand).unwrap_or(Chosen {
            backend,
            because: Because::Foreseen,
            began: Timestamp::default(),
        }))
    }

    /// How long until a request of this `demand` makes sense, where every backend of the `plan` asked to wait.
    pub(in crate::filter) fn wait_of_all(&self, plan: &Plan, demand: &Demand) -> Option<Duration> {
        let now = self.fleet.time_of_choice(&host::now);
        self.fleet.wait_of_all(plan, demand, now)
    }

    /// Explains why no backend was chosen that the request with this `plan` has not been to. For those that are `tokenless` there is no
    /// credential.
    #[inline(never)]
    pub(in crate::filter) fn explain(
        &self,
        config: &Config,
        plan: &Plan,
        demand: &Demand,
        tokenless: &dyn Fn(usize) -> bool,
        why: &mut Why,
    ) {
        let now = host::now();
        for (index, obstacle) in self.fleet.obstacles(plan, demand, now) {
            let obstacle = match obstacle {
                Obstacle::Standing(_) if tokenless(index) => Obstacle::NoToken,
                obstacle => obstacle,
            };
            if let Some(backend) = config.backends.get(index) {
                why.not_asked(&backend.name, obstacle, now);
            }
        }
    }

    /// Learns from an answer of `backend` that it did not have to know of. `false` where that may be news.
    pub(crate) fn learn_plainly(&self, backend: usize) -> bool {
        self.fleet.take_plainly(backend, &host::now)
    }

    /// Learns from the end of an attempt.
    pub(crate) fn learn(&self, config: &Config, lesson: &Lesson) -> Option<Change> {
        self.fleet.take(&config.cooldown, lesson, &host::now)
    }

    /// The quota of the deployment called `name` was refused.
    pub(crate) fn learn_name(&self, name: &str) {
        self.names.learn(name);
    }

    /// A backend did not have the deployment that a request named in its body, which was not read.
    pub(crate) fn note_unread_deployment(&self) {
        self.fleet.note_unread_deployment(host::now());
    }

    /// Whether it matters which deployment a request names in its body.
    pub(crate) fn names_matter(&self) -> bool {
        self.fleet.names_matter()
    }

    /// These backends cannot be asked now: their identities have no access token.
    pub(crate) fn set_tokenless(&self, backends: BackendSet) {
        self.fleet.set_tokenless(backends);
    }

    /// An answer of `backend` said how many tokens are left of a quota.
    pub(crate) fn note_capacity(&self, backend: usize, quota: QuotaKey, tokens: i64) {
        self.fleet
            .note_capacity(backend, quota, tokens, host::now());
    }

    /// Lets every backend recover that refused an older access token than there is now. `generation` is that of a backend's token.
    pub(crate) fn admit_tokens(&self, generation: &dyn Fn(usize) -> Option<u32>, now: Timestamp) {
        self.fleet.admit_tokens(generation, now);
    }

    /// Takes over what other workers learnt, forgets what is over, and shows how things stand.
    #[inline(never)]
    pub(crate) fn on_tick(&self, config: &Config, now: Timestamp) {
        self.fleet.on_tick(now);
        let backends = config.backends.iter().zip(&self.gauges);
        for (index, (backend, gauges)) in backends.enumerate() {
            if let Some(health) = self.fleet.health(index) {
                gauges.show(backend, &health, &self.names, now);
            }
        }
    }
}
