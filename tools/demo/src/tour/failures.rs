//! The other backends serve requests that a failing backend does not.

use std::time::Instant;

use anyhow::{Context, Result};
use simulator::Behaviour;

use super::Tour;
use crate::client::Answer;
use crate::simulation::Backend;

/// Three turns for each backend.
const REQUESTS: usize = 9;

/// Short, so that the backend has recovered before the tour ends.
const RETRY_AFTER: u64 = 1;

/// Long enough to show that the backends get hardly any request meanwhile.
const ALL_RETRY_AFTER: u64 = 2;

/// One request for each backend to refuse, and further ones that are refused without an attempt.
const THROTTLED_REQUESTS: usize = 6;

pub(super) fn show_throttled(tour: &Tour) -> Result<()> {
    let backend = backend(tour, 0)?;
    let name = backend.name();
    tour.screen.tell(&format!(
        "{name} has used up its quota: it answers 429 with `retry-after: {RETRY_AFTER}`."
    ));
    backend.set(&Behaviour::throttled(RETRY_AFTER))?;
    let before = backend.count()?;
    let answers = tour.requests(REQUESTS)?;
    let refused = backend.count()? - before;
    backend.clear()?;

    tour.check_all_succeeded(&answers)?;
    check_absence(tour, name, &answers)?;
    tour.checks.equal(
        &format!("{name} got one request, then no other during its cooldown"),
        1,
        refused,
    )?;
    tour.checks.equal(
        "the refused request went to another backend: attempts 2",
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
        "{name} is down: nothing listens on {}, so connections are refused.",
        backend.addr()?
    ));
    backend.stop()?;
    let answers = tour.requests(REQUESTS)?;
    backend.restart()?;

    tour.check_all_succeeded(&answers)?;
    check_absence(tour, name, &answers)?;
    tour.checks.holds(
        "requests that could not connect went to another backend: attempts 2",
        count(&answers, "2") > 0 && others(&answers) == "1",
        "some requests with 2 attempts, the others with 1",
        format!(
            "{} requests with 2 attempts, the others with {}",
            count(&answers, "2"),
            others(&answers)
        ),
    )?;
    // The next step needs all backends out of cooldown.
    tour.check_recovery("when it is up again, every backend serves")
}

pub(super) fn show_all_throttled(tour: &Tour) -> Result<()> {
    let backends = tour.stage.simulation.backends();
    tour.screen.tell(&format!(
        "All backends have used up their quota: they answer 429 with `retry-after: {ALL_RETRY_AFTER}`."
    ));
    for backend in backends {
        backend.set(&Behaviour::throttled(ALL_RETRY_AFTER))?;
    }
    let mut answers = tour.requests(THROTTLED_REQUESTS)?;
    let (start, before) = (Instant::now(), tour.stage.received_by_backends()?);
    answers.extend(tour.requests(THROTTLED_REQUESTS)?);
    let asked = tour.stage.received_by_backends()? - before;
    // A trial a second on each backend, and one more on each if a wait ends meanwhile.
    let most = backends.len() as u64 * (2 + start.elapsed().as_secs());
    for backend in backends {
        backend.clear()?;
    }

    let all_429 = answers.iter().all(|answer| answer.status == 429);
    tour.checks
        .holds("the client gets 429", all_429, "429", statuses(&answers))?;
    let at_once = count(&answers, "0");
    tour.checks.holds(
        "after the first refusals each backend got at most one request a second",
        asked <= most && at_once > 0,
        format!("at most {most} attempts for {THROTTLED_REQUESTS} requests, some with 0 attempts"),
        format!("{asked} attempts, {at_once} requests with 0 attempts"),
    )?;
    let waits = answers.iter().map(|answer| answer.retry_after.as_str());
    let waits: Vec<&str> = waits.collect();
    tour.checks.holds(
        "each answer has the time to wait: `retry-after`",
        answers.iter().all(|answer| {
            let wait = answer.retry_after.parse();
            wait.is_ok_and(|wait| (1..=ALL_RETRY_AFTER).contains(&wait))
        }),
        format!("1 to {ALL_RETRY_AFTER} seconds"),
        waits.join(", "),
    )?;
    tour.check_recovery("after the wait every backend serves again")
}

fn statuses(answers: &[Answer]) -> String {
    let statuses = answers.iter().map(|answer| answer.status.to_string());
    statuses.collect::<Vec<_>>().join(", ")
}

fn backend(tour: &Tour, index: usize) -> Result<&Backend> {
    let backends = tour.stage.simulation.backends();
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

/// The attempts other than 2, each once.
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
