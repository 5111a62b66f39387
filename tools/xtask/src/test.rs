//! `cargo xtask test`: builds and fetches everything that the tests need, then runs and counts every test.
//!
//! Every test runs with the newest Envoy. The acceptance cases and the attacks run again with the oldest Envoy of each retry engine, with
//! that engine only. `--envoy` selects other versions, or `all`. Each selected Envoy runs every end-to-end test with every engine it has.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{bail, Context, Result};
use provision::{debian, envoy, files, paths, pins, process, python};

use crate::tally::{Counts, Tally};
use crate::wasm;

/// The environment variable with the Envoy version for the end-to-end tests.
const VERSION: &str = "AOAI_ENVOY_VERSION";

/// The environment variable with the number of tests that run at the same time. Long tests mostly wait, so it may exceed the number of
/// cores.
const THREADS: &str = "RUST_TEST_THREADS";

/// The part of a test's name which says that the test runs the filter engine.
const FILTER_ENGINE: &str = "filter_engine";
/// The part of a test's name which says that the test runs the router engine.
const ROUTER_ENGINE: &str = "router_engine";

/// The filter for the tests that run again in older Envoys: the acceptance cases and the attacks. Cases 47 and 55 compare sums over many
/// requests, which do not depend on Envoy's version.
const AGAIN: [&str; 6] = ["case_", "attacks", "--skip", "case_47", "--skip", "case_55"];

/// The test of the container images and docker-compose.yml. Without a Docker engine it reports its checks as skipped.
pub fn containers() -> Command {
    process::cargo_run("compose-test")
}

/// The result of a run.
struct Outcome {
    name: String,
    status: ExitStatus,
    tally: Tally,
}

/// Runs the tests with the versions of Envoy in `envoys`: all tests, or those whose name contains `filter`.
pub fn command(filter: Option<&str>, envoys: &[String]) -> Result<()> {
    let counts = paths::tools().join("test-counts.txt");
    // The counts of an earlier run must not be mistaken for this run's.
    let _ = fs::remove_file(&counts);
    let runs = runs(filter, envoys)?;
    let variables = prepare()?;
    let mut outcomes = Vec::new();
    for run in &runs {
        let mut cargo = process::cargo();
        cargo.args(&run.arguments).envs(variables.iter().cloned());
        cargo.env(VERSION, run.version);
        outcomes.push(perform(format!("Envoy {}", run.version), &cargo)?);
        // The other runs would not compile either.
        if outcomes.iter().any(Outcome::did_not_compile) {
            break;
        }
    }
    // The containers have the newest Envoy only, so their test belongs to complete runs with that version.
    let is_everything = filter.is_none() && runs[0].version == pins::DEFAULT_ENVOY;
    if is_everything && !outcomes.iter().any(Outcome::did_not_compile) {
        outcomes.push(perform("containers".to_owned(), &containers())?);
    }

    let mut total = Counts::default();
    println!();
    for Outcome { name, tally, .. } in &outcomes {
        total += tally.counts;
        println!("{name}: {}", tally.counts);
        for test in &tally.others {
            println!("{name}: {test}");
        }
    }
    println!("{total}");
    if total != Counts::default() {
        let Counts { passed, failed, .. } = total;
        let not_run = total.ignored + total.skipped;
        let line = format!("{passed} passed, {failed} failed, {not_run} skipped\n");
        files::write(&counts, &line)?;
    }
    verdict(&outcomes, filter)
}

/// Builds and fetches everything, and returns the environment variables with the paths.
fn prepare() -> Result<Vec<(String, OsString)>> {
    let module = wasm::build()?;
    let python = python::sdks()?;
    let found = [
        ("AOAI_WASM", module),
        ("AOAI_PYTHON", python.executable),
        ("AOAI_PYTHONPATH", python.path),
        ("AOAI_NEWEST_OPENAI", python::newest_openai()?),
        ("AOAI_CHROMIUM", debian::chromium()?),
        ("AOAI_REDIS", debian::redis()?),
    ];
    let mut variables: Vec<_> = found
        .map(|(name, path)| (name.to_owned(), path.into()))
        .into();
    for pinned in pins::ENVOYS {
        variables.push((
            envoy::variable(pinned.version),
            envoy::pinned(pinned)?.into(),
        ));
    }
    Ok(variables)
}

