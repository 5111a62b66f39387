//! `cargo xtask budget`: what a request costs the module, without a clock, beside what it may cost.

use anyhow::Result;

use crate::library::{Choice, Library};
use crate::{paths, process, wasm};

/// Builds the module, counts, and shows where it goes.
pub fn command() -> Result<()> {
    let module = wasm::build(&Library::find(Choice::Auto)?)?;
    process::run(
        process::cargo()
            .current_dir(paths::workspace())
            .args(["run", "--quiet", "--locked", "--package", "meter"])
            .env("AOAI_WASM", module),
    )
}
