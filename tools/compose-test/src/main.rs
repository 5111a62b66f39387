//! `cargo xtask compose-test`: what `docker-compose.yml` and the Dockerfile promise, on a real Docker.
//!
//! The images are built and the containers run as a user would have them, under a name of their own. When the test ends,
//! whichever way, everything it brought to this machine is gone. Without a Docker engine there is nothing to run, and the
//! test says so. It prints what the runner of Rust's tests prints, so `cargo xtask test` counts both.

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

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Skipped,
}

/// Makes all checks; where there is no Docker engine, none.
fn run() -> Result<Vec<End>> {
    let Some(docker) = Docker::find()? else {
        let skip = |check: &Check| skipped(check.name, "no Docker engine");
        return Ok(CHECKS.iter().map(skip).collect());
    };
    // The images have names that all of this machine's work trees share.
    let _lock = Lock::on(&std::env::temp_dir().join("azure-openai-balancer-compose-test"))?;
    let revision = revision::of_workspace();
    let stack = Stack::new(&docker, &revision)?;
    bases::remove_left_over(&docker)?;
    let bases = Bases::bring(&docker, &versions()?)?;
    Ok(walk(&Stage {
        docker: &docker,
        stack: &stack,
        revision: &revision,
        has_grafana: bases.has_grafana(),
    }))
}

/// Every check in turn. They build on one another, so that after one that failed only the last is made: that everything is
/// removed holds whatever happened.
fn walk(stage: &Stage<'_>) -> Vec<End> {
    let mut ends = Vec::new();
    for (index, check) in CHECKS.iter().enumerate() {
        let is_last = index + 1 == CHECKS.len();
        if ends.contains(&End::Failed) && !is_last {
            println!("test compose::{} ... FAILED (not reached)", check.name);
            ends.push(End::Failed);
        } else {
            ends.push(make(check, stage));
        }
    }
    ends
}

fn make(check: &Check, stage: &Stage<'_>) -> End {
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

/// What `.env` says.
fn versions() -> Result<BTreeMap<String, String>> {
    let path = paths::workspace().join(".env");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(assignments(&text))
}

/// `NAME=value`, one per line; other lines are comments or empty.
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
    fn the_dockerfile_by_itself_builds_the_same_versions() {
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
    fn an_env_file_has_comments() {
        let read = assignments("# A=1\n\nB=2\nC = 3 \n");
        assert_eq!(read.len(), 2);
        assert_eq!((read["B"].as_str(), read["C"].as_str()), ("2", "3"));
    }
}
