//! The backends on one worker: a local copy of what all workers know of their health, and its share of the work to find out.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::announce::Gauges;
use super::host::{self, HostError};
use super::swap::{create_shared, read_shared, swap_shared, OftenSwapped};
use crate::core::budget::Budget;
use crate::core::config::Config;
use crate::core::exchange::{Chosen, NoRetry};
use crate::core::fleet::{Choice, Demand, Fleet, NoChoice};
use crate::core::health::{Change, Claim, Finding, Health};
use crate::core::outcome::Outcome;
use crate::core::plan::{BackendSet, Plan};
use crate::core::shared::{self, Turns};
use crate::core::time::Timestamp;

/// One worker's view of the backends.
pub(crate) struct Backends {
    turns: OftenSwapped<{ Turns::SIZE }>,
    budget_key: String,
    health_keys: Vec<String>,
    fleet: RefCell<Fleet>,
    /// The edition of the backends' health that this view shows.
    edition: Cell<Option<u32>>,
    /// Attempts that succeeded, by backend, as long as that may matter to a failure.
    succeeded: RefCell<Vec<u32>>,
    /// The backends of which it is written down that they served lately.
    served: Vec<Cell<bool>>,
    turns_without_host: Cell<u64>,
    /// Until when the deployments matter that bodies name, because a backend did not have one.
    models_matter_until: Cell<Timestamp>,
    gauges: Vec<Gauges>,
}

impl Backends {
    /// The view of the backends of `config`, and the shared values that no other worker has made.
    #[inline(never)]
    pub(crate) fn new(config: &Config) -> Result<Self, HostError> {
        let backends = Self {
            turns: OftenSwapped::new(shared::turn_key(&config.backends)),
            budget_key: shared::budget_key(&config.backends),
            health_keys: config.backends.iter().map(shared::health_key).collect(),
            fleet: RefCell::new(Fleet::new(config)),
            edition: Cell::default(),
            succeeded: RefCell::new(vec![0; config.backends.len()]),
            served: vec![Cell::default(); config.backends.len()],
            turns_without_host: Cell::default(),
            models_matter_until: Cell::default(),
            gauges: config
                .backends
                .iter()
                .map(Gauges::of)
                .collect::<Result<_, _>>()?,
        };
        // A value that does not exist cannot be compared and swapped, so the first to be configured creates it.
        create_shared(backends.turns.key(), || Turns::default().encode())?;
        for key in &backends.health_keys {
            create_shared(key, || Health::default().encode())?;
        }
        if let Some(rules) = &config.retry.budget {
            let turn = backends.read_turns()?.next;
            create_shared(&backends.budget_key, || {
                Budget::new(rules, turn, host::now()).encode()
            })?;
        }
        Ok(backends)
    }

    /// Takes over what other workers found, for a request that takes no turn.
    pub(crate) fn look_around(&self) {
        match self.read_turns() {
            Ok(turns) => self.sync(turns.edition),
            Err(error) => log::warn!("{error}; what is known of the backends may be old"),
        }
    }

    /// Draws a request's turn, and takes over what other workers found.
    pub(crate) fn draw(&self) -> u64 {
        let turns = self.turns.swap(|bytes| {
            let turns = Turns::decode(bytes);
            (turns, turns.after_draw().encode())
        });
        match turns {
            Ok(turns) => {
                self.sync(turns.edition);
                turns.next
            }
            Err(error) => {
                // Choosing must go on: a turn of this worker's own is fair, if not exact across workers.
                log::warn!("round robin: {error}; counting on this worker alone");
                let turn = self.turns_without_host.get();
                self.turns_without_host.replace(turn.wrapping_add(1))
            }
        }
    }

    /// Chooses the backend that the request with this `plan` goes to next, and claims the probe if it is one.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn choose(
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
    pub(crate) fn foresee(&self, plan: &Plan, demand: Demand) -> Result<usize, NoChoice> {
        match self.look(plan, demand, self.now_if_it_matters())? {
            Choice::Free(backend) | Choice::Probe(backend) => Ok(backend),
        }
    }

