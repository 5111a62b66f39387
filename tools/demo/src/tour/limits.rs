//! A client that has used up its limit, beside a client that has not.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use super::{Tour, BETWEEN_REQUESTS};
use crate::client::Answer;
use crate::clients::{BATCH, BATCH_TOKENS_PER_MINUTE, SEARCH};
use crate::screen::Column;

/// The size of a prompt that takes about a third of the limit: a token for four bytes.
const PROMPT_BYTES: usize = BATCH_TOKENS_PER_MINUTE as usize / 3 * 4;

/// More requests than the limit allows, however slow the machine is.
const MOST_REQUESTS: usize = 20;

/// Longer than the payment of a debt of a whole minute's tokens. The tour's own requests owe at most a third of them.
/// Requests that someone made by hand before the tour may owe more.
const LONGEST_WAIT: u64 = 90;

pub(super) fn show(tour: &Tour) -> Result<()> {
    tour.screen.tell(&format!(
        "{} may use {BATCH_TOKENS_PER_MINUTE} tokens a minute, and each of its requests takes about a third of them.",
        BATCH.name
    ));
    let (refused, asked, other) = use_up(tour)?;
    tour.screen
        .tell(&format!("The 429 that {} got:", BATCH.name));
    for name in [
        "retry-after",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ] {
        tour.screen
            .code(&format!("{name}: {}", refused.header(name)));
    }
    tour.screen.code(&refused.body);
    tour.screen.gap();
    check_refusal(tour, &refused)?;
    tour.checks
        .equal("no backend got the refused request", 0, asked)?;
    tour.checks.equal(
        &format!("{} is served meanwhile", SEARCH.name),
        200,
        other.status,
    )?;
    check_wait(tour, &refused)
}

/// Sends requests of the client until one is refused. Returns the refusal, the number of requests at backends
/// meanwhile, and the other client's next answer.
fn use_up(tour: &Tour) -> Result<(Answer, u64, Answer)> {
    let columns = [
        Column::text("client", BATCH.name.len().max(SEARCH.name.len())),
        Column::number("status", 0),
        tour.backend_column(),
        Column::number("retry-after", 0),
    ];
    let table = tour.screen.table(&columns);
    let row = |name: &str, answer: &Answer| {
        table.row(&[
            name.to_owned(),
            answer.status.to_string(),
            answer.backend.clone(),
            answer.retry_after.clone(),
        ]);
    };
    let question = "Translate this. ".repeat(PROMPT_BYTES / 16);
    let mut requests = 0;
    loop {
        let before = tour.stage.received_by_backends()?;
        let answer = tour.stage.batch.ask(&question)?;
        row(BATCH.name, &answer);
        if answer.status != 200 {
            let asked = tour.stage.received_by_backends()? - before;
            let other = tour.stage.search.chat()?;
            row(SEARCH.name, &other);
            tour.screen.gap();
            return Ok((answer, asked, other));
        }
        requests += 1;
        ensure!(
            requests < MOST_REQUESTS,
            "{} was not refused within {MOST_REQUESTS} requests",
            BATCH.name
        );
        tour.processes.pause(BETWEEN_REQUESTS)?;
    }
}

fn check_refusal(tour: &Tour, refused: &Answer) -> Result<()> {
    let body: Value = serde_json::from_str(&refused.body).unwrap_or_default();
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or_default();
    tour.checks.holds(
        "a client over its limit gets a 429 in the shape that its SDK parses",
        refused.status == 429
            && error["code"] == "rate_limit_exceeded"
            && message.contains(BATCH.name),
        format!(
            "429, error.code rate_limit_exceeded, a message about {}",
            BATCH.name
        ),
        format!("{} {}", refused.status, refused.body),
    )?;
    let came = [
        refused.header("x-ratelimit-limit-tokens"),
        refused.header("x-ratelimit-remaining-tokens"),
    ];
    tour.checks.equal(
        "the answer has the limit and the tokens that are left",
        format!("{BATCH_TOKENS_PER_MINUTE}, 0"),
        came.join(", "),
    )
}

/// After the time in the refusal, the client is served again.
fn check_wait(tour: &Tour, refused: &Answer) -> Result<()> {
    let wait = refused.retry_after.parse::<u64>();
    let wait = wait.with_context(|| format!("`retry-after: {}`", refused.retry_after))?;
    tour.checks.holds(
        "the answer has the time to wait: `retry-after`",
        (1..=LONGEST_WAIT).contains(&wait),
        format!("1 to {LONGEST_WAIT} seconds"),
        wait,
    )?;
    tour.processes.pause(Duration::from_secs(wait))?;
    tour.checks.equal(
        &format!("after the wait {} is served again", BATCH.name),
        200,
        tour.stage.batch.chat()?.status,
    )
}
