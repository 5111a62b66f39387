//! Where the standard library for wasm32-wasip1 comes from.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{anyhow, bail, Result};

use crate::{debian, paths, process};

/// The target the module is built for.
pub const TARGET: &str = "wasm32-wasip1";

/// Long enough for a download of some 20 MB, short enough where the server does not answer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// What there is.
#[derive(Debug)]
pub enum Library {
    /// The active compiler has the target.
    Installed,
    /// Debian's compiler, which has it.
    Debian(debian::Compiler),
}

impl Library {
    /// The compiler's own library, if it has one or rustup can add it; else Debian's.
    ///
    /// # Errors
    /// None of them can be had.
    pub fn find() -> Result<Self> {
        if is_installed() {
            return Ok(Self::Installed);
        }
        // Made by an earlier run, when rustup could not help: asking it again would only take time.
        if debian::has_compiler() {
            return Self::debian();
        }
        let refused = match add_by_rustup() {
            Ok(()) if is_installed() => return Ok(Self::Installed),
            Ok(()) => {
                anyhow!("rustup added the target, but to another compiler than the one in use")
            }
            Err(error) => error,
        };
        eprintln!("rustup did not add {TARGET}; trying Debian's packages");
        Self::debian().map_err(|error| {
            anyhow!(
                "the compiler in use has no standard library for {TARGET}, and none could be fetched\n\
                 by rustup: {refused:#}\n\
                 from Debian: {error:#}\n\
                 Install it by hand (`rustup target add {TARGET}`) and run this again"
            )
        })
    }

    /// Debian's, with the oldest compiler that the module is built with.
    ///
    /// # Errors
    /// It cannot be fetched.
    pub fn debian() -> Result<Self> {
        debian::compiler().map(Self::Debian)
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
            .arg(wasm_target());
        if let Self::Debian(compiler) = self {
            cargo.env("RUSTC", &compiler.rustc);
            // Debian's package comes without a linker.
            cargo.env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker()?);
        }
        Ok(cargo)
    }
}

/// The target directory of the builds for wasm32-wasip1. Not the host's: the compiler may be another one.
pub fn wasm_target() -> PathBuf {
    paths::target().join("wasm")
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
        process::run_within(&mut rustup, RUSTUP_LIMIT)
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
