//! `cargo xtask compose-test`: tests `docker-compose.yml` and the Dockerfile on a real Docker.
//!
//! It builds the images and runs the containers as a user would, under a project name of its own. At its end, also after a
//! failure, it removes everything that it made on this machine. Without a Docker engine it reports all checks as skipped.
//! It prints in the format of Rust's test runner, so that `cargo xtask test` counts its checks as well.

mod bases;
mod checks;
mod docker;
mod metrics;
mod stack;

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use provision::files::Lock;
use provision::{paths, revision};

use bases::Bases;
use checks::{Check, Stage, Verdict, CHECKS};
use docker::Docker;
use stack::Stack;

fn main() -> Result<ExitCode> {
    let ends = run()?;
    let count = |end| ends.iter().filter(|other| **other == end).count();
    let [passed, failed, skipped] = [End::Passed, End::Failed, End::Skipped].map(count);
    let (verdict, code) = match failed {
        0 => ("ok", ExitCode::SUCCESS),
        _ => ("FAILED", ExitCode::FAILURE),
    };
    println!(
        "test result: {verdict}. {passed} passed; {failed} failed; 0 ignored; {skipped} skipped"
    );
    Ok(code)
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Skipped,
}

/// Runs all checks, or skips all of them if there is no Docker engine.
fn run() -> Result<Vec<End>> {
    let Some(docker) = Docker::find()? else {
        let skip = |check: &Check| skipped(check.name, "no Docker engine");
        return Ok(CHECKS.iter().map(skip).collect());
    };
    // All work trees on this machine use the same image names.
    let _lock = Lock::on(&std::env::temp_dir().join("azure-openai-balancer-compose-test"))?;
    let revision = revision::of_workspace();
    let stack = Stack::new(&docker, &revision)?;
    bases::remove_leftovers(&docker)?;
    let bases = Bases::provide(&docker, &versions()?)?;
    Ok(run_checks(&Stage {
        docker: &docker,
        stack: &stack,
        revision: &revision,
        has_grafana: bases.has_grafana(),
    }))
}

/// Runs the checks in turn. They depend on one another, so after a failure only the last one runs. The last one removes
/// everything, which must work after a failure too.
fn run_checks(stage: &Stage<'_>) -> Vec<End> {
    let mut ends = Vec::new();
    for (index, check) in CHECKS.iter().enumerate() {
        let is_last = index + 1 == CHECKS.len();
        if ends.contains(&End::Failed) && !is_last {
            println!("test compose::{} ... FAILED (not reached)", check.name);
            ends.push(End::Failed);
        } else {
            ends.push(run_check(check, stage));
        }
    }
    ends
}

fn run_check(check: &Check, stage: &Stage<'_>) -> End {
    let start = Instant::now();
    let result = (check.check)(stage);
    let seconds = start.elapsed().as_secs_f64();
    let name = check.name;
    match result {
        Ok(Verdict::Passed) => {
            println!("test compose::{name} ... ok ({seconds:.1} s)");
            End::Passed
        }
        Ok(Verdict::Skipped(reason)) => skipped(name, reason),
        Err(error) => {
            println!("test compose::{name} ... FAILED ({seconds:.1} s)\n{error:#}");
            End::Failed
        }
    }
}

fn skipped(name: &str, reason: &str) -> End {
    println!("test compose::{name} ... skipped: {reason}");
    End::Skipped
}

/// The variables in `.env`.
fn versions() -> Result<BTreeMap<String, String>> {
    let path = paths::workspace().join(".env");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(assignments(&text))
}

/// Parses lines of the form `NAME=value`. Other lines are comments or empty.
fn assignments(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use provision::pins;

    use super::*;

    #[test]
    fn the_containers_run_the_versions_that_are_tested() {
        let versions = versions().unwrap();
        assert_eq!(versions["ENVOY_VERSION"], pins::DEFAULT_ENVOY);
        assert_eq!(versions["OPENAI_VERSION"], pins::OPENAI_SDK);
    }

    #[test]
    fn the_dockerfile_alone_builds_the_same_versions() {
        let dockerfile = fs::read_to_string(paths::workspace().join("Dockerfile")).unwrap();
        let lines = dockerfile
            .lines()
            .filter_map(|line| line.strip_prefix("ARG "));
        let defaults = assignments(&lines.collect::<Vec<_>>().join("\n"));
        let versions = versions().unwrap();
        let mut compared = 0;
        for (name, value) in defaults
            .iter()
            .filter(|(name, _)| name.ends_with("_VERSION"))
        {
            assert_eq!(versions.get(name), Some(value), "{name}");
            compared += 1;
        }
        assert_eq!(compared, 4);
        assert_eq!(defaults["VERSION"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn comments_in_an_env_file_are_ignored() {
        let read = assignments("# A=1\n\nB=2\nC = 3 \n");
        assert_eq!(read.len(), 2);
        assert_eq!((read["B"].as_str(), read["C"].as_str()), ("2", "3"));
    }
}
