//! Counts by names that are not in the configuration: those of clients and deployments.

use super::limits::Limit;
use super::usage::{Tokens, Usage};
use crate::prelude::*;

/// The name under which the counts of excess names are added.
pub const OTHER: &str = "other";

/// A quantity that is counted for each name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Tokens of this kind.
    Tokens(Tokens),
    /// The cost of the tokens, in [`Cost`](super::prices::Cost).
    Cost,
    /// Requests that were refused because this limit of the client is used up.
    Limited(Limit),
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Requests,
        Self::Tokens(Tokens::Prompt),
        Self::Tokens(Tokens::Completion),
        Self::Tokens(Tokens::Cached),
        Self::Tokens(Tokens::Reasoning),
        Self::Cost,
        Self::Limited(Limit::TokensPerMinute),
        Self::Limited(Limit::TokensPerDay),
        Self::Limited(Limit::RequestsPerMinute),
    ];

    /// The kinds that are counted for deployments.
    pub const OF_DEPLOYMENT: [Self; 5] = [
        Self::Tokens(Tokens::Prompt),
        Self::Tokens(Tokens::Completion),
        Self::Tokens(Tokens::Cached),
        Self::Tokens(Tokens::Reasoning),
        Self::Cost,
    ];

    /// The last part of a statistic's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens(Tokens::Prompt) => "tokens.prompt",
            Self::Tokens(Tokens::Completion) => "tokens.completion",
            Self::Tokens(Tokens::Cached) => "tokens.cached",
            Self::Tokens(Tokens::Reasoning) => "tokens.reasoning",
            Self::Cost => "cost_micros",
            Self::Limited(Limit::TokensPerMinute) => "limited.tokens_per_minute",
            Self::Limited(Limit::TokensPerDay) => "limited.tokens_per_day",
            Self::Limited(Limit::RequestsPerMinute) => "limited.requests_per_minute",
        }
    }

    const fn place(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::Tokens(tokens) => 1 + tokens as usize,
            Self::Cost => 5,
            Self::Limited(limit) => 6 + limit as usize,
        }
    }
}

/// The counts of one name.
#[derive(Clone, Debug, Default)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    /// Adds `amount` to the count of this kind.
    pub fn add(&mut self, kind: Kind, amount: u64) {
        if let Some(count) = self.0.get_mut(kind.place()) {
            *count = count.saturating_add(amount);
        }
    }

    /// Counts the tokens of an answer.
    pub fn add_usage(&mut self, usage: &Usage) {
        for tokens in Tokens::ALL {
            self.add(Kind::Tokens(tokens), u64::from(usage.of(tokens)));
        }
    }

    /// Takes the amount by which the statistic of this kind grows.
    fn take(&mut self, kind: Kind) -> u64 {
        let Some(count) = self.0.get_mut(kind.place()) else {
            return 0;
        };
        match kind {
            Kind::Cost => super::prices::take_micros(count),
            _ => core::mem::take(count),
        }
    }
}

/// Counts by name since the last report.
#[derive(Clone, Debug)]
pub struct Ledger {
    most: usize,
    /// The names with their indices, sorted by name.
    places: Vec<(String, usize)>,
    /// Hashes of names with the names' indices, sorted.
    numbers: Vec<(u64, usize)>,
    counts: Vec<Counts>,
}

/// The most hashes per name. Names that differ only in characters that statistics drop share a statistic.
const NUMBERS: usize = 4;

impl Ledger {
    /// A ledger of at most `most` names. Each becomes a statistic, which Envoy keeps for good.
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            places: Vec::new(),
            numbers: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// The counts of `name`, or of [`OTHER`] if the ledger is full.
    pub fn entry(&mut self, name: &str) -> Option<&mut Counts> {
        let place = self.place(name);
        self.counts.get_mut(place)
    }

    /// The counts of the name with the hash `number`. Calls `name` once per hash.
    pub fn entry_of(&mut self, number: u64, name: impl FnOnce() -> String) -> Option<&mut Counts> {
        let place = match self
            .numbers
            .binary_search_by(|(known, _)| known.cmp(&number))
        {
            Ok(at) => self.numbers.get(at)?.1,
            Err(at) => self.learn(at, number, &name()),
        };
        self.counts.get_mut(place)
    }

    #[inline(never)]
    fn learn(&mut self, at: usize, number: u64, name: &str) -> usize {
        let place = self.place(name);
        if self.numbers.len() < self.most.saturating_mul(NUMBERS) {
            self.numbers.insert(at, (number, place));
        }
        place
    }

    fn place(&mut self, name: &str) -> usize {
        match self.find(name) {
            Ok(place) => place,
            Err(at) if self.places.len() < self.most => self.add(at, name),
            Err(_) => match self.find(OTHER) {
                Ok(place) => place,
                Err(at) => self.add(at, OTHER),
            },
        }
    }

