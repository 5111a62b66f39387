//! A tour of the balancer: a real Envoy, simulated Azure OpenAI resources, and a check of everything it shows.
//!
//! [`run`] starts what a [`Setup`] describes, walks through the steps in `tour` and ends everything it started. Each step
//! writes what happens and checks it; the first check that fails ends the tour.

pub mod clients;
pub mod compose;

mod check;
mod client;
mod envoy;
mod keep;
mod ports;
mod processes;
mod screen;
mod simulation;
mod stage;
mod tour;

use std::fs;
use std::path::PathBuf;

use anyhow::{anyhow, Context, Result};
use render::Fleet;

pub use crate::keep::Addresses;
pub use crate::processes::Processes;
pub use crate::screen::Screen;
pub use crate::stage::on_free_ports;

use crate::check::Checks;
use crate::stage::Stage;
use crate::tour::Tour;

/// What the tour is made with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The Envoy binary.
    pub envoy: PathBuf,
    /// Where Envoy runs: what its configuration names by relative paths is found from here.
    pub directory: PathBuf,
    /// The configuration to run, which must be the fleet's; without one it is rendered.
    pub config: Option<PathBuf>,
    /// The backends and the identity endpoint to simulate, and the ports. Where a port is 0, a free one is taken.
    pub fleet: Fleet,
    /// The port of the simulator's admin endpoint; 0 takes a free one.
    pub admin_port: u16,
    /// What runs the openai SDK.
    pub python: Python,
    /// Where logs and rendered files go.
    pub folder: PathBuf,
    /// Whether everything goes on running after the tour, until an interrupt.
    pub keep: bool,
}

/// A Python that can import the openai SDK.
#[derive(Clone, Debug)]
pub struct Python {
    /// The interpreter.
    pub program: PathBuf,
    /// `PYTHONPATH` for it; empty where it needs none.
    pub path: String,
}

/// A balancer and a simulator that run already, to walk the tour through.
#[derive(Clone, Debug)]
pub struct Running {
    /// What the balancer was configured with.
    pub fleet: Fleet,
    /// Where everything is, from here.
    pub addresses: Addresses,
    /// Where everything is for the reader, who may be elsewhere.
    pub published: Addresses,
    /// What runs the openai SDK.
    pub python: Python,
    /// Where the tour's own files go.
    pub folder: PathBuf,
}

/// Runs the tour.
///
/// # Errors
/// When something cannot be started, or a check fails: the text says what was expected, what came, and where Envoy's log
/// is. Also after an interrupt, unless the tour was through.
pub fn run(mut setup: Setup, screen: Screen, processes: &Processes) -> Result<()> {
    fs::create_dir_all(&setup.folder)
        .and_then(|()| setup.folder.canonicalize())
        .map(|folder| setup.folder = folder)
        .with_context(|| format!("{}: cannot be created", setup.folder.display()))?;
    let log = envoy::log(&setup.folder);
    // So that a log that is there afterwards is of this run.
    let _ = fs::remove_file(&log);
    perform(setup, screen, processes).map_err(|error| {
        let has_log = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
        if has_log && !processes.interrupted() {
            anyhow!("{error:#}\nEnvoy's log: {}", log.display())
        } else {
            error
        }
    })
}

fn perform(setup: Setup, screen: Screen, processes: &Processes) -> Result<()> {
    let stage = Stage::set(&setup, screen, processes)?;
    let tour = Tour {
        checks: Checks::new(screen, processes.clone()),
        stage,
        python: setup.python.clone(),
        folder: setup.folder.clone(),
        screen,
        processes: processes.clone(),
    };
    tour.run()?;
    if setup.keep {
        keep::wait(&tour, &setup)?;
    }
    Ok(())
}

/// Runs the tour through what is there already, and leaves it running.
///
/// # Errors
/// When something of it does not answer, or a check fails.
pub fn visit(running: Running, screen: Screen, processes: &Processes) -> Result<()> {
    let tour = Tour {
        stage: Stage::attach(&running, screen, processes)?,
        checks: Checks::new(screen, processes.clone()),
        python: running.python,
        folder: running.folder,
        screen,
        processes: processes.clone(),
    };
    tour.run()?;
    keep::tell(&tour, &running.published);
    Ok(())
}
