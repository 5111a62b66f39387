//! `cargo xtask budget`: what a request costs the module, without a clock, beside what it may cost.

use anyhow::Result;
use provision::process;

use crate::wasm;

/// Builds the module, counts, and shows where it goes.
pub fn command() -> Result<()> {
    let module = wasm::build()?;
    process::run(process::cargo_run("meter").env("AOAI_WASM", module))
}
