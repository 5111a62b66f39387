//! A tour of the balancer: a real Envoy, simulated Azure OpenAI resources, and a check of every claim.
//!
//! [`run`] starts the services of a [`Setup`], runs the steps in `tour`, and ends the services. Each step writes what
//! happens and checks it. The first failed check ends the tour.

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

/// The settings of a tour.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The Envoy binary.
    pub envoy: PathBuf,
    /// Envoy's folder. Relative paths in its configuration start here.
    pub directory: PathBuf,
    /// The configuration, which must be the fleet's. Without it, the tour renders one.
    pub config: Option<PathBuf>,
    /// The backends and the identity endpoint to simulate, with their ports. A port of 0 stands for a free one.
    pub fleet: Fleet,
    /// The port of the simulator's admin endpoint; 0 for a free one.
    pub admin_port: u16,
    /// The Python for the openai SDK.
    pub python: Python,
    /// The folder for logs and rendered files.
    pub folder: PathBuf,
    /// Whether everything keeps running after the tour, until an interrupt.
    pub keep: bool,
}

/// A Python that can import the openai SDK.
#[derive(Clone, Debug)]
pub struct Python {
    /// The interpreter.
    pub program: PathBuf,
    /// Its `PYTHONPATH`; empty if it needs none.
    pub path: String,
}

/// A running balancer and simulator for the tour.
#[derive(Clone, Debug)]
pub struct Running {
    /// The balancer's fleet.
    pub fleet: Fleet,
    /// The addresses for this program.
    pub addresses: Addresses,
    /// The addresses for the reader, who may be elsewhere.
    pub published: Addresses,
    /// The Python for the openai SDK.
    pub python: Python,
    /// The folder for the tour's own files.
    pub folder: PathBuf,
}

/// Runs the tour.
///
/// # Errors
/// When a service cannot be started, or a check fails. The text has the expected and the actual value, and the path of
/// Envoy's log. Also after an interrupt, unless the tour was over.
pub fn run(mut setup: Setup, screen: Screen, processes: &Processes) -> Result<()> {
    fs::create_dir_all(&setup.folder)
        .and_then(|()| setup.folder.canonicalize())
        .map(|folder| setup.folder = folder)
        .with_context(|| format!("{}: cannot be created", setup.folder.display()))?;
    let log = envoy::log(&setup.folder);
    // A log that exists afterwards must be this run's.
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

/// Runs the tour through running services, and leaves them running.
///
/// # Errors
/// When a service does not answer, or a check fails.
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
