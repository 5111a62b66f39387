//! `cargo xtask lint`: formatting, clippy on both targets, documentation, workflows. Each warning is an error.

use std::process::Command;

use anyhow::{bail, Result};
use provision::library::Library;
use provision::{paths, pins, process, python};

/// The schemas that check-jsonschema includes, each with the files to check against it.
const SCHEMAS: [(&str, &[&str]); 2] = [
    (
        "vendor.github-workflows",
        &[".github/workflows/ci.yml", ".github/workflows/release.yml"],
    ),
    ("vendor.compose-spec", &["docker-compose.yml"]),
];

type Check = fn() -> Result<()>;

/// Runs every check, even after a failure, and names the checks that failed.
pub fn command() -> Result<()> {
    let checks: [(&str, Check); 5] = [
        ("rustfmt", format),
        ("clippy on the host", clippy_on_the_host),
        ("clippy on wasm32-wasip1", clippy_on_wasm),
        ("rustdoc", document),
        ("workflows and docker-compose.yml", check_schemas),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        if let Err(error) = process::step(name, check) {
            eprintln!("error: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn format() -> Result<()> {
    process::run(cargo("fmt").args(["--all", "--check"]))
}

fn clippy_on_the_host() -> Result<()> {
    process::run(cargo("clippy").args([
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))
}

fn clippy_on_wasm() -> Result<()> {
    let library = Library::find()?;
    let module = [
        "-p",
        "azure-openai-balancer",
        "-p",
        "balancer-core",
        "--lib",
    ];
    match &library {
        Library::Installed => process::run(
            library
                .cargo("clippy")?
                .args(module)
                .args(["--", "-D", "warnings"]),
        ),
        // `cargo clippy` would run the host toolchain's clippy. These variables are the ones that `cargo clippy` sets.
        Library::Debian(compiler) => process::run(
            library
                .cargo("check")?
                .args(module)
                .env("RUSTC_WORKSPACE_WRAPPER", &compiler.clippy_driver)
                .env(
                    "CLIPPY_ARGS",
                    "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__",
                ),
        ),
    }
}

fn document() -> Result<()> {
    process::run(
        cargo("doc")
            .args(["--workspace", "--no-deps", "--locked"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}

fn check_schemas() -> Result<()> {
    let wanted = format!("check-jsonschema=={}", pins::CHECK_JSONSCHEMA);
    let validator = python::program("check-jsonschema", &wanted)?;
    for (schema, files) in SCHEMAS {
        let mut check = Command::new(&validator);
        check.args(["--quiet", "--builtin-schema", schema]);
        process::run(check.args(files).current_dir(paths::workspace()))?;
    }
    Ok(())
}

fn cargo(subcommand: &str) -> Command {
    let mut command = process::cargo();
    command.current_dir(paths::workspace()).arg(subcommand);
    command
}
