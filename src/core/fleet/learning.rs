//! Learning: the end of an attempt changes what the workers know of its backend.

use core::time::Duration;

use super::Fleet;
use crate::attempts::Lesson;
use crate::config::Cooldown;
use crate::demand::QuotaKey;
use crate::health::{Change, Finding, Seen};
use crate::swap::SharedMap;
use crate::time::Timestamp;

/// The filter reads the names of deployments for this long after the refusal of a request whose name it did not read.
const NAMES_MATTER: Duration = Duration::from_secs(600);

impl<M: SharedMap> Fleet<M> {
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

    pub(super) fn take_successes(&self, backend: usize) -> u32 {
        let succeeded = self.succeeded.try_borrow_mut();
        succeeded.map_or(0, |mut succeeded| {
            succeeded.get_mut(backend).map_or(0, core::mem::take)
        })
    }
}
