//! Measures how cost grows with backends, deployments, body sizes, items of a response, open streams, waiting requests and workers.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rand::seq::SliceRandom;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::backend::BACKENDS;
use crate::load::{Asks, Load, Request};
use crate::measure::Effort;
use crate::proxy::{Launcher, Proxy};
use crate::quiet::Quiet;
use crate::results::Results;
use crate::usage;
use crate::variant::{Variant, Workload};

/// The quantity that grows along a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Curve {
    /// The number of backends, all of them healthy.
    Backends,
    /// The number of backends, half of them throttled.
    Cooling,
    /// The number of deployments that requests name.
    Deployments,
    /// The size of request bodies.
    Bodies,
    /// The number of items in an answer of the Responses API.
    Items,
    /// The number of streams that are open at the same time.
    Open,
    /// The number of requests that wait for a token.
    Waiters,
    /// The number of workers. Start time and memory are measured.
    Start,
}

/// A figure that is measured along a curve. For every figure, less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Figure {
    /// Processor time per request, in microseconds.
    Cpu(Curve),
    /// Resident memory per open stream, in kilobytes.
    OpenMemory,
    /// Latency of a new request over one connection while the streams are open, in microseconds.
    OpenLatency,
    /// Processor time per second while requests wait, in milliseconds.
    Waiting,
    /// The time from the start until requests are served, in milliseconds.
    Ready,
    /// Resident memory after the start, in megabytes.
    StartMemory,
}

/// The number of backends and their behaviour. The default is the usual fleet of three healthy backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of backends.
    pub backends: usize,
    /// Whether every second backend is throttled for ten minutes.
    pub half_cool: bool,
    /// Whether the token service never answers.
    pub is_tokenless: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            backends: BACKENDS,
            half_cool: false,
            is_tokenless: false,
        }
    }
}

/// The maximum number of rounds for memory, start and waiting requests. These values vary little.
const FEW_ROUNDS: usize = 3;

impl Curve {
    /// All curves, in the order of the report.
    pub const ALL: [Self; 8] = [
        Self::Backends,
        Self::Cooling,
        Self::Deployments,
        Self::Bodies,
        Self::Items,
        Self::Open,
        Self::Waiters,
        Self::Start,
    ];

    /// The curves of a quick run. They take seconds.
    pub const QUICK: [Self; 2] = [Self::Deployments, Self::Items];

    /// The curve's name on the command line.
    pub fn key(self) -> &'static str {
        match self {
            Self::Backends => "backends",
            Self::Cooling => "cooling",
            Self::Deployments => "deployments",
            Self::Bodies => "bodies",
            Self::Items => "items",
            Self::Open => "open",
            Self::Waiters => "waiters",
            Self::Start => "start",
        }
    }

    /// The curve with this [`key`](Self::key).
    pub fn named(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|curve| curve.key() == key)
    }

    /// The points that are measured: values of the growing quantity.
    pub fn points(self) -> Vec<u64> {
        match self {
            Self::Backends | Self::Cooling => vec![3, 10, 30, 100],
            Self::Deployments => vec![1, 8, 64],
            Self::Bodies => vec![1, 10, 30],
            Self::Items => vec![1, 10, 100],
            Self::Open => {
                let most = most_streams();
                vec![10, 100, 1000, 10_000_u64.min(most)]
            }
            Self::Waiters => vec![1, 10, 100, 1000],
            Self::Start => vec![1, 2, 4],
        }
    }

    /// The unit of the points.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Backends | Self::Cooling => "backends",
            Self::Deployments => "deployments",
            Self::Bodies => "MB",
            Self::Items => "items",
            Self::Open => "streams",
            Self::Waiters => "requests",
            Self::Start => "workers",
        }
    }

    /// The variants that are measured.
    fn variants(self) -> &'static [Variant] {
        use Variant::{Envoy, Filter, Router, Stock};
        match self {
            // Envoy keeps the body for a retry, which large bodies make expensive without the module, too.
            Self::Bodies => &[Envoy, Stock, Filter, Router],
            _ => &[Envoy, Filter, Router],
        }
    }

    fn request(self, point: u64) -> Request {
        let count = point as usize;
        match self {
            Self::Deployments => Request::chat(1 << 10, Asks::Deployments(point)),
            Self::Bodies => Request::chat(count << 20, Asks::Whole),
            Self::Items => Request::chat(1 << 10, Asks::Items(count)),
            _ => Request::chat(1 << 10, Asks::Whole),
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::Bodies => 2,
            _ => 16,
        }
    }

    fn slice(self, usual: Duration) -> Duration {
        match self {
            Self::Bodies => usual * 4,
            _ => usual,
        }
    }

    /// Whether each point needs its own fleet.
    fn shapes_fleet(self) -> bool {
        matches!(self, Self::Backends | Self::Cooling)
    }

    fn shape(self, point: u64) -> Shape {
        match self {
            Self::Backends | Self::Cooling => Shape {
                backends: point as usize,
                half_cool: self == Self::Cooling,
                ..Shape::default()
            },
            Self::Waiters => Shape {
                is_tokenless: true,
                ..Shape::default()
            },
            _ => Shape::default(),
        }
    }
}

