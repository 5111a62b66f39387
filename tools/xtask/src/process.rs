//! Running other programs: every step says what it does and how long it took, every failure names the command.

use std::env;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Result};

/// The cargo that runs this program, or the one on PATH.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// The compiler cargo would use.
pub fn rustc() -> Command {
    Command::new(env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc")))
}

/// Announces a step, runs it, and says how long it took.
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

/// Runs a command whose output the user should see as it comes.
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

/// Runs a command for its output. What it wrote to stderr is shown only if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout]
            .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
            .join("\n");
        bail!(
            "`{}` failed with {}:\n{}",
            line(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Like [`output`], but ends the command after `limit` and drops what it wrote to stdout.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<()> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| not_started(command, &error))?;
    // Read while it runs: a full pipe would stop it.
    let reader = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut said = Vec::new();
            // Whatever could be read is good enough for an error text.
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).trim().to_owned()
        })
    });
    let Some(status) = wait_within(&mut child, limit)? else {
        bail!(
            "`{}` gave no result within {} s and was ended",
            line(command),
            limit.as_secs()
        );
    };
    if !status.success() {
        let said = reader
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        bail!("`{}` failed with {status}: {said}", line(command));
    }
    Ok(())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Why a command could not even be started.
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

fn wait_within(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(50));
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
    fn output_is_stdout_alone() {
        assert_eq!(
            output(&mut shell("echo out; echo err >&2")).unwrap(),
            "out\n"
        );
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(&mut shell("echo broken >&2; exit 3"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("sh -c") && error.contains("exit status: 3") && error.contains("broken"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`no-such-program-here` was not found;"),
            "{error}"
        );
    }

    #[test]
    fn a_command_is_ended_at_its_limit() {
        let error = output_within(&mut shell("exec sleep 30"), Duration::from_millis(100))
            .unwrap_err()
            .to_string();
        assert!(error.contains("was ended"), "{error}");
        output_within(&mut shell("exit 0"), Duration::from_secs(10)).unwrap();
    }
}
