//! Measures all variants under all conditions, in shuffled slices, so that a disturbance of the machine affects all variants alike.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::backend::{Backends, BACKENDS};
use crate::load::Load;
use crate::proxy::{Launcher, Proxy};
use crate::quiet::Quiet;
use crate::results::{Results, Slice};
use crate::usage::{self, Memory};
use crate::variant::{Variant, Workload};

/// The extent of the measurements.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Effort {
    /// The number of slices per variant and condition.
    pub rounds: usize,
    /// The usual length of a slice. [`Workload::slice`] makes some slices longer.
    pub slice: Duration,
    /// The time for which the load runs before each slice.
    pub warm_up: Duration,
    /// The conditions that are measured.
    pub workloads: Vec<Workload>,
}

/// The backends and the quiet moments. All slices share them.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    /// The backends.
    pub backends: &'a Backends,
    /// The quiet moments.
    pub quiet: &'a Quiet<'a>,
}

/// The running proxies.
pub struct Proxies(pub BTreeMap<Variant, Proxy>);

impl Proxies {
    /// Starts the variants and checks that each does its work. If LiteLLM does not start, it is left out with a message.
    pub fn start(launcher: &mut Launcher<'_>, variants: &[Variant]) -> Result<Self> {
        let mut proxies = BTreeMap::new();
        for variant in variants {
            eprintln!("start {variant}");
            match launcher.start(*variant, None) {
                Ok(proxy) => {
                    check(*variant, &proxy, launcher.around.backends)?;
                    proxies.insert(*variant, proxy);
                }
                Err(error) if *variant == Variant::LiteLlm => {
                    eprintln!("{variant} is not measured: {error:#}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self(proxies))
    }
}

/// Checks that a variant serves requests, spreads them and sends the token. A variant that does less would look too cheap.
fn check(variant: Variant, proxy: &Proxy, backends: &Backends) -> Result<()> {
    const REQUESTS: u64 = 30;
    let board = &backends.board;
    let counts =
        || -> [u64; BACKENDS] { std::array::from_fn(|index| board.requests[index].load(Relaxed)) };
    let (before, authorized) = (counts(), board.authorized.load(Relaxed));
    let mut load = Load::connect(proxy.address, 1, &Workload::Alone.request())?;
    let seen = load.run(Duration::from_secs(60), REQUESTS)?;
    drop(load);
    ensure!(
        seen.served == REQUESTS && seen.errors == 0,
        "{variant}: {} of {REQUESTS} requests were served; {} failed",
        seen.served,
        seen.errors
    );
    if variant == Variant::Direct {
        return Ok(());
    }
    let after = counts();
    let shares: [u64; BACKENDS] = std::array::from_fn(|index| after[index] - before[index]);
    // LiteLLM's choice is random.
    let least = if variant == Variant::LiteLlm {
        1
    } else {
        REQUESTS / BACKENDS as u64 - 1
    };
    ensure!(
        shares.iter().all(|share| *share >= least),
        "{variant}: the backends received {shares:?} of {REQUESTS} requests"
    );
    let with_token = board.authorized.load(Relaxed) - authorized;
    ensure!(
        !variant.sends_token() || with_token >= REQUESTS,
        "{variant}: only {with_token} of {REQUESTS} requests sent the token"
    );
    Ok(())
}

/// Measures one slice.
fn measure(
    proxy: &Proxy,
    variant: Variant,
    workload: Workload,
    effort: &Effort,
    around: Around<'_>,
) -> Result<Slice> {
    let throttled = &around.backends.board.throttled;
    throttled.store(workload.throttles(variant), Relaxed);
    let me = [std::process::id()];
    let mut load = Load::connect(proxy.address, workload.connections(), &workload.request())?;
    // LiteLLM is slow, so the warm-up lasts until at least one request was served.
    let start = Instant::now();
    while load.run(effort.warm_up, u64::MAX)?.served == 0 {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "no request was served within a minute"
        );
    }
    let length = workload.slice(effort.slice);
    let slice = around.quiet.measure(length, || {
        let before = (usage::cpu(&proxy.processes)?, usage::cpu(&me)?);
        let seen = load.run(length, u64::MAX)?;
        let after = (usage::cpu(&proxy.processes)?, usage::cpu(&me)?);
        anyhow::Ok(Slice::new(seen, after.0 - before.0, after.1 - before.1))
    });
    throttled.store(false, Relaxed);
    slice
}

/// Measures the usual conditions in shuffled order, then the throttled one. It comes last, because it changes the health that the
/// balancer has recorded.
pub fn run(
    proxies: &Proxies,
    effort: &Effort,
    around: Around<'_>,
    results: &mut Results,
) -> Result<()> {
    let (throttled, usual): (Vec<_>, Vec<_>) = effort
        .workloads
        .iter()
        .copied()
        .partition(|workload| *workload == Workload::Throttled);
    for (name, workloads) in [
        ("usual conditions", usual),
        ("one of three throttled", throttled),
    ] {
        // All variants have their slices of a condition within seconds, so that they can be compared within a round.
        let mut conditions: Vec<(Workload, Vec<_>)> = workloads
            .into_iter()
            .map(|workload| {
                let suited = |(variant, _): &(&Variant, _)| workload.suits(**variant);
                (workload, proxies.0.iter().filter(suited).collect())
            })
            .collect();
        let slices: usize = conditions.iter().map(|(_, proxies)| proxies.len()).sum();
        let mut progress = Progress::new(name, effort.rounds * slices);
        for _ in 0..effort.rounds {
            conditions.shuffle(&mut rand::rng());
            for (workload, proxies) in &mut conditions {
                proxies.shuffle(&mut rand::rng());
                for (variant, proxy) in proxies {
                    let slice = measure(proxy, **variant, *workload, effort, around)
                        .with_context(|| format!("{variant}, {workload}"))?;
                    progress.step(**variant, *workload, &slice);
                    results.add(**variant, *workload, slice);
                }
            }
        }
    }
    for (variant, proxy) in &proxies.0 {
        let memory = usage::memory(&proxy.processes)?;
        results.memory.insert(*variant, memory);
    }
    Ok(())
}

/// Measures Envoys with one worker and with several workers, on all cores.
pub fn run_workers(
    launcher: &mut Launcher<'_>,
    variants: &[Variant],
    effort: &Effort,
    quiet: &Quiet<'_>,
    results: &mut Results,
) -> Result<()> {
    launcher.cores.unpin();
    let mut proxies = Vec::new();
    for variant in variants {
        for workload in Workload::WORKERS {
            if let (Workload::Workers(count), true) = (workload, workload.suits(*variant)) {
                proxies.push((*variant, workload, launcher.start(*variant, Some(count))?));
            }
        }
    }
    let mut progress = Progress::new("workers", effort.rounds * proxies.len());
    for _ in 0..effort.rounds {
        proxies.shuffle(&mut rand::rng());
        for (variant, workload, proxy) in &proxies {
            let around = Around {
                backends: launcher.around.backends,
                quiet,
            };
            let slice = measure(proxy, *variant, *workload, effort, around)?;
            progress.step(*variant, *workload, &slice);
            results.add(*variant, *workload, slice);
        }
    }
    launcher.cores.pin_to_load();
    Ok(())
}

/// Records the memory of plain Envoy, of the idle module and of the balancer over `requests` small requests. It records the memory
/// again when `rest` has passed since the beginning.
pub fn run_memory(
    proxies: &Proxies,
    requests: u64,
    rest: Duration,
    results: &mut Results,
) -> Result<()> {
    const STEPS: u64 = 10;
    let begin = Instant::now();
    let is_watched = |variant: &Variant| {
        matches!(
            variant,
            Variant::Envoy | Variant::Idle | Variant::Filter | Variant::Router
        )
    };
    let watched = proxies.0.iter().filter(|(variant, _)| is_watched(variant));
    for (variant, proxy) in watched.clone() {
        let workload = Workload::Body(1);
        let mut load = Load::connect(proxy.address, workload.connections(), &workload.request())?;
        let mut served = 0;
        while served < requests {
            let seen = load.run(Duration::from_secs(600), requests / STEPS)?;
            ensure!(seen.served > 0, "{variant} stopped serving requests");
            served += seen.served + seen.errors;
            let memory = usage::memory(&proxy.processes)?;
            log_memory(*variant, &format!("after {served} requests"), memory);
            let growth = results.growth.entry(*variant).or_default();
            growth.push((served, memory));
        }
    }
    let left = rest.saturating_sub(begin.elapsed());
    if !left.is_zero() {
        eprintln!(
            "memory: waiting for {} s before the last measurement",
            left.as_secs()
        );
        std::thread::sleep(left);
    }
    for (variant, proxy) in watched {
        let memory = usage::memory(&proxy.processes)?;
        log_memory(*variant, "at rest", memory);
        results.rest.insert(*variant, memory);
    }
    Ok(())
}

fn log_memory(variant: Variant, when: &str, memory: Memory) {
    let megabytes = memory.now as f64 / 1e6;
    eprintln!("memory: {variant} {when}: {megabytes:.1} MB");
}

/// Prints a line for each slice. On a terminal each line replaces the last one.
struct Progress {
    name: &'static str,
    done: usize,
    all: usize,
}

impl Progress {
    fn new(name: &'static str, all: usize) -> Self {
        Self { name, done: 0, all }
    }

    fn step(&mut self, variant: Variant, workload: Workload, slice: &Slice) {
        self.done += 1;
        let cpu = slice.cpu_per_request().unwrap_or_default();
        let line = format!(
            "{} {}/{}: {variant}, {workload}: {:.1} us, {:.0}/s",
            self.name,
            self.done,
            self.all,
            cpu.as_secs_f64() * 1e6,
            slice.rate()
        );
        let mut stderr = io::stderr().lock();
        // A failure to print progress does not stop the run.
        let _ = if stderr.is_terminal() {
            let end = if self.done == self.all { "\n" } else { "" };
            write!(stderr, "\r\x1b[K{line}{end}")
        } else {
            writeln!(stderr, "{line}")
        };
    }
}
