//! The state that workers share: its keys and its compact binary form.
//!
//! Envoy's shared data is a process-wide map from string to bytes with compare-and-swap. Every value starts with a version
//! byte; one that is not understood counts as absent and is overwritten, so that a newer or older module can follow in place.

use super::config::{Backend, Identity, Source};

/// Version byte of the turn counter.
const TURN_VERSION: u8 = 1;

/// The turn counter before any turn was drawn.
pub const FIRST_TURN: [u8; 9] = [TURN_VERSION, 0, 0, 0, 0, 0, 0, 0, 0];

/// How often a compare-and-swap is tried before the caller makes do without: enough for any number of workers, and an end.
pub const SWAP_TRIES: usize = 64;

/// The key of the turn counter that requests to these backends share.
pub fn turn_key(backends: &[Backend]) -> String {
    let clusters = backends.iter().map(|backend| backend.cluster.as_str());
    format!("aoai.turn.{:016x}", fingerprint(clusters))
}

/// The key of the token record that all users of this identity share.
pub fn token_key(identity: &Identity) -> String {
    let mut parts = vec![identity.cluster.as_str(), identity.resource.as_str()];
    let selector = match &identity.source {
        Source::Imds { selector } => selector,
        Source::AppService {
            authority,
            path,
            selector,
            ..
        } => {
            parts.extend([authority.as_str(), path.as_str()]);
            selector
        }
    };
    if let Some(selector) = selector {
        parts.extend([selector.parameter, selector.value.as_str()]);
    }
    format!("aoai.token.{:016x}", fingerprint(parts.into_iter()))
}

/// FNV-1a over the parts, each ended by a byte that no part has. The standard library's hashers may change with the compiler,
/// and a new build of the module is to find what the old one left.
fn fingerprint<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    let bytes = parts.flat_map(|part| part.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The turn counter's next value after `current`: the turn that is drawn, and the bytes to store.
pub fn draw_turn(current: Option<&[u8]>) -> (u64, [u8; 9]) {
    let turn = current.and_then(|bytes| {
        let mut fields = Fields::new(bytes, TURN_VERSION)?;
        fields.u64()
    });
    let turn = turn.unwrap_or(0);
    let mut stored = [TURN_VERSION; 9];
    let next = turn.wrapping_add(1).to_le_bytes();
    for (slot, byte) in stored.iter_mut().skip(1).zip(next) {
        *slot = byte;
    }
    (turn, stored)
}

/// Reads the fields of a binary value one after the other; `None` as soon as the bytes do not suffice.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The fields behind the version byte, if it is `version`.
    pub(super) fn new(bytes: &'a [u8], version: u8) -> Option<Self> {
        match bytes.split_first()? {
            (first, rest) if *first == version => Some(Self(rest)),
            _ => None,
        }
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// All that is left, as text.
    pub(super) fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_drawn_one_after_the_other() {
        let (turn, stored) = draw_turn(None);
        assert_eq!(turn, 0);
        let (turn, stored) = draw_turn(Some(&stored));
        assert_eq!(turn, 1);
        assert_eq!(draw_turn(Some(&stored)).0, 2);
    }

    #[test]
    fn what_is_not_understood_counts_as_absent() {
        for bytes in [&[][..], &[1], &[1, 2, 3], &[9; 9]] {
            assert_eq!(draw_turn(Some(bytes)).0, 0, "{bytes:?}");
        }
    }

    #[test]
    fn the_counter_wraps_instead_of_trapping() {
        let mut last = [0xff; 9];
        last[0] = TURN_VERSION;
        let (turn, stored) = draw_turn(Some(&last));
        assert_eq!(turn, u64::MAX);
        assert_eq!(draw_turn(Some(&stored)).0, 0);
    }

    #[test]
    fn other_backends_and_other_identities_have_other_keys() {
        let backend = |cluster: &str| Backend {
            name: "n".into(),
            cluster: cluster.into(),
            host: "h".into(),
        };
        assert_eq!(turn_key(&[backend("a")]), "aoai.turn.089bc907b544c769");
        assert_ne!(turn_key(&[backend("a")]), turn_key(&[backend("b")]));
        assert_ne!(
            turn_key(&[backend("ab")]),
            turn_key(&[backend("a"), backend("b")])
        );
    }
}
