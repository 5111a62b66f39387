//! The response header that explains an answer. For each attempt it has the backend, the reason for its choice and the
//! outcome. For each other backend it has the obstacle. It names backends as the configuration does, and nothing else.

use core::fmt::{Arguments, Write};

use super::attempts::Because;
use super::health::Standing;
use super::metrics::seconds_left;
use super::no_retry::NoRetry;
use super::outcome::Outcome;
use super::time::Timestamp;
use crate::prelude::*;

/// The longest explanation in bytes. The rest is left out.
const LONGEST: usize = 512;
const BETWEEN: &str = "; ";
const LEFT_OUT: &str = "; ...";

/// The reason why a backend was not chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The backend does not have the deployment or the API, by its configuration.
    NotOffered,
    /// The backend reported that it lacks the deployment or the API.
    Missing,
    /// The backend's identity has no access token.
    NoToken,
    /// The state of the backend.
    Standing(Standing),
}

/// The explanation of one answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    text: String,
    is_full: bool,
}

impl Why {
    /// The value of the header, if there is one.
    pub fn text(&self) -> Option<&str> {
        (!self.text.is_empty()).then_some(&self.text)
    }

    /// Adds an ended attempt on `backend`.
    pub fn attempt(&mut self, backend: &str, because: Because, outcome: Outcome) {
        let (because, outcome) = (because.name(), outcome.name());
        self.add(format_args!("{backend} {because} {outcome}"));
    }

    /// Adds the reason why no further attempt follows.
    pub fn not_retried(&mut self, reason: NoRetry) {
        self.add(format_args!("not retried: {}", reason.name()));
    }

    /// Adds a backend that was not chosen.
    pub fn not_chosen(&mut self, backend: &str, obstacle: Obstacle, now: Timestamp) {
        let (word, until) = match obstacle {
            Obstacle::NotOffered => ("not_offered", None),
            Obstacle::Missing => ("missing", None),
            Obstacle::NoToken => ("no_token", None),
            Obstacle::Standing(standing) => (standing.name(), standing.until()),
        };
        match until.map(|until| seconds_left(until, now)) {
            Some(seconds) => self.add(format_args!("{backend} {word} {seconds}s")),
            None => self.add(format_args!("{backend} {word}")),
        }
    }

    #[inline(never)]
    fn add(&mut self, part: Arguments<'_>) {
        if self.is_full {
            return;
        }
        let before = self.text.len();
        let between = if before == 0 { "" } else { BETWEEN };
        // Writing into a `String` cannot fail.
        let _ = write!(self.text, "{between}{part}");
        if self.text.len() > LONGEST - LEFT_OUT.len() {
            self.text.truncate(before);
            self.text.push_str(LEFT_OUT);
            self.is_full = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    #[test]
    fn attempts_have_backend_reason_and_outcome() {
        let mut why = Why::default();
        assert_eq!(why.text(), None);
        why.attempt("east", Because::Free, Outcome::Throttled);
        why.attempt("west", Because::Soft, Outcome::Unavailable);
        why.not_retried(NoRetry::BackendsExhausted);
        assert_eq!(
            why.text(),
            Some("east free throttled; west soft unavailable; not retried: backends_exhausted")
        );
    }

    #[test]
    fn backends_that_were_not_chosen_have_an_obstacle() {
        let until = NOW + Duration::from_millis(11_001);
        for (obstacle, text) in [
            (Obstacle::NotOffered, "east not_offered"),
            (Obstacle::Missing, "east missing"),
            (Obstacle::NoToken, "east no_token"),
            (Obstacle::Standing(Standing::Free), "east free"),
            (Obstacle::Standing(Standing::Recovering), "east recovering"),
            (Obstacle::Standing(Standing::Soft(until)), "east soft 12s"),
            (
                Obstacle::Standing(Standing::Failing(until)),
                "east failing 12s",
            ),
            (
                Obstacle::Standing(Standing::Throttled(until)),
                "east throttled 12s",
            ),
            (
                Obstacle::Standing(Standing::Misconfigured(until)),
                "east misconfigured 12s",
            ),
        ] {
            let mut why = Why::default();
            why.not_chosen("east", obstacle, NOW);
            assert_eq!(why.text(), Some(text));
        }
    }

    #[test]
    fn explanations_are_bounded() {
        let mut why = Why::default();
        let name = "n".repeat(64);
        for _ in 0..128 {
            why.not_chosen(&name, Obstacle::NoToken, NOW);
        }
        let text = why.text().unwrap();
        assert!(text.len() <= LONGEST, "{}", text.len());
        assert!(text.len() > LONGEST - 100 && text.ends_with("no_token; ..."));
    }
}
