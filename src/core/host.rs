//! The host, as the core needs it.

use super::config::Engine;
use super::swap::SharedMap;
use super::time::Timestamp;
use crate::prelude::*;

/// A host: a clock, and a map that all workers share.
pub trait Host: SharedMap + Clone {
    /// The current time. A host call, so it is read only if a decision depends on it.
    fn now(&self) -> Timestamp;
}

/// Checks that Envoy's version, if known, supports the retry engine.
///
/// # Errors
/// The router engine needs an Envoy that chooses a retry's cluster again. The error has the form of a configuration
/// problem.
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
