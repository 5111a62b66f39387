//! `cargo xtask bench`: builds and fetches the programs that `tools/bench` measures, then runs it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use anyhow::Result;
use provision::{envoy, paths, pins, process, python};

use crate::wasm;

/// Options that are passed on to `tools/bench`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only check that everything works: one round of short slices
    #[arg(long)]
    quick: bool,
    /// Only these variants, separated by commas: direct, envoy, again, stock, lua, ext_proc, idle, floor_filter, floor_router,
    /// floor_downstream, floor_filter_lean, floor_router_lean, floor_filter_everything, floor_router_everything, filter, router,
    /// filter_affinity, router_affinity, filter_uncounted, router_uncounted, filter_lean, router_lean, filter_everything,
    /// router_everything, litellm
    #[arg(long, value_name = "VARIANTS")]
    only: Option<String>,
    /// Only these conditions, separated by commas, and none with several workers: 1k, 16k, 100k, 1m, streams, long_streams,
    /// keyed, alone, first_byte, retried, failed_stream, throttled
    #[arg(long, value_name = "CONDITIONS")]
    conditions: Option<String>,
    /// Only these curves of growing cost, separated by commas: backends, cooling, deployments, bodies, items, open, waiters,
    /// start
    #[arg(long, value_name = "CURVES")]
    curves: Option<String>,
    /// Also measure another build of the module, to compare it with this one
    #[arg(long, value_name = "WASM")]
    against: Option<PathBuf>,
    /// Also record the memory of plain Envoy, the idle module and the balancer over a million requests each
    #[arg(long)]
    memory: bool,
    /// The number of measurements of each variant under each condition; 20 by default
    #[arg(long)]
    rounds: Option<usize>,
    /// Write docs/benchmarks.md and its charts
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

/// Builds and fetches everything that the benchmark needs, then runs it.
pub fn command(arguments: &Arguments) -> Result<()> {
    let envoy = envoy::any()?;
    let module = wasm::build()?;
    // The benchmark replaces this process (`exec`), so that no idle parent runs beside it.
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
        // The download is about 150 MB.
        let wanted = format!("litellm[proxy]=={}", pins::LITELLM);
        match python::program("litellm", &wanted) {
            Ok(program) => drop(bench.arg("--litellm").arg(program)),
            Err(error) => {
                let error = format!("{error:#}");
                let reason = error.lines().next().unwrap_or_default();
                eprintln!("the LiteLLM proxy is not measured: {reason}");
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
