//! The backends on one worker: the [fleet](Fleet) over Envoy's shared data and clock, and the gauges that show it.

use std::time::Duration;

use super::announce::Gauges;
use super::host::{self, HostError};
use super::swap::SharedData;
use crate::core::config::Config;
use crate::core::demand::{Demand, QuotaKey};
use crate::core::exchange::{Because, Chosen, NoRetry};
use crate::core::fleet::{Fleet, NoChoice};
use crate::core::health::{Change, Finding, Seen};
use crate::core::outcome::Outcome;
use crate::core::plan::{BackendSet, Plan};
use crate::core::time::Timestamp;

/// One worker's view of the backends.
pub(crate) struct Backends {
    fleet: Fleet<SharedData>,
    gauges: Vec<Gauges>,
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
        })
    }

    /// Takes over what other workers learnt, for a request that takes no turn.
    pub(crate) fn look_around(&self) {
        self.fleet.look_around();
    }

    /// Draws a request's turn, and takes over what other workers learnt.
    pub(crate) fn draw(&self) -> u64 {
        self.fleet.draw()
    }

    /// The time, unless the choice does not depend on it: asking for it is a host call.
    fn now_if_it_matters(&self) -> Timestamp {
        match self.fleet.needs_time() {
            true => host::now(),
            false => Timestamp::default(),
        }
    }

    /// Chooses the backend that the request with this `plan` goes to next.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::filter) fn choose(
        &self,
        plan: &Plan,
        demand: &Demand,
    ) -> Result<Chosen, NoChoice> {
        self.fleet.choose(plan, demand, self.now_if_it_matters())
    }

    /// The backend that would be chosen now.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::filter) fn foresee(
        &self,
        plan: &Plan,
        demand: &Demand,
    ) -> Result<usize, NoChoice> {
        self.fleet.foresee(plan, demand, self.now_if_it_matters())
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
        let now = self.now_if_it_matters();
        let choice = self.fleet.has_choice(plan, demand, now);
        choice.map_err(no_retry)?;
        self.withdraw(config, plan, outcome)?;
        self.fleet.choose(plan, demand, now).map_err(no_retry)
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
            self.foresee(plan, demand).map_err(no_retry)?;
            // One has become free a moment ago.
            return Err(NoRetry::BackendsOut);
        };
        self.withdraw(config, plan, outcome)?;
        let only = Plan {
            tried: BackendSet::all_but(backend, self.gauges.len()),
            ..*plan
        };
        // A backend that is out since a moment ago is asked all the same: there is no going back.
        Ok(self.choose(&only, demand).unwrap_or(Chosen {
            backend,
            because: Because::Foreseen,
            began: Timestamp::default(),
        }))
    }

    /// How long until a request of this `demand` makes sense, where every backend of the `plan` asked to wait.
    pub(in crate::filter) fn wait_of_all(&self, plan: &Plan, demand: &Demand) -> Option<Duration> {
        let now = self.now_if_it_matters();
        self.fleet.wait_of_all(plan, demand, now)
    }

    /// Takes a retry out of the budget.
    fn withdraw(&self, config: &Config, plan: &Plan, outcome: Outcome) -> Result<(), NoRetry> {
        // A refusal costs a backend nothing, so there is nothing to save; what fails may be overloaded.
        let (Outcome::Unavailable, Some(rules)) = (outcome, &config.retry.budget) else {
            return Ok(());
        };
        match self.fleet.withdraw(rules, plan.turn, host::now()) {
            true => Ok(()),
            false => Err(NoRetry::BudgetSpent),
        }
    }

    /// Learns from an attempt on `backend`.
    pub(crate) fn learn(
        &self,
        config: &Config,
        backend: usize,
        finding: Finding,
        seen: &Seen,
    ) -> Option<Change> {
        if self.fleet.is_news(backend, finding, seen) {
            let rules = &config.cooldown;
            return self.fleet.learn(rules, backend, finding, seen, host::now());
        }
        let serves = matches!(finding, Finding::Served | Finding::Answered);
        if serves && self.fleet.count_success(backend) {
            self.fleet.note_service(backend, host::now());
        }
        None
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

    /// Takes over what other workers learnt, forgets what is over, and shows how things stand.
    #[inline(never)]
    pub(crate) fn on_tick(&self, now: Timestamp) {
        self.fleet.on_tick(now);
        for (backend, gauges) in self.gauges.iter().enumerate() {
            if let Some(health) = self.fleet.health(backend) {
                gauges.show(&health, now);
            }
        }
    }
}

fn no_retry(none: NoChoice) -> NoRetry {
    match none {
        NoChoice::NoApi | NoChoice::NoDeployment | NoChoice::AllTried => NoRetry::BackendsExhausted,
        NoChoice::NoToken | NoChoice::AllOut(_) => NoRetry::BackendsOut,
    }
}
