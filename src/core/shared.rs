//! The state that workers share: its keys and its compact binary form.
//!
//! Envoy's shared data is a process-wide map from string to bytes with compare-and-swap. Every value starts with a version
//! byte; one that is not understood counts as absent and is overwritten, so that a newer or older module can follow in place.

use super::config::{Backend, Identity, Source};
use super::time::Timestamp;

const TURN_VERSION: u8 = 2;

/// The key of the turns that requests to these backends draw.
pub fn turn_key(backends: &[Backend]) -> String {
    key(
        "turn",
        backends.iter().map(|backend| backend.cluster.as_str()),
    )
}

/// The key of the retry budget that requests to these backends share.
pub fn budget_key(backends: &[Backend]) -> String {
    key(
        "budget",
        backends.iter().map(|backend| backend.cluster.as_str()),
    )
}

/// The key of the names of quotas. A name has one number everywhere, so all configurations share them.
pub const QUOTA_NAMES_KEY: &str = "aoai.quota_names";

/// The key of a backend's health: all configurations that name it, before and after a reload, mean the same.
pub fn health_key(backend: &Backend) -> String {
    let parts = [backend.cluster.as_str(), backend.host.as_str()];
    key("health", parts.into_iter())
}

/// The key of the token record that all users of this identity share.
pub fn token_key(identity: &Identity) -> String {
    let mut parts = vec![identity.cluster.as_str(), identity.resource.as_str()];
    let selector = match &identity.source {
        Source::Imds { selector } => selector.as_ref(),
        Source::AppService {
            authority,
            path,
            selector,
            ..
        } => {
            parts.extend([authority.as_str(), path.as_str()]);
            selector.as_ref()
        }
        Source::Entra {
            authority,
            tenant,
            client_id,
            ..
        } => {
            parts.extend([authority.as_str(), tenant.as_str(), client_id.as_str()]);
            None
        }
    };
    if let Some(selector) = selector {
        parts.extend([selector.parameter, selector.value.as_str()]);
    }
    key("token", parts.into_iter())
}

fn key<'a>(kind: &str, parts: impl Iterator<Item = &'a str>) -> String {
    format!("aoai.{kind}.{:016x}", fingerprint(parts))
}

/// FNV-1a over the parts, each ended by a byte that no part has. The standard library's hashers may change with the compiler,
/// and a new build of the module is to find what the old one left.
pub(super) fn fingerprint<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    fingerprint_of(parts.flat_map(|part| part.bytes().chain([END_OF_PART])))
}

/// Ends a part of what a [`fingerprint`] is made of.
pub(super) const END_OF_PART: u8 = 0xff;

/// [`fingerprint`] of bytes that end every part themselves.
pub(super) fn fingerprint_of(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A number that looks random and follows from `seed`: the finalizer of splitmix64.
pub(super) fn scatter(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The turns of requests, one number after the other, and beside them the edition of the backends' health: it changes with
/// every change of that, so that whoever draws a turn knows whether to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// The next turn.
    pub next: u64,
    /// The edition of the backends' health.
    pub edition: u32,
}

impl Turns {
    /// How many bytes it takes.
    pub const SIZE: usize = 13;

    /// The state after the next turn was drawn.
    #[must_use]
    pub fn after_draw(self) -> Self {
        Self {
            next: self.next.wrapping_add(1),
            ..self
        }
    }

    /// The state after a backend's health has changed.
    #[must_use]
    pub fn after_change(self) -> Self {
        Self {
            edition: self.edition.wrapping_add(1),
            ..self
        }
    }

    /// As bytes.
    pub fn encode(self) -> [u8; Self::SIZE] {
        let mut bytes = [TURN_VERSION; Self::SIZE];
        let fields = self
            .next
            .to_le_bytes()
            .into_iter()
            .chain(self.edition.to_le_bytes());
        for (slot, byte) in bytes.iter_mut().skip(1).zip(fields) {
            *slot = byte;
        }
        bytes
    }

    /// From bytes; the first turn if there are none or they are not understood.
    pub fn decode(bytes: Option<&[u8]>) -> Self {
        let turns = bytes.and_then(|bytes| {
            let mut fields = Fields::new(bytes, TURN_VERSION)?;
            Some(Self {
                next: fields.u64()?,
                edition: fields.u32()?,
            })
        });
        turns.unwrap_or_default()
    }
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

    pub(super) fn time(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp::from_millis)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// A text of at most 255 bytes.
    pub(super) fn short_text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u8()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    /// All that is left, as text.
    pub(super) fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.0).ok()
    }
}

