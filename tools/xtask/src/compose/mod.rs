//! `cargo xtask compose-test`: what `docker-compose.yml` and the Dockerfile promise, on a real Docker.
//!
//! The images are built and the containers run as a user would have them, under a name of their own; when the test ends,
//! whichever way, everything it brought to this machine is gone. Without a Docker engine there is nothing to run, and the
//! test says so.

mod bases;
mod checks;
mod cold;
mod docker;
mod metrics;
mod stack;

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use anyhow::{bail, Context, Result};

use crate::files::Lock;
use crate::tally::{Counts, End, Tally};
use crate::{paths, process, revision};
use bases::Bases;
use checks::{Check, Stage, Verdict, CHECKS};
use docker::Docker;
use stack::Stack;

/// What the checks are called together.
pub const NAME: &str = "compose (docker-compose.yml)";

/// Why nothing was run.
const NO_ENGINE: &str = "no Docker engine";

/// The checks by name, and how they ended.
pub type Ends = Vec<(&'static str, End)>;

/// Runs the checks and says how they ended.
pub fn command() -> Result<()> {
    let mut tally = Tally::default();
    tally.record(NAME, &run()?);
    for name in tally.skipped() {
        println!("skipped: {name}");
    }
    let Counts {
        passed,
        failed,
        skipped,
        ..
    } = tally.total();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed > 0 {
        bail!("failed checks: {failed}; the output above says why");
    }
    Ok(())
}

/// Runs the checks; where there is no Docker engine all are skipped.
///
/// # Errors
/// When they cannot even begin.
pub fn run() -> Result<Ends> {
    let Some(docker) = Docker::find()? else {
        let names = CHECKS.iter().map(|check| check.name);
        return Ok(names.map(|name| (name, End::Skipped(NO_ENGINE))).collect());
    };
    // The images have names that all of this machine's work trees share.
    let _lock = Lock::on(&std::env::temp_dir().join("azure-openai-balancer-compose-test"))?;
    process::step("test docker-compose.yml and the Dockerfile", || {
        let revision = revision::of_workspace();
        let stack = Stack::new(&docker, &revision)?;
        bases::remove_left_over(&docker)?;
        let bases = Bases::bring(&docker, &versions()?)?;
        let stage = Stage {
            docker: &docker,
            stack: &stack,
            revision: &revision,
            has_grafana: bases.has_grafana(),
        };
        Ok(walk(&stage))
    })
}

/// Every check in turn. They build on one another, so that after one that failed only the last is made: that everything is
/// removed holds whatever happened.
fn walk(stage: &Stage<'_>) -> Ends {
    let mut ends = Ends::new();
    for (index, check) in CHECKS.iter().enumerate() {
        let is_last = index + 1 == CHECKS.len();
        let has_failed = ends.iter().any(|(_, end)| *end == End::Failed);
        let end = if has_failed && !is_last {
            println!("test compose::{} ... FAILED (not reached)", check.name);
            End::Failed
        } else {
            make(check, stage)
        };
        ends.push((check.name, end));
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
        Ok(Verdict::Skipped(reason)) => {
            println!("test compose::{name} ... skipped: {reason}");
            End::Skipped(reason)
        }
        Err(error) => {
            println!("test compose::{name} ... FAILED ({seconds:.1} s)\n{error:#}");
            End::Failed
        }
    }
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
    use super::*;
    use crate::pins;

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
