//! `cargo xtask wasm`: builds the module and reports its size and hash.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;
use provision::library::{self, Library};
use provision::{files, paths, process, revision};

const FILE: &str = "azure_openai_balancer.wasm";

/// The source of the standard library for wasm32-wasip1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The active compiler's own library if it has one or rustup can add it, else Debian's
    Auto,
    /// Debian's library and compiler, the oldest compiler that builds the module
    Debian,
}

/// Builds the module and prints its path, size, hash and compiler.
pub fn command(choice: Choice) -> Result<()> {
    let library = match choice {
        Choice::Auto => Library::find()?,
        Choice::Debian => Library::debian()?,
    };
    let module = build_with(&library)?;
    let size = fs::metadata(&module)
        .with_context(|| format!("{}: cannot be read", module.display()))?
        .len();
    let sum = process::output(Command::new("sha256sum").arg(&module))?;
    println!("path      {}", module.display());
    println!("copy      {}", configured_module().display());
    println!("size      {size} bytes");
    println!("sha256    {}", sum.split(' ').next().unwrap_or_default());
    println!("compiler  {}", library.compiler()?);
    Ok(())
}

/// Builds the module and returns its path.
pub fn build() -> Result<PathBuf> {
    build_with(&Library::find()?)
}

fn build_with(library: &Library) -> Result<PathBuf> {
    process::step("build the module", || {
        let mut cargo = library.cargo("build")?;
        cargo.args(["--release", "-p", "azure-openai-balancer", "--lib"]);
        process::run(cargo.env(revision::VARIABLE, revision::of_workspace()))?;
        let folder = library::wasm_target().join(library::TARGET).join("release");
        let finished = folder.join("finished.wasm");
        let mut finish = process::cargo_run("finish");
        process::run(finish.arg(folder.join(FILE)).arg(&finished))?;
        let module = paths::target().join("wasm32-wasip1/release").join(FILE);
        files::copy(&finished, &module)?;
        files::copy(&finished, &configured_module())?;
        Ok(module)
    })
}

/// The copy of the module that the checked-in configurations name. Their path is relative to the workspace, where Envoy runs.
fn configured_module() -> PathBuf {
    paths::tools().join(FILE)
}
