//! All backends as the workers of one Envoy share them.
//!
//! A worker has a [view](view::View) of its own. What it learns it writes into the record of one backend, by one
//! compare-and-swap, and tells the others by a number that stands beside the turns: they read it with every request they draw.

mod capacity;
mod names;
mod openings;
mod view;

use core::cell::{Cell, RefCell};
use core::time::Duration;

pub use names::{deployment_label, Names, UNREAD};
pub use openings::Openings;
pub use view::{Choice, Declined, NoChoice, View, Wait};

use super::attempts::{Because, Chosen, Lesson};
use super::budget::Budget;
use super::config::{Budget as BudgetRules, Config, Cooldown, Retry};
use super::demand::{Client, Demand, QuotaKey};
use super::health::{Change, Finding, Health, Seen};
use super::keys;
use super::no_retry::NoRetry;
use super::outcome::Outcome;
use super::plan::{BackendSet, Plan};
use super::swap::{create, read, swap, OftenSwapped, SharedMap, SwapError};
use super::time::Timestamp;
use super::turns::Turns;
use super::why::Obstacle;
use crate::prelude::*;

/// After a request whose deployment was not read was refused, names are read for this long.
const NAMES_MATTER: Duration = Duration::from_secs(600);

/// One worker's part of the fleet, over the map `M` that all workers share.
pub struct Fleet<M> {
    map: M,
    turns: OftenSwapped<{ Turns::SIZE }>,
    budget_key: String,
    health_keys: Vec<String>,
    view: RefCell<View>,
    /// The edition of the backends' health that the view shows.
    edition: Cell<Option<u32>>,
    /// Attempts that succeeded, by backend, as long as that may matter to a failure.
    succeeded: RefCell<Vec<u32>>,
    /// The backends of which it is written down that they served lately.
    served: Vec<Cell<bool>>,
    own_turns: Cell<u64>,
    /// Until when the deployments matter that bodies name, because the name of a refused request was not read.
    names_matter_until: Cell<Timestamp>,
    /// Makes the cooldowns of different Envoys differ.
    seed: u64,
}

impl<M: SharedMap> Fleet<M> {
    /// The backends of `config`, and the shared values that no other worker has made. `seed` should be another one in each Envoy.
    ///
    /// # Errors
    /// The map refused.
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
        // A value that does not exist cannot be compared and swapped, so the first to be configured creates it.
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

    /// Takes over what other workers learnt, for a request that takes no turn.
    pub fn look_around(&self) {
        match self.read_turns() {
            Ok(turns) => self.sync(turns.edition),
            Err(error) => log::warn!("{error}; what is known of the backends may be old"),
        }
    }

    /// Draws a request's turn, and takes over what other workers learnt.
    pub fn draw(&self) -> u64 {
        let turns = self.turns.swap(&self.map, |bytes| {
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
                let turn = self.own_turns.get();
                self.own_turns.set(turn.wrapping_add(1));
                turn
            }
        }
    }

    /// Whether a choice depends on the time.
    pub fn needs_time(&self) -> bool {
        !self.view.try_borrow().is_ok_and(|view| view.is_plain())
    }

    /// The time, unless the choice does not depend on it: asking for it is a host call.
    pub fn time_of_choice(&self, clock: &dyn Fn() -> Timestamp) -> Timestamp {
        match self.needs_time() {
            true => clock(),
            false => Timestamp::default(),
        }
    }

    /// Chooses the backend that the request with this `plan` goes to next, where neither the time nor the demand matters: the
    /// same that [`Self::choose`] chooses, for less. `None` where it may be another.
    pub fn choose_plainly(&self, plan: &Plan) -> Option<Chosen> {
        let backend = self.view.try_borrow().ok()?.choose_plainly(plan)?;
        Some(Chosen {
            backend,
            ..Chosen::default()
        })
    }

