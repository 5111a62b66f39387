//! `cargo xtask budget`: the module's cost per request in instructions, code, host calls and bytes, beside its budget.

use anyhow::Result;
use provision::process;

use crate::wasm;

/// Builds the module, counts its cost, and prints the parts of it.
pub fn command() -> Result<()> {
    let module = wasm::build()?;
    process::run(process::cargo_run("meter").env("AOAI_WASM", module))
}
