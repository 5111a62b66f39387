//! What the core needs of its host.

use super::config::Engine;
use super::swap::SharedMap;
use super::time::Timestamp;
use crate::prelude::*;

/// A host: the map that all workers share, and a clock.
pub trait Host: SharedMap + Clone {
    /// The time. A host call, so it is read only where a decision depends on it.
    fn now(&self) -> Timestamp;
}

/// Checks that an Envoy of this version, if that is known, can carry out what the retry engine needs.
///
/// # Errors
/// The router engine needs an Envoy that chooses the cluster of a retry again, which is said in the form of a configuration's problem.
#[inline(never)]
pub fn check_version(version: Option<(u64, u64)>, engine: Engine) -> Result<(), String> {
    match (engine, version) {
        (Engine::Router, Some((major, minor))) if (major, minor) < (1, 39) => Err(format!(
            "retry.engine: \"router\" is not allowed with Envoy {major}.{minor}; use \"filter\", or Envoy 1.39 or later"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_router_engine_needs_envoy_1_39() {
        for (version, engine, is_allowed) in [
            (Some((1, 38)), Engine::Router, false),
            (Some((0, 40)), Engine::Router, false),
            (Some((1, 39)), Engine::Router, true),
            (Some((2, 0)), Engine::Router, true),
            (None, Engine::Router, true),
            (Some((1, 36)), Engine::Filter, true),
        ] {
            let result = check_version(version, engine);
            assert_eq!(result.is_ok(), is_allowed, "{version:?} {engine:?}");
        }
    }
}