    /// Chooses the backend that the request with this `plan` goes to next.
    ///
    /// # Errors
    /// There is none.
    #[inline(never)]
    pub fn choose(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Result<Chosen, NoChoice> {
        let mut declined = Declined::default();
        // Each round that a backend declines leaves one less to choose, for two reasons each.
        for _ in 0..=2 * self.health_keys.len() {
            let choice = self.look(plan, &declined, demand, now)?;
            let backend = choice.backend();
            let because = match choice {
                Choice::Free(_) => Because::Free,
                Choice::Kept(_) => Because::Kept,
                Choice::Overflowed(_) => Because::Overflowed,
                Choice::Crowded(_) => Because::Crowded,
                Choice::Soft(_) => {
                    // If the map refuses, the attempt is made all the same.
                    let _ = self.change(backend, |health| health.ask(demand, now));
                    Because::Soft
                }
                Choice::Failing(_) => Because::Panic,
                // If the map refuses, a backend is better asked once more than never.
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

    /// Chooses the backend for another attempt, after one with this `outcome`.
    ///
    /// # Errors
    /// There is none, or the budget is spent.
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

    /// The backend that [`Self::choose`] would choose now, without doubting any cooldown.
    ///
    /// # Errors
    /// There is none.
    pub fn foresee(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Result<usize, NoChoice> {
        let plan = Plan {
            has_tested: true,
            ..*plan
        };
        let choice = self.look(&plan, &Declined::default(), demand, now);
        choice.map(Choice::backend)
    }

    /// Whether [`Self::choose`] would find a backend now.
    ///
    /// # Errors
    /// There is none.
    pub fn has_choice(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Result<(), NoChoice> {
        let choice = self.look(plan, &Declined::default(), demand, now);
        choice.map(|_| ())
    }

    /// The backends that the request with this `plan` has not been to, each with what keeps it from there.
    pub fn obstacles(
        &self,
        plan: &Plan,
        demand: &Demand,
        now: Timestamp,
    ) -> Vec<(usize, Obstacle)> {
        let view = self.view.try_borrow();
        view.map_or_else(|_| Vec::new(), |view| view.obstacles(plan, demand, now))
    }

    /// How long until a request of this `demand` makes sense, where every backend of the `plan` asked to wait.
    pub fn wait_of_all(&self, plan: &Plan, demand: &Demand, now: Timestamp) -> Option<Duration> {
        let view = self.view.try_borrow().ok()?;
        view.wait_of_all(plan, demand, now)
    }

    /// Whether a backend may stand for a client otherwise than for most.
    fn tells_apart(&self, client: Client) -> bool {
        let view = self.view.try_borrow();
        view.is_ok_and(|view| view.tells_apart(client))
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

    /// Takes the retry that follows an attempt with this `outcome` out of the budget.
    ///
    /// # Errors
    /// The budget is spent.
    pub fn withdraw_after(
        &self,
        rules: &Retry,
        plan: &Plan,
        outcome: Outcome,
        clock: &dyn Fn() -> Timestamp,
    ) -> Result<(), NoRetry> {
        // A refusal costs a backend nothing, so there is nothing to save; what fails may be overloaded.
        let (Outcome::Unavailable, Some(rules)) = (outcome, &rules.budget) else {
            return Ok(());
        };
        match self.withdraw(rules, plan.turn, clock()) {
            true => Ok(()),
            false => Err(NoRetry::BudgetSpent),
        }
    }

    /// Takes a retry out of the budget of the request that drew `turn`; `false` if the budget is spent.
    pub fn withdraw(&self, rules: &BudgetRules, turn: u64, now: Timestamp) -> bool {
        let withdrawn = swap(&self.map, &self.budget_key, |bytes| {
            let budget = Budget::decode(bytes);
            let mut budget = budget.unwrap_or_else(|| Budget::new(rules, turn, now));
            let withdrawn = budget.withdraw(rules, turn, now);
            (withdrawn, Some(budget.encode()))
        });
        // If the map refuses, a retry too many is better than a request lost.
        withdrawn.unwrap_or(true)
    }

    /// Takes over an answer of `backend` that it did not have to know of, where that is no news, whatever the request was for: the same
    /// as [`Self::take`], for less. `false` where it may be news.
    pub fn take_plainly(&self, backend: usize, clock: &dyn Fn() -> Timestamp) -> bool {
        let view = self.view.try_borrow();
        let is_old = view.is_ok_and(|view| view.is_untroubled(backend));
        if is_old {
            self.count_success(backend, clock);
        }
        is_old
    }

    /// Takes over what the end of an attempt says of its backend.
    #[inline(never)]
    pub fn take(
        &self,
        rules: &Cooldown,
        lesson: &Lesson,
        clock: &dyn Fn() -> Timestamp,
    ) -> Option<Change> {
        let Lesson {
            backend,
            finding,
            seen,
        } = lesson;
        if self.is_news(*backend, *finding, seen) {
            return self.learn(rules, *backend, *finding, seen, clock());
        }
        if matches!(finding, Finding::Served | Finding::Answered) {
            self.count_success(*backend, clock);
        }
        None
    }

    /// Whether learning this may change what is known.
    pub fn is_news(&self, backend: usize, finding: Finding, seen: &Seen) -> bool {
        self.view.try_borrow().is_ok_and(|view| {
            let health = view.health(backend);
            health.is_some_and(|health| health.is_news(finding, seen))
        })
    }

    /// Counts an answer of `backend` that is no news. Now and then that is written down.
    fn count_success(&self, backend: usize, clock: &dyn Fn() -> Timestamp) {
        if let Ok(mut succeeded) = self.succeeded.try_borrow_mut() {
            if let Some(count) = succeeded.get_mut(backend) {
                *count = count.saturating_add(1);
            }
        }
        let served = self.served.get(backend);
        if served.is_some_and(|served| !served.replace(true)) {
            self.note_service(backend, clock());
        }
    }

    /// Writes down that `backend` serves.
    #[inline(never)]
    fn note_service(&self, backend: usize, now: Timestamp) {
        // A failure is logged there, and makes no difference here.
        let _ = self.change(backend, |health| {
            if health.wants_service_noted(now) {
                health.note_service(now);
            }
        });
    }

    /// Learns from an attempt on `backend`.
    pub fn learn(
        &self,
        rules: &Cooldown,
        backend: usize,
        finding: Finding,
        seen: &Seen,
        now: Timestamp,
    ) -> Option<Change> {
        let finding = match finding {
            Finding::Failed(_, blame) => Finding::Failed(self.take_successes(backend), blame),
            finding => finding,
        };
        let is_refusal = matches!(finding, Finding::Throttled(..));
        if is_refusal && seen.demand.quota == QuotaKey::UNREAD {
            self.names_matter_until.set(now + NAMES_MATTER);
        }
        self.change(backend, |health| {
            health.learn(finding, seen, rules, self.seed, now)
        })
        .unwrap_or(None)
    }

    /// A backend did not have the deployment that a request named in its body, which was not read.
    pub fn note_unread_deployment(&self, now: Timestamp) {
        self.names_matter_until.set(now + NAMES_MATTER);
    }

    /// Whether it matters which deployment a request names in its body.
    pub fn names_matter(&self) -> bool {
        self.names_matter_until.get() > Timestamp::default()
            || self
                .view
                .try_borrow()
                .is_ok_and(|view| view.tells_deployments_apart())
    }

    /// Lets every backend recover that refused an older access token than there is now. `generation` is that of a backend's token.
    pub fn admit_tokens(&self, generation: &dyn Fn(usize) -> Option<u32>, now: Timestamp) {
        for backend in 0..self.health_keys.len() {
            let refused = self.view.try_borrow().ok();
            let refused = refused.and_then(|view| view.health(backend)?.refused_token(now));
            if let (Some(refused), Some(current)) = (refused, generation(backend)) {
                if current != refused {
                    // A failure is logged there; the next call tries again.
                    let _ = self.change(backend, |health| health.admit_token(current, now));
                }
            }
        }
    }

    /// These backends cannot be asked now: their identities have no access token.
    pub fn set_tokenless(&self, backends: BackendSet) {
        if let Ok(mut view) = self.view.try_borrow_mut() {
            view.set_tokenless(backends);
        }
    }

    /// An answer of `backend` said how many tokens are left of a quota.
    pub fn note_capacity(&self, backend: usize, quota: QuotaKey, tokens: i64, now: Timestamp) {
        if let Ok(mut view) = self.view.try_borrow_mut() {
            view.set_capacity(backend, quota, tokens, now);
        }
    }

    /// Takes over what other workers learnt, and forgets what is over. To be called once a second.
    #[inline(never)]
    pub fn on_tick(&self, now: Timestamp) {
        if self.names_matter_until.get() <= now {
            self.names_matter_until.set(Timestamp::default());
        }
        // Whatever the edition: another configuration that has a backend in common does not count it up.
        self.edition.set(None);
        match self.read_turns() {
            Ok(turns) => self.sync(turns.edition),
            Err(error) => log::error!("{error}"),
        }
        for backend in 0..self.health_keys.len() {
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
                // A failure is logged there.
                let _ = self.change(backend, |health| {
                    if tells {
                        health.count_successes(succeeded, now);
                    }
                    health.tidy(now);
                });
            }
        }
    }

    /// What is known of a backend's health.
    pub fn health(&self, backend: usize) -> Option<Health> {
        self.view.try_borrow().ok()?.health(backend).cloned()
    }

    /// Changes a backend's shared record, and tells the other workers if that is something for them.
    fn change<T: Default>(
        &self,
        backend: usize,
        mut change: impl FnMut(&mut Health) -> T,
    ) -> Result<T, SwapError<M::Error>> {
        let mut result = T::default();
        self.alter(backend, &mut |health| result = change(health))?;
        Ok(result)
    }

    /// What is the same for all changes, so that it is there once and not in each of the functions that make one.
    #[inline(never)]
    fn alter(
        &self,
        backend: usize,
        change: &mut dyn FnMut(&mut Health),
    ) -> Result<(), SwapError<M::Error>> {
        let key = self.health_keys.get(backend).map_or("", String::as_str);
        let result = swap(&self.map, key, |bytes| {
            let before = Health::decode(bytes);
            let mut after = before.clone();
            change(&mut after);
            let store = (after != before).then(|| after.encode());
            ((before, after), store)
        });
        let (before, after) = result.inspect_err(|error| log::error!("{error}"))?;
        let told = !after.looks_like(&before);
        if let Ok(mut view) = self.view.try_borrow_mut() {
            view.set_health(backend, after);
        }
        if told {
            self.tell();
        }
        Ok(())
    }

    /// Makes every worker look at the backends' health with its next request.
    fn tell(&self) {
        let told = swap(&self.map, self.turns.key(), |bytes| {
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
        let Ok(mut view) = self.view.try_borrow_mut() else {
            return;
        };
        let keys = self.health_keys.iter();
        let found = keys.map(|key| read(&self.map, key, Health::decode));
        match found.collect::<Result<Vec<_>, _>>() {
            Ok(found) => view.set_every_health(found.into_iter().enumerate()),
            Err(error) => {
                log::error!("{error}");
                return;
            }
        }
        self.edition.set(Some(edition));
    }

    fn read_turns(&self) -> Result<Turns, SwapError<M::Error>> {
        read(&self.map, self.turns.key(), Turns::decode)
    }

    fn take_successes(&self, backend: usize) -> u32 {
        let succeeded = self.succeeded.try_borrow_mut();
        succeeded.map_or(0, |mut succeeded| {
            succeeded.get_mut(backend).map_or(0, core::mem::take)
        })
    }
}
