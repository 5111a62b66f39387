//! A streamed answer passes as it comes.

use std::time::Duration;

use anyhow::Result;
use simulator::{Behaviour, Stream};

use super::Tour;
use crate::client::milliseconds;

const PIECES: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(140);
const FIRST: Duration = Duration::from_millis(250);

pub(super) fn show(tour: &Tour) -> Result<()> {
    let screen = tour.screen;
    screen.tell(&format!(
        "The backends say {PIECES} words, {} ms apart, after {} ms of thinking.",
        INTERVAL.as_millis(),
        FIRST.as_millis()
    ));
    let stream = Stream {
        events: PIECES,
        interval_ms: millis(INTERVAL),
        first_event_delay_ms: millis(FIRST),
        ..Stream::default()
    };
    let backends = tour.stage.simulator.backends();
    for backend in backends {
        backend.set(Behaviour::stream(stream.clone()));
    }
    screen.piece("    ");
    let streamed = tour.stage.client.stream(|piece| screen.piece(piece));
    screen.piece("\n");
    screen.gap();
    for backend in backends {
        backend.clear();
    }
    let streamed = streamed?;

    let last = streamed.pieces.last().copied().unwrap_or_default();
    screen.fact("backend", &streamed.answer.backend);
    screen.fact("first byte", milliseconds(streamed.first_byte));
    screen.fact("last word", milliseconds(last));
    screen.gap();
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
        "every word came, one by one",
        PIECES.to_string(),
        streamed.pieces.len().to_string(),
    )?;
    let spread = last.saturating_sub(streamed.first_byte);
    // Held back and passed on in one block, they would come together.
    let least = INTERVAL * (PIECES - 1) * 3 / 4;
    tour.checks.holds(
        "none was held back: the first byte came long before the last word",
        spread >= least,
        format!("at least {} between them", milliseconds(least)),
        milliseconds(spread),
    )
}

fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}