    /// Chooses the backend for another attempt, after one with this `outcome`.
    ///
    /// # Errors
    /// There is none, or the budget is spent.
    pub(crate) fn choose_next(
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
    pub(crate) fn choose_foreseen(
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
    pub(crate) fn all_out(&self, plan: &Plan, demand: Demand) -> Option<Duration> {
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

    /// Learns from an attempt on `backend`, made with or without the `claim` of its probe.
    pub(crate) fn learn(
        &self,
        config: &Config,
        backend: usize,
        finding: Finding,
        claim: Option<Claim>,
    ) -> Option<Change> {
        let news = self.fleet.try_borrow().is_ok_and(|fleet| {
            let health = fleet.health(backend);
            health.is_some_and(|health| health.is_news(finding, claim))
        });
        if !news {
            if finding == Finding::Answered {
                self.count_success(backend);
            }
            return None;
        }
        let now = host::now();
        let finding = match finding {
            Finding::Failed(_) => Finding::Failed(self.take_successes(backend)),
            finding => finding,
        };
        self.change(backend, |health| {
            health.learn(finding, claim, &config.cooldown, now)
        })
        .unwrap_or(None)
    }

    /// A backend did not have the deployment that a request named in its body, which was not read.
    pub(crate) fn note_unread_deployment(&self, config: &Config) {
        let until = host::now() + config.cooldown.misconfigured;
        self.models_matter_until.set(until);
    }

    /// Whether it matters which deployment a body names, because a backend lacks one.
    pub(crate) fn models_matter(&self) -> bool {
        self.models_matter_until.get() > Timestamp::default()
            || self.fleet.try_borrow().is_ok_and(|fleet| fleet.lacks_any())
    }

    /// These backends cannot be asked now, for want of an access token.
    pub(crate) fn set_tokenless(&self, backends: BackendSet) {
        if let Ok(mut fleet) = self.fleet.try_borrow_mut() {
            fleet.set_tokenless(backends);
        }
    }

    /// An answer of `backend` said how many tokens it has left.
    pub(crate) fn note_capacity(&self, backend: usize, remaining_tokens: i64) {
        if let Ok(mut fleet) = self.fleet.try_borrow_mut() {
            fleet.set_capacity(backend, remaining_tokens, host::now());
        }
    }

    /// Takes over what other workers found, forgets what is over, and shows how things stand.
    #[inline(never)]
    pub(crate) fn on_tick(&self, now: Timestamp, mut changed: impl FnMut(usize, Change)) {
        if self.models_matter_until.get() <= now {
            self.models_matter_until.set(Timestamp::default());
        }
        // Whatever the edition: another configuration that has a backend in common does not count it up.
        self.edition.set(None);
        match self.read_turns() {
            Ok(turns) => self.sync(turns.edition),
            Err(error) => log::error!("{error}"),
        }
        for (backend, gauges) in self.gauges.iter().enumerate() {
            let Some(mut health) = self.health(backend) else {
                continue;
            };
            let succeeded = self.take_successes(backend);
            if let Some(served) = self.served.get(backend) {
                served.set(!health.wants_service_noted(now));
            }
            let tells = succeeded > 0 && health.counts_successes(now);
            let before = health.clone();
            health.tidy(now);
            if tells || health != before {
                let change = self.change(backend, |health| {
                    if tells {
                        health.succeed(succeeded);
                    }
                    health.tidy(now)
                });
                if let Ok(Some(change)) = change {
                    changed(backend, change);
                }
            }
            gauges.show(&health, now);
        }
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

    /// Changes a backend's shared record, and tells the other workers if that is something for them.
    fn change<T: Default>(
        &self,
        backend: usize,
        mut change: impl FnMut(&mut Health) -> T,
    ) -> Result<T, HostError> {
        let mut result = T::default();
        self.alter(backend, &mut |health| result = change(health))?;
        Ok(result)
    }

    /// What is the same for all changes, so that it is there once and not in each of the functions that make one.
    #[inline(never)]
    fn alter(&self, backend: usize, change: &mut dyn FnMut(&mut Health)) -> Result<(), HostError> {
        let key = self.health_keys.get(backend).map_or("", String::as_str);
        let result = swap_shared(key, |bytes| {
            let before = Health::decode(bytes);
            let mut after = before.clone();
            change(&mut after);
            let store = (after != before).then(|| after.encode());
            ((before, after), store)
        });
        let (before, after) = result.inspect_err(|error| log::error!("{error}"))?;
        let told = !after.looks_like(&before);
        if let Ok(mut fleet) = self.fleet.try_borrow_mut() {
            fleet.set_health(backend, after);
        }
        if told {
            self.tell();
        }
        Ok(())
    }

    /// Makes every worker look at the backends' health with its next request.
    fn tell(&self) {
        let told = swap_shared(self.turns.key(), |bytes| {
            let turns = Turns::decode(bytes);
            let after = turns.after_change();
            ((turns.edition, after.edition), Some(after.encode()))
        });
        match told {
            // What this worker has changed itself it knows.
            Ok((before, after)) if self.edition.get() == Some(before) => {
                self.edition.set(Some(after));
            }
            Ok(_) => {}
            Err(error) => log::error!("{error}"),
        }
    }

    fn sync(&self, edition: u32) {
        if self.edition.get() == Some(edition) {
            return;
        }
        let Ok(mut fleet) = self.fleet.try_borrow_mut() else {
            return;
        };
        for (backend, key) in self.health_keys.iter().enumerate() {
            match read_shared(key, Health::decode) {
                Ok(health) => fleet.set_health(backend, health),
                Err(error) => {
                    log::error!("{error}");
                    return;
                }
            }
        }
        self.edition.set(Some(edition));
    }

    fn read_turns(&self) -> Result<Turns, HostError> {
        read_shared(self.turns.key(), Turns::decode)
    }

    fn health(&self, backend: usize) -> Option<Health> {
        self.fleet.try_borrow().ok()?.health(backend).cloned()
    }

    fn count_success(&self, backend: usize) {
        if self
            .served
            .get(backend)
            .is_some_and(|served| !served.replace(true))
        {
            let now = host::now();
            // A failure is logged there, and makes no difference here.
            let _ = self.change(backend, |health| {
                if health.wants_service_noted(now) {
                    health.note_service(now);
                }
            });
        }
        if let Ok(mut succeeded) = self.succeeded.try_borrow_mut() {
            if let Some(count) = succeeded.get_mut(backend) {
                *count = count.saturating_add(1);
            }
        }
    }

    fn take_successes(&self, backend: usize) -> u32 {
        let succeeded = self.succeeded.try_borrow_mut();
        succeeded.map_or(0, |mut succeeded| {
            succeeded.get_mut(backend).map_or(0, std::mem::take)
        })
    }
}

fn no_retry(none: NoChoice) -> NoRetry {
    match none {
        NoChoice::NoApi | NoChoice::NoDeployment | NoChoice::AllTried => NoRetry::BackendsExhausted,
        NoChoice::NoToken | NoChoice::AllOut(_) => NoRetry::BackendsOut,
    }
}
