//! Numbers and words of JSON: `true`, `false` and `null`.

use super::key::Key;
use crate::text::{copy_to, ByteSet};

/// The bytes that end a number or a word.
pub(super) const ENDS_SCALAR: ByteSet = ByteSet::of(b" \t\n\r{}[]\":,");

/// A number, `true`, `false` or `null`, as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// The key of the value.
    pub(super) key: Option<Key>,
    /// The first bytes, one more than the longest word of JSON has.
    bytes: [u8; 6],
    length: usize,
}

impl Word {
    pub(super) fn new(key: Option<Key>) -> Self {
        Self {
            key,
            bytes: [0; 6],
            length: 0,
        }
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        copy_to(&mut self.bytes, self.length, bytes);
        self.length = self.length.saturating_add(bytes.len());
    }

    /// The first bytes, which suffice to distinguish it from every word of JSON.
    pub(super) fn text(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// The value of `true` and `false`.
pub(super) fn bool_of(word: &[u8]) -> Option<bool> {
    match word {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    }
}

/// Whether this is a word of JSON, or begins like a number.
pub(super) fn may_be_json(word: &[u8]) -> bool {
    matches!(
        word,
        [b'-' | b'0'..=b'9', ..] | b"true" | b"false" | b"null"
    )
}

/// Whether no JSON value begins with this letter. `true`, `false` and `null` are the only words.
pub(super) fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() && !matches!(byte, b't' | b'f' | b'n')
}
