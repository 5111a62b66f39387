//! Measured values, and the statistics computed from them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::curves::Figure;
use crate::load::Seen;
use crate::usage::Memory;
use crate::variant::{Variant, Workload};

/// The results of one slice.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Slice {
    /// The number of answers with status 200.
    pub served: u64,
    /// The number of other answers and of broken connections.
    pub errors: u64,
    /// The duration of the slice.
    pub elapsed: Duration,
    /// The proxy's processor time.
    pub cpu: Duration,
    /// The processor time of load and backends.
    pub load_cpu: Duration,
    /// The median of the latencies.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The median of the times to the first byte of a body.
    pub first_byte: Duration,
}

impl Slice {
    /// Computes a slice from the load's results and the processor times.
    pub fn new(mut seen: Seen, cpu: Duration, load_cpu: Duration) -> Self {
        seen.latencies.sort_unstable();
        seen.first_bytes.sort_unstable();
        Self {
            served: seen.served,
            errors: seen.errors,
            elapsed: seen.elapsed,
            cpu,
            load_cpu,
            p50: percentile(&seen.latencies, 50),
            p99: percentile(&seen.latencies, 99),
            first_byte: percentile(&seen.first_bytes, 50),
        }
    }

    /// The proxy's processor time per request.
    pub fn cpu_per_request(&self) -> Option<Duration> {
        (self.served > 0).then(|| self.cpu.div_f64(self.served as f64))
    }

    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.served as f64 / self.elapsed.as_secs_f64()
    }
}

/// A percentile of sorted values.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// All measured values.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    #[serde(with = "pairs")]
    slices: BTreeMap<(Variant, Workload), Vec<Slice>>,
    /// The memory of each variant's processes at the end.
    pub memory: BTreeMap<Variant, Memory>,
    /// Pairs of a number of requests and the memory after them, for the variants whose memory was recorded.
    pub growth: BTreeMap<Variant, Vec<(u64, Memory)>>,
    /// The memory at rest, some minutes later, for the variants whose memory was recorded.
    pub rest: BTreeMap<Variant, Memory>,
    /// The values at each point of each curve.
    #[serde(with = "pairs")]
    curves: BTreeMap<(Figure, Variant), BTreeMap<u64, Vec<f64>>>,
}

/// Serializes maps as lists of pairs, because the keys of JSON objects have to be strings.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::deserialize(deserializer)?.into_iter().collect())
    }
}

/// The best and the median of several slices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The best value, from the slice with the least disturbance on the machine.
    pub best: f64,
    /// The median of all slices.
    pub median: f64,
}

impl Results {
    /// Adds a value at a point of a curve.
    pub fn grow(&mut self, figure: Figure, variant: Variant, point: u64, value: f64) {
        let curve = self.curves.entry((figure, variant)).or_default();
        curve.entry(point).or_default().push(value);
    }

    /// The best value at each point of a curve that means something: see [`Figure::is_meaningful`].
    pub fn curve(&self, figure: Figure, variant: Variant) -> Vec<(u64, f64)> {
        let points = self.curves.get(&(figure, variant)).into_iter().flatten();
        let best = points.filter_map(|(point, values)| {
            let best = values.iter().copied().reduce(f64::min)?;
            figure.is_meaningful(*point).then_some((*point, best))
        });
        best.collect()
    }

    /// Adds a slice.
    pub fn add(&mut self, variant: Variant, workload: Workload, slice: Slice) {
        let slices = self.slices.entry((variant, workload)).or_default();
        slices.push(slice);
    }

    /// The variants that were measured.
    pub fn variants(&self) -> Vec<Variant> {
        let mut variants: Vec<_> = self.slices.keys().map(|(variant, _)| *variant).collect();
        variants.dedup();
        variants
    }

    /// All slices of a variant under a condition.
    pub fn of(&self, variant: Variant, workload: Workload) -> &[Slice] {
        let slices = self.slices.get(&(variant, workload));
        slices.map_or(&[], Vec::as_slice)
    }

    /// The number of errors per variant and condition, where there are any.
    pub fn errors(&self) -> Vec<(Variant, Workload, u64)> {
        let sums = self.slices.iter().map(|((variant, workload), slices)| {
            let errors = slices.iter().map(|slice| slice.errors).sum();
            (*variant, *workload, errors)
        });
        sums.filter(|(_, _, errors)| *errors > 0).collect()
    }

    /// Processor time per request, in microseconds.
    pub fn cpu(&self, variant: Variant, workload: Workload) -> Option<Summary> {
        self.least(variant, workload, |slice| {
            Some(micros(slice.cpu_per_request()?))
        })
    }

    /// The ratio of processor time per request to that of `base`: from the best slices, and as the median of the ratios within each
    /// round. The median is reliable even if a disturbance of the machine lasts longer than a round.
    pub fn cpu_beside(
        &self,
        base: Variant,
        variant: Variant,
        workload: Workload,
    ) -> Option<Summary> {
        let best = |variant| Some(self.cpu(variant, workload)?.best);
        let rounds = self.of(variant, workload).iter();
        let rounds = rounds.zip(self.of(base, workload));
        let ratios = rounds.filter_map(|(slice, base)| {
            let base = base.cpu_per_request()?.as_secs_f64();
            Some(slice.cpu_per_request()?.as_secs_f64() / base)
        });
        Some(Summary {
            best: best(variant)? / best(base)?,
            median: least(ratios)?.median,
        })
    }

