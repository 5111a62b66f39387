//! Which backend an attempt goes to, and whether there may be another attempt.

use std::time::Duration;

use super::Backends;
use crate::core::budget::Budget;
use crate::core::config::Config;
use crate::core::exchange::{Chosen, NoRetry};
use crate::core::fleet::{Choice, Demand, NoChoice};
use crate::core::health::Claim;
use crate::core::outcome::Outcome;
use crate::core::plan::{BackendSet, Plan};
use crate::core::time::Timestamp;
use crate::filter::host::{self, HostError};
use crate::filter::swap::swap_shared;

impl Backends {
    /// Chooses the backend that the request with this `plan` goes to next, and claims the probe if it is one.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::filter) fn choose(
        &self,
        config: &Config,
        plan: &Plan,
        demand: Demand,
    ) -> Result<Chosen, NoChoice> {
        // Each round that is lost to another worker's probe leaves one backend less to choose.
        for _ in 0..=self.health_keys.len() {
            let now = self.now_if_it_matters();
            let (backend, probe) = match self.look(plan, demand, now)? {
                Choice::Free(backend) => (backend, None),
                Choice::Probe(backend) => match self.claim(config, backend, now) {
                    Ok(None) => continue,
                    Ok(claim) => (backend, claim),
                    // If the host is in the way, a backend is better probed twice than never.
                    Err(_) => (backend, None),
                },
            };
            return Ok(Chosen { backend, probe });
        }
        Err(NoChoice::AllTried)
    }

    /// The same without a claim.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::filter) fn foresee(
        &self,
        plan: &Plan,
        demand: Demand,
    ) -> Result<usize, NoChoice> {
        match self.look(plan, demand, self.now_if_it_matters())? {
            Choice::Free(backend) | Choice::Probe(backend) => Ok(backend),
        }
    }

    /// Chooses the backend for another attempt, after one with this `outcome`.
    ///
    /// # Errors
    /// There is none, or the budget is spent.
    pub(in crate::filter) fn choose_next(
        &self,
        config: &Config,
        plan: &Plan,
        demand: Demand,
        outcome: Outcome,
    ) -> Result<Chosen, NoRetry> {
        self.foresee(plan, demand).map_err(no_retry)?;
        self.withdraw(config, plan, outcome)?;
        self.choose(config, plan, demand).map_err(no_retry)
    }

    /// The same where it was foreseen: the router is there already.
    ///
    /// # Errors
    /// Nothing was foreseen, or the budget is spent.
    pub(in crate::filter) fn choose_foreseen(
        &self,
        config: &Config,
        plan: &Plan,
        demand: Demand,
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
            tried: BackendSet::all_but(backend, self.health_keys.len()),
            ..*plan
        };
        let chosen = self.choose(config, &only, demand);
        // One that is out since a moment ago is asked all the same: there is no going back.
        Ok(chosen.unwrap_or(Chosen {
            backend,
            probe: None,
        }))
    }

    /// How long until one of the `plan`'s backends may be used again, if every one is out now.
    pub(in crate::filter) fn all_out(&self, plan: &Plan, demand: Demand) -> Option<Duration> {
        match self.look(plan, demand, self.now_if_it_matters()) {
            Err(NoChoice::AllOut(wait)) => Some(wait.left),
            _ => None,
        }
    }

    fn look(&self, plan: &Plan, demand: Demand, now: Timestamp) -> Result<Choice, NoChoice> {
        let fleet = self.fleet.try_borrow().map_err(|_| NoChoice::AllTried)?;
        fleet.choose(plan, demand, now)
    }

    /// The time, unless the choice does not depend on it: asking for it is a host call.
    fn now_if_it_matters(&self) -> Timestamp {
        match self.fleet.try_borrow().is_ok_and(|fleet| fleet.is_plain()) {
            true => Timestamp::default(),
            false => host::now(),
        }
    }

    fn claim(
        &self,
        config: &Config,
        backend: usize,
        now: Timestamp,
    ) -> Result<Option<Claim>, HostError> {
        // The longest that an attempt can take, by either engine.
        let limit = config.retry.per_try_timeout;
        self.change(backend, |health| health.claim_probe(now, limit))
    }

    /// Takes a retry out of the budget.
    fn withdraw(&self, config: &Config, plan: &Plan, outcome: Outcome) -> Result<(), NoRetry> {
        // A refusal costs a backend nothing, so there is nothing to save; what fails may be overloaded.
        let (Outcome::Unavailable, Some(rules)) = (outcome, &config.retry.budget) else {
            return Ok(());
        };
        let now = host::now();
        let withdrawn = swap_shared(&self.budget_key, |bytes| {
            let mut budget =
                Budget::decode(bytes).unwrap_or_else(|| Budget::new(rules, plan.turn, now));
            (
                budget.withdraw(rules, plan.turn, now),
                Some(budget.encode()),
            )
        });
        match withdrawn {
            Ok(false) => Err(NoRetry::BudgetSpent),
            Ok(true) | Err(_) => Ok(()),
        }
    }
}

fn no_retry(none: NoChoice) -> NoRetry {
    match none {
        NoChoice::NoApi | NoChoice::NoDeployment | NoChoice::AllTried => NoRetry::BackendsExhausted,
        NoChoice::NoToken | NoChoice::AllOut(_) => NoRetry::BackendsOut,
    }
}
