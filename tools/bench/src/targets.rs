//! What a request is to cost at most, and what else is to be reached.

use std::fmt;

use crate::results::Results;
use crate::variant::{Variant, Workload};

/// The conditions that have a target, and the one of 1 MB, where only the router engine, which leaves the body in Envoy, has one.
pub const CONDITIONS: [Workload; 5] = [
    Workload::Body(1),
    Workload::Body(16),
    Workload::Body(100),
    Workload::Body(1024),
    Workload::Throttled,
];

/// The processor time that a request to `variant` is to take at most, in units of plain Envoy's.
pub fn target(variant: Variant, workload: Workload) -> Option<f64> {
    match (variant, workload) {
        (Variant::Router, Workload::Body(1)) => Some(1.30),
        (Variant::Router, Workload::Body(16)) => Some(1.28),
        (Variant::Router, Workload::Body(100)) => Some(1.25),
        (Variant::Router, Workload::Body(1024)) => Some(1.10),
        (Variant::Filter, Workload::Body(1 | 16 | 100)) => Some(1.35),
        (Variant::Filter | Variant::Router, Workload::Throttled) => Some(1.45),
        _ => None,
    }
}

/// The variant that makes the host calls of `variant`, and nothing else.
pub fn floor(variant: Variant) -> Option<Variant> {
    match variant {
        Variant::Filter => Some(Variant::FloorFilter),
        Variant::Router => Some(Variant::FloorRouter),
        _ => None,
    }
}

/// What is to be reached besides the processor time.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The first byte of a stream, in microseconds after plain Envoy's.
    FirstByte,
    /// The same where the first attempt failed, after one that did not.
    FirstByteRetried,
    /// Memory at rest, in MB more than plain Envoy's.
    Memory,
    /// Small requests in a second, in units of LiteLLM's.
    Rate,
    /// What a second worker brings, in units of what it brings plain Envoy.
    SecondWorker,
}

impl Goal {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 5] = [
        Self::FirstByte,
        Self::FirstByteRetried,
        Self::Memory,
        Self::Rate,
        Self::SecondWorker,
    ];

    /// What is reached, as far as it was measured.
    pub fn measured(self, results: &Results, variant: Variant) -> Option<f64> {
        let first_byte = |variant, workload| Some(results.first_byte(variant, workload)?.best);
        let rate = |variant, workload| Some(results.rate(variant, workload)?.best);
        let rest = |variant| Some(results.rest.get(&variant)?.now as f64 / 1e6);
        let growth = |variant| {
            Some(rate(variant, Workload::Workers(2))? / rate(variant, Workload::Workers(1))?)
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
            Self::Memory => rest(variant)? - rest(Variant::Envoy)?,
            Self::Rate => {
                rate(variant, Workload::Body(1))? / rate(Variant::LiteLlm, Workload::Body(1))?
            }
            Self::SecondWorker => growth(variant)? / growth(Variant::Envoy)?,
        })
    }

    /// What is to be reached, in words.
    pub fn target(self) -> String {
        let (bound, value) = match self {
            Self::FirstByte => ("at most", 100.0),
            Self::FirstByteRetried => ("at most", 1000.0),
            Self::Memory => ("at most", 30.0),
            Self::Rate => ("at least", 100.0),
            Self::SecondWorker => ("at least", 0.95),
        };
        format!("{bound} {}", self.shown(value))
    }

    /// A value with as many digits as it means.
    pub fn shown(self, value: f64) -> String {
        match self {
            Self::FirstByte | Self::FirstByteRetried => format!("{value:+.0}"),
            Self::Memory => format!("{value:+.1}"),
            Self::Rate => format!("{value:.0}"),
            Self::SecondWorker => format!("{value:.2}"),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstByte => "first byte of a stream, us after plain Envoy's",
            Self::FirstByteRetried => "the same retried, us after one that was not",
            Self::Memory => "memory at rest, MB more than plain Envoy's",
            Self::Rate => "requests/s of 1 KB, times LiteLLM's",
            Self::SecondWorker => "what a second worker brings, beside plain Envoy's",
        })
    }
}
