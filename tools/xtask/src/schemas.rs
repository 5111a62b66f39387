//! The workflows and the compose file, checked against the schemas of their formats.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::files::{self, Lock};
use crate::{paths, pins, process};

/// Files, and the schema that check-jsonschema carries for them.
const CHECKS: &[(&str, &[&str])] = &[
    (
        "vendor.github-workflows",
        &[".github/workflows/ci.yml", ".github/workflows/release.yml"],
    ),
    ("vendor.compose-spec", &["docker-compose.yml"]),
];

/// Checks all of them.
///
/// # Errors
/// When one is not as its schema wants it, or the validator cannot be installed.
pub fn check() -> Result<()> {
    let validator = validator()?;
    for (schema, names) in CHECKS {
        let mut check = Command::new(&validator);
        check
            .current_dir(paths::workspace())
            .args(["--quiet", "--builtin-schema", schema])
            .args(*names);
        process::run(&mut check)?;
    }
    Ok(())
}

/// check-jsonschema in an environment of its own.
fn validator() -> Result<PathBuf> {
    let place = paths::tools().join("check-jsonschema");
    let program = place.join("bin/check-jsonschema");
    let stamp = place.join("stamp");
    let wanted = format!("check-jsonschema=={}", pins::CHECK_JSONSCHEMA);
    let is_there = || std::fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if is_there() {
        return Ok(program);
    }
    let _lock = Lock::on(&place)?;
    if !is_there() {
        process::step(&format!("install {wanted}"), || {
            files::remove(&place)?;
            process::output(Command::new("python3").args(["-m", "venv"]).arg(&place))?;
            let mut pip = Command::new(place.join("bin/python"));
            pip.args([
                "-m",
                "pip",
                "--disable-pip-version-check",
                "--no-input",
                "--quiet",
            ]);
            process::output(pip.args(["install", "--only-binary=:all:", &wanted]))?;
            files::write(&stamp, &wanted)
        })?;
    }
    Ok(program)
}