/// One run of `cargo test`.
#[derive(Debug, PartialEq)]
struct Run {
    /// The version of Envoy for this run.
    version: &'static str,
    arguments: Vec<String>,
}

/// The requested runs, in the order of the pinned versions.
fn runs(filter: Option<&str>, envoys: &[String]) -> Result<Vec<Run>> {
    for version in envoys.iter().filter(|version| *version != "all") {
        envoy::known(version)?;
    }
    let versions = pins::ENVOYS.iter().map(|pinned| pinned.version);
    if !envoys.is_empty() || filter.is_some() {
        let is_wanted = |version: &str| match envoys {
            [] => version == pins::DEFAULT_ENVOY,
            envoys => envoys
                .iter()
                .any(|wanted| wanted == "all" || wanted == version),
        };
        let wanted = versions.filter(|version| is_wanted(version));
        return Ok(wanted.map(|version| Run::new(version, filter)).collect());
    }
    let mut runs = vec![Run::new(pins::DEFAULT_ENVOY, None)];
    // The pinned versions are sorted, newest first.
    let older: Vec<_> = versions
        .filter(|version| *version != pins::DEFAULT_ENVOY)
        .collect();
    if let Some(version) = older
        .iter()
        .rev()
        .find(|version| has_router_engine(version))
    {
        runs.push(Run::again(version, FILTER_ENGINE));
    }
    if let Some(version) = older.last() {
        runs.push(Run::again(version, ROUTER_ENGINE));
    }
    Ok(runs)
}

/// cargo's arguments that select the tests in a real Envoy. They name the test program: `--package` would build all dependencies
/// again, with the features that this one package needs.
const END_TO_END: [&str; 3] = ["--workspace", "--test", "end_to_end"];

fn has_router_engine(version: &str) -> bool {
    envoy::Version::parse(version).is_some_and(|release| envoy::has_router_engine(&release))
}

impl Run {
    fn new(version: &'static str, filter: Option<&str>) -> Self {
        // Only the end-to-end tests depend on Envoy's version.
        let is_default = version == pins::DEFAULT_ENVOY;
        let tests: &[_] = if is_default {
            &["--workspace"]
        } else {
            &END_TO_END
        };
        let restriction = match filter {
            _ if has_router_engine(version) => filter.into_iter().collect(),
            None => vec![FILTER_ENGINE],
            // A test runs if its name contains any of several filters, so the engine cannot be added as one.
            Some(filter) => vec![filter, "--", "--skip", ROUTER_ENGINE],
        };
        Self::of(version, tests, &restriction)
    }

    /// A run in an older Envoy that leaves out the tests of the engine `without`. Tests whose names have no engine run as well.
    fn again(version: &'static str, without: &str) -> Self {
        let arguments = [&["--"], &AGAIN[..], &["--skip", without]].concat();
        Self::of(version, &END_TO_END, &arguments)
    }

    fn of(version: &'static str, tests: &[&str], restriction: &[&str]) -> Self {
        let arguments = ["test", "--locked", "--no-fail-fast"].into_iter();
        let arguments = arguments.chain(tests.iter().copied());
        let arguments = arguments.chain(restriction.iter().copied());
        Self {
            version,
            arguments: arguments.map(str::to_owned).collect(),
        }
    }
}

