//! Learning: the end of an attempt changes the record of its backend.

use core::time::Duration;

use super::Fleet;
use crate::attempts::Lesson;
use crate::config::Cooldown;
use crate::demand::QuotaKey;
use crate::health::{Change, Finding, Seen};
use crate::swap::SharedMap;
use crate::time::Timestamp;

/// How long the filter reads the names of deployments after a refusal of a request with an unread name.
const NAMES_MATTER: Duration = Duration::from_secs(600);

impl<M: SharedMap> Fleet<M> {
    /// Learns from an answer of a healthy `backend`, like [`Self::take`] at a lower cost. `false` if the answer may
    /// change the record; then call [`Self::take`].
    pub fn take_fast(&self, backend: usize, clock: &dyn Fn() -> Timestamp) -> bool {
        let view = self.view.try_borrow();
        let is_old = view.is_ok_and(|view| view.is_untroubled(backend));
        if is_old {
            self.count_success(backend, clock);
        }
        is_old
    }

    /// Learns from the end of an attempt.
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

    /// Whether `finding` may change the record of the backend.
    pub fn is_news(&self, backend: usize, finding: Finding, seen: &Seen) -> bool {
        self.view.try_borrow().is_ok_and(|view| {
            let health = view.health(backend);
            health.is_some_and(|health| health.is_news(finding, seen))
        })
    }

    /// Counts an answer of `backend` that does not change its record. The record notes such an answer about every 20
    /// seconds.
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

    /// Notes in the record of `backend` that it serves.
    #[inline(never)]
    fn note_service(&self, backend: usize, now: Timestamp) {
        // `change` logs a failure, which is harmless here.
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

    /// Notes that a backend lacks a deployment whose name was in an unread body.
    pub fn note_unread_deployment(&self, now: Timestamp) {
        self.names_matter_until.set(now + NAMES_MATTER);
    }

    /// Whether the filter must read the names of deployments in bodies.
    pub fn names_matter(&self) -> bool {
        self.names_matter_until.get() > Timestamp::default()
            || self
                .view
                .try_borrow()
                .is_ok_and(|view| view.distinguishes_deployments())
    }

    /// Starts the recovery of each backend that refused an older access token. `generation` returns the generation of a
    /// backend's current token.
    pub fn admit_tokens(&self, generation: &dyn Fn(usize) -> Option<u32>, now: Timestamp) {
        for backend in 0..self.health_keys.len() {
            let refused = self.view.try_borrow().ok();
            let refused = refused.and_then(|view| view.health(backend)?.refused_token(now));
            if let (Some(refused), Some(current)) = (refused, generation(backend)) {
                if current != refused {
                    // `change` logs a failure. The next call tries again.
                    let _ = self.change(backend, |health| health.admit_token(current, now));
                }
            }
        }
    }

    /// Reads what other workers learned, and drops expired state. Call it once a second.
    #[inline(never)]
    pub fn on_tick(&self, now: Timestamp) {
        if self.names_matter_until.get() <= now {
            self.names_matter_until.set(Timestamp::default());
        }
        // A tick reads the health whatever the edition, because a second configuration with the same backends has its own.
        self.edition.set(None);
        match self.read_turns() {
            Ok(turns) => self.sync(&turns),
            Err(error) => log::error!("backends' health: {error}"),
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
                // `change` logs a failure.
                let _ = self.change(backend, |health| {
                    if tells {
                        health.count_successes(succeeded, now);
                    }
                    health.tidy(now);
                });
            }
        }
    }

    pub(super) fn take_successes(&self, backend: usize) -> u32 {
        let succeeded = self.succeeded.try_borrow_mut();
        succeeded.map_or(0, |mut succeeded| {
            succeeded.get_mut(backend).map_or(0, core::mem::take)
        })
    }
}
