//! What the core needs of its host.

use super::swap::SharedMap;
use super::time::Timestamp;

/// A host: the map that all workers share, and a clock.
pub trait Host: SharedMap + Clone {
    /// The time. A host call, so it is read only where a decision depends on it.
    fn now(&self) -> Timestamp;
}