/// Writes the fields of a binary value one after the other, as [`Fields`] reads them.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    /// A value that begins with its version.
    pub(super) fn new(version: u8) -> Self {
        // Enough for most records.
        let mut bytes = Vec::with_capacity(256);
        bytes.push(version);
        Self(bytes)
    }

    // A record has many fields: in line, each would be larger than a call.
    #[inline(never)]
    pub(super) fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    #[inline(never)]
    pub(super) fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    #[inline(never)]
    pub(super) fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn time(&mut self, time: Timestamp) {
        self.u64(time.as_millis());
    }

    /// The length of a list of at most 255 entries.
    pub(super) fn length(&mut self, length: usize) {
        self.u8(u8::try_from(length).unwrap_or(u8::MAX));
    }

    /// A text, of which at most 255 bytes are written.
    pub(super) fn short_text(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let bytes = bytes.get(..usize::from(u8::MAX)).unwrap_or(bytes);
        self.length(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_drawn_one_after_the_other_whatever_changes() {
        let mut turns = Turns::decode(None);
        for expected in 0..3 {
            assert_eq!(turns.next, expected);
            turns = Turns::decode(Some(&turns.after_draw().encode()));
            turns = Turns::decode(Some(&turns.after_change().encode()));
        }
        assert_eq!(turns.edition, 3);
    }

    #[test]
    fn what_is_not_understood_counts_as_absent() {
        for bytes in [&[][..], &[TURN_VERSION], &[TURN_VERSION; 12], &[9; 13]] {
            assert_eq!(Turns::decode(Some(bytes)), Turns::default(), "{bytes:?}");
        }
    }

    #[test]
    fn the_counters_wrap_instead_of_trapping() {
        let last = Turns {
            next: u64::MAX,
            edition: u32::MAX,
        };
        assert_eq!(last.after_draw().after_change(), Turns::default());
    }

    #[test]
    fn entra_identities_share_a_token_only_if_all_is_the_same() {
        use crate::core::config::{Proof, Secret};
        use std::time::Duration;
        let identity = |authority: &str, tenant: &str, client_id: &str, secret: &str| Identity {
            name: None,
            source: Source::Entra {
                authority: authority.into(),
                tenant: tenant.into(),
                client_id: client_id.into(),
                proof: Proof::Secret(Secret::new(secret.into())),
            },
            cluster: "entra_id".into(),
            resource: "https://cognitiveservices.azure.com".into(),
            wait_timeout: Duration::ZERO,
            fetch_timeout: Duration::ZERO,
        };
        let first = token_key(&identity("a", "t", "c", "s"));
        for other in [
            identity("b", "t", "c", "s"),
            identity("a", "u", "c", "s"),
            identity("a", "t", "d", "s"),
            identity("a", "tc", "", "s"),
        ] {
            assert_ne!(token_key(&other), first, "{other:?}");
        }
        assert_eq!(token_key(&identity("a", "t", "c", "new")), first);
    }

    #[test]
    fn other_backends_and_other_identities_have_other_keys() {
        let backend = |cluster: &str, host: &str| Backend {
            cluster: cluster.into(),
            host: host.into(),
            ..Backend::default()
        };
        let one = |backend: &Backend| vec![backend.clone()];
        let (a, b) = (backend("a", "h"), backend("b", "h"));
        assert_eq!(turn_key(&one(&a)), "aoai.turn.089bc907b544c769");
        assert_eq!(budget_key(&one(&a)), "aoai.budget.089bc907b544c769");
        assert_ne!(turn_key(&one(&a)), turn_key(&one(&b)));
        assert_ne!(
            turn_key(&[backend("ab", "h")]),
            turn_key(&[a.clone(), b.clone()])
        );
        assert_ne!(health_key(&a), health_key(&b));
        assert_ne!(health_key(&a), health_key(&backend("a", "i")));
        let renamed = Backend {
            name: "other".into(),
            weight: 7,
            ..a.clone()
        };
        assert_eq!(health_key(&a), health_key(&renamed));
    }
}
