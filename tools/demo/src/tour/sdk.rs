//! The openai Python SDK works with the balancer as it does with Azure.

use std::fs::{self, File};
use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{bail, Context, Result};
use simulator::{Behaviour, Stream, TokenCheck};

use super::Tour;
use crate::clients;

const SCRIPT: &str = include_str!("sdk.py");

/// The script's name in the tour's folder, for readers who want to continue with it.
pub(crate) const SCRIPT_FILE: &str = "sdk.py";

const ERRORS_FILE: &str = "sdk-errors.txt";

/// The number of requests of the script.
pub(super) const REQUESTS: usize = 3;

pub(super) fn show(tour: &Tour) -> Result<()> {
    let script = SCRIPT
        .replace("{url}", tour.stage.envoy.url())
        .replace("{key}", clients::DEMO.key);
    let path = tour.folder.join(SCRIPT_FILE);
    fs::write(&path, &script).with_context(|| format!("{}: cannot be written", path.display()))?;
    tour.screen.code(&script);
    tour.screen.gap();
    tour.screen.tell("The script prints:");

    let backends = tour.stage.simulation.backends();
    let stream = Stream {
        events: 8,
        interval_ms: 60,
        ..Stream::default()
    };
    for backend in backends {
        backend.set(&Behaviour::stream(stream.clone()))?;
    }
    let before = tour.stage.simulation.requests()?.len();
    let written = run(tour);
    for backend in backends {
        backend.clear()?;
    }
    let written = written?;
    tour.screen.gap();
    check_written(tour, &written)?;

    let mut received = tour.stage.simulation.requests()?.split_off(before);
    received.retain(|request| request.service != "imds");
    let with_token = |check| {
        received
            .iter()
            .filter(|request| request.token == check)
            .count()
    };
    tour.checks.equal(
        "the script's requests reached the backends with the balancer's token",
        REQUESTS,
        with_token(TokenCheck::Valid),
    )?;
    let keys = received
        .iter()
        .filter(|request| request.header("api-key").is_some());
    tour.checks
        .equal("the requests had no key of the client", 0, keys.count())
}

/// Runs the script, shows its output while it runs, and returns it.
fn run(tour: &Tour) -> Result<String> {
    let errors = tour.folder.join(ERRORS_FILE);
    let mut command = Command::new(&tour.python.program);
    command
        .arg(tour.folder.join(SCRIPT_FILE))
        .env("PYTHONPATH", &tour.python.path)
        .env("PYTHONIOENCODING", "utf-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(&errors)?);
    // A proxy could not reach this machine's loopback interface.
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    let process = tour.processes.start(&mut command)?;
    let mut stdout = process.stdout().context("the script's output")?;
    let mut written = Vec::new();
    let mut buffer = [0; 1024];
    let mut shown = 0;
    loop {
        let count = stdout.read(&mut buffer)?;
        written.extend_from_slice(&buffer[..count]);
        let is_over = count == 0;
        shown = show_new(tour, &written, shown, is_over);
        if is_over {
            break;
        }
    }
    // Its output is closed, so it ends soon.
    let status = loop {
        match process.ended() {
            Some(status) => break status,
            None => tour.processes.pause(std::time::Duration::from_millis(20))?,
        }
    };
    if !status.success() {
        let bytes = fs::read(&errors).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let last = text.trim().lines().last().unwrap_or_default();
        bail!(
            "the script ended with {status}: {last}\nAll of its errors are in {}",
            errors.display()
        );
    }
    Ok(String::from_utf8_lossy(&written).into_owned())
}

/// Shows new output, indented, up to the last complete character. Returns the length of the shown output.
fn show_new(tour: &Tour, written: &[u8], shown: usize, is_over: bool) -> usize {
    let new = &written[shown..];
    let end = match std::str::from_utf8(new) {
        Err(error) if error.error_len().is_none() && !is_over => error.valid_up_to(),
        _ => new.len(),
    };
    let mut starts_line = shown == 0 || written[shown - 1] == b'\n';
    for line in String::from_utf8_lossy(&new[..end]).split_inclusive('\n') {
        if starts_line {
            tour.screen.piece("    ");
        }
        tour.screen.piece(line);
        starts_line = line.ends_with('\n');
    }
    shown + end
}

fn check_written(tour: &Tour, written: &str) -> Result<()> {
    let expected = [
        ("chat:", "Hello from "),
        ("stream:", "Hello from "),
        ("embeddings:", "2 vectors of 8 numbers"),
    ];
    let is_as_expected = expected.iter().all(|(what, start)| {
        let mut lines = written.lines();
        lines.any(|line| {
            line.strip_prefix(what)
                .is_some_and(|rest| rest.trim_start().starts_with(start))
        })
    });
    tour.checks.holds(
        "chat, streamed chat and embeddings came back as from Azure",
        is_as_expected,
        expected
            .map(|(what, start)| format!("{what} {start}..."))
            .join("; "),
        written.lines().collect::<Vec<_>>().join("; "),
    )
}
