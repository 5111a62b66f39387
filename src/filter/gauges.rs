//! The gauges that show the backends' health and their quotas.

use std::cell::{Cell, RefCell};

use super::envoy::Envoy;
use super::host::{self, HostError, Metric};
use crate::core::config::Backend;
use crate::core::fleet::Names;
use crate::core::health::Health;
use crate::core::metrics::{self, MOST_DEPLOYMENTS};
use crate::core::time::Timestamp;

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
        names: &Names<Envoy>,
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
    names: &Names<Envoy>,
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
        let has_room = quotas.len() < MOST_DEPLOYMENTS;
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
