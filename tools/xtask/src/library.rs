//! Where the standard library for wasm32-wasip1 comes from.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{anyhow, bail, Result};
use clap::ValueEnum;

use crate::{debian, paths, process};

/// The target the module is built for.
pub const TARGET: &str = "wasm32-wasip1";

/// Long enough for a download of some 20 MB, short enough where the server does not answer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// The active compiler's own if it has one or rustup can add it, else Debian's
    Auto,
    /// Debian's, with Debian's compiler: the oldest one the module is built with
    Debian,
}

/// What there is.
#[derive(Debug)]
pub enum Library {
    /// The active compiler has the target.
    Installed,
    /// Debian's compiler, which has it.
    Debian(debian::Compiler),
}

impl Library {
    /// Finds a library, fetching one if need be.
    pub fn find(choice: Choice) -> Result<Self> {
        if choice == Choice::Debian {
            return debian::ensure().map(Self::Debian);
        }
        if is_installed() {
            return Ok(Self::Installed);
        }
        // Made by an earlier run, when rustup could not help: asking it again would only take time.
        if debian::is_ready() {
            return debian::ensure().map(Self::Debian);
        }
        let refused = match add_by_rustup() {
            Ok(()) if is_installed() => return Ok(Self::Installed),
            Ok(()) => {
                anyhow!("rustup added the target, but to another compiler than the one in use")
            }
            Err(error) => error,
        };
        eprintln!(
            "rustup did not add {TARGET} ({}); trying Debian's packages",
            reason(&refused)
        );
        debian::ensure().map(Self::Debian).map_err(|error| {
            anyhow!(
                "the compiler in use has no standard library for {TARGET}, and none could be fetched\n\
                 by rustup: {refused:#}\n\
                 from Debian: {error:#}\n\
                 Install it by hand (`rustup target add {TARGET}`) and run this again"
            )
        })
    }

    /// The compiler, for a report.
    pub fn compiler(&self) -> Result<String> {
        let mut rustc = match self {
            Self::Installed => process::rustc(),
            Self::Debian(compiler) => Command::new(&compiler.rustc),
        };
        Ok(process::output(rustc.arg("--version"))?.trim().to_owned())
    }

    /// cargo, set up to build with this library, in the target directory of wasm builds.
    pub fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut cargo = process::cargo();
        cargo.current_dir(paths::workspace()).arg(subcommand);
        cargo
            .args(["--target", TARGET, "--locked", "--target-dir"])
            .arg(paths::wasm_target());
        if let Self::Debian(compiler) = self {
            cargo.env("RUSTC", &compiler.rustc);
            // Debian's package comes without a linker.
            cargo.env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker()?);
        }
        Ok(cargo)
    }
}

fn is_installed() -> bool {
    let print =
        process::output(process::rustc().args(["--print", "target-libdir", "--target", TARGET]));
    let Ok(directory) = print else { return false };
    let Ok(entries) = fs::read_dir(directory.trim()) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

fn add_by_rustup() -> Result<()> {
    process::step(&format!("rustup target add {TARGET}"), || {
        let mut rustup = Command::new("rustup");
        rustup
            .args(["target", "add", TARGET])
            .env("RUST_BACKTRACE", "0");
        process::output_within(&mut rustup, RUSTUP_LIMIT)
    })
}

/// The active toolchain's `rust-lld`, or a `wasm-ld` of the system's.
fn linker() -> Result<PathBuf> {
    let print = process::output(process::rustc().args(["--print", "target-libdir"]))?;
    let bundled = PathBuf::from(print.trim())
        .with_file_name("bin")
        .join("rust-lld");
    if bundled.exists() {
        return Ok(bundled);
    }
    let system = PathBuf::from("wasm-ld");
    if process::output(Command::new(&system).arg("--version")).is_ok() {
        return Ok(system);
    }
    bail!(
        "{}: not found, and no `wasm-ld` on PATH; install one (Debian: apt-get install lld)",
        bundled.display()
    )
}

/// The one line of rustup's complaint that says what went wrong.
fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let said = text.lines().find_map(|line| line.strip_prefix("error: "));
    said.or(text.lines().next()).unwrap_or_default().to_owned()
}
