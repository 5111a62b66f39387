//! Targets: upper bounds for the processor time of a request, and bounds for other figures.

use std::fmt;

use crate::curves::{Curve, Figure};
use crate::results::Results;
use crate::variant::{Variant, Workload};

/// The conditions that have a target, in the order of the report.
pub const CONDITIONS: [Workload; 6] = [
    Workload::Body(1),
    Workload::Body(16),
    Workload::Body(100),
    Workload::Alone,
    Workload::Streams,
    Workload::Throttled,
];

/// The upper bound for the processor time of a request to `variant`, as a ratio to plain Envoy's.
pub fn target(variant: Variant, workload: Workload) -> Option<f64> {
    use Variant::{Filter, FilterEverything, FilterLean, Router, RouterEverything, RouterLean};
    match (variant, workload) {
        (FilterLean, Workload::Body(1 | 16 | 100)) => Some(1.30),
        (RouterLean, Workload::Body(1 | 16 | 100)) => Some(1.40),
        (FilterEverything, Workload::Body(1 | 16 | 100)) => Some(1.40),
        (RouterEverything, Workload::Body(1 | 16 | 100)) => Some(1.50),
        (FilterLean, Workload::Alone) => Some(1.38),
        (RouterLean, Workload::Alone) => Some(1.52),
        (FilterEverything | RouterEverything, Workload::Streams) => Some(1.15),
        (Filter, Workload::Throttled) => Some(1.33),
        (Router, Workload::Throttled) => Some(1.45),
        _ => None,
    }
}

/// The floor of `variant`: the variant that makes the host calls of its engine and settings for a plain chat, and computes nothing.
pub fn floor(variant: Variant) -> Option<Variant> {
    Some(match variant {
        Variant::Filter => Variant::FloorFilter,
        Variant::Router => Variant::FloorRouter,
        Variant::FilterLean => Variant::FloorFilterLean,
        Variant::RouterLean => Variant::FloorRouterLean,
        Variant::FilterEverything => Variant::FloorFilterEverything,
        Variant::RouterEverything => Variant::FloorRouterEverything,
        _ => return None,
    })
}

/// A target: an upper or a lower bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// Less is better.
    AtMost(f64),
    /// More is better.
    AtLeast(f64),
}

impl Bound {
    /// Says whether a measured value meets the target, and if not, whether the floor misses it too. A value that equals the target in
    /// the digits of the table meets it.
    pub fn verdict(
        self,
        measured: f64,
        floor: Option<f64>,
        shown: impl Fn(f64) -> String,
    ) -> &'static str {
        let is_met = |value: f64| {
            let equal = shown(value) == shown(self.value());
            equal
                || match self {
                    Self::AtMost(bound) => value <= bound,
                    Self::AtLeast(bound) => value >= bound,
                }
        };
        match floor {
            _ if is_met(measured) => "met",
            Some(floor) if !is_met(floor) => "missed, by the floor too",
            _ => "missed",
        }
    }

    fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    /// The target as text.
    pub fn shown(self, shown: impl Fn(f64) -> String) -> String {
        let words = match self {
            Self::AtMost(_) => "at most",
            Self::AtLeast(_) => "at least",
        };
        format!("{words} {}", shown(self.value()))
    }
}

/// A figure with a target, other than the processor time of a plain request.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The time to the first byte of a stream, in microseconds more than plain Envoy's.
    FirstByte,
    /// The time to the first byte of a retried stream, in microseconds more than that of a stream without a retry.
    FirstByteRetried,
    /// Processor time with a hundred healthy backends, as a ratio to processor time with three.
    ManyBackends,
    /// Processor time with a hundred backends, half of them in cooldown, as a ratio to processor time with three healthy ones.
    HalfCooling,
    /// The slowdown of a new request by 10,000 open streams, as a ratio to the slowdown in plain Envoy.
    OpenStreams,
    /// Memory at rest, in MB more than plain Envoy's.
    Memory,
    /// Memory of each further worker, in MB more than plain Envoy's.
    WorkerMemory,
    /// Small requests per second, as a ratio to LiteLLM's.
    Rate,
    /// The factor by which a second worker raises throughput, as a ratio to the factor in plain Envoy.
    SecondWorker,
}

