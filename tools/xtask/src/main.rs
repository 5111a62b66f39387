//! The task runner: `cargo xtask <command>` builds the module, fetches what the tests need, and runs them.
//!
//! It starts from nothing in seconds, so a crate with large dependencies is a program that a command runs by cargo.

mod bench;
mod budget;
mod changelog;
mod demo;
mod fuzz;
mod lint;
mod soak;
mod tally;
mod test;
mod wasm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use provision::{envoy, process, python};

use demo::Engine;
use wasm::Choice;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Builds, tests and checks the Azure OpenAI balancer",
    version
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the module and print its path, size and SHA-256
    Wasm {
        /// Where the standard library for wasm32-wasip1 comes from
        #[arg(long, value_enum, default_value_t = Choice::Auto)]
        library: Choice,
    },
    /// Print the path of an Envoy binary, fetching a pinned one if need be
    Envoy {
        /// Exactly this pinned version, instead of ENVOY_BIN, `envoy` on PATH or the default
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
    },
    /// Install the Python SDKs of OpenAI and Anthropic under target/ and print how to run them
    Python,
    /// Build and fetch everything, run every test and count: all of them with the newest Envoy, those in real Envoys again
    /// with the older ones
    Test {
        /// Only tests whose name contains this, with the newest Envoy unless --envoy names others
        filter: Option<String>,
        /// Only with this pinned version, or with `all`; may be repeated
        #[arg(long, value_name = "VERSION")]
        envoy: Vec<String>,
    },
    /// Format, clippy on the host and on the wasm target, documentation, the workflows: no warnings
    Lint,
    /// Build the container images, run docker-compose.yml and check both, if there is a Docker engine; part of `test`
    ComposeTest,
    /// Print what CHANGELOG.md says of the version that is being released
    ReleaseNotes {
        /// The version, which has to be that of the workspace
        version: String,
    },
    /// Show the balancer at work: a real Envoy in front of simulated backends
    Demo {
        /// Leave everything running afterwards, to try things by hand
        #[arg(long)]
        keep: bool,
        /// Who carries out the attempts after the first; by default the router, where Envoy can (1.39 and newer)
        #[arg(long, value_enum)]
        engine: Option<Engine>,
    },
    /// Show what a request costs the module in instructions, host calls and bytes, beside the budget of tests/budget.toml
    Budget,
    /// Try the targets of tests/fuzz with inputs that coverage guides, or at random without a C++ compiler
    Fuzz {
        /// One target; all of them, one after the other, without it
        target: Option<String>,
        /// How long each target is tried
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Where randomness begins, to repeat a run
        #[arg(long)]
        seed: Option<u32>,
    },
    /// Send a million requests through a real Envoy under random faults, reloads and token rotations, with each engine
    Soak(soak::Arguments),
    /// Measure the balancer beside what one would use instead of it
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Wasm { library } => wasm::command(library),
        Command::Envoy { version } => print_envoy(version.as_deref()),
        Command::Python => print_python(),
        Command::Test { filter, envoy } => test::command(filter.as_deref(), &envoy),
        Command::Lint => lint::command(),
        Command::ComposeTest => process::run(&mut test::containers()),
        Command::ReleaseNotes { version } => changelog::command(&version),
        Command::Demo { keep, engine } => demo::command(keep, engine),
        Command::Budget => budget::command(),
        Command::Fuzz {
            target,
            seconds,
            seed,
        } => fuzz::command(target.as_deref(), seconds, seed),
        Command::Soak(arguments) => soak::command(&arguments),
        Command::Bench(arguments) => bench::command(&arguments),
    }
}

fn print_envoy(version: Option<&str>) -> Result<()> {
    let path = match version {
        Some(version) => envoy::pinned(envoy::known(version)?)?,
        None => envoy::any()?,
    };
    println!("{}", path.display());
    Ok(())
}

fn print_python() -> Result<()> {
    let python = python::sdks()?;
    let (path, executable) = (python.path.display(), python.executable.display());
    println!("PYTHONPATH={path} {executable}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::error::ErrorKind;
    use provision::paths;

    use super::*;

    /// The `cargo xtask` commands of a page: in blocks of code, and between backticks.
    fn commands(page: &str) -> Vec<&str> {
        let places = page.split("cargo xtask ").skip(1);
        places
            .map(|rest| rest.split(['`', '#', '\n']).next().unwrap_or_default())
            .collect()
    }

    #[test]
    fn every_command_in_the_documentation_exists() {
        let top = paths::workspace();
        let folder = fs::read_dir(top.join("docs")).unwrap();
        let docs = folder.map(|entry| entry.unwrap().path());
        let pages =
            docs.chain(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|page| top.join(page)));
        let mut found = 0;
        for page in pages.filter(|page| page.extension().is_some_and(|e| e == "md")) {
            for command in commands(&fs::read_to_string(&page).unwrap()) {
                let words = ["cargo xtask"]
                    .into_iter()
                    .chain(command.split_whitespace());
                if let Err(error) = Arguments::try_parse_from(words) {
                    let page = page.display();
                    assert_eq!(
                        error.kind(),
                        ErrorKind::DisplayHelp,
                        "{page}: {command}\n{error}"
                    );
                }
                found += 1;
            }
        }
        assert!(found > 10, "{found}");
    }
}
