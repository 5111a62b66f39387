//! Finds or fetches the standard library for wasm32-wasip1.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{anyhow, bail, Result};

use crate::{debian, paths, process};

/// The compilation target of the module.
pub const TARGET: &str = "wasm32-wasip1";

/// The time limit of rustup: long enough to download 20 MB, and short enough if the server does not answer.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// A compiler with the standard library for wasm32-wasip1.
#[derive(Debug)]
pub enum Library {
    /// The active compiler, which has the target.
    Installed,
    /// Debian's compiler, which has the target.
    Debian(debian::Compiler),
}

impl Library {
    /// Finds the active compiler's own library, or adds it with rustup, or else fetches Debian's.
    ///
    /// # Errors
    /// The active compiler has no library, and neither rustup nor Debian's mirrors provide one.
    pub fn find() -> Result<Self> {
        if is_installed() {
            return Ok(Self::Installed);
        }
        // An earlier run fetched it because rustup failed. Another try of rustup would only take time.
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

    /// Debian's library, with the oldest compiler that builds the module.
    ///
    /// # Errors
    /// Debian's packages cannot be fetched.
    pub fn debian() -> Result<Self> {
        debian::compiler().map(Self::Debian)
    }

    /// The compiler's name and version.
    pub fn compiler(&self) -> Result<String> {
        let mut rustc = match self {
            Self::Installed => process::rustc(),
            Self::Debian(compiler) => Command::new(&compiler.rustc),
        };
        Ok(process::output(rustc.arg("--version"))?.trim().to_owned())
    }

    /// A cargo command that builds with this library, in the target directory of wasm builds.
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

/// The target directory of builds for wasm32-wasip1. It is not the host builds' directory, because the compiler may differ.
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

/// The path of a linker: the active toolchain's `rust-lld`, or else the system's `wasm-ld`.
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
