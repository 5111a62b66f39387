//! The clients: what they are called, how many requests each one made, and how many tokens the answers took.
//!
//! Who a client is has been found out by a filter before this one, which says so in a request header.

use crate::limits::Limit;
use crate::prelude::*;

/// The most clients that are told apart. Each one becomes a statistic, which Envoy keeps for good.
pub const MAX_CLIENTS: usize = 200;

/// What all further clients are counted as.
pub const OTHER: &str = "other";

/// The client's name as statistics and logs have it, where `header` is what the filter before said: at most 64 letters, digits,
/// `-` and `_`, everything else replaced by `_`. `None` if it said nothing.
pub fn client_name(header: &str) -> Option<String> {
    const LONGEST: usize = 64;
    let allowed = |c: char| match c {
        // A dot would be a separator in a statistic's name.
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' => c,
        _ => '_',
    };
    let name: String = header.trim().chars().take(LONGEST).map(allowed).collect();
    (!name.is_empty()).then_some(name)
}

/// Something that is counted for each client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Requests,
    /// Tokens of prompts.
    Prompt,
    /// Tokens of completions.
    Completion,
    /// Requests refused because the client's tokens of the minute are used up.
    OverTokensPerMinute,
    /// Requests refused because the client's tokens of the day are used up.
    OverTokensPerDay,
    /// Requests refused because the client's requests of the minute are used up.
    OverRequestsPerMinute,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Requests,
        Self::Prompt,
        Self::Completion,
        Self::OverTokensPerMinute,
        Self::OverTokensPerDay,
        Self::OverRequestsPerMinute,
    ];

    /// What a request counts as that was refused because of this `limit`.
    pub const fn limited(limit: Limit) -> Self {
        match limit {
            Limit::TokensPerMinute => Self::OverTokensPerMinute,
            Limit::TokensPerDay => Self::OverTokensPerDay,
            Limit::RequestsPerMinute => Self::OverRequestsPerMinute,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Prompt => "tokens.prompt",
            Self::Completion => "tokens.completion",
            Self::OverTokensPerMinute => "limited.tokens_per_minute",
            Self::OverTokensPerDay => "limited.tokens_per_day",
            Self::OverRequestsPerMinute => "limited.requests_per_minute",
        }
    }
}

/// The name of a client's counter of this kind.
pub fn counter_name(client: &str, kind: Kind) -> String {
    format!("aoai.client.{client}.{}", kind.name())
}

/// Counts by client since the last hand-over.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// In the order of the names.
    places: Vec<(String, usize)>,
    counts: Vec<[u32; Kind::ALL.len()]>,
}

impl Clients {
    /// Counts so many of this kind for `client`; under [`OTHER`] if it is one too many to be told apart.
    pub fn count(&mut self, client: &str, kind: Kind, times: u32) {
        let place = match self.find(client) {
            Ok(place) => place,
            Err(at) if self.places.len() < MAX_CLIENTS => self.add(at, client),
            Err(_) => match self.find(OTHER) {
                Ok(place) => place,
                Err(at) => self.add(at, OTHER),
            },
        };
        let counts = self.counts.get_mut(place);
        if let Some(count) = counts.and_then(|counts| counts.get_mut(kind as usize)) {
            *count = count.saturating_add(times);
        }
    }

    /// The client's place, or where among the names it would be.
    fn find(&self, client: &str) -> Result<usize, usize> {
        let at = self
            .places
            .binary_search_by(|(name, _)| name.as_str().cmp(client))?;
        let found = self.places.get(at).ok_or(at)?;
        Ok(found.1)
    }

    #[inline(never)]
    fn add(&mut self, at: usize, client: &str) -> usize {
        let place = self.counts.len();
        self.counts.push(Default::default());
        self.places.insert(at, (client.to_owned(), place));
        place
    }

    /// Hands over every count that is not zero, with its place, the client's name and what was counted, and starts again from zero. The
    /// place of a count never changes. Clients get theirs in turn from 0, [`Kind::ALL`] together.
    pub fn drain(&mut self, mut hand_over: impl FnMut(usize, &str, Kind, u32)) {
        for (client, place) in &self.places {
            let Some(counts) = self.counts.get_mut(*place) else {
                continue;
            };
            let first = place.saturating_mul(Kind::ALL.len());
            for (kind, count) in Kind::ALL.into_iter().zip(counts) {
                if *count > 0 {
                    let at = first.saturating_add(kind as usize);
                    hand_over(at, client, kind, core::mem::take(count));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn names_are_made_fit_for_statistics() {
        for (header, name) in [
            ("app-1", Some("app-1")),
            ("  Batch_Jobs ", Some("Batch_Jobs")),
            ("a.b/c d\n", Some("a_b_c_d")),
            ("kühn", Some("k_hn")),
            ("", None),
            ("  ", None),
        ] {
            assert_eq!(client_name(header).as_deref(), name, "{header:?}");
        }
        assert_eq!(
            client_name(&"x".repeat(500)).map(|name| name.len()),
            Some(64)
        );
    }

    #[test]
    fn each_client_is_counted_apart_and_handed_over_once() {
        let mut clients = Clients::default();
        for client in ["b", "a", "b"] {
            clients.count(client, Kind::Requests, 1);
        }
        clients.count("b", Kind::Completion, 500);
        clients.count("c", Kind::Prompt, 0);
        let mut seen = Vec::new();
        clients
            .drain(|place, client, kind, count| seen.push((place, client.to_owned(), kind, count)));
        let expected = [
            (Kind::ALL.len(), "a", Kind::Requests, 1),
            (0, "b", Kind::Requests, 2),
            (2, "b", Kind::Completion, 500),
        ];
        let expected =
            expected.map(|(place, client, kind, count)| (place, client.to_owned(), kind, count));
        assert_eq!(seen, expected);
        clients.drain(|_, client, _, _| panic!("{client} again"));
    }

    #[test]
    fn there_is_an_end_to_the_number_of_statistics() {
        let mut clients = Clients::default();
        for n in 0..1000 {
            clients.count(&format!("client-{n}"), Kind::Requests, 1);
        }
        clients.count("client-0", Kind::Requests, 1);
        let mut seen = BTreeMap::new();
        clients.drain(|_, client, _, count| {
            seen.insert(client.to_owned(), count);
        });
        assert_eq!(seen.len(), MAX_CLIENTS + 1);
        assert_eq!(seen["client-0"], 2);
        assert_eq!(seen[OTHER], 800);
    }
}
