//! `cargo xtask bench`: everything `tools/bench` measures, then the measuring itself.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::Result;
use provision::{envoy, paths, pins, process, python};

use crate::wasm;

/// What is handed on to the tool.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only see that everything works: one round of short slices
    #[arg(long)]
    quick: bool,
    /// Only these, separated by commas: direct, envoy, again, stock, lua, ext_proc, idle, floor_filter, floor_router,
    /// floor_downstream, filter, router, filter_affinity, router_affinity, filter_uncounted, router_uncounted, filter_lean,
    /// router_lean, filter_everything, router_everything, litellm
    #[arg(long, value_name = "VARIANTS")]
    only: Option<String>,
    /// Only under these conditions, separated by commas, and without several workers: 1k, 16k, 100k, 1m, streams,
    /// long_streams, keyed, alone, first_byte, retried, failed_stream, throttled
    #[arg(long, value_name = "CONDITIONS")]
    conditions: Option<String>,
    /// Only these curves, separated by commas, which show how cost grows: backends, cooling, deployments, bodies, items, open,
    /// waiters, start
    #[arg(long, value_name = "CURVES")]
    curves: Option<String>,
    /// Measure another build of the module beside this one
    #[arg(long, value_name = "WASM")]
    against: Option<PathBuf>,
    /// Also watch the memory over a million requests to each variant
    #[arg(long)]
    memory: bool,
    /// How often everything is measured, 20 times unless told
    #[arg(long)]
    rounds: Option<usize>,
    /// Write docs/benchmarks.md and docs/benchmarks.svg
    #[arg(long)]
    write: bool,
}

impl Arguments {
    fn wants_litellm(&self) -> bool {
        let only = self.only.as_deref();
        let is_measured = self.curves.is_none() || self.conditions.is_some();
        is_measured && only.is_none_or(|only| only.split(',').any(|key| key == "litellm"))
    }
}

/// Builds and fetches what is needed, then measures.
pub fn command(arguments: &Arguments) -> Result<()> {
    let envoy = envoy::any()?;
    let module = wasm::build()?;
    // The tool runs in the place of this process, so that nothing else runs beside what it measures.
    process::step("build the benchmark", || {
        process::run(process::cargo().current_dir(paths::workspace()).args([
            "build",
            "--locked",
            "--package",
            "bench",
            "--profile",
            "tools",
        ]))
    })?;
    let mut bench = std::process::Command::new(paths::target().join("tools/bench"));
    bench
        .arg("run")
        .arg("--envoy")
        .arg(envoy)
        .arg("--module")
        .arg(module)
        .arg("--folder")
        .arg(paths::tools().join("bench"));
    if arguments.wants_litellm() {
        // About 150 MB.
        let wanted = format!("litellm[proxy]=={}", pins::LITELLM);
        match python::program("litellm", &wanted) {
            Ok(program) => drop(bench.arg("--litellm").arg(program)),
            Err(error) => {
                let error = format!("{error:#}");
                let reason = error.lines().next().unwrap_or_default();
                eprintln!("the LiteLLM proxy is left out: {reason}");
            }
        }
    }
    let against = arguments.against.as_deref().map(std::path::absolute);
    let valued = [
        ("--against", against.transpose()?.map(OsString::from)),
        ("--only", arguments.only.as_ref().map(OsString::from)),
        (
            "--conditions",
            arguments.conditions.as_ref().map(OsString::from),
        ),
        ("--curves", arguments.curves.as_ref().map(OsString::from)),
        (
            "--rounds",
            arguments.rounds.map(|rounds| rounds.to_string().into()),
        ),
    ];
    for (name, value) in valued {
        if let Some(value) = value {
            bench.arg(name).arg(value);
        }
    }
    if arguments.write {
        bench.arg("--write").arg(paths::workspace().join("docs"));
    }
    for (flag, is_set) in [("--quick", arguments.quick), ("--memory", arguments.memory)] {
        if is_set {
            bench.arg(flag);
        }
    }
    let error = bench.exec();
    Err(process::not_started(&bench, &error))
}