impl Goal {
    /// All goals, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::FirstByte,
        Self::FirstByteRetried,
        Self::ManyBackends,
        Self::HalfCooling,
        Self::OpenStreams,
        Self::Memory,
        Self::WorkerMemory,
        Self::Rate,
        Self::SecondWorker,
    ];

    /// The measured value, if it was measured.
    pub fn measured(self, results: &Results, variant: Variant) -> Option<f64> {
        let first_byte = |variant, workload| results.first_byte(variant, workload);
        let rate = |variant, workload| Some(results.rate(variant, workload)?.best);
        let rest = |variant| Some(results.rest.get(&variant)?.now as f64 / 1e6);
        let growth = |variant| {
            Some(rate(variant, Workload::Workers(2))? / rate(variant, Workload::Workers(1))?)
        };
        // The first and the last point of a curve.
        let along = |figure, variant| {
            let curve = results.curve(figure, variant);
            Some((*curve.first()?, *curve.last().filter(|_| curve.len() > 1)?))
        };
        let ratio = |figure, variant| {
            let ((_, first), (_, last)) = along(figure, variant)?;
            Some(last / first)
        };
        let slope = |figure, variant| {
            let ((from, first), (to, last)) = along(figure, variant)?;
            Some((last - first) / (to - from) as f64)
        };
        Some(match self {
            Self::FirstByte => {
                first_byte(variant, Workload::FirstByte)?
                    - first_byte(Variant::Envoy, Workload::FirstByte)?
            }
            Self::FirstByteRetried => {
                first_byte(variant, Workload::FirstByteRetried)?
                    - first_byte(variant, Workload::FirstByte)?
            }
            Self::ManyBackends => ratio(Figure::Cpu(Curve::Backends), variant)?,
            Self::HalfCooling => {
                let curve = results.curve(Figure::Cpu(Curve::Cooling), variant);
                let healthy = results.curve(Figure::Cpu(Curve::Backends), variant);
                curve.last()?.1 / healthy.first()?.1
            }
            Self::OpenStreams => {
                ratio(Figure::OpenLatency, variant)? / ratio(Figure::OpenLatency, Variant::Envoy)?
            }
            Self::Memory => rest(variant)? - rest(Variant::Envoy)?,
            Self::WorkerMemory => {
                slope(Figure::StartMemory, variant)? - slope(Figure::StartMemory, Variant::Envoy)?
            }
            Self::Rate => {
                rate(variant, Workload::Body(1))? / rate(Variant::LiteLlm, Workload::Body(1))?
            }
            Self::SecondWorker => growth(variant)? / growth(Variant::Envoy)?,
        })
    }

    /// The target for `variant`.
    pub fn bound(self, variant: Variant) -> Bound {
        match self {
            Self::FirstByte if variant == Variant::Filter => Bound::AtMost(110.0),
            Self::FirstByte => Bound::AtMost(130.0),
            Self::FirstByteRetried => Bound::AtMost(1000.0),
            Self::ManyBackends => Bound::AtMost(1.05),
            Self::HalfCooling => Bound::AtMost(1.15),
            Self::OpenStreams => Bound::AtMost(1.2),
            Self::Memory => Bound::AtMost(30.0),
            Self::WorkerMemory => Bound::AtMost(8.0),
            Self::Rate => Bound::AtLeast(100.0),
            Self::SecondWorker => Bound::AtLeast(0.95),
        }
    }

    /// A value as text, with the digits that are meaningful.
    pub fn shown(self, value: f64) -> String {
        match self {
            Self::FirstByte | Self::FirstByteRetried => format!("{value:+.0}"),
            Self::Memory | Self::WorkerMemory => format!("{value:+.1}"),
            Self::Rate => format!("{value:.0}"),
            Self::ManyBackends | Self::HalfCooling | Self::OpenStreams | Self::SecondWorker => {
                format!("{value:.2}")
            }
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstByte => "first byte of a stream, us after plain Envoy's",
            Self::FirstByteRetried => {
                "first byte of a retried stream, us after one without a retry"
            }
            Self::ManyBackends => "CPU with 100 backends, ratio to 3 backends",
            Self::HalfCooling => "CPU with 50 of 100 backends in cooldown, ratio to 3 backends",
            Self::OpenStreams => "slowdown by 10,000 open streams, ratio to plain Envoy's",
            Self::Memory => "memory at rest, MB more than plain Envoy's",
            Self::WorkerMemory => "memory of each further worker, MB more than plain Envoy's",
            Self::Rate => "requests/s of 1 KB, ratio to LiteLLM's",
            Self::SecondWorker => "speedup by a second worker, ratio to plain Envoy's",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_judged_by_the_displayed_digits() {
        let shown = |value: f64| format!("{value:.2}");
        let at_most = Bound::AtMost(1.30);
        for (measured, floor, verdict) in [
            (1.25, Some(1.20), "met"),
            (1.304, None, "met"),
            (1.31, Some(1.26), "missed"),
            (1.31, None, "missed"),
            (1.37, Some(1.35), "missed, by the floor too"),
        ] {
            assert_eq!(at_most.verdict(measured, floor, shown), verdict);
        }
        let at_least = Bound::AtLeast(100.0);
        assert_eq!(at_least.verdict(107.0, None, shown), "met");
        assert_eq!(at_least.verdict(94.0, None, shown), "missed");
        assert_eq!(
            at_least.shown(|value| format!("{value:.0}")),
            "at least 100"
        );
    }

    #[test]
    fn cooling_backends_are_compared_with_healthy_ones() {
        let mut results = Results::default();
        let healthy = Figure::Cpu(Curve::Backends);
        let cooling = Figure::Cpu(Curve::Cooling);
        for (figure, point, micros) in [
            (healthy, 3, 50.0),
            (healthy, 100, 51.0),
            (cooling, 3, 52.0),
            (cooling, 100, 60.0),
        ] {
            results.grow(figure, Variant::Filter, point, micros);
        }
        let measured = |goal: Goal| goal.measured(&results, Variant::Filter);
        assert_eq!(measured(Goal::ManyBackends), Some(1.02));
        assert_eq!(measured(Goal::HalfCooling), Some(1.2));
        assert_eq!(measured(Goal::OpenStreams), None);
    }

    #[test]
    fn memory_of_a_worker_is_a_slope_minus_plain_envoys() {
        let mut results = Results::default();
        for (variant, workers, megabytes) in [
            (Variant::Envoy, 1, 60.0),
            (Variant::Envoy, 4, 66.0),
            (Variant::Router, 1, 90.0),
            (Variant::Router, 4, 111.0),
        ] {
            results.grow(Figure::StartMemory, variant, workers, megabytes);
        }
        let measured = Goal::WorkerMemory.measured(&results, Variant::Router);
        assert_eq!(measured, Some(5.0));
    }
}