impl Figure {
    /// All figures, in the order of the report.
    pub const ALL: [Self; 10] = [
        Self::Cpu(Curve::Backends),
        Self::Cpu(Curve::Cooling),
        Self::Cpu(Curve::Deployments),
        Self::Cpu(Curve::Bodies),
        Self::Cpu(Curve::Items),
        Self::OpenMemory,
        Self::OpenLatency,
        Self::Waiting,
        Self::Ready,
        Self::StartMemory,
    ];

    /// The curve along which the figure is measured.
    pub fn curve(self) -> Curve {
        match self {
            Self::Cpu(curve) => curve,
            Self::OpenMemory | Self::OpenLatency => Curve::Open,
            Self::Waiting => Curve::Waiters,
            Self::Ready | Self::StartMemory => Curve::Start,
        }
    }

    /// Whether the value at a point means something. Few streams fit into memory that the process already has.
    pub fn is_meaningful(self, point: u64) -> bool {
        self != Self::OpenMemory || point >= 1000
    }

    /// The heading of the column for a point.
    pub fn column(self, point: u64) -> String {
        let unit = self.curve().unit();
        match point {
            1 => format!("1 {}", unit.trim_end_matches('s')),
            _ => format!("{point} {unit}"),
        }
    }

    /// The title of a small chart.
    pub fn chart_title(self) -> &'static str {
        match self {
            Self::Cpu(Curve::Backends) => "CPU per request, us: healthy backends",
            Self::Cpu(Curve::Cooling) => "CPU per request, us: half in cooldown",
            Self::Cpu(Curve::Deployments) => "CPU per request, us: deployments",
            Self::Cpu(Curve::Bodies) => "CPU per request, us: size of the body",
            Self::Cpu(_) => "CPU per response, us: items with ids to tag",
            Self::OpenMemory => "Memory per open stream, KB",
            Self::OpenLatency => "Latency of a new request, us: streams",
            Self::Waiting => "CPU, ms/s: requests waiting for a token",
            Self::Ready => "Time from start to readiness, ms",
            Self::StartMemory => "Memory after the start, MB",
        }
    }

    /// The figure's name inside a sentence.
    pub fn subject(self) -> &'static str {
        match self {
            Self::Cpu(_) => "CPU per request",
            Self::OpenMemory => "memory per stream",
            Self::OpenLatency => "the latency of a new request",
            Self::Waiting => "CPU while requests wait",
            Self::Ready => "the time to readiness",
            Self::StartMemory => "memory after the start",
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu(Curve::Backends) => "CPU per request of 1 KB, us, by healthy backends",
            Self::Cpu(Curve::Cooling) => {
                "CPU per request of 1 KB, us, by backends, half of them in cooldown"
            }
            Self::Cpu(Curve::Deployments) => "CPU per request of 1 KB, us, by deployments",
            Self::Cpu(Curve::Bodies) => "CPU per request, us, by size of the body",
            Self::Cpu(_) => "CPU per response with ids to tag, us, by items",
            Self::OpenMemory => "Resident memory per open stream, KB, by open streams",
            Self::OpenLatency => "Latency of a new request, us, by open streams",
            Self::Waiting => "CPU while requests wait for a token, ms/s, by requests",
            Self::Ready => "Time from start to readiness, ms, by workers",
            Self::StartMemory => "Resident memory two seconds after readiness, MB, by workers",
        })
    }
}

/// Describes in words how a figure grows from the first point to the last.
pub fn growth(points: &[(u64, f64)]) -> Option<&'static str> {
    let (first, last) = (points.first()?, points.last()?);
    let (by, grown) = (last.0 as f64 / first.0 as f64, last.1 / first.1);
    if !(by > 1.0 && grown.is_finite() && grown > 0.0) {
        return None;
    }
    // The exponent of linear growth is 1.
    let exponent = grown.ln() / by.ln();
    Some(match exponent {
        _ if grown < 1.15 => "constant, within the noise",
        ..0.85 => "less than linear",
        ..1.15 => "linear",
        _ => "worse than linear",
    })
}

