//! The steps of the tour.

mod balancing;
mod claims;
mod door;
mod failures;
mod limits;
mod sdk;
mod streaming;
mod summary;
mod tokens;
mod usage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::check::Checks;
use crate::client::Answer;
use crate::processes::Processes;
use crate::screen::{Column, Screen};
use crate::stage::Stage;
use crate::Python;

pub(crate) use sdk::SCRIPT_FILE;

/// Slow enough to follow, and fast enough not to bore.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(40);

/// The common parts of all steps.
pub struct Tour {
    /// The checks so far.
    pub checks: Checks,
    /// The running services.
    pub stage: Stage,
    /// The Python for the openai SDK.
    pub python: Python,
    /// The folder for the tour's own files.
    pub folder: PathBuf,
    /// The output.
    pub screen: Screen,
    /// The processes that the tour started.
    pub processes: Processes,
}

type Step = fn(&Tour) -> Result<()>;

const STEPS: [(&str, Step); 13] = [
    ("No request passes without a key", door::show),
    ("Twelve chat requests", balancing::show),
    ("A backend that throttles", failures::show_throttled),
    ("A backend that is dead", failures::show_dead),
    ("All backends throttle", failures::show_all_throttled),
    ("A stream", streaming::show),
    ("A stream that is retried", streaming::show_retried),
    (
        "A stream that fails at its beginning",
        streaming::show_failed,
    ),
    ("Access tokens: revoked, expiring", tokens::show),
    ("The openai Python SDK", sdk::show),
    ("What a team used, and what it cost", usage::show),
    ("A team over its limit", limits::show),
    ("What Envoy counted", summary::show),
];

impl Tour {
    /// Runs all steps and checks.
    ///
    /// # Errors
    /// When a check fails.
    pub fn run(&self) -> Result<()> {
        let start = Instant::now();
        for (index, (title, show)) in STEPS.iter().enumerate() {
            self.screen.step(index + 1, STEPS.len(), title);
            let shown = show(self);
            // If Envoy has ended, that is the cause of any other error.
            self.stage.envoy.check_alive()?;
            shown?;
        }
        self.screen.title(&format!(
            "Everything was as it should be: {} checks in {:.0} s.",
            self.checks.passed(),
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Sends this many chat requests, one after the other, with a table row for each.
    fn requests(&self, count: usize) -> Result<Vec<Answer>> {
        let columns = [
            Column::number("#", 2),
            self.backend_column(),
            Column::number("attempts", 0),
            Column::number("status", 0),
            Column::number("time", 8),
        ];
        let table = self.screen.table(&columns);
        let mut answers = Vec::new();
        for number in 1..=count {
            let answer = self.stage.client.chat()?;
            table.row(&[
                number.to_string(),
                answer.backend.clone(),
                answer.attempts.clone(),
                answer.status.to_string(),
                answer.time(),
            ]);
            answers.push(answer);
            self.processes.pause(BETWEEN_REQUESTS)?;
        }
        self.screen.gap();
        Ok(answers)
    }

    fn backend_column(&self) -> Column {
        let names = self.stage.names();
        let longest = names.iter().map(|name| name.len()).max();
        Column::text("backend", longest.unwrap_or_default())
    }

    /// Claims that all answers have status 200.
    fn check_all_succeeded(&self, answers: &[Answer]) -> Result<()> {
        let failed: Vec<String> = answers
            .iter()
            .filter(|answer| answer.status != 200)
            .map(|answer| format!("{} with the body {}", answer.status, answer.body))
            .collect();
        self.checks.holds(
            "every request was answered 200",
            failed.is_empty(),
            "no other status",
            failed.join("; "),
        )
    }

    /// Claims that the failed backends recover by themselves.
    fn check_recovery(&self, claim: &str) -> Result<()> {
        let names = self.stage.names();
        let mut missing: Vec<&str> = names.clone();
        self.checks.eventually(claim, &names.join(", "), || {
            let answer = self.stage.client.chat()?;
            missing.retain(|name| *name != answer.backend);
            Ok((!missing.is_empty()).then(|| format!("nothing from {}", missing.join(", "))))
        })
    }

    /// The number of answers by backend: `eastus 4, westus 4`.
    fn shares(&self, answers: &[Answer]) -> String {
        let share = |name: &&str| {
            let count = answers
                .iter()
                .filter(|answer| answer.backend == *name)
                .count();
            format!("{name} {count}")
        };
        let shares: Vec<String> = self.stage.names().iter().map(share).collect();
        shares.join(", ")
    }
}
