//! The task runner: `cargo xtask <command>` builds the module, fetches what the tests need, and runs them.
//!
//! This crate has few dependencies, so that it builds in seconds. A command that needs large dependencies runs another program with cargo.

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
        /// The source of the standard library for wasm32-wasip1
        #[arg(long, value_enum, default_value_t = Choice::Auto)]
        library: Choice,
    },
    /// Print the path of an Envoy binary, and fetch a pinned one if needed
    Envoy {
        /// Use exactly this pinned version, instead of ENVOY_BIN, `envoy` on PATH or the default
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
    },
    /// Install the Python SDKs of OpenAI and Anthropic under target/ and print how to run them
    Python,
    /// Build and fetch everything, run every test with the newest Envoy and count the results. The acceptance cases and the
    /// attacks run again with the oldest Envoy of each engine
    Test {
        /// Only tests whose name contains this text, with the newest Envoy unless --envoy names others
        filter: Option<String>,
        /// Only with this pinned Envoy, or `all` for each of them; may be repeated
        #[arg(long, value_name = "VERSION")]
        envoy: Vec<String>,
    },
    /// Check formatting, clippy on the host and on the wasm target, documentation and workflows; warnings are errors
    Lint,
    /// Build the container images, run docker-compose.yml and check both, where a Docker engine runs; part of `test`
    ComposeTest,
    /// Print the section of CHANGELOG.md about the version to release
    ReleaseNotes {
        /// The version to release; it must equal the workspace's version
        version: String,
    },
    /// Show the balancer at work: a real Envoy in front of simulated backends
    Demo {
        /// Keep everything running afterwards, to try things by hand
        #[arg(long)]
        keep: bool,
        /// The retry engine; the router by default if this Envoy can run it (1.39 and newer), else the filter
        #[arg(long, value_enum)]
        engine: Option<Engine>,
    },
    /// Show the module's cost per request in instructions, code, host calls and bytes, beside the budget in tests/budget.toml
    Budget,
    /// Run the targets of tests/fuzz with inputs that coverage guides, or with random inputs if there is no C++ compiler
    Fuzz {
        /// One target; without it, all targets one after the other
        target: Option<String>,
        /// The time for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The random seed, to repeat a run
        #[arg(long)]
        seed: Option<u32>,
    },
    /// Send a million requests through a real Envoy under random faults, reloads and token rotations, with each engine
    Soak(soak::Arguments),
    /// Measure the balancer beside its alternatives
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

    /// The `cargo xtask` commands of a page, in code blocks and between backticks.
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
