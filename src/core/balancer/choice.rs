//! The choice of a backend, with as few clock reads and copies as possible.

use core::time::Duration;

use super::Balancer;
use crate::attempts::{Because, Chosen};
use crate::demand::Demand;
use crate::fleet::NoChoice;
use crate::host::Host;
use crate::no_retry::NoRetry;
use crate::outcome::Outcome;
use crate::plan::Plan;
use crate::time::Timestamp;
use crate::why::{Obstacle, Why};

impl<H: Host> Balancer<H> {
    fn time_of_choice(&self) -> Timestamp {
        self.fleet.time_of_choice(&|| self.host.now())
    }

    /// Chooses the next backend of the request with this `plan`.
    ///
    /// # Errors
    /// No backend is available.
    pub fn choose(&self, plan: &Plan, demand: impl FnOnce() -> Demand) -> Result<Chosen, NoChoice> {
        match self.fleet.choose_fast(plan) {
            Some(chosen) => Ok(chosen),
            None => self.choose_for(plan, &demand()),
        }
    }

    #[inline(never)]
    fn choose_for(&self, plan: &Plan, demand: &Demand) -> Result<Chosen, NoChoice> {
        self.fleet.choose(plan, demand, self.time_of_choice())
    }

    /// The backend that would be chosen now.
    ///
    /// # Errors
    /// No backend is available.
    pub fn foresee(&self, plan: &Plan, demand: impl FnOnce() -> Demand) -> Result<usize, NoChoice> {
        match self.fleet.choose_fast(plan) {
            Some(chosen) => Ok(chosen.backend),
            None => self.foresee_for(plan, &demand()),
        }
    }

    #[inline(never)]
    fn foresee_for(&self, plan: &Plan, demand: &Demand) -> Result<usize, NoChoice> {
        self.fleet.foresee(plan, demand, self.time_of_choice())
    }

    /// Chooses the backend of another attempt, after one with this `outcome`.
    ///
    /// # Errors
    /// No backend is available, or the retry budget is spent.
    pub fn choose_next(
        &self,
        plan: &Plan,
        demand: &Demand,
        outcome: Outcome,
    ) -> Result<Chosen, NoRetry> {
        self.fleet
            .choose_next(&self.config.retry, plan, demand, outcome, &|| {
                self.host.now()
            })
    }

    /// Chooses the foreseen backend of another attempt, to which the router has already gone.
    ///
    /// # Errors
    /// No backend was foreseen, or the retry budget is spent.
    pub fn choose_foreseen(
        &self,
        plan: &Plan,
        demand: &Demand,
        foreseen: Option<usize>,
        outcome: Outcome,
    ) -> Result<Chosen, NoRetry> {
        let Some(backend) = foreseen else {
            self.foresee_for(plan, demand)?;
            // A backend has become free since the router went on.
            return Err(NoRetry::BackendsInCooldown);
        };
        self.fleet
            .withdraw_after(&self.config.retry, plan, outcome, &|| self.host.now())?;
        let only = Plan {
            tried: self.all_but(backend),
            ..*plan
        };
        // A foreseen backend that became unavailable meanwhile gets the attempt anyway, because the router cannot be
        // redirected.
        Ok(self.choose_for(&only, demand).unwrap_or(Chosen {
            backend,
            because: Because::Foreseen,
            began: Timestamp::default(),
        }))
    }

    /// The shortest time until a backend of the `plan` can serve this `demand`, if all of them requested a wait.
    pub fn wait_of_all(&self, plan: &Plan, demand: &Demand) -> Option<Duration> {
        let now = self.time_of_choice();
        self.fleet.wait_of_all(plan, demand, now)
    }

    /// Explains why each untried backend of this `plan` was not chosen.
    #[inline(never)]
    pub fn explain(&self, plan: &Plan, demand: &Demand, why: &mut Why) {
        let now = self.host.now();
        for (index, obstacle) in self.fleet.obstacles(plan, demand, now) {
            let obstacle = match obstacle {
                Obstacle::Standing(_) if self.credentials.of(index).is_none() => Obstacle::NoToken,
                obstacle => obstacle,
            };
            if let Some(backend) = self.config.backends.get(index) {
                why.not_chosen(&backend.name, obstacle, now);
            }
        }
    }
}
