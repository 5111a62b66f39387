//! Measures the balancer beside its alternatives: plain Envoy, stock Envoy with its own retries, Lua, an `ext_proc` service and the
//! LiteLLM proxy. `cargo xtask bench` builds and fetches everything that it needs, and runs it.

mod backend;
mod chart;
mod config;
mod cores;
mod curves;
mod ext_proc;
mod floor;
mod http1;
mod load;
mod measure;
mod method;
mod proxy;
mod quiet;
mod report;
mod results;
mod table;
mod targets;
mod usage;
mod variant;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use clap::{Args, Parser, Subcommand};

use backend::Backends;
use config::Surroundings;
use cores::Cores;
use curves::Curve;
use floor::Floor;
use measure::{Around, Effort, Proxies};
use proxy::Launcher;
use quiet::Quiet;
use report::Report;
use results::Results;
use variant::{Variant, Workload};

#[derive(Parser)]
#[command(about = "Measures the balancer beside its alternatives")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and print the tables
    Run(Box<Run>),
    /// Make the page again from the saved values of a run
    Page {
        /// The file measured.json of the run
        from: PathBuf,
        /// Write the page and its charts here
        #[arg(long)]
        write: Option<PathBuf>,
    },
    /// Run the ext_proc service of the variant of that name
    ExtProc,
}

#[derive(Args)]
struct Run {
    /// The path of Envoy
    #[arg(long)]
    envoy: PathBuf,
    /// The path of the module
    #[arg(long)]
    module: PathBuf,
    /// The path of another build of the module, to compare with
    #[arg(long)]
    against: Option<PathBuf>,
    /// The path of the LiteLLM proxy
    #[arg(long)]
    litellm: Option<PathBuf>,
    /// The folder for configurations, logs and the measured values
    #[arg(long)]
    folder: PathBuf,
    /// Write the page and its charts here
    #[arg(long)]
    write: Option<PathBuf>,
    /// The number of measurements of each variant under each condition
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Length of a slice in milliseconds; slices of streams are four times as long. Many short slices are more likely to find a quiet
    /// moment of the machine than few long ones
    #[arg(long, default_value_t = 250)]
    slice: u64,
    /// Only these variants
    #[arg(long, value_delimiter = ',', value_parser = variant)]
    only: Vec<Variant>,
    /// Only these conditions, none with several workers, and only named curves
    #[arg(long, value_delimiter = ',', value_parser = workload)]
    conditions: Vec<Workload>,
    /// Only these curves of growing cost, and only named conditions
    #[arg(long, value_delimiter = ',', value_parser = curve)]
    curves: Vec<Curve>,
    /// Also record the memory of plain Envoy, the idle module and the balancer over a million small requests each
    #[arg(long)]
    memory: bool,
    /// Only check that everything works: one round of short slices
    #[arg(long)]
    quick: bool,
    /// Also write each callback and host call into the logs of the Envoys. The measured values then mean nothing
    #[arg(long)]
    trace: bool,
}

/// The name of the file with a run's saved values.
const MEASURED: &str = "measured.json";

/// The time after which memory at rest is measured. Envoy's allocator keeps memory that was in use within the last five minutes.
const REST: Duration = Duration::from_secs(7 * 60);

/// The longest wait for a quiet moment before a slice.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

fn variant(key: &str) -> Result<Variant> {
    Variant::named(key).ok_or_else(|| {
        let keys = Variant::ALL.map(Variant::key).join(", ");
        anyhow!("{key}: no variant has this name; use some of {keys}")
    })
}

fn workload(key: &str) -> Result<Workload> {
    Workload::named(key).ok_or_else(|| {
        let keys = Workload::SHUFFLED.map(Workload::key).join(", ");
        anyhow!("{key}: no condition has this name; use some of {keys}")
    })
}