    /// Requests per second.
    pub fn rate(&self, variant: Variant, workload: Workload) -> Option<Summary> {
        // The best rate is the largest, and `least` takes the smallest value as the best.
        let negative = self.least(variant, workload, |slice| Some(-slice.rate()))?;
        Some(Summary {
            best: -negative.best,
            median: -negative.median,
        })
    }

    /// The median latency, in microseconds.
    pub fn p50(&self, variant: Variant, workload: Workload) -> Option<Summary> {
        self.least(variant, workload, |slice| Some(micros(slice.p50)))
    }

    /// The 99th percentile of the latencies, in microseconds.
    pub fn p99(&self, variant: Variant, workload: Workload) -> Option<Summary> {
        self.least(variant, workload, |slice| Some(micros(slice.p99)))
    }

    /// The median time to the first byte of an answer's body, in microseconds. A slice has only some streams, so its own median
    /// varies too much for a comparison of best slices.
    pub fn first_byte(&self, variant: Variant, workload: Workload) -> Option<f64> {
        let summary = self.least(variant, workload, |slice| Some(micros(slice.first_byte)));
        summary.map(|summary| summary.median)
    }

    /// The highest CPU use of the proxy in any slice, as a share of one core.
    pub fn busy(&self, variant: Variant, workload: Workload) -> Option<f64> {
        let busy = |slice: &Slice| slice.cpu.as_secs_f64() / slice.elapsed.as_secs_f64();
        let shares = self.of(variant, workload).iter().map(busy);
        shares.reduce(f64::max)
    }

    /// The highest CPU use of the load and the backends together in any slice, as a share of one core.
    pub fn load_busy(&self, variant: Variant, workload: Workload) -> Option<f64> {
        let busy = |slice: &Slice| slice.load_cpu.as_secs_f64() / slice.elapsed.as_secs_f64();
        let shares = self.of(variant, workload).iter().map(busy);
        shares.reduce(f64::max)
    }

    fn least(
        &self,
        variant: Variant,
        workload: Workload,
        value: impl Fn(&Slice) -> Option<f64>,
    ) -> Option<Summary> {
        let slices = self.of(variant, workload).iter();
        let served = slices.filter(|slice| slice.served > 0);
        least(served.filter_map(value))
    }
}

/// The smallest value, and the median.
fn least(values: impl Iterator<Item = f64>) -> Option<Summary> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    Some(Summary {
        best: *values.first()?,
        median: *values.get(values.len() / 2)?,
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(served: u64, cpu_millis: u64) -> Slice {
        let seen = Seen {
            served,
            elapsed: Duration::from_secs(1),
            latencies: (1..=100).rev().map(Duration::from_micros).collect(),
            ..Seen::default()
        };
        Slice::new(seen, Duration::from_millis(cpu_millis), Duration::ZERO)
    }

    #[test]
    fn the_best_slice_is_the_cheapest_or_the_fastest() {
        let mut results = Results::default();
        let workload = Workload::Body(1);
        // The slice without served requests is ignored.
        for slice in [
            slice(1000, 50),
            slice(2000, 60),
            slice(1500, 60),
            slice(0, 9),
        ] {
            results.add(Variant::Envoy, workload, slice);
        }
        let cpu = results.cpu(Variant::Envoy, workload).unwrap();
        assert_eq!((cpu.best.round(), cpu.median.round()), (30.0, 40.0));
        let rate = results.rate(Variant::Envoy, workload).unwrap();
        assert_eq!((rate.best, rate.median), (2000.0, 1500.0));
        assert_eq!(results.cpu(Variant::Lua, workload), None);
    }

    #[test]
    fn a_round_is_compared_with_itself() {
        let mut results = Results::default();
        let workload = Workload::Body(1);
        // From the second round on, everything takes three times as long, except for one slice.
        for (envoy, router) in [(50, 80), (150, 240), (60, 240), (150, 250)] {
            results.add(Variant::Envoy, workload, slice(1000, envoy));
            results.add(Variant::Router, workload, slice(1000, router));
        }
        let beside = results.cpu_beside(Variant::Envoy, Variant::Router, workload);
        let beside = beside.unwrap();
        assert_eq!((beside.best, beside.median), (1.6, 250.0 / 150.0));
        let alone = results.cpu_beside(Variant::Lua, Variant::Router, workload);
        assert_eq!(alone, None);
    }

    #[test]
    fn results_are_saved_and_read_without_loss() {
        let mut results = Results::default();
        results.add(Variant::Envoy, Workload::Body(1), slice(1000, 50));
        results.add(Variant::Envoy, Workload::Workers(2), slice(1000, 60));
        results.grow(Figure::OpenMemory, Variant::Filter, 1000, 2.5);
        results.rest.insert(Variant::Router, Memory::default());
        let saved = serde_json::to_string(&results).unwrap();
        let read: Results = serde_json::from_str(&saved).unwrap();
        assert_eq!(format!("{read:?}"), format!("{results:?}"));
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let slice = slice(100, 1);
        assert_eq!(slice.p50, Duration::from_micros(50));
        assert_eq!(slice.p99, Duration::from_micros(99));
        assert_eq!(slice.first_byte, Duration::ZERO);
    }
}
