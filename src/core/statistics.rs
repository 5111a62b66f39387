//! The statistics for Envoy: their definitions and changes.
//!
//! Envoy numbers each statistic when it is defined. Here they are numbered from 0 in the order of their definitions, so
//! the host needs only a list of Envoy's numbers.

use alloc::collections::BTreeMap;

use super::balancer::{Balancer, Measured};
use super::clients;
use super::config::{Backend, Config};
use super::host::Host;
use super::metrics::{self, MOST_DEPLOYMENTS};
use super::time::Timestamp;
use crate::prelude::*;

/// A kind of statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A count that only grows.
    Counter,
    /// A value.
    Gauge,
    /// The distribution of values.
    Histogram,
}

/// A change of the statistics. Changes must be made in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Defines a statistic. Its number is the previous definition's plus one.
    Define(Kind, String),
    /// Adds an amount to the counter with this number.
    Add(usize, u64),
    /// Sets the gauge with this number, or adds a value to the histogram.
    Record(usize, u64),
}

/// A statistic that is defined when its first value is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Late {
    /// A client's counter, by its place in the ledger.
    Client(usize),
    /// A counter of a backend's deployment: the backend, and the place in the ledger.
    Deployment(usize, usize),
    /// A measure of a backend's streams: the backend, and the measure.
    Measure(usize, usize),
}

/// A quota with gauges.
struct Quota {
    label: String,
    gauges: PairOfGauges,
    values: [u64; 2],
}

/// Two consecutive gauges: a state, and the seconds until its end.
#[derive(Default)]
struct PairOfGauges {
    first: usize,
    shown: Option<[u64; 2]>,
}

/// The gauges of one backend.
struct OfBackend {
    health: PairOfGauges,
    /// The gauges of the backend's quotas. A quota has none before its first refusal.
    quotas: Vec<Quota>,
}

/// The statistics that one worker has defined.
pub struct Statistics {
    len: usize,
    /// The number of the first token gauge. There is one gauge per identity, and a last one for the token that expires
    /// first.
    tokens: usize,
    backends: Vec<OfBackend>,
    late: BTreeMap<Late, usize>,
}

impl Statistics {
    /// The statistics of `config` before any event, with their definitions.
    #[inline(never)]
    pub fn new(config: &Config) -> (Self, Vec<Change>) {
        let mut statistics = Self {
            len: 0,
            tokens: 0,
            backends: Vec::new(),
            late: BTreeMap::new(),
        };
        let mut changes = Vec::new();
        // A counter's number is its place in a tally.
        for name in metrics::counter_names(&config.backends) {
            statistics.define(Kind::Counter, name, &mut changes);
        }
        for backend in &config.backends {
            let health = statistics.define_pair(metrics::gauge_names(backend), &mut changes);
            statistics.backends.push(OfBackend {
                health,
                quotas: Vec::new(),
            });
        }
        statistics.tokens = statistics.len;
        for identity in &config.identities {
            let name = metrics::token_gauge_name(identity.name.as_deref());
            statistics.define(Kind::Gauge, name, &mut changes);
        }
        let first_to_expire = metrics::TOKEN_SECONDS_LEFT.to_owned();
        statistics.define(Kind::Gauge, first_to_expire, &mut changes);
        (statistics, changes)
    }

    fn define(&mut self, kind: Kind, name: String, changes: &mut Vec<Change>) -> usize {
        changes.push(Change::Define(kind, name));
        let number = self.len;
        self.len = self.len.saturating_add(1);
        number
    }

    fn define_pair(&mut self, names: [String; 2], changes: &mut Vec<Change>) -> PairOfGauges {
        let first = self.len;
        for name in names {
            self.define(Kind::Gauge, name, changes);
        }
        PairOfGauges { first, shown: None }
    }

    /// The changes since the last call.
    #[inline(never)]
    pub fn changes<H: Host>(&mut self, balancer: &Balancer<H>, now: Timestamp) -> Vec<Change> {
        let mut changes = Vec::new();
        self.show_health(balancer, now, &mut changes);
        balancer.drain_counts(|place, count| changes.push(Change::Add(place, count)));
        self.count_by_name(balancer, &mut changes);
        self.measure(balancer, &mut changes);
        self.show_tokens(balancer, now, &mut changes);
        changes
    }

    #[inline(never)]
    fn count_by_name<H: Host>(&mut self, balancer: &Balancer<H>, changes: &mut Vec<Change>) {
        balancer.drain_clients(&mut |place, client, kind, count| {
            let name = || clients::counter_name(client, kind);
            let number = self.late(Late::Client(place), Kind::Counter, &name, changes);
            changes.push(Change::Add(number, count));
        });
        balancer.drain_deployments(&mut |index, place, deployment, kind, count| {
            let Some(backend) = balancer.config.backends.get(index) else {
                return;
            };
            let name = || metrics::deployment_counter_name(backend, deployment, kind);
            let late = Late::Deployment(index, place);
            let number = self.late(late, Kind::Counter, &name, changes);
            changes.push(Change::Add(number, count));
        });
    }

    #[inline(never)]
    fn measure<H: Host>(&mut self, balancer: &Balancer<H>, changes: &mut Vec<Change>) {
        for Measured {
            backend: index,
            measure,
            value,
        } in balancer.take_measured()
        {
            if let Some(backend) = balancer.config.backends.get(index) {
                let name = || measure.histogram_name(backend);
                let late = Late::Measure(index, measure as usize);
                let number = self.late(late, Kind::Histogram, &name, changes);
                changes.push(Change::Record(number, value));
            }
        }
    }

