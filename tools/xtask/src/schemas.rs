//! The workflows and the compose file, checked against the schemas of their formats.

use std::process::Command;

use anyhow::Result;

use crate::{paths, pins, process, python};

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
    let wanted = format!("check-jsonschema=={}", pins::CHECK_JSONSCHEMA);
    let place = paths::tools().join("check-jsonschema");
    let validator = python::program(&place, &wanted, "check-jsonschema")?;
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
