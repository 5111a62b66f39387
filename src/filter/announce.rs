//! What people are told of the backends' health: gauges, counts, and a line in the log for each change.

use std::cell::Cell;

use super::host::{self, HostError, Metric};
use crate::core::config::Backend;
use crate::core::health::{Change, Health, Reason};
use crate::core::metrics::{self, Event};
use crate::core::time::{Pretty, Timestamp};

/// The gauges of one backend, and what they were set to.
pub(super) struct Gauges {
    ids: [u32; 2],
    shown: Cell<Option<[u64; 2]>>,
}

impl Gauges {
    /// Defines them.
    pub(super) fn of(backend: &Backend) -> Result<Self, HostError> {
        let [state, seconds] = metrics::gauge_names(backend);
        Ok(Self {
            ids: [
                host::define_metric(Metric::Gauge, &state)?,
                host::define_metric(Metric::Gauge, &seconds)?,
            ],
            shown: Cell::default(),
        })
    }

    /// Sets them, unless they are right.
    #[inline(never)]
    pub(super) fn show(&self, health: &Health, now: Timestamp) {
        let values = metrics::gauges(health, now);
        if self.shown.replace(Some(values)) == Some(values) {
            return;
        }
        for (id, value) in self.ids.into_iter().zip(values) {
            if let Err(error) = host::record_metric(id, value) {
                log::error!("{error}");
            }
        }
    }
}

/// The event that a change counts as, if it is one to count.
pub(super) fn event(backend: usize, change: Change) -> Option<Event> {
    match change {
        Change::CoolsDown(reason, _) => Some(Event::Cooldown(backend, reason)),
        Change::Lacks(_) => Some(Event::MissingDeployment(backend)),
        Change::Advised(_) | Change::Contradicted | Change::Recovered(_) => None,
    }
}

/// Logs what has changed of the backend called `name`. `detail` is what it was asked for, or why it refuses the identity.
pub(super) fn report(name: &str, change: Change, detail: &str) {
    match change {
        Change::CoolsDown(Reason::Throttled, wait) => {
            log::info!(
                "backend {name}: {detail} is throttled (429); no requests for it for {}",
                Pretty(wait)
            );
        }
        Change::Advised(wait) => {
            log::info!(
                "backend {name}: {detail} is throttled (429); requests for it prefer other backends for {}",
                Pretty(wait)
            );
        }
        Change::Contradicted => {
            log::info!(
                "backend {name}: serves {detail} although it had asked to wait; for a minute its waits are advice"
            );
        }
        Change::CoolsDown(Reason::Failing, wait) => {
            log::warn!(
                "backend {name}: too many failures (5xx, timeouts, connections refused or broken); no requests for {}",
                Pretty(wait)
            );
        }
        Change::CoolsDown(Reason::Misconfigured, wait) => {
            log::error!("backend {name}: {detail}; no requests for {}", Pretty(wait));
        }
        Change::Recovered(_) => log::info!("backend {name}: serves again"),
        Change::Lacks(wait) => {
            log::warn!(
                "backend {name}: has no {detail}; requests for it pass this backend over for {}",
                Pretty(wait)
            );
        }
    }
}
