//! The backends on one worker: a local copy of what all workers know of their health, and its share of the work to find out.

mod choice;

use std::cell::{Cell, RefCell};

use super::announce::Gauges;
use super::host::{self, HostError};
use super::swap::{create_shared, read_shared, swap_shared, OftenSwapped};
use crate::core::budget::Budget;
use crate::core::config::Config;
use crate::core::fleet::Fleet;
use crate::core::health::{Change, Claim, Finding, Health};
use crate::core::plan::BackendSet;
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
        create_shared(backends.turns.key(), &Turns::default().encode())?;
        for key in &backends.health_keys {
            create_shared(key, &Health::default().encode())?;
        }
        if let Some(rules) = &config.retry.budget {
            let turn = backends.read_turns()?.next;
            let budget = Budget::new(rules, turn, host::now());
            create_shared(&backends.budget_key, &budget.encode())?;
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
