//! A tour of the balancer: a real Envoy, simulated Azure OpenAI resources, and a check of everything it shows.
//!
//! [`run`] starts what a [`Setup`] describes, walks through the steps in `tour` and ends everything it started. Each step
//! writes what happens and checks it; the first check that fails ends the tour.

mod check;
mod client;
mod envoy;
mod keep;
mod ports;
mod processes;
mod screen;
mod stage;
mod tour;

use std::fs;
use std::path::PathBuf;

use anyhow::{anyhow, Context, Result};
use render::Fleet;

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
    /// A Python that can import the openai SDK.
    pub python: PathBuf,
    /// `PYTHONPATH` for it; empty where it needs none.
    pub python_path: String,
    /// Where logs and rendered files go.
    pub folder: PathBuf,
    /// Whether everything goes on running after the tour, until an interrupt.
    pub keep: bool,
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
        setup,
        screen,
        processes: processes.clone(),
    };
    tour.run()?;
    if tour.setup.keep {
        keep::wait(&tour)?;
    }
    Ok(())
}
