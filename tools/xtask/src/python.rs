//! `cargo xtask python`: the openai SDK in an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::files::{self, Lock};
use crate::{paths, pins, process};

/// A Python that can import the openai SDK.
#[derive(Debug)]
pub struct Python {
    /// The interpreter.
    pub executable: PathBuf,
    /// What `PYTHONPATH` must be for it; empty where it finds the SDK by itself.
    pub path: String,
}

impl Python {
    /// The interpreter with `PYTHONPATH` set.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.env("PYTHONPATH", &self.path);
        command
    }

    /// The SDK's version as the interpreter finds it.
    fn sdk_version(&self) -> Result<String> {
        let program = "import importlib.metadata as m; print(m.version('openai'))";
        Ok(process::output(self.command().args(["-c", program]))?
            .trim()
            .to_owned())
    }

    fn has_the_pinned_sdk(&self) -> bool {
        self.sdk_version()
            .is_ok_and(|version| version == pins::OPENAI_SDK)
    }
}

/// Installs the SDK and prints how to run it.
pub fn command() -> Result<()> {
    let python = ensure()?;
    println!("openai    {}", python.sdk_version()?);
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

/// Installs the SDK unless that is done already.
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
    process::step(
        &format!("install the openai Python SDK {}", pins::OPENAI_SDK),
        || install(&place),
    )
}

/// The machine's pip: no questions, no talk of newer versions.
pub fn pip(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
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
        .find(Python::has_the_pinned_sdk)
}

/// In a virtual environment, or, where Python came without that module, in a directory for `PYTHONPATH`.
fn install(place: &Path) -> Result<Python> {
    files::remove(place)?;
    let sdk = format!("openai=={}", pins::OPENAI_SDK);
    let python = environment(place);
    let made = process::output(Command::new("python3").args(["-m", "venv"]).arg(place));
    let python = if let Err(error) = made {
        eprintln!(
            "no virtual environment ({}); installing beside it",
            format!("{error:#}").lines().next().unwrap_or_default()
        );
        files::remove(place)?;
        let python = packages(place);
        process::output(&mut pip(&[
            "install",
            "--only-binary=:all:",
            "--target",
            &python.path,
            &sdk,
        ]))
        .context(
            "install pip for python3 (Debian: apt-get install python3-pip) and run this again",
        )?;
        python
    } else {
        let arguments = [
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "--quiet",
            "install",
            "--only-binary=:all:",
            &sdk,
        ];
        process::output(python.command().args(arguments))?;
        python
    };
    process::output(python.command().args(["-c", "import openai"]))
        .context("the SDK was installed but cannot be imported")?;
    files::write(&stamp(place), &sdk)?;
    Ok(python)
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
