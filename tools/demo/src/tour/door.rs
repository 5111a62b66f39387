//! A client without a key reaches nothing.

use anyhow::Result;

use super::Tour;
use crate::client::Answer;
use crate::screen::Column;

/// A key of no client.
const WRONG: &str = "not-the-key";

pub(super) fn show(tour: &Tour) -> Result<()> {
    let client = &tour.stage.client;
    tour.screen.tell(
        "Clients of the balancer spend its quota, so Envoy requires a key from them (`api_key_auth`).",
    );
    let columns = [
        Column::text("key", WRONG.len()),
        Column::number("status", 0),
        tour.backend_column(),
    ];
    let table = tour.screen.table(&columns);
    let row = |key: &str, answer: &Answer| {
        table.row(&[
            key.to_owned(),
            answer.status.to_string(),
            answer.backend.clone(),
        ]);
    };
    let asked = || -> Result<u64> {
        Ok(tour.stage.received_by_backends()? + tour.stage.simulation.imds_requests()?)
    };
    let before = asked()?;
    let none = client.with_key(None).chat()?;
    row("none", &none);
    let wrong = client.with_key(Some(WRONG)).chat()?;
    row(WRONG, &wrong);
    let reached = asked()? - before;
    let right = client.chat()?;
    row("the client's", &right);
    tour.screen.gap();

    tour.checks.equal(
        "without the right key the answer is 401",
        "401, 401",
        &format!("{}, {}", none.status, wrong.status),
    )?;
    tour.checks.holds(
        "the answer is JSON that OpenAI's clients parse",
        none.body.contains("\"invalid_api_key\"") && wrong.body == none.body,
        "error.code invalid_api_key, twice",
        format!("{} {}", none.body, wrong.body),
    )?;
    tour.checks
        .equal("neither a backend nor IMDS got a request", 0, reached)?;
    tour.checks
        .equal("with the right key the answer is 200", 200, right.status)
}
