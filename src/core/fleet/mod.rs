//! All backends, as the workers of one Envoy share them.
//!
//! Each worker has its own [view](view::View). It writes its findings into the record of one backend by one
//! compare-and-swap. Then it increments the edition, a number stored beside the turns. Other workers read the edition
//! with every turn they draw.

mod capacity;
mod choice;
mod learning;
mod names;
mod offer;
mod openings;
mod sharing;
mod view;

use core::cell::{Cell, RefCell};
use core::time::Duration;

pub use choice::{Choice, Declined, NoChoice, Wait};
pub use names::{deployment_label, Names, UNREAD};
pub use openings::Openings;
pub use view::View;

use super::attempts::{Because, Chosen};
use super::budget::Budget;
use super::config::{Budget as BudgetRules, Config, Retry};
use super::demand::{Client, Demand, QuotaKey};
use super::health::Health;
use super::keys;
use super::no_retry::NoRetry;
use super::outcome::Outcome;
use super::plan::{BackendSet, Plan};
use super::swap::{create, swap, OftenSwapped, SharedMap, SwapError};
use super::time::Timestamp;
use super::turns::Turns;
use super::why::Obstacle;
use crate::prelude::*;

/// One worker's part of the fleet. All workers share the map `M`.
pub struct Fleet<M> {
    map: M,
    turns: OftenSwapped<[u8; Turns::SIZE]>,
    budget_key: String,
    health_keys: Vec<String>,
    view: RefCell<View>,
    /// The edition of the backends' health in the view.
    edition: Cell<Option<u32>>,
    /// The number of successful attempts of each backend, while a failure may need it.
    succeeded: RefCell<Vec<u32>>,
    /// Whether each backend's record already notes that it served recently.
    served: Vec<Cell<bool>>,
    own_turns: Cell<u64>,
    /// Until then the filter reads the names of deployments in bodies, after a refusal of a request with an unread
    /// name.
    names_matter_until: Cell<Timestamp>,
    /// Makes the cooldowns of different Envoys differ.
    seed: u64,
}

impl<M: SharedMap> Fleet<M> {
    /// Creates the fleet of `config`, and the shared values that no other worker has created. `seed` should differ
    /// between Envoys.
    ///
    /// # Errors
    /// The map refused an operation.
    #[inline(never)]
    pub fn new(
        map: M,
        config: &Config,
        seed: u64,
        now: Timestamp,
    ) -> Result<Self, SwapError<M::Error>> {
        let fleet = Self {
            map,
            turns: OftenSwapped::new(keys::turn_key(&config.backends)),
            budget_key: keys::budget_key(&config.backends),
            health_keys: config.backends.iter().map(keys::health_key).collect(),
            view: RefCell::new(View::new(config)),
            edition: Cell::default(),
            succeeded: RefCell::new(vec![0; config.backends.len()]),
            served: vec![Cell::default(); config.backends.len()],
            own_turns: Cell::default(),
            names_matter_until: Cell::default(),
            seed,
        };
        // Compare-and-swap cannot create a value, so the first configured worker creates it.
        create(&fleet.map, fleet.turns.key(), &Turns::default().encode())?;
        for key in &fleet.health_keys {
            create(&fleet.map, key, &Health::default().encode())?;
        }
        if let Some(rules) = &config.retry.budget {
            let turn = fleet.read_turns()?.next;
            let budget = Budget::new(rules, turn, now);
            create(&fleet.map, &fleet.budget_key, &budget.encode())?;
        }
        Ok(fleet)
    }

    /// Whether a choice depends on the time.
    pub fn needs_time(&self) -> bool {
        !self.view.try_borrow().is_ok_and(|view| view.is_plain())
    }

    /// The current time if the choice depends on it, otherwise zero. Reading the time is a host call.
    pub fn time_of_choice(&self, clock: &dyn Fn() -> Timestamp) -> Timestamp {
        match self.needs_time() {
            true => clock(),
            false => Timestamp::default(),
        }
    }

    /// Chooses the next backend of a request with this `plan`, without time and demand. The result equals
    /// [`Self::choose`]'s, at a lower cost. `None` if the results may differ.
    pub fn choose_fast(&self, plan: &Plan) -> Option<Chosen> {
        let backend = self.view.try_borrow().ok()?.choose_fast(plan)?;
        Some(Chosen {
            backend,
            ..Chosen::default()
        })
    }

