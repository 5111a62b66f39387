//! What people are told of the backends' health: gauges, counts, and a line in the log for each change.

use std::cell::{Cell, RefCell};

use super::host::{self, HostError, Metric};
use super::swap::SharedData;
use crate::core::config::Backend;
use crate::core::demand::QuotaKey;
use crate::core::exchange::Lesson;
use crate::core::fleet::Names;
use crate::core::health::{Blame, Change, Finding, Health, Reason};
use crate::core::metrics::{self, Event};
use crate::core::time::{Pretty, Timestamp};

/// More quotas of one backend have no gauges: Envoy keeps each for good.
const MOST_QUOTAS: usize = 64;

/// A state and the seconds that it lasts, as two gauges.
struct Gauge {
    ids: [u32; 2],
    shown: Cell<Option<[u64; 2]>>,
}

impl Gauge {
    /// Defines the gauges of these names.
    fn named(names: &[String; 2]) -> Result<Self, HostError> {
        let [state, seconds] = names;
        Ok(Self {
            ids: [
                host::define_metric(Metric::Gauge, state)?,
                host::define_metric(Metric::Gauge, seconds)?,
            ],
            shown: Cell::default(),
        })
    }

    /// Sets them, unless they are right.
    fn show(&self, values: [u64; 2]) {
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

/// The gauges of one backend and of its quotas.
pub(super) struct Gauges {
    backend: Gauge,
    quotas: RefCell<Vec<QuotaGauge>>,
}

struct QuotaGauge {
    name: String,
    gauge: Gauge,
    values: [u64; 2],
}

impl Gauges {
    /// Defines those of the backend. A quota has none before it was refused.
    pub(super) fn of(backend: &Backend) -> Result<Self, HostError> {
        Ok(Self {
            backend: Gauge::named(&metrics::gauge_names(backend))?,
            quotas: RefCell::default(),
        })
    }

    /// Shows the health of this `backend`.
    #[inline(never)]
    pub(super) fn show(
        &self,
        backend: &Backend,
        health: &Health,
        names: &Names<SharedData>,
        now: Timestamp,
    ) {
        self.backend.show(metrics::gauges(health, now));
        let shown = self
            .quotas
            .try_borrow_mut()
            .map(|mut quotas| show_quotas(&mut quotas, backend, health, names, now));
        if let Ok(Err(error)) = shown {
            log::error!("{error}");
        }
    }
}

#[inline(never)]
fn show_quotas(
    quotas: &mut Vec<QuotaGauge>,
    backend: &Backend,
    health: &Health,
    names: &Names<SharedData>,
    now: Timestamp,
) -> Result<(), HostError> {
    let mut may_sync = true;
    for quota in quotas.iter_mut() {
        quota.values = [0, 0];
    }
    for (key, wait) in health.quotas(now) {
        let mut name = names.of(key);
        if name.is_none() && may_sync {
            // Another worker saw the quota refused.
            may_sync = false;
            names.sync();
            name = names.of(key);
        }
        let Some(name) = name else {
            continue;
        };
        let values = metrics::quota_gauges(wait.as_ref(), now);
        let has_room = quotas.len() < MOST_QUOTAS;
        // Names that differ in a dot are one as a statistic.
        if let Some(quota) = quotas.iter_mut().find(|quota| quota.name == name) {
            quota.values = metrics::graver(quota.values, values);
        } else if has_room {
            quotas.push(QuotaGauge {
                gauge: Gauge::named(&metrics::quota_gauge_names(backend, &name))?,
                name,
                values,
            });
        }
    }
    for quota in quotas {
        quota.gauge.show(quota.values);
    }
    Ok(())
}

/// The event that a change counts as, if it is one to count.
pub(super) fn event(backend: usize, change: Change) -> Option<Event> {
    match change {
        Change::CoolsDown(reason, _) => Some(Event::Cooldown(backend, reason)),
        Change::Lacks(_) => Some(Event::MissingDeployment(backend)),
        Change::Advised(_) | Change::Contradicted | Change::Recovered(_) => None,
    }
}

/// A request, for people.
#[derive(Debug, Default)]
pub(crate) struct Detail {
    /// The deployment or API that it was for; or why the backend refuses the identity.
    pub(crate) text: String,
    /// The name of its deployment, as far as it was read.
    pub(crate) deployment: Option<String>,
}

/// Logs what a `lesson` has changed of the backend called `name`. `detail` is what it was asked for, or why it refuses the identity.
#[inline(never)]
pub(super) fn report(name: &str, change: Change, lesson: &Lesson, detail: &str) {
    match change {
        Change::CoolsDown(Reason::Throttled, wait) => {
            log::info!(
                "backend {name}: {detail} is throttled (429); no requests for it for {}",
                Pretty(wait)
            );
        }
        Change::Advised(wait) => {
            log::info!(
                "backend {name}: {detail} is throttled (429){}; requests for it prefer other backends for {}",
                why_advice(lesson),
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
        Change::Recovered(Reason::Throttled) => {
            log::info!("backend {name}: serves {detail} again");
        }
        Change::Recovered(Reason::Failing) => {
            log::info!("backend {name}: serves again after failures");
        }
        Change::Recovered(Reason::Misconfigured) => {
            log::info!("backend {name}: serves again; it lets the identity or key in");
        }
        Change::Lacks(wait) => {
            log::warn!(
                "backend {name}: has no {detail}; requests for it pass this backend over for {}",
                Pretty(wait)
            );
        }
    }
}

/// Why the wait of a 429 is advice only.
fn why_advice(lesson: &Lesson) -> &'static str {
    match lesson.finding {
        // What was wanted says so.
        _ if lesson.seen.demand.quota == QuotaKey::UNREAD => "",
        Finding::Throttled(_, Blame::Spent) => ", as on a backend before",
        _ => ", but a wait of it was contradicted a moment ago",
    }
}
