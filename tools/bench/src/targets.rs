//! What a request is to cost at most.

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
