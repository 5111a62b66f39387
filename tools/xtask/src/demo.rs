//! `cargo xtask demo`: everything the tour of `tools/demo` needs, then the tour itself.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Result;

use crate::library::{Choice, Library};
use crate::{envoy, files, paths, process, python, wasm};

/// Where the checked-in configuration names the module, seen from the top of the workspace.
const MODULE: &str = "target/azure_openai_balancer.wasm";
const CONFIG: &str = "envoy/envoy.yaml";

/// Runs the tour; with `keep` it goes on running until Ctrl-C.
pub fn command(keep: bool) -> Result<()> {
    let module = wasm::build(&Library::find(Choice::Auto)?)?;
    let workspace = paths::workspace();
    files::copy(&module, &workspace.join(MODULE))?;
    let envoy = envoy::any()?;
    let python = python::ensure()?;
    process::step("build the simulator and the tour", || {
        process::run(&mut cargo("build"))
    })?;

    let mut tour = cargo("run");
    tour.args(["--quiet", "--"])
        .arg("--envoy")
        .arg(envoy)
        .arg("--config")
        .arg(workspace.join(CONFIG))
        .arg("--directory")
        .arg(&workspace)
        .arg("--python")
        .arg(python.executable)
        .arg("--folder")
        .arg(paths::tools().join("demo"));
    if !python.path.is_empty() {
        tour.arg("--python-path").arg(python.path);
    }
    if keep {
        tour.arg("--keep");
    }
    // In the place of this process: Ctrl-C is the tour's to handle, and its exit status is the one that counts.
    let error = tour.exec();
    Err(process::not_started(&tour, &error))
}

fn cargo(subcommand: &str) -> Command {
    let mut command = process::cargo();
    command
        .args([
            subcommand,
            "--locked",
            "--package",
            "demo",
            "--manifest-path",
        ])
        .arg(paths::workspace().join("Cargo.toml"));
    command
}