fn curve(key: &str) -> Result<Curve> {
    Curve::named(key).ok_or_else(|| {
        let keys = Curve::ALL.map(Curve::key).join(", ");
        anyhow!("{key}: no curve has this name; use some of {keys}")
    })
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(run) => run.perform(),
        Command::Page { from, write } => page(&from, write.as_deref()),
        Command::ExtProc => ext_proc::serve(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Run {
    fn perform(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("{}: cannot be created", self.folder.display()))?;
        let cores = Cores::find()?;
        curves::raise_file_limit();
        let backends = Backends::start(&cores)?;
        let idle = self.folder.join("idle.wasm");
        fs::write(&idle, wat::parse_str(include_str!("idle.wat"))?)?;
        let floor = Floor::write(&self.folder)?;
        cores.pin_to_load();
        let mut launcher = Launcher {
            envoy: &self.envoy,
            litellm: self.litellm.as_deref(),
            folder: &self.folder,
            trace: self.trace,
            cores: &cores,
            around: Surroundings {
                backends: &backends,
                module: &self.module,
                against: self.against.as_deref(),
                idle: &idle,
                floor: &floor,
                ext_proc: None,
            },
        };
        let (variants, effort) = (self.variants(), self.effort());
        let mut results = Results::default();
        let are_curves_alone = self.conditions.is_empty() && !self.curves.is_empty();
        let proxies = match are_curves_alone {
            true => Proxies(Default::default()),
            false => Proxies::start(&mut launcher, &variants)?,
        };
        if self.memory {
            // Memory comes first, because Envoy keeps the memory that large bodies took.
            let (requests, rest) = match self.quick {
                true => (1_000, Duration::ZERO),
                false => (1_000_000, REST),
            };
            measure::run_memory(&proxies, requests, rest, &mut results)?;
        }
        let quiet = Quiet::new(
            &cores,
            if self.quick {
                Duration::ZERO
            } else {
                LONGEST_WAIT
            },
        );
        let around = Around {
            backends: &backends,
            quiet: &quiet,
        };
        measure::run(&proxies, &effort, around, &mut results)?;
        drop(proxies);
        let is_everything = self.conditions.is_empty() && self.curves.is_empty();
        if is_everything {
            measure::run_workers(&mut launcher, &variants, &effort, &quiet, &mut results)?;
        }
        let curves = match (is_everything, self.quick) {
            (true, true) => &Curve::QUICK[..],
            (true, false) => &Curve::ALL,
            (false, _) => &self.curves,
        };
        // If a curve fails, everything measured so far is saved and shown.
        let end = curves::run(
            &mut launcher,
            curves,
            &self.only,
            &effort,
            &quiet,
            &mut results,
        );

        let report = Report {
            results,
            effort,
            machine: usage::machine(cores.count()),
            envoy: version(&self.envoy)?,
            pinned: cores.are_apart(),
            slices: quiet.slices(),
        };
        let measured = self.folder.join(MEASURED);
        fs::write(&measured, serde_json::to_vec(&report)?)
            .with_context(|| format!("{}: cannot be written", measured.display()))?;
        println!("\n{report}");
        if let Some(folder) = &self.write {
            write(folder, &report)?;
        }
        end.and_then(|()| judge(&report.results))
    }

    fn variants(&self) -> Vec<Variant> {
        let is_there = |variant: &Variant| match variant {
            Variant::LiteLlm => self.litellm.is_some(),
            Variant::FilterAgainst | Variant::RouterAgainst => self.against.is_some(),
            _ => true,
        };
        let is_wanted = |variant: &Variant| match self.only.is_empty() {
            true => variant.is_usual(),
            false => self.only.contains(variant),
        };
        let variants = Variant::ALL.into_iter();
        variants.filter(is_there).filter(is_wanted).collect()
    }

    fn effort(&self) -> Effort {
        let workloads = match self.conditions.as_slice() {
            [] => Workload::SHUFFLED.to_vec(),
            conditions => conditions.to_vec(),
        };
        let (rounds, slice, warm_up) = match self.quick {
            true => (1, Duration::from_millis(200), Duration::from_millis(20)),
            false => (
                self.rounds.max(1),
                Duration::from_millis(self.slice),
                Duration::from_millis(100),
            ),
        };
        Effort {
            rounds,
            slice,
            warm_up,
            workloads,
        }
    }
}

fn version(envoy: &Path) -> Result<String> {
    let output = std::process::Command::new(envoy)
        .arg("--version")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let number = text.split('/').find(|part| {
        part.split('.').count() == 3 && part.starts_with(|c: char| c.is_ascii_digit())
    });
    Ok(number.unwrap_or(text.trim()).to_owned())
}

fn page(from: &Path, folder: Option<&Path>) -> Result<()> {
    let saved = fs::read(from).with_context(|| format!("{}: cannot be read", from.display()))?;
    let report: Report = serde_json::from_slice(&saved).with_context(|| {
        format!(
            "{}: not in the format that this version saves",
            from.display()
        )
    })?;
    println!("{report}");
    folder.map_or(Ok(()), |folder| write(folder, &report))
}

fn write(folder: &Path, report: &Report) -> Result<()> {
    for (name, content) in [
        ("benchmarks.md", report.page()),
        ("benchmarks.svg", chart::bars(&report.results)),
        ("benchmarks-curves.svg", chart::lines(&report.results)),
    ] {
        let file = folder.join(name);
        fs::write(&file, content)
            .with_context(|| format!("{}: cannot be written", file.display()))?;
        println!("written: {}", file.display());
    }
    Ok(())
}

/// Fails if the balancer or a floor did not serve every request. A floor whose calls fail would be too cheap.
fn judge(results: &Results) -> Result<()> {
    let errors = results.errors().into_iter();
    let failed: Vec<_> = errors
        .filter(|(variant, _, _)| variant.is_balancer() || variant.is_floor())
        .map(|(variant, workload, errors)| format!("{variant}, {workload}: {errors}"))
        .collect();
    ensure!(
        failed.is_empty(),
        "requests were not served: {}",
        failed.join("; ")
    );
    Ok(())
}
