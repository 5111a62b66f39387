//! Tokens and cost of one client, as its answers and streams report them.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use simulator::{Behaviour, Stream};

use super::Tour;
use crate::client::Answer;
use crate::clients::{PRICE, SEARCH};
use crate::screen::Column;

/// Each prompt is longer than the one before.
const QUESTIONS: [&str; 3] = [
    "Say hello.",
    "Summarise this page in one sentence: the quick brown fox jumps over the lazy dog.",
    "Write release notes for these three changes: tokens are counted, cost is added up, and each team has its own limit.",
];

/// The tokens of a stream's completion: one for each of its pieces.
const PIECES: u32 = 25;

/// A client's usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    prompt: i64,
    cached: i64,
    completion: i64,
    /// In millionths of the currency's unit.
    cost: i64,
}

impl Used {
    /// The usage that an answer reports, with its cost.
    fn reported_by(answer: &Answer) -> Result<Self> {
        let body: Value = serde_json::from_str(&answer.body).context("an answer is not JSON")?;
        let number = |name: &str| {
            let value = body["usage"].pointer(name).and_then(Value::as_i64);
            value.with_context(|| format!("an answer reports no tokens: {}", answer.body))
        };
        let (prompt, completion) = (number("/prompt_tokens")?, number("/completion_tokens")?);
        let cached = number("/prompt_tokens_details/cached_tokens")?;
        Ok(Self {
            prompt,
            cached,
            completion,
            cost: (prompt - cached) * PRICE.prompt
                + cached * PRICE.cached
                + completion * PRICE.completion,
        })
    }

    /// Envoy's counts for the client since the tour began.
    fn counted(statistics: &BTreeMap<String, i64>) -> Self {
        let of = |what: &str| {
            let name = format!("aoai.client.{}.{what}", SEARCH.name);
            statistics.get(&name).copied().unwrap_or_default()
        };
        Self {
            prompt: of("tokens.prompt"),
            cached: of("tokens.cached"),
            completion: of("tokens.completion"),
            cost: of("cost_micros"),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            prompt: self.prompt + other.prompt,
            cached: self.cached + other.cached,
            completion: self.completion + other.completion,
            cost: self.cost + other.cost,
        }
    }

    fn row(self, what: &str) -> [String; 5] {
        let money = self.cost as f64 / 1e6;
        [
            what.to_owned(),
            self.prompt.to_string(),
            self.cached.to_string(),
            self.completion.to_string(),
            format!("{money:.6}"),
        ]
    }

    fn shown(self) -> String {
        let Self {
            prompt,
            cached,
            completion,
            cost,
        } = self;
        format!(
            "{prompt} of prompts, {cached} of them cached, {completion} of completions, cost {cost}"
        )
    }
}

pub(super) fn show(tour: &Tour) -> Result<()> {
    tour.screen.tell(&format!(
        "{} sends three requests. A million tokens cost {} (prompt), {} (cached) and {} (completion).",
        SEARCH.name, PRICE.prompt, PRICE.cached, PRICE.completion
    ));
    let reported = ask(tour)?;
    tour.checks.eventually(
        "Envoy counted this team's tokens as the answers report them, and their cost",
        &reported.shown(),
        || {
            let counted = Used::counted(&tour.stage.statistics()?);
            Ok((counted != reported).then(|| counted.shown()))
        },
    )?;
    tour.screen.gap();
    show_stream(tour, reported)
}

/// The sum of the reported usage, with a table row for each answer.
fn ask(tour: &Tour) -> Result<Used> {
    let columns = [
        Column::text("answer", 6),
        Column::number("prompt", 6),
        Column::number("cached", 6),
        Column::number("completion", 0),
        Column::number("cost", 9),
    ];
    let table = tour.screen.table(&columns);
    let mut all = Used::default();
    for (index, question) in QUESTIONS.iter().enumerate() {
        let used = Used::reported_by(&tour.stage.search.ask(question)?)?;
        table.row(&used.row(&(index + 1).to_string()));
        all = all.plus(used);
    }
    table.row(&all.row("all"));
    tour.screen.gap();
    Ok(all)
}

/// A stream reports its tokens on request only, and most clients do not request them.
fn show_stream(tour: &Tour, before: Used) -> Result<()> {
    tour.screen.tell(&format!(
        "Now a stream of {PIECES} tokens. The client does not request `usage`, so the balancer does."
    ));
    let backends = tour.stage.simulation.backends();
    let stream = Stream {
        events: PIECES,
        ..Stream::default()
    };
    for backend in backends {
        backend.set(&Behaviour::stream(stream.clone()))?;
    }
    let streamed = tour.stage.search.stream(|_| {});
    for backend in backends {
        backend.clear()?;
    }
    let streamed = streamed?;
    tour.checks.holds(
        "the client got the stream that it requested, without `usage`",
        streamed.is_done && !streamed.has_usage && streamed.pieces.len() == PIECES as usize,
        format!("{PIECES} pieces, [DONE], no `usage`"),
        format!(
            "{} pieces, [DONE]: {}, `usage`: {}",
            streamed.pieces.len(),
            streamed.is_done,
            streamed.has_usage
        ),
    )?;
    let expected = before.completion + i64::from(PIECES);
    tour.checks.eventually(
        "Envoy counted the tokens of the stream",
        &format!("{expected} of completions"),
        || {
            let counted = Used::counted(&tour.stage.statistics()?);
            let is_counted = counted.completion == expected && counted.prompt > before.prompt;
            Ok((!is_counted).then(|| counted.shown()))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_cost_what_the_cache_costs() {
        let body = r#"{"usage": {"prompt_tokens": 30, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10}}}"#;
        let answer = Answer {
            body: body.to_owned(),
            ..Answer::default()
        };
        let used = Used::reported_by(&answer).unwrap();
        assert_eq!(used.cost, 20 * 2 + 10 + 4 * 8);
        assert!(Used::reported_by(&Answer::default()).is_err());
    }
}
