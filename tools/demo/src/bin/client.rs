//! The client of `docker-compose.yml`: runs the tour through running containers, and ends with 0 if every check held.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::Parser;
use demo::{compose, Addresses, Processes, Python, Running, Screen};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Shows what the balancer does, through a running Envoy and a running simulator.
#[derive(Parser)]
struct Arguments {
    /// Envoy's address for requests
    #[arg(long, value_name = "URL")]
    envoy: String,
    /// Envoy's admin interface
    #[arg(long, value_name = "URL")]
    envoy_admin: String,
    /// The simulator's admin endpoint
    #[arg(long, value_name = "URL")]
    simulator: String,
    /// These three addresses for a reader outside of the containers, and the status page's
    #[arg(long, value_name = "URL", num_args = 4, required = true)]
    published: Vec<String>,
    /// A Python that can import the openai SDK
    #[arg(long, value_name = "FILE")]
    python: PathBuf,
    /// The folder for the tour's own files
    #[arg(long, value_name = "DIRECTORY")]
    folder: PathBuf,
}

impl Arguments {
    fn into_running(self) -> Option<Running> {
        let [envoy, envoy_admin, simulator, status] = self.published.try_into().ok()?;
        Some(Running {
            fleet: compose::fleet(),
            addresses: Addresses {
                envoy: self.envoy,
                envoy_admin: self.envoy_admin,
                simulator: self.simulator,
                status: None,
            },
            published: Addresses {
                envoy,
                envoy_admin,
                simulator,
                status: Some(status),
            },
            python: Python {
                program: self.python,
                path: String::new(),
            },
            folder: self.folder,
        })
    }
}

fn main() -> ExitCode {
    let Some(running) = Arguments::parse().into_running() else {
        eprintln!("error: --published takes four URLs: of Envoy, of its admin interface, of the simulator, of the status page");
        return ExitCode::from(2);
    };
    let processes = Processes::default();
    if let Err(error) = end_on_signals(processes.clone()) {
        eprintln!("error: signals cannot be handled: {error}");
        return ExitCode::FAILURE;
    }
    match demo::visit(running, Screen::new(), &processes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends the processes on a signal. A container's first process has no default actions for signals.
fn end_on_signals(processes: Processes) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            processes.interrupt();
        }
    });
    Ok(())
}