    /// The number of a late statistic. Calls `name` for its definition only.
    fn late(
        &mut self,
        late: Late,
        kind: Kind,
        name: &dyn Fn() -> String,
        changes: &mut Vec<Change>,
    ) -> usize {
        if let Some(number) = self.late.get(&late) {
            return *number;
        }
        let number = self.define(kind, name(), changes);
        self.late.insert(late, number);
        number
    }

    /// Sets the gauges of the identities' tokens, and of the token that expires first.
    fn show_tokens<H: Host>(
        &self,
        balancer: &Balancer<H>,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) {
        let left: Vec<_> = balancer.credentials.seconds_left(now).collect();
        let first = left.iter().min().copied().unwrap_or(0);
        let numbers = self.tokens..;
        let all = numbers.zip(left.into_iter().chain([first]));
        changes.extend(all.map(|(number, left)| Change::Record(number, left)));
    }

    #[inline(never)]
    fn show_health<H: Host>(
        &mut self,
        balancer: &Balancer<H>,
        now: Timestamp,
        changes: &mut Vec<Change>,
    ) {
        let mut may_sync = true;
        for (index, backend) in balancer.config.backends.iter().enumerate() {
            let Some(health) = balancer.fleet.health(index) else {
                continue;
            };
            if let Some(gauges) = self.backends.get_mut(index) {
                let values = metrics::gauges(&health, now);
                gauges.health.show(values, changes);
                for quota in &mut gauges.quotas {
                    quota.values = [0, 0];
                }
            }
            for (key, wait) in health.quotas(now) {
                let mut label = balancer.names.of(key);
                if label.is_none() && core::mem::take(&mut may_sync) {
                    // Another worker saw the refusal of the quota.
                    balancer.names.sync();
                    label = balancer.names.of(key);
                }
                if let Some(label) = label {
                    let values = metrics::quota_gauges(wait.as_ref(), now);
                    self.note_quota(index, backend, label, values, changes);
                }
            }
            let quotas = self.backends.get_mut(index).map(|it| &mut it.quotas);
            for quota in quotas.into_iter().flatten() {
                quota.gauges.show(quota.values, changes);
            }
        }
    }

    /// Notes the values of one of a backend's quotas.
    fn note_quota(
        &mut self,
        index: usize,
        backend: &Backend,
        label: String,
        values: [u64; 2],
        changes: &mut Vec<Change>,
    ) {
        let Some(OfBackend { quotas, .. }) = self.backends.get_mut(index) else {
            return;
        };
        // Names that differ only in a dot share a statistic.
        if let Some(quota) = quotas.iter_mut().find(|quota| quota.label == label) {
            quota.values = metrics::more_severe(quota.values, values);
        } else if quotas.len() < MOST_DEPLOYMENTS {
            let gauges = self.define_pair(metrics::quota_gauge_names(backend, &label), changes);
            if let Some(OfBackend { quotas, .. }) = self.backends.get_mut(index) {
                quotas.push(Quota {
                    label,
                    gauges,
                    values,
                });
            }
        }
    }
}

impl PairOfGauges {
    /// Sets both gauges, unless they already have these values.
    fn show(&mut self, values: [u64; 2], changes: &mut Vec<Change>) {
        if self.shown.replace(values) != Some(values) {
            let all = (self.first..).zip(values);
            changes.extend(all.map(|(number, value)| Change::Record(number, value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Plugin;

    fn config() -> Config {
        let json = r#"{"backends": [
            {"name": "east", "cluster": "east", "host": "east.example", "api_key_env": "KEY"},
            {"name": "west", "cluster": "west", "host": "west.example", "api_key_env": "KEY"}
        ]}"#;
        match Plugin::from_bytes(json.as_bytes(), &|_| Some("key".to_owned())) {
            Ok(Plugin::Balancer(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    fn name(change: &Change) -> Option<&str> {
        match change {
            Change::Define(_, name) => Some(name),
            _ => None,
        }
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        changes.iter().filter_map(name).collect()
    }

    #[test]
    fn statistics_are_numbered_by_definition() {
        let config = config();
        let (statistics, changes) = Statistics::new(&config);
        let names = names(&changes);
        assert_eq!(names.len(), changes.len());
        // A tally identifies its counters by these places.
        let counters = metrics::counter_names(&config.backends);
        assert_eq!(names[..counters.len()], counters);
        for (index, backend) in statistics.backends.iter().enumerate() {
            let [state, _] = metrics::gauge_names(&config.backends[index]);
            assert_eq!(names[backend.health.first], state);
        }
        assert_eq!(names[statistics.tokens..], [metrics::TOKEN_SECONDS_LEFT]);
    }

    #[test]
    fn late_statistics_are_defined_once() {
        let (mut statistics, before) = Statistics::new(&config());
        let mut changes = Vec::new();
        for (late, name) in [
            (Late::Client(3), "client"),
            (Late::Deployment(1, 3), "deployment"),
            (Late::Client(3), "client"),
        ] {
            let number = statistics.late(late, Kind::Counter, &|| name.to_owned(), &mut changes);
            let at = number - before.len();
            assert_eq!(names(&changes)[at], name);
        }
        assert_eq!(changes.len(), 2);
    }

    #[test]
    fn gauges_are_set_only_when_they_change() {
        let mut gauges = PairOfGauges {
            first: 7,
            shown: None,
        };
        let mut changes = Vec::new();
        for values in [[0, 0], [0, 0], [2, 5], [2, 5]] {
            gauges.show(values, &mut changes);
        }
        let set = [(7, 0), (8, 0), (7, 2), (8, 5)];
        assert_eq!(
            changes,
            set.map(|(number, value)| Change::Record(number, value))
        );
    }
}
