//! Hashes of texts and of numbers.

/// FNV-1a over the parts, each followed by a byte that no part contains. The standard library's hashers may change with
/// the compiler, while a new build of the module must find the old build's values.
pub(super) fn fingerprint<'a>(parts: impl Iterator<Item = &'a str>) -> u64 {
    fingerprint_of(parts.flat_map(|part| part.bytes().chain([END_OF_PART])))
}

/// Ends each part of a [`fingerprint`].
pub(super) const END_OF_PART: u8 = 0xff;

/// The [`fingerprint`] of bytes in which the parts already have their ends.
pub(super) fn fingerprint_of(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(BASIS, with_byte)
}

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

fn with_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// The fingerprint of bytes that arrive in pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(BASIS)
    }
}

impl Fingerprint {
    /// Adds the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0 = bytes
            .iter()
            .fold(self.0, |hash, byte| with_byte(hash, *byte));
    }

    /// The fingerprint as a number.
    pub const fn value(self) -> u64 {
        self.0
    }
}

/// A pseudo-random number derived from `seed`, by the finalizer of splitmix64.
pub(super) fn scatter(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
