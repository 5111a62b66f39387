//! `cargo xtask test`: everything the tests need, then every test, counted.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{bail, Context, Result};

use crate::library::{Choice, Library};
use crate::tally::{Counts, Tally};
use crate::{envoy, files, paths, pins, process, python, wasm};

/// Runs all tests, or those whose name contains `filter`.
pub fn command(filter: Option<&str>) -> Result<()> {
    // What an earlier run left must not pass for the counts of this one.
    let _ = fs::remove_file(paths::counts());
    let variables = prepare()?;
    let (tally, status) = process::step("run the tests", || run(filter, &variables))?;

    let total = tally.total();
    if total != Counts::default() {
        let Counts {
            passed,
            failed,
            ignored,
        } = total;
        let line = format!("{passed} passed, {failed} failed, {ignored} skipped\n");
        files::write(&paths::counts(), &line)?;
    }
    println!("\n{tally}");
    for name in tally.failed() {
        println!("failed: {name}");
    }
    for name in tally.ignored() {
        println!("ignored: {name}");
    }
    println!("{total}");
    verdict(&tally, status, filter)
}

/// The counts of the last run, if it got as far as counting.
pub fn last_counts() -> Option<String> {
    fs::read_to_string(paths::counts())
        .ok()
        .map(|line| line.trim().to_owned())
}

/// Builds and fetches; the variables tell the tests where everything lies.
fn prepare() -> Result<Vec<(String, PathBuf)>> {
    let mut variables = vec![(
        "AOAI_WASM".to_owned(),
        wasm::build(&Library::find(Choice::Auto)?)?,
    )];
    for pinned in pins::ENVOYS {
        variables.push((envoy::variable(pinned.version), envoy::pinned(pinned)?));
    }
    let python = python::ensure()?;
    variables.push(("AOAI_PYTHON".to_owned(), python.executable));
    variables.push(("AOAI_PYTHONPATH".to_owned(), PathBuf::from(python.path)));
    Ok(variables)
}

fn run(filter: Option<&str>, variables: &[(String, PathBuf)]) -> Result<(Tally, ExitStatus)> {
    let cargo = process::cargo();
    // One pipe for both streams: only together do they tell which binary a result belongs to.
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec \"$@\" 2>&1", "sh"])
        .arg(cargo.get_program());
    command
        .args(["test", "--workspace", "--locked", "--no-fail-fast"])
        .args(filter);
    command
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.envs(variables.iter().map(|(name, path)| (name, path)));
    if io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none() {
        command.env("CARGO_TERM_COLOR", "always");
    }

    let mut child = command
        .spawn()
        .map_err(|error| process::not_started(&command, &error))?;
    let output = child
        .stdout
        .take()
        .context("the output of cargo test cannot be read")?;
    let tally = copy_and_count(BufReader::new(output), io::stdout())?;
    Ok((tally, child.wait()?))
}

/// Shows every line as it comes. Lines are bytes: a test may print anything.
fn copy_and_count(mut from: impl BufRead, mut to: impl Write) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        to.flush()?;
        tally.read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(tally)
}

fn verdict(tally: &Tally, status: ExitStatus, filter: Option<&str>) -> Result<()> {
    let total = tally.total();
    if total.failed > 0 {
        bail!("failed tests: {}; their output is above", total.failed);
    }
    if !status.success() {
        bail!("cargo test ended with {status} although no test failed; its output above says why");
    }
    if total.ignored > 0 {
        bail!(
            "ignored tests: {}; run them or remove them, nothing is skipped in silence",
            total.ignored
        );
    }
    if total.passed == 0 {
        bail!(
            "no test ran; no name contains {:?}",
            filter.unwrap_or_default()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const PASSED: &str = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n";

    fn tally(text: &str) -> Tally {
        copy_and_count(text.as_bytes(), io::sink()).unwrap()
    }

    fn judged(text: &str, code: i32) -> String {
        let verdict = verdict(&tally(text), ExitStatus::from_raw(code << 8), Some("name"));
        verdict.map_or_else(|error| error.to_string(), |()| "passed".to_owned())
    }

    #[test]
    fn every_byte_is_shown() {
        let mut shown = Vec::new();
        copy_and_count(&b"one\n\xff\ntwo"[..], &mut shown).unwrap();
        assert_eq!(shown, b"one\n\xff\ntwo");
    }

    #[test]
    fn only_a_run_of_passed_tests_passes() {
        assert_eq!(judged(PASSED, 0), "passed");
        assert!(
            judged(&PASSED.replace("0 failed", "3 failed"), 101).starts_with("failed tests: 3;")
        );
        assert!(
            judged(&PASSED.replace("0 ignored", "1 ignored"), 0).starts_with("ignored tests: 1;")
        );
        assert!(judged(PASSED, 101).starts_with("cargo test ended with exit status: 101"));
        assert_eq!(judged("", 0), "no test ran; no name contains \"name\"");
    }
}
