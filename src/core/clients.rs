//! The clients: what they are called, and how many requests each one made.
//!
//! Who a client is has been found out by a filter before this one, which says so in a request header.

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

/// The name of the counter of a client's requests.
pub fn counter_name(client: &str) -> String {
    format!("aoai.client.{client}.requests")
}

/// Counts of requests by client since the last hand-over.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// In the order of the names.
    places: Vec<(String, usize)>,
    counts: Vec<u32>,
}

impl Clients {
    /// Counts a request of `client`; under [`OTHER`] if it is one too many to be told apart.
    pub fn count(&mut self, client: &str) {
        let place = match self.find(client) {
            Ok(place) => place,
            Err(at) if self.places.len() < MAX_CLIENTS => self.add(at, client),
            Err(_) => match self.find(OTHER) {
                Ok(place) => place,
                Err(at) => self.add(at, OTHER),
            },
        };
        if let Some(count) = self.counts.get_mut(place) {
            *count = count.saturating_add(1);
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
        self.counts.push(0);
        self.places.insert(at, (client.to_owned(), place));
        place
    }

    /// Hands over every count that is not zero, with the client's place and name, and starts again from zero. A client's place
    /// never changes, and places are given in turn from 0.
    pub fn drain(&mut self, mut hand_over: impl FnMut(usize, &str, u32)) {
        for (client, place) in &self.places {
            let Some(count) = self.counts.get_mut(*place) else {
                continue;
            };
            if *count > 0 {
                hand_over(*place, client, core::mem::take(count));
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
            clients.count(client);
        }
        let mut seen = Vec::new();
        clients.drain(|place, client, count| seen.push((place, client.to_owned(), count)));
        assert_eq!(seen, [(1, "a".to_owned(), 1), (0, "b".to_owned(), 2)]);
        clients.drain(|_, client, _| panic!("{client} again"));
    }

    #[test]
    fn there_is_an_end_to_the_number_of_statistics() {
        let mut clients = Clients::default();
        for n in 0..1000 {
            clients.count(&format!("client-{n}"));
        }
        clients.count("client-0");
        let mut seen = BTreeMap::new();
        clients.drain(|_, client, count| {
            seen.insert(client.to_owned(), count);
        });
        assert_eq!(seen.len(), MAX_CLIENTS + 1);
        assert_eq!(seen["client-0"], 2);
        assert_eq!(seen[OTHER], 800);
    }
}
