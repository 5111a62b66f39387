//! `cargo xtask python`: the SDKs of OpenAI and Anthropic in an environment of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::files::{self, Lock};
use crate::{paths, pins, process};

/// The SDKs, with their versions.
const SDKS: [(&str, &str); 2] = [
    ("openai", pins::OPENAI_SDK),
    ("anthropic", pins::ANTHROPIC_SDK),
];

/// A Python that can import the SDKs.
#[derive(Debug)]
pub struct Python {
    /// The interpreter.
    pub executable: PathBuf,
    /// What `PYTHONPATH` must be for it; empty where it finds the SDKs by itself.
    pub path: String,
}

impl Python {
    /// The interpreter with `PYTHONPATH` set.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.env("PYTHONPATH", &self.path);
        command
    }

    /// An SDK's version as the interpreter finds it.
    fn version_of(&self, sdk: &str) -> Result<String> {
        let program = format!("import importlib.metadata as m; print(m.version('{sdk}'))");
        Ok(process::output(self.command().args(["-c", &program]))?
            .trim()
            .to_owned())
    }

    fn has_the_pinned_sdks(&self) -> bool {
        let is_there = |(name, version): &(&str, &str)| {
            let found = self.version_of(name);
            found.is_ok_and(|found| found == *version)
        };
        SDKS.iter().all(is_there)
    }
}

/// Installs the SDKs and prints how to run them.
pub fn command() -> Result<()> {
    let python = ensure()?;
    for (name, _) in SDKS {
        println!("{name:<9} {}", python.version_of(name)?);
    }
    if python.path.is_empty() {
        println!("run       {}", python.executable.display());
    } else {
        println!(
            "run       PYTHONPATH={} {}",
            python.path,
            python.executable.display()
        );
    }
    Ok(())
}

/// Installs the SDKs unless that is done already.
pub fn ensure() -> Result<Python> {
    let place = paths::python();
    if let Some(python) = installed(&place) {
        return Ok(python);
    }
    let _lock = Lock::on(&place)?;
    // Another run may have installed it while this one waited.
    if let Some(python) = installed(&place) {
        return Ok(python);
    }
    let sdks = specified().join(", ");
    process::step(&format!("install the Python SDKs {sdks}"), || {
        install(&place)
    })
}

/// Installs the newest openai SDK unless that is done already: the directory for `PYTHONPATH`, in which it comes before the other one.
pub fn ensure_newest_openai() -> Result<PathBuf> {
    let place = paths::python().join("newest_openai");
    let stamp = stamp(&place);
    let sdk = format!("openai=={}", pins::NEWEST_OPENAI_SDK);
    let is_there = || fs::read_to_string(&stamp).is_ok_and(|installed| installed == sdk);
    if is_there() {
        return Ok(place);
    }
    let _lock = Lock::on(&paths::python())?;
    if is_there() {
        return Ok(place);
    }
    process::step(&format!("install the Python SDK {sdk}"), || {
        files::remove(&place)?;
        let mut install = pip(&["install", "--only-binary=:all:", "--target"]);
        process::output(install.arg(&place).arg(&sdk))?;
        files::write(&stamp, &sdk)
    })?;
    Ok(place)
}

/// Installs a package with a `program` in a virtual environment at `place`, unless it is there. Returns the program.
///
/// # Errors
/// The package cannot be installed.
pub fn program(place: &Path, package: &str, program: &str) -> Result<PathBuf> {
    let installed = place.join("bin").join(program);
    let is_there = || files::says(&stamp(place), package) && installed.exists();
    if is_there() {
        return Ok(installed);
    }
    let _lock = Lock::on(place)?;
    // Another run may have installed it while this one waited.
    if !is_there() {
        process::step(&format!("install {package}"), || {
            files::remove(place)?;
            process::output(Command::new("python3").args(["-m", "venv"]).arg(place))?;
            let mut install = pip_of(
                &place.join("bin/python"),
                &["install", "--only-binary=:all:"],
            );
            process::output(install.arg(package))?;
            // Written last: without it an installation was interrupted.
            files::write(&stamp(place), package)
        })?;
    }
    Ok(installed)
}

/// The machine's pip: no questions, no talk of newer versions.
pub fn pip(arguments: &[&str]) -> Command {
    pip_of(Path::new("python3"), arguments)
}

fn pip_of(python: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(python);
    command
        .args([
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "--quiet",
        ])
        .args(arguments);
    command
}

fn installed(place: &Path) -> Option<Python> {
    // Written last: without it an installation was interrupted.
    stamp(place).exists().then_some(())?;
    [environment(place), packages(place)]
        .into_iter()
        .find(Python::has_the_pinned_sdks)
}

/// In a virtual environment, or, where Python came without that module, in a directory for `PYTHONPATH`.
fn install(place: &Path) -> Result<Python> {
    files::remove(place)?;
    let sdks = specified();
    let python = environment(place);
    let made = process::output(Command::new("python3").args(["-m", "venv"]).arg(place));
    let python = if let Err(error) = made {
        eprintln!(
            "no virtual environment ({}); installing beside it",
            format!("{error:#}").lines().next().unwrap_or_default()
        );
        files::remove(place)?;
        let python = packages(place);
        let mut install = pip(&["install", "--only-binary=:all:", "--target", &python.path]);
        process::output(install.args(&sdks)).context(
            "install pip for python3 (Debian: apt-get install python3-pip) and run this again",
        )?;
        python
    } else {
        let mut install = pip_of(&python.executable, &["install", "--only-binary=:all:"]);
        process::output(install.args(&sdks))?;
        python
    };
    process::output(python.command().args(["-c", "import openai, anthropic"]))
        .context("the SDKs were installed but cannot be imported")?;
    files::write(&stamp(place), &sdks.join("\n"))?;
    Ok(python)
}

/// The SDKs as pip wants them named.
fn specified() -> Vec<String> {
    let sdks = SDKS.iter();
    sdks.map(|(name, version)| format!("{name}=={version}"))
        .collect()
}

fn environment(place: &Path) -> Python {
    Python {
        executable: place.join("bin/python"),
        path: String::new(),
    }
}

fn packages(place: &Path) -> Python {
    Python {
        executable: PathBuf::from("python3"),
        path: place.join("packages").display().to_string(),
    }
}

fn stamp(place: &Path) -> PathBuf {
    place.join("stamp")
}
