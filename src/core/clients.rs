//! The names of clients and of their statistics.
//!
//! An earlier filter identifies the client, and sets its name in a request header.

use super::ledger::Kind;
use crate::prelude::*;

/// The most clients with their own statistics.
pub const MAX_CLIENTS: usize = 200;

/// The client's name in statistics and logs. `header` is the value that the earlier filter set. The name has at most 64
/// letters, digits, `-` and `_`; other characters become `_`. `None` if `header` is empty.
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

/// The name of a client's counter of this kind.
pub fn counter_name(client: &str, kind: Kind) -> String {
    format!("aoai.client.{client}.{}", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_valid_for_statistics() {
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
}