/// Measures these curves of the wanted variants.
pub fn run(
    launcher: &mut Launcher<'_>,
    curves: &[Curve],
    only: &[Variant],
    effort: &Effort,
    quiet: &Quiet<'_>,
    results: &mut Results,
) -> Result<()> {
    for curve in curves {
        let wanted = curve.variants().iter().copied();
        let variants: Vec<_> = wanted
            .filter(|variant| only.is_empty() || only.contains(variant))
            .collect();
        eprintln!("curve: {}", curve.key());
        match curve {
            Curve::Open => run_open(launcher, &variants, effort, quiet, results),
            Curve::Waiters => run_waiters(launcher, &variants, effort, results),
            Curve::Start => run_start(launcher, &variants, effort, results),
            _ => run_cpu(launcher, *curve, &variants, effort, quiet, results),
        }
        .with_context(|| format!("curve {}", curve.key()))?;
    }
    Ok(())
}

/// Measures processor time at all points of a curve. All proxies run at the same time, and the slices are shuffled.
fn run_cpu(
    launcher: &mut Launcher<'_>,
    curve: Curve,
    variants: &[Variant],
    effort: &Effort,
    quiet: &Quiet<'_>,
    results: &mut Results,
) -> Result<()> {
    let board = &launcher.around.backends.board;
    board.throttled.store(false, Relaxed);
    let mut proxies: Vec<(Variant, Vec<u64>, Proxy)> = Vec::new();
    for variant in variants {
        match curve.shapes_fleet() {
            // In plain Envoy all backends are hosts of one cluster, and none is throttled. One proxy serves all points.
            true if *variant != Variant::Envoy => {
                for point in curve.points() {
                    let proxy = launcher.start_shaped(*variant, None, curve.shape(point))?;
                    contact_all(&proxy, point)?;
                    proxies.push((*variant, vec![point], proxy));
                }
            }
            _ => proxies.push((*variant, curve.points(), launcher.start(*variant, None)?)),
        }
    }
    let slices = proxies.iter().enumerate();
    let mut slices: Vec<_> = slices
        .flat_map(|(place, (_, points, _))| points.iter().map(move |point| (place, *point)))
        .collect();
    for round in 0..effort.rounds {
        eprintln!(
            "curve {}: round {} of {}",
            curve.key(),
            round + 1,
            effort.rounds
        );
        slices.shuffle(&mut rand::rng());
        for (place, point) in &slices {
            let (variant, _, proxy) = &proxies[*place];
            let mut load =
                Load::connect(proxy.address, curve.connections(), &curve.request(*point))?;
            await_first(&mut load, effort.warm_up)?;
            let length = curve.slice(effort.slice);
            let (seen, cpu) = quiet.measure(length, || {
                let before = usage::cpu(&proxy.processes)?;
                let seen = load.run(length, u64::MAX)?;
                anyhow::Ok((seen, usage::cpu(&proxy.processes)? - before))
            })?;
            ensure!(
                seen.errors == 0,
                "{variant}, {point} {}: {} requests were not served",
                curve.unit(),
                seen.errors
            );
            if seen.served > 0 {
                let each = cpu.as_secs_f64() * 1e6 / seen.served as f64;
                results.grow(Figure::Cpu(curve), *variant, *point, each);
            }
        }
    }
    Ok(())
}

/// Sends requests to every backend, so that the throttled ones are in cooldown.
fn contact_all(proxy: &Proxy, backends: u64) -> Result<()> {
    let request = Request::chat(1 << 10, Asks::Whole);
    let mut load = Load::connect(proxy.address, 1, &request)?;
    let seen = load.run(Duration::from_secs(60), backends * 4)?;
    ensure!(
        seen.errors == 0 && seen.served >= backends * 4,
        "{} of {} requests to {backends} backends were served; {} failed",
        seen.served,
        backends * 4,
        seen.errors
    );
    Ok(())
}

fn await_first(load: &mut Load, time: Duration) -> Result<()> {
    let start = Instant::now();
    while load.run(time, u64::MAX)?.served == 0 {
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "no request was served within a minute"
        );
    }
    Ok(())
}

