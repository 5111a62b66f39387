//! A streamed answer passes while it arrives.

use std::time::Duration;

use anyhow::{Context, Result};
use simulator::{Behaviour, Stream};

use super::Tour;
use crate::client::{milliseconds, Streamed};

const PIECES: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(140);
const FIRST: Duration = Duration::from_millis(250);

/// The least time between the first and the last word, with a margin for a busy machine.
fn least_spread() -> Duration {
    INTERVAL * (PIECES - 1) * 3 / 4
}

pub(super) fn show(tour: &Tour) -> Result<()> {
    tour.screen.tell(&format!(
        "The backends send {PIECES} words, {} ms apart, after {} ms of thinking.",
        INTERVAL.as_millis(),
        FIRST.as_millis()
    ));
    let streamed = stream(tour, None)?;
    check_whole(tour, &streamed)?;
    check_came_word_by_word(tour, &streamed)
}

/// A stream while a backend refuses, the case in which the retry engines differ.
pub(super) fn show_retried(tour: &Tour) -> Result<()> {
    let next = next_in_turn(tour)?;
    tour.screen.tell(&format!(
        "{next} is next in turn, and answers 429; the others stream their words as before."
    ));
    show_retry_after(tour, next, Behaviour::throttled(1))
}

/// A stream while a backend refuses after it has begun a stream with status 200.
pub(super) fn show_failed(tour: &Tour) -> Result<()> {
    let next = next_in_turn(tour)?;
    tour.screen.tell(&format!(
        "{next} is next in turn. It answers 200, and the first event of its stream is a rate limit."
    ));
    let message = "Rate limit reached. Please try again in 1s.";
    let failed = Stream::failed_chat("rate_limit_exceeded", message);
    show_retry_after(tour, next, Behaviour::stream(failed))
}

/// The backend whose turn is next.
fn next_in_turn(tour: &Tour) -> Result<&str> {
    let last = tour.stage.client.chat()?.backend;
    let names = tour.stage.names();
    let position = names.iter().position(|name| *name == last);
    let position = position.with_context(|| format!("no backend is called {last}"))?;
    Ok(names[(position + 1) % names.len()])
}

/// Requests a stream while the next backend in turn refuses.
fn show_retry_after(tour: &Tour, next: &str, refusal: Behaviour) -> Result<()> {
    let streamed = stream(tour, Some((next, refusal)))?;
    check_whole(tour, &streamed)?;
    tour.checks.equal(
        &format!("{next} refused the request and another backend answered: attempts 2"),
        "attempts 2, not from the backend that refused",
        &format!(
            "attempts {}, {} the backend that refused",
            streamed.answer.attempts,
            if streamed.answer.backend == next {
                "from"
            } else {
                "not from"
            }
        ),
    )?;
    if tour.stage.is_router_engine() {
        check_came_word_by_word(tour, &streamed)
    } else {
        check_came_in_one_piece(tour, &streamed)
    }
}

/// Requests a stream, and shows it while it arrives. One backend may refuse in its own way.
fn stream(tour: &Tour, refusal: Option<(&str, Behaviour)>) -> Result<Streamed> {
    let screen = tour.screen;
    let stream = Stream {
        events: PIECES,
        interval_ms: millis(INTERVAL),
        first_event_delay_ms: millis(FIRST),
        ..Stream::default()
    };
    let backends = tour.stage.simulation.backends();
    for backend in backends {
        let refusal = refusal.as_ref().filter(|(name, _)| *name == backend.name());
        let refusal = refusal.map(|(_, refusal)| refusal.clone());
        backend.set(&refusal.unwrap_or_else(|| Behaviour::stream(stream.clone())))?;
    }
    screen.piece("    ");
    let streamed = tour.stage.client.stream(|piece| screen.piece(piece));
    screen.piece("\n");
    screen.gap();
    for backend in backends {
        backend.clear()?;
    }
    let streamed = streamed?;
    screen.fact("backend", &streamed.answer.backend);
    screen.fact("attempts", &streamed.answer.attempts);
    screen.fact("first byte", milliseconds(streamed.first_byte));
    screen.fact("last word", milliseconds(last_word(&streamed)));
    screen.gap();
    Ok(streamed)
}

fn check_whole(tour: &Tour, streamed: &Streamed) -> Result<()> {
    tour.checks.equal(
        "the stream was answered 200 and came to its end",
        "status 200, [DONE]",
        &format!(
            "status {}, {}",
            streamed.answer.status,
            if streamed.is_done {
                "[DONE]"
            } else {
                "no [DONE]"
            }
        ),
    )?;
    tour.checks.equal(
        "no word was lost",
        PIECES.to_string(),
        streamed.pieces.len().to_string(),
    )
}

fn check_came_word_by_word(tour: &Tour, streamed: &Streamed) -> Result<()> {
    let spread = last_word(streamed).saturating_sub(streamed.first_byte);
    // If they were held back, all pieces would arrive together.
    let least = least_spread();
    tour.checks.holds(
        "it came word by word: the first byte came long before the last word",
        spread >= least,
        format!("at least {} between them", milliseconds(least)),
        milliseconds(spread),
    )
}

/// A limit of the filter engine: Envoy passes the answer to a call when it is complete.
fn check_came_in_one_piece(tour: &Tour, streamed: &Streamed) -> Result<()> {
    let least = FIRST + least_spread();
    tour.checks.holds(
        "it came in one piece, after the last word, because the filter engine retried it",
        streamed.first_byte >= least,
        format!("the first byte after at least {}", milliseconds(least)),
        milliseconds(streamed.first_byte),
    )?;
    tour.screen.gap();
    tour.screen
        .say("The router engine (Envoy 1.39 and newer) passes a retried stream on word by word.");
    Ok(())
}

fn last_word(streamed: &Streamed) -> Duration {
    streamed.pieces.last().copied().unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
