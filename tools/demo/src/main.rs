//! The tour as a program. `cargo xtask demo` builds its parts and runs it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use demo::{Processes, Python, Screen, Setup};
use render::{Engine, Fleet};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// The simulator's admin endpoint has no place in Envoy's configuration.
const ADMIN_PORT: u16 = 18091;

/// The exit status of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// The retry engine.
#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    /// Envoy's router, along the module's plan
    Router,
    /// The module itself
    Filter,
}

/// Shows what the balancer does, with a real Envoy and simulated Azure OpenAI resources.
#[derive(Parser)]
struct Arguments {
    /// The Envoy binary
    #[arg(long, value_name = "FILE")]
    envoy: PathBuf,
    /// The retry engine, which must be the configuration's
    #[arg(long, value_enum)]
    engine: EngineName,
    /// The configuration to run: the checked-in one, with its ports
    #[arg(long, value_name = "FILE", required_unless_present = "module")]
    config: Option<PathBuf>,
    /// The module to run instead, with a configuration for free ports
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    module: Option<PathBuf>,
    /// Envoy's folder
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    directory: PathBuf,
    /// A Python that can import the openai SDK
    #[arg(long, value_name = "FILE")]
    python: PathBuf,
    /// PYTHONPATH for it
    #[arg(long, value_name = "PATH", default_value = "")]
    python_path: String,
    /// The folder for logs
    #[arg(long, value_name = "DIRECTORY")]
    folder: PathBuf,
    /// Leave everything running after the tour, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Arguments {
    fn into_setup(self) -> Setup {
        let fleet = demo::clients::local_fleet(match self.engine {
            EngineName::Router => Engine::Router,
            EngineName::Filter => Engine::Filter,
        });
        let (fleet, admin_port) = match self.module {
            Some(module) => {
                let fleet = Fleet { module, ..fleet };
                (demo::on_free_ports(fleet), 0)
            }
            None => (fleet, ADMIN_PORT),
        };
        Setup {
            envoy: self.envoy,
            directory: self.directory,
            config: self.config,
            fleet,
            admin_port,
            python: Python {
                program: self.python,
                path: self.python_path,
            },
            folder: self.folder,
            keep: self.keep,
        }
    }
}

fn main() -> ExitCode {
    let setup = Arguments::parse().into_setup();
    let processes = Processes::default();
    if let Err(error) = end_on_signals(processes.clone()) {
        eprintln!("error: signals cannot be handled: {error}");
        return ExitCode::FAILURE;
    }
    match demo::run(setup, Screen::new(), &processes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if processes.interrupted() => {
            eprintln!("\ninterrupted; all started processes have ended");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends the processes on Ctrl-C and similar signals, which ends the tour.
fn end_on_signals(processes: Processes) -> io::Result<()> {
    /// Long enough for the tour to notice: no step of it takes as long.
    const GRACE: Duration = Duration::from_secs(5);
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if signals.forever().next().is_some() {
            processes.interrupt();
            thread::sleep(GRACE);
            std::process::exit(i32::from(INTERRUPTED));
        }
    });
    Ok(())
}
