//! `cargo xtask demo`: builds and fetches everything that the tour of `tools/demo` needs, then runs the tour.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{bail, Result};
use clap::ValueEnum;
use provision::{envoy, paths, pins, process, python};

use crate::wasm;

/// The retry engine: the part that makes the attempts after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Envoy's router retries, on the backends that the module plans (Envoy 1.39 and newer)
    Router,
    /// The module sends the request again itself (every Envoy)
    Filter,
}

impl Engine {
    fn name(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Filter => "filter",
        }
    }

    /// The checked-in configuration with this engine.
    fn config(self) -> &'static str {
        match self {
            Self::Router => "envoy/envoy-router.yaml",
            Self::Filter => "envoy/envoy.yaml",
        }
    }

    /// The requested engine, if this Envoy can run it. Without a request, the router engine if this Envoy can run it, else the filter
    /// engine.
    fn choose(requested: Option<Self>, version: &envoy::Version) -> Result<Self> {
        let can_route = envoy::has_router_engine(version);
        match requested {
            Some(Self::Router) if !can_route => {
                let (major, minor) = pins::OLDEST_ROUTER_ENVOY;
                bail!(
                    "--engine router: this is Envoy {version}; the router engine needs {major}.{minor} or newer: use \
                     --engine filter, or name another Envoy in ENVOY_BIN"
                )
            }
            Some(requested) => Ok(requested),
            None if can_route => Ok(Self::Router),
            None => Ok(Self::Filter),
        }
    }
}

/// Runs the tour. With `keep` everything keeps running until Ctrl-C.
pub fn command(keep: bool, engine: Option<Engine>) -> Result<()> {
    let envoy = envoy::any()?;
    let engine = Engine::choose(engine, &envoy::version_of(&envoy)?)?;
    wasm::build()?;
    let python = python::sdks()?;
    process::step("build the simulator and the tour", || {
        process::run(&mut cargo("build"))
    })?;

    let workspace = paths::workspace();
    let mut tour = cargo("run");
    tour.args(["--quiet", "--", "--engine", engine.name()])
        .arg("--envoy")
        .arg(envoy)
        .arg("--config")
        .arg(workspace.join(engine.config()))
        .arg("--directory")
        .arg(&workspace)
        .arg("--python")
        .arg(python.executable)
        .arg("--python-path")
        .arg(python.path)
        .arg("--folder")
        .arg(paths::tools().join("demo"));
    if keep {
        tour.arg("--keep");
    }
    // The tour replaces this process (`exec`), so that it handles Ctrl-C and its exit status is the command's.
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
            // The package has a second program, the client of the containers.
            "--bin",
            "demo",
            "--manifest-path",
        ])
        .arg(paths::workspace().join("Cargo.toml"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cargo does not run a package with several programs unless the command names one.
    #[test]
    fn cargo_knows_which_program_is_the_tour() {
        let mut tour = cargo("run");
        let output = tour.args(["--quiet", "--", "--help"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        let help = String::from_utf8_lossy(&output.stdout);
        assert!(help.contains("--engine"), "{help}");
    }

    fn chosen(requested: Option<Engine>, version: &str) -> Result<Engine> {
        Engine::choose(requested, &envoy::Version::parse(version).unwrap())
    }

    #[test]
    fn the_router_engine_runs_where_it_can() {
        assert_eq!(chosen(None, "1.40.0").unwrap(), Engine::Router);
        assert_eq!(chosen(None, "1.38.2").unwrap(), Engine::Filter);
    }

    #[test]
    fn a_requested_engine_runs_or_is_refused() {
        let (router, filter) = (Some(Engine::Router), Some(Engine::Filter));
        assert_eq!(chosen(filter, "1.40.0").unwrap(), Engine::Filter);
        assert_eq!(chosen(router, "1.39.0").unwrap(), Engine::Router);
        let error = chosen(router, "1.38.2").unwrap_err().to_string();
        assert!(
            error.starts_with("--engine router: this is Envoy 1.38.2; "),
            "{error}"
        );
    }
}
