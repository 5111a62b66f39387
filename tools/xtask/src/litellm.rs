//! The LiteLLM proxy, for the benchmarks only.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::files::{self, Lock};
use crate::{paths, pins, process};

/// Installs the proxy in an environment of its own, unless that is done already, and returns its program.
pub fn ensure() -> Result<PathBuf> {
    let place = paths::litellm();
    let program = place.join("bin/litellm");
    let is_installed = || files::says(&stamp(&place), pins::LITELLM) && program.exists();
    if is_installed() {
        return Ok(program);
    }
    let _lock = Lock::on(&place)?;
    // Another run may have installed it while this one waited.
    if !is_installed() {
        let what = format!("install the LiteLLM proxy {} (about 150 MB)", pins::LITELLM);
        process::step(&what, || install(&place))?;
    }
    Ok(program)
}

fn install(place: &Path) -> Result<()> {
    files::remove(place)?;
    process::output(Command::new("python3").args(["-m", "venv"]).arg(place))?;
    let mut pip = Command::new(place.join("bin/python"));
    pip.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--quiet", "install", "--only-binary=:all:"]);
    process::output(pip.arg(format!("litellm[proxy]=={}", pins::LITELLM)))?;
    files::write(&stamp(place), pins::LITELLM)
}

/// Written last: without it an installation was interrupted.
fn stamp(place: &Path) -> PathBuf {
    place.join("stamp")
}
