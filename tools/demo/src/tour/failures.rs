//! A backend that fails is made good by the others.

use anyhow::{Context, Result};
use simulator::{BackendHandle, Behaviour};

use super::Tour;
use crate::client::Answer;

/// Enough for each backend to have its turn three times.
const REQUESTS: usize = 9;

/// Short, so that the backend is back before the tour ends.
const RETRY_AFTER: u64 = 1;

pub(super) fn show_throttled(tour: &Tour) -> Result<()> {
    let backend = backend(tour, 0)?;
    let name = backend.name();
    tour.screen.tell(&format!(
        "{name} has used up its quota: it answers 429 with `retry-after: {RETRY_AFTER}`."
    ));
    backend.set(Behaviour::throttled(RETRY_AFTER));
    let before = backend.count();
    let answers = tour.requests(REQUESTS)?;
    let refused = backend.count() - before;
    backend.clear();

    tour.check_all_succeeded(&answers)?;
    check_absence(tour, name, &answers)?;
    tour.checks.holds(
        &format!("{name} was asked all the same"),
        refused > 0,
        "at least one request",
        refused,
    )?;
    tour.checks.equal(
        "each request it refused was sent on to another backend: attempts 2",
        format!("{refused} requests with 2 attempts, the others with 1"),
        format!(
            "{} requests with 2 attempts, the others with {}",
            count(&answers, "2"),
            others(&answers)
        ),
    )
}

pub(super) fn show_dead(tour: &Tour) -> Result<()> {
    let backend = backend(tour, 1)?;
    let name = backend.name();
    tour.screen.tell(&format!(
        "{name} is gone: nothing listens on port {} any more, connections are refused.",
        backend.port()
    ));
    backend.stop();
    let answers = tour.requests(REQUESTS)?;
    backend.restart().context("the simulator")?;

    tour.check_all_succeeded(&answers)?;
    check_absence(tour, name, &answers)?;
    tour.checks.holds(
        "what could not connect was sent to another backend: attempts 2",
        count(&answers, "2") > 0 && others(&answers) == "1",
        "some requests with 2 attempts, the others with 1",
        format!(
            "{} requests with 2 attempts, the others with {}",
            count(&answers, "2"),
            others(&answers)
        ),
    )
}

fn backend(tour: &Tour, index: usize) -> Result<&BackendHandle> {
    let backends = tour.stage.simulator.backends();
    backends
        .get(index)
        .context("the tour needs three backends; the fleet has fewer")
}

fn check_absence(tour: &Tour, name: &str, answers: &[Answer]) -> Result<()> {
    tour.checks.holds(
        &format!("no answer came from {name}"),
        answers.iter().all(|answer| answer.backend != name),
        format!("{name} 0"),
        tour.shares(answers),
    )
}

fn count(answers: &[Answer], attempts: &str) -> usize {
    answers
        .iter()
        .filter(|answer| answer.attempts == attempts)
        .count()
}

/// The numbers of attempts other than 2, each once.
fn others(answers: &[Answer]) -> String {
    let mut others: Vec<&str> = answers
        .iter()
        .map(|answer| answer.attempts.as_str())
        .filter(|attempts| *attempts != "2")
        .collect();
    others.sort_unstable();
    others.dedup();
    others.join(" or ")
}
