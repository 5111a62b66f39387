//! Access tokens: fetched once, replaced when a backend refuses one, renewed before they expire.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use simulator::TokenCheck;

use super::claims::Claims;
use super::Tour;
use crate::client::Answer;
use crate::screen::Column;
use crate::simulation::Received;

/// The lifetime of tokens that must expire during the tour.
const SHORT: Duration = Duration::from_secs(5);
/// About the lifetime of Azure's tokens.
const USUAL: Duration = Duration::from_secs(3600);

/// Long enough to see the token after a short-lived one.
const WATCH: Duration = Duration::from_millis(6500);
const INTERVAL: Duration = Duration::from_millis(500);

pub(super) fn show(tour: &Tour) -> Result<()> {
    show_current(tour)?;
    let simulation = &tour.stage.simulation;
    tour.screen.gap();
    tour.screen.tell(&format!(
        "The token is now revoked: every backend answers 401 to it. New tokens live for {} s.",
        SHORT.as_secs()
    ));
    // Requests before this step are known already. The step looks at later ones.
    let before = sent_to_backends(tour)?.len();
    let (asked_before, tokens_before) = (simulation.imds_requests()?, simulation.imds_tokens()?);
    simulation.set_token_lifetime(SHORT)?;
    simulation.revoke_tokens()?;
    let (answers, ids) = watch(tour)?;
    simulation.set_token_lifetime(USUAL)?;

    tour.check_all_succeeded(&answers)?;
    let sent = sent_to_backends(tour)?.split_off(before);
    check_revoked(tour, &answers, &sent)?;
    check_expiring(tour, &ids, &sent)?;
    tour.checks.eventually(
        "IMDS got one request for each of the new tokens",
        "as many calls as new tokens",
        || {
            let asked = simulation.imds_requests()? - asked_before;
            let tokens = simulation.imds_tokens()? - tokens_before;
            let differ = asked != tokens;
            Ok(differ.then(|| format!("{asked} calls, {tokens} tokens")))
        },
    )
}

/// Shows the current token, which the backends have accepted.
fn show_current(tour: &Tour) -> Result<()> {
    let sent = sent_to_backends(tour)?;
    let last = sent.last().context("no backend received a request")?;
    let claims = Claims::of(last)?;
    let asked = tour.stage.simulation.imds_requests()?;
    let screen = tour.screen;
    screen.tell("The backends require an access token. The balancer has one from IMDS:");
    screen.fact("audience", &claims.audience);
    screen.fact("identity", &claims.identity);
    screen.fact("token id", &claims.id);
    screen.fact("expires in", format!("{} s", claims.left().as_secs()));
    screen.fact("sent so far", format!("with {} requests", sent.len()));
    screen.gap();
    // An Envoy from before the tour may have its token already.
    tour.checks.holds(
        "IMDS got at most one request, for all workers and all requests",
        asked <= 1,
        "1 call at most",
        asked,
    )
}

/// Sends requests for a while. Returns the answers, and the ids of the accepted tokens.
fn watch(tour: &Tour) -> Result<(Vec<Answer>, BTreeSet<String>)> {
    let columns = [
        Column::number("after", 5),
        tour.backend_column(),
        Column::number("attempts", 0),
        Column::number("status", 0),
        Column::text("token id", 0),
        Column::number("expires in", 0),
        Column::number("IMDS calls", 0),
    ];
    let table = tour.screen.table(&columns);
    let simulation = &tour.stage.simulation;
    let start = Instant::now();
    let mut answers = Vec::new();
    let mut ids = BTreeSet::new();
    while start.elapsed() < WATCH {
        let after = start.elapsed();
        let answer = tour.stage.client.chat()?;
        let token = sent_to_backends(tour)?
            .into_iter()
            .rfind(|request| request.service == answer.backend);
        let (id, left) = match token.filter(|request| request.token == TokenCheck::Valid) {
            Some(request) => {
                let claims = Claims::of(&request)?;
                (
                    claims.id.clone(),
                    format!("{:.1} s", claims.left().as_secs_f64()),
                )
            }
            None => ("-".to_owned(), "-".to_owned()),
        };
        table.row(&[
            format!("{:.1} s", after.as_secs_f64()),
            answer.backend.clone(),
            answer.attempts.clone(),
            answer.status.to_string(),
            id.clone(),
            left,
            simulation.imds_requests()?.to_string(),
        ]);
        ids.insert(id);
        answers.push(answer);
        tour.processes.pause(INTERVAL)?;
    }
    tour.screen.gap();
    Ok((answers, ids))
}

fn check_revoked(tour: &Tour, answers: &[Answer], sent: &[Received]) -> Result<()> {
    let refused = count(sent, TokenCheck::Revoked);
    let healed = answers
        .iter()
        .filter(|answer| answer.attempts == "2")
        .count();
    tour.checks.holds(
        "requests that got a 401 were retried with a new token, unnoticed by the client: attempts 2",
        refused > 0 && refused == healed,
        format!(
            "at least one 401, and as many requests with 2 attempts as there were 401s ({refused})"
        ),
        format!("{healed} requests with 2 attempts"),
    )
}

fn check_expiring(tour: &Tour, ids: &BTreeSet<String>, sent: &[Received]) -> Result<()> {
    tour.checks.holds(
        "the balancer renewed the token while it served requests",
        ids.len() >= 2,
        format!("at least 2 tokens within {} s", WATCH.as_secs()),
        ids.len(),
    )?;
    tour.checks.equal(
        "no token was sent after it had expired",
        0,
        count(sent, TokenCheck::Expired),
    )
}

fn count(requests: &[Received], check: TokenCheck) -> usize {
    requests
        .iter()
        .filter(|request| request.token == check)
        .count()
}

/// All requests at backends, in the order of their arrival.
fn sent_to_backends(tour: &Tour) -> Result<Vec<Received>> {
    let mut requests = tour.stage.simulation.requests()?;
    requests.retain(|request| request.service != "imds");
    Ok(requests)
}