    /// The name's index, or the position at which to insert the name.
    fn find(&self, name: &str) -> Result<usize, usize> {
        let at = self
            .places
            .binary_search_by(|(known, _)| known.as_str().cmp(name))?;
        let found = self.places.get(at).ok_or(at)?;
        Ok(found.1)
    }

    #[inline(never)]
    fn add(&mut self, at: usize, name: &str) -> usize {
        let place = self.counts.len();
        self.counts.push(Counts::default());
        self.places.insert(at, (name.to_owned(), place));
        place
    }

    /// Passes every non-zero count to `report` and resets it. The arguments are the count's place, the name, the
    /// kind and the count. The place of a count never changes. Each new name gets the next [`Kind::ALL`] places, from
    /// 0.
    pub fn drain(&mut self, report: &mut dyn FnMut(usize, &str, Kind, u64)) {
        for (name, place) in &self.places {
            let Some(counts) = self.counts.get_mut(*place) else {
                continue;
            };
            let first = place.saturating_mul(Kind::ALL.len());
            for kind in Kind::ALL {
                let count = counts.take(kind);
                if count > 0 {
                    report(first.saturating_add(kind.place()), name, kind, count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const COMPLETION: Kind = Kind::Tokens(Tokens::Completion);

    fn drained(ledger: &mut Ledger) -> Vec<(usize, String, Kind, u64)> {
        let mut seen = Vec::new();
        ledger.drain(&mut |place, name, kind, count| {
            seen.push((place, name.to_owned(), kind, count));
        });
        seen
    }

    #[test]
    fn names_are_counted_separately_and_reported_once() {
        let mut ledger = Ledger::new(200);
        for name in ["b", "a", "b"] {
            ledger.entry(name).unwrap().add(Kind::Requests, 1);
        }
        let usage = Usage {
            completion: Some(500),
            cached: 7,
            ..Usage::default()
        };
        ledger.entry("b").unwrap().add_usage(&usage);
        let expected = [
            (Kind::ALL.len(), "a", Kind::Requests, 1),
            (0, "b", Kind::Requests, 2),
            (2, "b", COMPLETION, 500),
            (3, "b", Kind::Tokens(Tokens::Cached), 7),
        ];
        let expected = expected.map(|(place, name, kind, count)| (place, name.into(), kind, count));
        assert_eq!(drained(&mut ledger), expected);
        assert!(drained(&mut ledger).is_empty());
    }

    #[test]
    fn names_are_looked_up_once_per_hash() {
        let mut ledger = Ledger::new(2);
        ledger.entry("a").unwrap().add(Kind::Requests, 1);
        for (number, name, asks) in [
            (7, "a", true),
            (7, "a", false),
            (3, "b", true),
            (9, "c", true),
            (9, "c", false),
            (3, "b", false),
        ] {
            let mut is_asked = false;
            let entry = ledger.entry_of(number, || {
                is_asked = true;
                name.to_owned()
            });
            entry.unwrap().add(Kind::Requests, 1);
            assert_eq!(is_asked, asks, "{number}");
        }
        let seen = drained(&mut ledger).into_iter();
        let seen: Vec<_> = seen.map(|(_, name, _, count)| (name, count)).collect();
        let expected = [("a", 3), ("b", 2), (OTHER, 2)];
        assert_eq!(seen, expected.map(|(name, count)| (name.to_owned(), count)));
        // Clients choose names, so memory must be bounded.
        for number in 0..1000 {
            ledger
                .entry_of(number, || format!("name-{number}"))
                .unwrap();
        }
        assert_eq!(ledger.numbers.len(), 2 * NUMBERS);
    }

    #[test]
    fn kinds_have_distinct_places_and_names() {
        let places = Kind::ALL.map(Kind::place);
        assert_eq!(places, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
        let names: BTreeMap<_, _> = Kind::ALL.map(|kind| (kind.name(), ())).into();
        assert_eq!(names.len(), Kind::ALL.len());
    }

    #[test]
    fn fractions_of_a_millionth_are_carried_over() {
        let mut ledger = Ledger::new(1);
        for (added, reported) in [(400_000, 0), (700_000, 1), (2_900_000, 3), (0, 0)] {
            ledger.entry("a").unwrap().add(Kind::Cost, added);
            let seen = drained(&mut ledger);
            assert_eq!(seen.first().map_or(0, |seen| seen.3), reported);
        }
    }

    #[test]
    fn the_number_of_statistics_is_limited() {
        let mut ledger = Ledger::new(200);
        for n in 0..1000 {
            let entry = ledger.entry(&format!("name-{n}"));
            entry.unwrap().add(Kind::Requests, 1);
        }
        ledger.entry("name-0").unwrap().add(Kind::Requests, 1);
        let seen: BTreeMap<_, _> = drained(&mut ledger)
            .into_iter()
            .map(|(_, name, _, count)| (name, count))
            .collect();
        assert_eq!(seen.len(), 201);
        assert_eq!(seen["name-0"], 2);
        assert_eq!(seen[OTHER], 800);
    }
}