fn run_open(
    launcher: &mut Launcher<'_>,
    variants: &[Variant],
    effort: &Effort,
    quiet: &Quiet<'_>,
    results: &mut Results,
) -> Result<()> {
    /// The number of connections that are opened at a time. The kernel would repeat those that Envoy cannot accept a second later.
    const STEP: usize = 100;
    for _ in 0..effort.rounds.min(FEW_ROUNDS) {
        for point in Curve::Open.points() {
            for variant in variants {
                let proxy = launcher.start(*variant, None)?;
                let alone = Workload::Alone.request();
                await_first(
                    &mut Load::connect(proxy.address, 1, &alone)?,
                    effort.warm_up,
                )?;
                let before = usage::memory(&proxy.processes)?.now;
                let mut streams =
                    Load::connect(proxy.address, 0, &Request::chat(1 << 10, Asks::SlowStream))?;
                let start = Instant::now();
                while streams.begun() < point as usize {
                    let missing = (point as usize).saturating_sub(streams.connections());
                    streams.grow(missing.min(STEP))?;
                    streams.run(Duration::from_millis(20), u64::MAX)?;
                    ensure!(
                        start.elapsed() < Duration::from_secs(120),
                        "{variant}: only {} of {point} streams began",
                        streams.begun()
                    );
                }
                let after = usage::memory(&proxy.processes)?.now;
                let each = after.saturating_sub(before) as f64 / 1e3 / point as f64;
                results.grow(Figure::OpenMemory, *variant, point, each);
                let mut load = Load::connect(proxy.address, 1, &alone)?;
                await_first(&mut load, effort.warm_up)?;
                let length = effort.slice * 4;
                let mut seen = quiet.measure(length, || load.run(length, u64::MAX))?;
                seen.latencies.sort_unstable();
                if let Some(median) = seen.latencies.get(seen.latencies.len() / 2) {
                    let micros = median.as_secs_f64() * 1e6;
                    results.grow(Figure::OpenLatency, *variant, point, micros);
                }
                eprintln!("{variant}, {point} streams: {each:.1} KB each");
            }
        }
    }
    Ok(())
}

fn run_waiters(
    launcher: &mut Launcher<'_>,
    variants: &[Variant],
    effort: &Effort,
    results: &mut Results,
) -> Result<()> {
    /// The measured time. The balancer still waits for the token service after it.
    const WATCHED: Duration = Duration::from_secs(2);
    let balancers = variants.iter().filter(|variant| variant.is_balancer());
    for variant in balancers {
        for point in Curve::Waiters.points() {
            for _ in 0..effort.rounds.min(FEW_ROUNDS) {
                let shape = Curve::Waiters.shape(point);
                let proxy = launcher.start_shaped(*variant, None, shape)?;
                let request = Request::chat(1 << 10, Asks::Whole);
                let mut load = Load::connect(proxy.address, point as usize, &request)?;
                load.run(Duration::from_millis(500), u64::MAX)?;
                let before = usage::cpu(&proxy.processes)?;
                let watched = WATCHED.min(effort.slice * 8);
                let seen = load.run(watched, u64::MAX)?;
                let cpu = usage::cpu(&proxy.processes)? - before;
                ensure!(
                    seen.served + seen.errors == 0,
                    "{variant}: {} requests did not wait",
                    seen.served + seen.errors
                );
                let each = cpu.as_secs_f64() * 1e3 / seen.elapsed.as_secs_f64();
                results.grow(Figure::Waiting, *variant, point, each);
            }
        }
    }
    Ok(())
}

fn run_start(
    launcher: &mut Launcher<'_>,
    variants: &[Variant],
    effort: &Effort,
    results: &mut Results,
) -> Result<()> {
    const SETTLED: Duration = Duration::from_secs(2);
    launcher.cores.unpin();
    for _ in 0..effort.rounds.min(FEW_ROUNDS) {
        for point in Curve::Start.points() {
            for variant in variants {
                let start = Instant::now();
                let proxy = launcher.start(*variant, Some(point as u32))?;
                let ready = start.elapsed().as_secs_f64() * 1e3;
                results.grow(Figure::Ready, *variant, point, ready);
                thread::sleep(SETTLED.min(effort.slice * 8));
                let memory = usage::memory(&proxy.processes)?.now as f64 / 1e6;
                results.grow(Figure::StartMemory, *variant, point, memory);
                eprintln!("{variant}, {point} workers: {ready:.0} ms, {memory:.1} MB");
            }
        }
    }
    launcher.cores.pin_to_load();
    Ok(())
}

/// Raises the limit of open files to the system's maximum, for this process and its children.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        eprintln!("warning: the limit of open files could not be raised: {error}");
    }
}

/// The maximum number of open streams. Each stream takes two files in Envoy and two in this process.
fn most_streams() -> u64 {
    /// The number of files that are reserved for everything else.
    const OTHERS: u64 = 500;
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHERS) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_described_in_words() {
        for (points, expected) in [
            (
                &[(3, 50.0), (10, 90.0), (100, 51.0)][..],
                Some("constant, within the noise"),
            ),
            (&[(1, 10.0), (64, 20.0)], Some("less than linear")),
            (&[(1, 10.0), (10, 98.0)], Some("linear")),
            (&[(1, 10.0), (10, 400.0)], Some("worse than linear")),
            (&[(1, 10.0)], None),
            (&[], None),
        ] {
            assert_eq!(growth(points), expected, "{points:?}");
        }
    }

    #[test]
    fn every_curve_has_a_name_and_a_figure() {
        for curve in Curve::ALL {
            assert_eq!(Curve::named(curve.key()), Some(curve));
            assert!(Figure::ALL.iter().any(|figure| figure.curve() == curve));
            assert!(curve.points().is_sorted());
        }
    }
}
