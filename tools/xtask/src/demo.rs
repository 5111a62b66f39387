//! `cargo xtask demo`: the balancer in front of simulated backends.

use anyhow::{bail, Result};

/// Runs the demo.
pub fn command() -> Result<()> {
    bail!("cargo xtask demo: not there yet")
}