/// Runs a command, shows its output and counts its tests.
fn perform(name: String, command: &Command) -> Result<Outcome> {
    process::step(&format!("run the tests: {name}"), || {
        // The shell joins both streams in one pipe, so that lines keep their order.
        let mut both = Command::new("sh");
        both.args(["-c", "exec \"$@\" 2>&1", "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .envs(
                command
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(paths::workspace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if env::var_os(THREADS).is_none() {
            both.env(THREADS, (3 * cores()?).to_string());
        }
        if io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
            both.env("CARGO_TERM_COLOR", "always");
        }
        let mut child = both
            .spawn()
            .map_err(|error| process::not_started(&both, &error))?;
        let output = child.stdout.take().context("the output cannot be read")?;
        let mut tally = Tally::default();
        copy_and_count(BufReader::new(output), io::stdout(), &mut tally)?;
        let status = child.wait()?;
        Ok(Outcome {
            name,
            status,
            tally,
        })
    })
}

impl Outcome {
    fn did_not_compile(&self) -> bool {
        !self.status.success() && self.tally.counts == Counts::default()
    }
}

fn cores() -> Result<usize> {
    let cores = thread::available_parallelism();
    Ok(cores.context("the number of cores cannot be read")?.get())
}

/// Prints every line as it arrives. Lines are bytes, because a test may print anything.
fn copy_and_count(mut from: impl BufRead, mut to: impl Write, tally: &mut Tally) -> io::Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        tally.read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}

fn verdict(outcomes: &[Outcome], filter: Option<&str>) -> Result<()> {
    let sum = |count: fn(&Counts) -> u64| -> u64 {
        let counts = outcomes.iter().map(|outcome| &outcome.tally.counts);
        counts.map(count).sum()
    };
    let failed = sum(|counts| counts.failed);
    if failed > 0 {
        bail!("failed tests: {failed}; their output is above");
    }
    if let Some(outcome) = outcomes.iter().find(|outcome| !outcome.status.success()) {
        let (name, status) = (&outcome.name, outcome.status);
        bail!(
            "{name}: the tests ended with {status} although none failed; the output above says why"
        );
    }
    let ignored = sum(|counts| counts.ignored);
    if ignored > 0 {
        bail!("ignored tests: {ignored}; run them or remove them, no test may be skipped silently");
    }
    let has_none = |outcome: &&Outcome| outcome.tally.counts == Counts::default();
    match (outcomes.iter().find(has_none), filter) {
        (Some(outcome), None) => bail!("{}: no test ran", outcome.name),
        // A name may select tests of one engine only, and older Envoys lack the router engine.
        (Some(_), Some(filter)) if sum(|counts| counts.passed) == 0 => {
            bail!(
                "no test ran; no name contains {filter:?} among the tests that run with this Envoy"
            )
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const PASSED: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";

    /// The verdict on runs that printed these texts and ended with this code.
    fn judged(texts: &[&str], code: i32, filter: Option<&str>) -> String {
        let outcome = |text: &&str| {
            let mut tally = Tally::default();
            copy_and_count(text.as_bytes(), io::sink(), &mut tally).unwrap();
            Outcome {
                name: format!("run {}", text.len().min(1)),
                status: ExitStatus::from_raw(code << 8),
                tally,
            }
        };
        let outcomes: Vec<_> = texts.iter().map(outcome).collect();
        let verdict = verdict(&outcomes, filter);
        verdict.map_or_else(|error| error.to_string(), |()| "passed".to_owned())
    }

    fn shown(filter: Option<&str>, envoys: &[&str]) -> Vec<String> {
        let envoys: Vec<_> = envoys.iter().map(|version| (*version).to_owned()).collect();
        let end_to_end = END_TO_END.join(" ");
        let runs = runs(filter, &envoys).unwrap().into_iter();
        runs.map(|run| {
            let arguments = run.arguments.join(" ").replace(&end_to_end, "END-TO-END");
            let arguments = arguments.strip_prefix("test --locked --no-fail-fast ");
            format!("{}: {}", run.version, arguments.unwrap())
        })
        .collect()
    }

    #[test]
    fn complete_runs_use_the_newest_envoy_and_each_engines_oldest() {
        let all = [
            "1.40.0: --workspace",
            "1.39.0: END-TO-END -- case_ attacks --skip case_47 --skip case_55 --skip filter_engine",
            "1.36.4: END-TO-END -- case_ attacks --skip case_47 --skip case_55 --skip router_engine",
        ];
        assert_eq!(shown(None, &[]), all);
    }

    #[test]
    fn all_envoys_are_tested_with_the_engines_they_have() {
        let all = [
            "1.40.0: --workspace",
            "1.39.0: END-TO-END",
            "1.38.2: END-TO-END filter_engine",
            "1.36.4: END-TO-END filter_engine",
        ];
        assert_eq!(shown(None, &["1.36.4", "all"]), all);
    }

    #[test]
    fn a_filter_applies_to_the_selected_envoys() {
        assert_eq!(shown(Some("x"), &[]), ["1.40.0: --workspace x"]);
        assert_eq!(
            shown(Some("x"), &["1.36.4", "1.39.0", "1.36.4"]),
            [
                "1.39.0: END-TO-END x",
                "1.36.4: END-TO-END x -- --skip router_engine"
            ]
        );
        assert_eq!(shown(Some("x"), &["all"]).len(), pins::ENVOYS.len());
        let error = runs(None, &["1.2.3".to_owned()]).unwrap_err().to_string();
        assert!(
            error.starts_with("Envoy 1.2.3 is not pinned; use one of 1.40.0, "),
            "{error}"
        );
    }

    #[test]
    fn every_file_of_the_end_to_end_tests_is_declared() {
        let directory = paths::workspace().join("tests/e2e/tests");
        let main = fs::read_to_string(directory.join("main.rs")).unwrap();
        let mut modules: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter_map(|file| Some(file.strip_suffix(".rs")?.to_owned()))
            .filter(|name| name != "main")
            .collect();
        modules.sort();
        let declared: Vec<_> = main
            .lines()
            .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
            .collect();
        assert_eq!(declared, modules);
    }

    #[test]
    fn no_other_program_has_the_name_of_the_end_to_end_tests() {
        let tools = fs::read_dir(paths::workspace().join("tools")).unwrap();
        let others = tools.map(|tool| tool.unwrap().path().join("tests"));
        for tests in others.chain([paths::workspace().join("tests")]) {
            assert!(!tests.join("end_to_end.rs").exists(), "{}", tests.display());
        }
    }

    #[test]
    fn only_a_filter_may_leave_an_envoy_without_tests() {
        assert_eq!(judged(&[PASSED, ""], 0, None), "run 0: no test ran");
        assert_eq!(judged(&[PASSED, ""], 0, Some("name")), "passed");
        let nothing = judged(&[""], 0, Some("name"));
        assert!(
            nothing.starts_with("no test ran; no name contains \"name\""),
            "{nothing}"
        );
    }

    #[test]
    fn only_a_run_of_passed_tests_passes() {
        assert_eq!(judged(&[PASSED], 0, None), "passed");
        for (text, code, expected) in [
            (
                PASSED.replace("0 failed", "3 failed"),
                101,
                "failed tests: 3;",
            ),
            (
                PASSED.replace("0 ignored", "1 ignored"),
                0,
                "ignored tests: 1;",
            ),
            (
                PASSED.to_owned(),
                101,
                "run 1: the tests ended with exit status: 101",
            ),
        ] {
            let verdict = judged(&[&text], code, None);
            assert!(verdict.starts_with(expected), "{verdict}");
        }
    }

    #[test]
    fn every_byte_is_printed() {
        let mut shown = Vec::new();
        copy_and_count(&b"one\n\xff\ntwo"[..], &mut shown, &mut Tally::default()).unwrap();
        assert_eq!(shown, b"one\n\xff\ntwo");
    }
}
