//! Builds from an empty cache, as on a machine that has never built the images.
//!
//! Stages that build at the same time can be in each other's way while they fetch and unpack crates. So each build is watched until
//! all its stages compile, and is then broken off. The check after this one builds to the end.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};

use super::checks::{Stage, Verdict};
use crate::{paths, process};

/// This variable switches the builds on. They take minutes, and empty the builder's cache, other projects' builds included.
const SWITCH: &str = "AOAI_COLD_BUILDS";

/// How many builds are tried.
const BUILDS: usize = 3;

/// Builds all stages at once, again and again, with nothing in the builder's cache.
pub fn cold_builds_fetch_their_crates(stage: &Stage<'_>) -> Result<Verdict> {
    if std::env::var_os(SWITCH).is_none_or(|value| value.is_empty()) {
        return Ok(Verdict::Skipped("AOAI_COLD_BUILDS is not set"));
    }
    let dockerfile = fs::read_to_string(paths::workspace().join("Dockerfile"))?;
    let stages = building(&dockerfile);
    ensure!(stages.len() > 1, "only {stages:?} build anything");
    for build in 1..=BUILDS {
        stage
            .docker
            .output(&["builder", "prune", "--all", "--force"])?;
        let start = Instant::now();
        // Its image is made of all of them. Older releases of compose build one service after the other, newer ones all at once.
        let mut command = stage.docker.command();
        command
            .args([
                "buildx",
                "build",
                "--progress",
                "plain",
                "--target",
                "envoy",
            ])
            .arg(paths::workspace());
        until_all_compile(&mut command, &stages)
            .with_context(|| format!("build {build} of {BUILDS} from an empty cache"))?;
        let seconds = start.elapsed().as_secs_f64();
        println!("cold build {build} of {BUILDS}: {stages:?} compile after {seconds:.1} s");
    }
    Ok(Verdict::Passed)
}

/// The stages that build.
fn building(dockerfile: &str) -> Vec<String> {
    let mut stages = Vec::new();
    let mut current = "";
    for line in dockerfile.lines() {
        if let Some((_, name)) = line
            .strip_prefix("FROM ")
            .and_then(|from| from.split_once(" AS "))
        {
            current = name.trim();
        }
        if line.contains("cargo build") && stages.last().is_none_or(|last| last != current) {
            stages.push(current.to_owned());
        }
    }
    stages
}

/// Runs the build until each of the stages compiles.
fn until_all_compile(command: &mut Command, stages: &[String]) -> Result<()> {
    let mut build = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| process::not_started(command, &error))?;
    let progress = BufReader::new(build.stderr.take().context("its progress")?);
    let mut steps = Steps::default();
    for line in progress.lines() {
        let line = line?;
        eprintln!("{line}");
        steps.read(&line);
        if stages.iter().all(|stage| steps.compiles(stage)) {
            return break_off(build);
        }
    }
    let status = build.wait()?;
    bail!("it ended with {status} before each of {stages:?} compiled; its output above says why");
}

/// Ends the build, its plugin included, which a killed `docker` would leave behind.
fn break_off(mut build: Child) -> Result<()> {
    let id = build.id().to_string();
    process::output(Command::new("kill").args(["-INT", &id]))?;
    build.wait()?;
    Ok(())
}

/// The steps of a build that run `cargo build`, by their numbers: their stage, and whether they compile.
#[derive(Debug, Default)]
struct Steps(BTreeMap<String, (String, bool)>);

impl Steps {
    /// Takes a line of the progress: `#12 [tools 1/1] RUN ... cargo build ...`, or `#12 3.45    Compiling serde v1.0.0`.
    fn read(&mut self, line: &str) {
        let Some((number, text)) = line.split_once(' ').filter(|(n, _)| n.starts_with('#')) else {
            return;
        };
        if let Some(step) = self.0.get_mut(number) {
            step.1 |= text.contains(" Compiling ");
        } else if let (true, Some(stage)) = (text.contains("cargo build"), stage(text)) {
            self.0.insert(number.to_owned(), (stage, false));
        }
    }

    /// Whether the stage has begun to compile.
    fn compiles(&self, stage: &str) -> bool {
        let mut steps = self.0.values();
        steps.any(|(name, compiles)| name == stage && *compiles)
    }
}

/// `tools` of `[tools 1/1] RUN`.
fn stage(text: &str) -> Option<String> {
    let (stage, _) = text.strip_prefix('[')?.split_once(' ')?;
    Some(stage.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfiles_stages_that_build_are_found() {
        let dockerfile = fs::read_to_string(paths::workspace().join("Dockerfile")).unwrap();
        assert_eq!(building(&dockerfile), ["finish", "module", "tools"]);
    }

    #[test]
    fn one_stage_fetches_crates_for_all() {
        let dockerfile = fs::read_to_string(paths::workspace().join("Dockerfile")).unwrap();
        let cargo = dockerfile.lines().filter(|line| line.contains("cargo "));
        let (fetch, build): (Vec<_>, Vec<_>) = cargo
            .filter(|line| !line.starts_with('#'))
            .partition(|line| line.contains("cargo fetch --locked"));
        assert_eq!(fetch.len(), 1, "{fetch:?}");
        assert_eq!(build.len(), 3, "{build:?}");
        let is_offline = |line: &&str| line.contains("cargo build --frozen ");
        assert!(build.iter().all(is_offline), "{build:?}");
    }

    #[test]
    fn a_stage_compiles_when_its_step_says_so() {
        let mut steps = Steps::default();
        for line in [
            "#10 [tools 1/1] RUN cargo build --package demo",
            "#11 [module 2/3] RUN cargo build --lib",
            "#10 1.2    Compiling serde v1.0.0",
            "#11 1.3  Downloading crates ...",
            "",
        ] {
            steps.read(line);
        }
        assert!(steps.compiles("tools"));
        assert!(!steps.compiles("module"), "it fetches");
        assert!(!steps.compiles("finish"));
    }
}
