//! Packages from PyPI, each in a folder for `PYTHONPATH`. Virtual environments would need one more package on Debian.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{files, paths, pins, process};

/// A Python interpreter and the packages that it can import.
#[derive(Debug)]
pub struct Python {
    /// The path of the interpreter.
    pub executable: PathBuf,
    /// The value of `PYTHONPATH` for the interpreter.
    pub path: PathBuf,
}

/// A Python with the SDKs of OpenAI and Anthropic, which are installed if needed.
///
/// # Errors
/// The SDKs cannot be installed.
pub fn sdks() -> Result<Python> {
    let (openai, anthropic) = (pins::OPENAI_SDK, pins::ANTHROPIC_SDK);
    let requirements = format!("openai=={openai}\nanthropic=={anthropic}\n");
    Ok(Python {
        executable: interpreter()?,
        path: packages("python", &requirements, "install the Python SDKs")?,
    })
}

/// The folder of the newest openai SDK, which is installed if needed. In `PYTHONPATH` it comes before the folder of the other SDKs.
///
/// # Errors
/// The SDK cannot be installed.
pub fn newest_openai() -> Result<PathBuf> {
    let requirements = format!("openai=={}\n", pins::NEWEST_OPENAI_SDK);
    let what = "install the newest openai SDK";
    packages("python-newest-openai", &requirements, what)
}

/// The path of the program `name` from the package of the same name, which is installed if needed.
///
/// # Errors
/// The package cannot be installed.
pub fn program(name: &str, requirement: &str) -> Result<PathBuf> {
    let place = packages(name, requirement, &format!("install {requirement}"))?;
    let program = place.join("run");
    if !program.exists() {
        let script = format!(
            "#!/bin/sh\nplace=\"${{0%/*}}\"\nPYTHONPATH=\"$place\" exec \"{}\" \"$place/bin/{name}\" \"$@\"\n",
            interpreter()?.display()
        );
        files::write_script(&program, &script)?;
    }
    Ok(program)
}

fn packages(folder: &str, requirements: &str, what: &str) -> Result<PathBuf> {
    let place = paths::tools().join(folder);
    files::once(&place, requirements, what, |place| {
        install(place, requirements)
    })?;
    Ok(place)
}

/// Installs packages into a folder. If the requirements name hashes, pip verifies them before it unpacks anything.
///
/// # Errors
/// pip is missing, or cannot install the packages.
pub fn install(place: &Path, requirements: &str) -> Result<()> {
    let list = place.join("requirements.txt");
    files::write(&list, requirements)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--quiet", "install", "--only-binary=:all:", "--target"]);
    pip.arg(place).arg("--requirement").arg(list);
    process::output(&mut pip)
        .map(drop)
        .context("pip could not install packages (Debian has pip in python3-pip)")
}

/// The path of the interpreter. `python3` may be a script that searches for the interpreter at each start.
fn interpreter() -> Result<PathBuf> {
    let mut python = Command::new("python3");
    let path = process::output(python.args(["-c", "import sys; print(sys.executable)"]))?;
    Ok(PathBuf::from(path.trim()))
}
