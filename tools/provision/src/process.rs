//! Runs other programs. Every step prints its name and its duration, and every error names the command.

use std::env;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Result};

use crate::paths;

/// The cargo that runs this program, or else `cargo` on PATH.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// A cargo command that builds and runs a program of the workspace. Further arguments are passed to that program.
pub fn cargo_run(package: &str) -> Command {
    let mut command = cargo();
    command.current_dir(paths::workspace());
    command.args(["run", "--quiet", "--locked", "--package", package, "--"]);
    command
}

/// The compiler that cargo uses.
pub fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
}

/// Prints a step's name, runs it, and prints its result and duration.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    eprintln!(
        "<== {what}: {outcome} in {:.1} s",
        start.elapsed().as_secs_f64()
    );
    result
}

/// Runs a command and lets it print directly to the user.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| not_started(command, &error))?;
    if !status.success() {
        bail!(
            "`{}` failed with {status}; its output above says why",
            line(command)
        );
    }
    Ok(())
}

/// Runs a command and returns its standard output. If it fails, the error has all of its output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        let printed = [output.stderr, output.stdout]
            .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
            .join("\n");
        bail!(
            "`{}` failed with {}:\n{}",
            line(command),
            output.status,
            printed.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, and kills it after `limit`.
///
/// # Errors
/// The command cannot be started, fails, or exceeds the limit.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| not_started(command, &error))?;
    let start = Instant::now();
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => bail!("`{}` failed with {status}", line(command)),
            None if start.elapsed() < limit => thread::sleep(Duration::from_millis(50)),
            None => break,
        }
    }
    child.kill()?;
    child.wait()?;
    bail!(
        "`{}` did not end within {} s",
        line(command),
        limit.as_secs()
    )
}

/// The path of the program of this name on PATH.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The command line as text.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The error on a command that could not be started.
pub fn not_started(command: &Command, error: &std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy();
    if error.kind() == ErrorKind::NotFound {
        anyhow!(
            "`{program}` was not found; install it and run this again (the command was `{}`)",
            line(command)
        )
    } else {
        anyhow!("`{}` could not be started: {error}", line(command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_names_the_command_and_shows_its_output() {
        assert_eq!(
            output(&mut shell("echo out; echo err >&2")).unwrap(),
            "out\n"
        );
        let error = output(&mut shell("echo broken >&2; exit 3")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains("sh -c") && error.contains("exit status: 3") && error.contains("broken"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with("`no-such-program-here` was not found;"),
            "{error}"
        );
    }

    #[test]
    fn a_command_is_ended_at_its_limit() {
        let error = run_within(&mut shell("exec sleep 30"), Duration::from_millis(100));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
        run_within(&mut shell("exit 0"), Duration::from_secs(10)).unwrap();
    }
}
