//! Envoy's statistics agree with the simulator's records.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{sdk, Tour};
use crate::clients;
use crate::screen::Column;

/// The module's statistics, by their names.
type Statistics = BTreeMap<String, i64>;

/// The outcomes that the tour causes.
const OUTCOMES: [&str; 4] = ["success", "throttled", "unavailable", "bad_token"];

/// Statistics that must stay zero. (Retries without a free backend do happen, while all backends throttle.)
const NEVER: [&str; 9] = [
    "aoai.no_retry.body_too_large",
    "aoai.no_retry.budget_spent",
    "aoai.no_retry.headers_not_replayable",
    "aoai.no_retry.replay_memory_full",
    "aoai.no_retry.request_incomplete",
    "aoai.no_retry.router_declined",
    "aoai.no_retry.upgrade",
    "aoai.stream_broken",
    "aoai.identity.unavailable",
];

pub(super) fn show(tour: &Tour) -> Result<()> {
    tour.check_recovery("every backend answers again, the throttled and the dead one too")?;
    // The module reports its counts once a second.
    let mut statistics = Statistics::new();
    let compared = tour.checks.eventually(
        "Envoy's counters agree with the requests at the simulated backends and IMDS",
        "the same numbers",
        || {
            statistics = tour.stage.statistics()?;
            difference(tour, &statistics)
        },
    );
    tour.screen.gap();
    write_table(tour, &statistics);
    compared?;
    let unwanted: Vec<String> = statistics
        .iter()
        .filter(|(name, count)| **count > 0 && NEVER.iter().any(|prefix| name.starts_with(prefix)))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    tour.checks.holds(
        "every request had a token, no retry was missing, no stream broke",
        unwanted.is_empty(),
        "no such count",
        unwanted.join(", "),
    )
}

/// The differences between Envoy's and the simulator's counts.
fn difference(tour: &Tour, statistics: &Statistics) -> Result<Option<String>> {
    let simulation = &tour.stage.simulation;
    let of = |name: &str| statistics.get(name).copied().unwrap_or_default();
    let sent = [
        (
            clients::DEMO,
            tour.stage.client.sent() + sdk::REQUESTS as i64,
        ),
        (clients::SEARCH, tour.stage.search.sent()),
        (clients::BATCH, tour.stage.batch.sent()),
    ];
    let mut pairs = vec![
        (
            "requests".to_owned(),
            of("aoai.requests"),
            sent.iter().map(|(_, sent)| sent).sum(),
        ),
        (
            "calls to IMDS".to_owned(),
            of("aoai.identity.fetches"),
            number(simulation.imds_requests()?),
        ),
    ];
    pairs.extend(sent.map(|(client, sent)| {
        let name = client.name;
        (
            format!("requests of the client {name}"),
            of(&format!("aoai.client.{name}.requests")),
            sent,
        )
    }));
    for backend in simulation.backends() {
        let name = backend.name();
        let of = |what: &str| of(&format!("aoai.backend.{name}.{what}"));
        pairs.push((
            // Attempts that failed to connect are not requests at the backend.
            format!("requests to {name}"),
            of("attempts") - of("outcome.unavailable"),
            number(backend.count()?),
        ));
    }
    let different: Vec<String> = pairs
        .into_iter()
        .filter(|(_, envoy, simulator)| envoy != simulator)
        .map(|(what, envoy, real)| format!("{what}: Envoy counted {envoy}, there were {real}"))
        .collect();
    Ok((!different.is_empty()).then(|| different.join("; ")))
}

fn write_table(tour: &Tour, statistics: &Statistics) {
    let mut columns = vec![
        tour.backend_column(),
        Column::number("attempts", 0),
        Column::number("retries", 0),
    ];
    columns.extend(OUTCOMES.map(|outcome| Column::number(outcome, 0)));
    let table = tour.screen.table(&columns);
    let mut totals = vec![0; columns.len() - 1];
    for name in tour.stage.names() {
        let counts = ["attempts".to_owned(), "retries".to_owned()]
            .into_iter()
            .chain(OUTCOMES.map(|outcome| format!("outcome.{outcome}")))
            .map(|what| {
                let count = statistics.get(&format!("aoai.backend.{name}.{what}"));
                count.copied().unwrap_or_default()
            });
        let counts: Vec<i64> = counts.collect();
        for (total, count) in totals.iter_mut().zip(&counts) {
            *total += count;
        }
        table.row(&row(name, &counts));
    }
    table.row(&row("all", &totals));
    tour.screen.gap();
}

fn row(name: &str, counts: &[i64]) -> Vec<String> {
    let counts = counts.iter().map(i64::to_string);
    std::iter::once(name.to_owned()).chain(counts).collect()
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