    /// Chooses the next backend of a request with this `plan`.
    ///
    /// # Errors
    /// No backend can be chosen.
    #[inline(never)]
    pub fn choose(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Result<Chosen, NoChoice> {
        let mut declined = Declined::default();
        // Each backend can decline twice, for two reasons. Each round with a refusal leaves fewer choices.
        for _ in 0..=2 * self.health_keys.len() {
            let choice = self.look(plan, &declined, demand, now)?;
            let backend = choice.backend();
            let because = match choice {
                Choice::Free(_) => Because::Free,
                Choice::Kept(_) => Because::Kept,
                Choice::Overflowed(_) => Because::Overflowed,
                Choice::Crowded(_) => Because::Crowded,
                Choice::Soft(_) => {
                    // If the map refuses, the attempt is made anyway.
                    let _ = self.change(backend, |health| health.ask(demand, now));
                    Because::Soft
                }
                Choice::Failing(_) => Because::Panic,
                // If the map refuses, one attempt too many is better than none.
                Choice::Recovering(_) => {
                    match self.change(backend, |health| health.admit(demand, now)) {
                        Ok(false) => {
                            declined.crowded.add(backend);
                            continue;
                        }
                        Ok(true) => Because::Recovering,
                        Err(_) => Because::Crowded,
                    }
                }
                Choice::Trial(_) => {
                    match self.change(backend, |health| health.claim_trial(demand, now)) {
                        Ok(false) => {
                            declined.tested.add(backend);
                            continue;
                        }
                        Ok(true) | Err(_) => Because::Trial,
                    }
                }
            };
            self.count_attempt(backend, now);
            return Ok(Chosen {
                backend,
                because,
                began: now,
            });
        }
        Err(NoChoice::AllTried)
    }

    fn count_attempt(&self, backend: usize, now: Timestamp) {
        let counts = self
            .view
            .try_borrow()
            .is_ok_and(|view| view.counts_attempts());
        if let (true, Ok(mut view)) = (counts, self.view.try_borrow_mut()) {
            view.count_attempt(backend, now);
        }
    }

    /// Chooses the backend of a retry, after an attempt with this `outcome`.
    ///
    /// # Errors
    /// No backend can be chosen, or the retry budget is spent.
    pub fn choose_next(
        &self,
        rules: &Retry,
        plan: &Plan,
        demand: &Demand,
        outcome: Outcome,
        clock: &dyn Fn() -> Timestamp,
    ) -> Result<Chosen, NoRetry> {
        let now = self.time_of_choice(clock);
        self.has_choice(plan, demand, now)?;
        self.withdraw_after(rules, plan, outcome, clock)?;
        Ok(self.choose(plan, demand, now)?)
    }

    /// The backend that [`Self::choose`] would choose now, without a trial.
    ///
    /// # Errors
    /// No backend can be chosen.
    pub fn foresee(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Result<usize, NoChoice> {
        let plan = Plan {
            has_tested: true,
            ..*plan
        };
        let choice = self.look(&plan, &Declined::default(), demand, now);
        choice.map(Choice::backend)
    }

    /// Checks that [`Self::choose`] would find a backend now.
    ///
    /// # Errors
    /// No backend can be chosen.
    pub fn has_choice(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Result<(), NoChoice> {
        let choice = self.look(plan, &Declined::default(), demand, now);
        choice.map(|_| ())
    }

    /// The untried backends of a request with this `plan`, each with the obstacle.
    pub fn obstacles(
        &self,
        plan: &Plan,
        demand: &Demand,
        now: Timestamp,
    ) -> Vec<(usize, Obstacle)> {
        let view = self.view.try_borrow();
        view.map_or_else(|_| Vec::new(), |view| view.obstacles(plan, demand, now))
    }

    /// The shortest wait until a backend of the `plan` can serve this `demand`, if all of them require to wait.
    pub fn wait_of_all(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Option<Duration> {
        let view = self.view.try_borrow().ok()?;
        view.wait_of_all(plan, demand, now)
    }

    /// Whether the state of a backend for this client may differ from its state for most clients.
    fn distinguishes(&self, client: Client) -> bool {
        let view = self.view.try_borrow();
        view.is_ok_and(|view| view.distinguishes(client))
    }

    fn look(
        &self,
        plan: &Plan,
        declined: &Declined,
        demand: &Demand,
        now: Timestamp,
    ) -> Result<Choice, NoChoice> {
        let view = self.view.try_borrow().map_err(|_| NoChoice::AllTried)?;
        view.choose(plan, declined, demand, now)
    }

    /// Withdraws a retry after an attempt with this `outcome` from the retry budget.
    ///
    /// # Errors
    /// The retry budget is spent.
    pub fn withdraw_after(
        &self,
        rules: &Retry,
        plan: &Plan,
        outcome: Outcome,
        clock: &dyn Fn() -> Timestamp,
    ) -> Result<(), NoRetry> {
        // A refusal costs a backend nothing. A failing backend may be overloaded, so only retries after failures are limited.
        let (Outcome::Unavailable, Some(rules)) = (outcome, &rules.budget) else {
            return Ok(());
        };
        match self.withdraw(rules, plan.turn, clock()) {
            true => Ok(()),
            false => Err(NoRetry::BudgetSpent),
        }
    }

    /// Withdraws a retry from the budget, for the request that drew `turn`. `false` if the budget is spent.
    pub fn withdraw(&self, rules: &BudgetRules, turn: u64, now: Timestamp) -> bool {
        let withdrawn = swap(&self.map, &self.budget_key, |bytes| {
            let budget = Budget::decode(bytes);
            let mut budget = budget.unwrap_or_else(|| Budget::new(rules, turn, now));
            let withdrawn = budget.withdraw(rules, turn, now);
            (withdrawn, Some(budget.encode()))
        });
        // If the map refuses, one retry too many is better than a lost request.
        withdrawn.unwrap_or(true)
    }

    /// Sets the backends whose identities have no access token.
    pub fn set_tokenless(&self, backends: BackendSet) {
        if let Ok(mut view) = self.view.try_borrow_mut() {
            view.set_tokenless(backends);
        }
    }

    /// Records the number of tokens left of a quota, which an answer of `backend` reported.
    pub fn note_capacity(&self, backend: usize, quota: QuotaKey, tokens: i64, now: Timestamp) {
        if let Ok(mut view) = self.view.try_borrow_mut() {
            view.set_capacity(backend, quota, tokens, now);
        }
    }

    /// The health of a backend.
    pub fn health(&self, backend: usize) -> Option<Health> {
        self.view.try_borrow().ok()?.health(backend).cloned()
    }
}
