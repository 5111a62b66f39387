//! Requests go to the backends in turn.

use anyhow::Result;

use super::Tour;

const REQUESTS: usize = 12;

pub(super) fn show(tour: &Tour) -> Result<()> {
    let answers = tour.requests(REQUESTS)?;
    tour.check_all_succeeded(&answers)?;
    let names = tour.stage.names();
    let fair: Vec<String> = names
        .iter()
        .map(|name| format!("{name} {}", REQUESTS / names.len()))
        .collect();
    tour.checks.equal(
        "every backend answered the same number of requests",
        fair.join(", "),
        tour.shares(&answers),
    )?;
    let order: Vec<&str> = answers
        .iter()
        .map(|answer| answer.backend.as_str())
        .collect();
    let in_turn = order
        .iter()
        .zip(order.iter().skip(names.len()))
        .all(|(one, next)| one == next);
    tour.checks.holds(
        "the backends answered in turn, although two workers of Envoy shared the requests",
        in_turn,
        "the same order in every round",
        order.join(", "),
    )?;
    let attempts: Vec<&str> = answers
        .iter()
        .map(|answer| answer.attempts.as_str())
        .collect();
    tour.checks.holds(
        "each request took one attempt",
        attempts.iter().all(|attempts| *attempts == "1"),
        "1 attempt for each request",
        attempts.join(", "),
    )
}
