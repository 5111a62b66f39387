//! Searches in short texts, such as parts of a path.
//!
//! The standard library's searches are optimized for long texts. For some dozen bytes these functions are faster.

use crate::prelude::*;
use alloc::borrow::Cow;

/// The lowest bit of each byte of a word.
const ONES: u64 = u64::from_ne_bytes([0x01; 8]);

/// The highest bit of each byte of a word.
const HIGHEST: u64 = u64::from_ne_bytes([0x80; 8]);

/// The position of the first byte that is one of `wanted`, all of them ASCII.
pub(super) fn find<const N: usize>(text: &[u8], wanted: [u8; N]) -> Option<usize> {
    debug_assert!(wanted.is_ascii());
    let mut words = text.chunks_exact(8);
    let mut before = 0_usize;
    for word in words.by_ref() {
        let word = u64::from_le_bytes(*word.first_chunk()?);
        // Subtracting one from a zero byte borrows into its highest bit. A byte above may show a borrow too, but it
        // comes later in the text. A byte whose highest bit is set is not ASCII.
        let borrows = wanted.iter().fold(0, |borrows, byte| {
            let differs = word ^ ONES.wrapping_mul(u64::from(*byte));
            borrows | differs.wrapping_sub(ONES)
        });
        let found = borrows & !word & HIGHEST;
        if found != 0 {
            return before.checked_add(found.trailing_zeros() as usize / 8);
        }
        before = before.wrapping_add(8);
    }
    let mut rest = words.remainder().iter();
    before.checked_add(rest.position(|byte| wanted.contains(byte))?)
}

/// The position of the last byte equal to `wanted`.
pub(super) fn find_last(text: &[u8], wanted: u8) -> Option<usize> {
    const LOWER: u64 = u64::from_ne_bytes([0x7f; 8]);
    let wanted_everywhere = u64::from_ne_bytes([wanted; 8]);
    let mut rest = without_blocks_at_end(text, wanted_everywhere);
    while let Some((before, last)) = rest.split_last_chunk() {
        let differs = u64::from_le_bytes(*last) ^ wanted_everywhere;
        // The highest bit of each equal byte, and no other bit, because nothing carries from one byte to the next.
        let found = !(((differs & LOWER).wrapping_add(LOWER)) | differs | LOWER);
        if found != 0 {
            let place = found.ilog2() as usize / 8;
            return before.len().checked_add(place);
        }
        rest = before;
    }
    rest.iter().rposition(|byte| *byte == wanted)
}

/// The text without all blocks of 32 bytes at its end that lack the wanted byte.
#[inline(always)]
fn without_blocks_at_end(text: &[u8], wanted_everywhere: u64) -> &[u8] {
    let mut rest = text;
    while let Some((before, block)) = rest.split_last_chunk::<32>() {
        // The highest bit stays set in each byte that differs from the wanted one in a lower bit.
        let differ = block.chunks_exact(8).fold(HIGHEST, |differ, word| {
            let word = u64::from_le_bytes(*word.first_chunk().unwrap_or(&[0; 8]));
            differ & ((word ^ wanted_everywhere) | HIGHEST).wrapping_sub(ONES)
        });
        if differ != HIGHEST {
            break;
        }
        rest = before;
    }
    rest
}

/// Copies bytes to `slots` from position `at`, as far as they fit.
pub(super) fn copy_to(slots: &mut [u8], at: usize, bytes: &[u8]) {
    let Some(free) = slots.get_mut(at..) else {
        return;
    };
    let count = free.len().min(bytes.len());
    if let (Some(free), Some(bytes)) = (free.get_mut(..count), bytes.get(..count)) {
        free.copy_from_slice(bytes);
    }
}

/// The parts before and after the first byte `at`, an ASCII character.
pub(super) fn split_once(text: &str, at: u8) -> Option<(&str, &str)> {
    let place = find(text.as_bytes(), [at])?;
    Some((text.get(..place)?, text.get(place.checked_add(1)?..)?))
}

/// The parts of `text` between the bytes `at`, an ASCII character. At least one part.
pub(super) fn split(text: &str, at: u8) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(text);
    core::iter::from_fn(move || {
        let text = rest?;
        let (part, behind) = match split_once(text, at) {
            Some((part, behind)) => (part, Some(behind)),
            None => (text, None),
        };
        rest = behind;
        Some(part)
    })
}

/// Whether `text` contains this byte.
pub(super) fn contains(text: &str, byte: u8) -> bool {
    find(text.as_bytes(), [byte]).is_some()
}

/// `text` with its percent-escapes decoded. Invalid escapes stay unchanged.
pub(super) fn percent_decoded(text: &str) -> Cow<'_, [u8]> {
    match contains(text, b'%') {
        true => decode(text).into(),
        false => text.as_bytes().into(),
    }
}

#[inline(never)]
fn decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|digits| {
            let digits = core::str::from_utf8(digits).ok()?;
            // `from_str_radix` would accept a sign.
            let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            is_hex.then(|| u8::from_str_radix(digits, 16).ok())?
        });
        match (byte, hex) {
            (b'%', Some(value)) => {
                decoded.push(value);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

/// The rest after `prefix`, whose letters may be in any case.
pub(super) fn strip_prefix<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    // The usual spelling takes one comparison. Other texts mostly differ in their first letter.
    let first = |text: &str| text.bytes().next().map(|byte| byte.to_ascii_lowercase());
    text.strip_prefix(prefix)
        .or_else(|| match first(text) == first(prefix) {
            true => strip_prefix_of_any_case(text, prefix),
            false => None,
        })
}

#[inline(never)]
fn strip_prefix_of_any_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// A number of decimal digits only, at most as many digits as always fit into a `u64`.
pub fn number<N: TryFrom<u64>>(digits: &[u8]) -> Option<N> {
    const MOST: usize = u64::MAX.ilog10() as usize;
    if digits.is_empty() || digits.len() > MOST {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.wrapping_sub(b'0');
        // `checked_mul` would compute in 128 bits on WebAssembly.
        (digit <= 9).then(|| number.wrapping_mul(10).wrapping_add(u64::from(digit)))
    });
    N::try_from(number?).ok()
}

/// A set of bytes as a table. A lookup costs less than comparing a byte with several.
#[derive(Clone, Copy, Debug)]
pub struct ByteSet([bool; 256]);

impl ByteSet {
    /// The set of these bytes.
    #[must_use]
    pub const fn of(bytes: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut rest = bytes;
        while let [first, others @ ..] = rest {
            // A byte is less than the length of the table.
            #[allow(clippy::indexing_slicing)]
            {
                set[*first as usize] = true;
            }
            rest = others;
        }
        Self(set)
    }

    /// Whether the set contains this byte.
    pub fn contains(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte)) == Some(&true)
    }

    /// The position of the first byte in the set. The length of `bytes` if there is none.
    pub fn position(&self, bytes: &[u8]) -> usize {
        let found = bytes.iter().position(|byte| self.contains(*byte));
        found.unwrap_or(bytes.len())
    }

    /// The number of leading bytes in the set.
    pub fn run(&self, bytes: &[u8]) -> usize {
        // Four bytes at a time: a branch costs as much as a lookup, and most runs are long.
        const STEP: usize = 4;
        let all_of = |step: &[u8]| {
            step.iter()
                .fold(true, |all, byte| all & self.contains(*byte))
        };
        let steps = bytes.chunks_exact(STEP).take_while(|step| all_of(step));
        let passed = steps.count().wrapping_mul(STEP);
        let mut rest = bytes.iter().skip(passed);
        let ended = rest.position(|byte| !self.contains(*byte));
        ended.map_or(bytes.len(), |ended| passed.wrapping_add(ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_in_every_position() {
        // Bytes that differ by one from a wanted byte could be mistaken because of a borrow.
        let around = [0, 0x01, 0x24, 0x26, 0x2d, 0x2f, 0x7f, 0x80, 0xa5, 0xff];
        for length in 0..40 {
            for (filled, at) in around.into_iter().zip([0, 1, 7, 8, 9, 15, 16, 23, 31, 39]) {
                let mut text = vec![filled; length];
                assert_eq!(find(&text, [b'%', b'.']), None);
                for byte in [b'%', b'.', b'%'] {
                    for place in [length, 38, 24, 17, 12, 6, 2, at] {
                        if let Some(slot) = text.get_mut(place) {
                            *slot = byte;
                        }
                        let expected = text.iter().position(|byte| b"%.".contains(byte));
                        assert_eq!(find(&text, [b'%', b'.']), expected, "{text:?}");
                        let expected = text.iter().position(|byte| *byte == b'.');
                        assert_eq!(find(&text, [b'.']), expected, "{text:?}");
                        let expected = text.iter().rposition(|byte| *byte == b'.');
                        assert_eq!(find_last(&text, b'.'), expected, "{text:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_escapes_are_decoded() {
        for (text, decoded) in [
            ("", ""),
            ("api-key", "api-key"),
            ("api%2Dkey", "api-key"),
            ("%61%5a", "aZ"),
            ("%zz%2", "%zz%2"),
            ("%+5%-5", "%+5%-5"),
            ("%", "%"),
            ("%2%44", "%2D"),
            ("a+b", "a+b"),
            ("ü%C3%BC", "üü"),
        ] {
            assert_eq!(&*percent_decoded(text), decoded.as_bytes(), "{text}");
        }
        assert_eq!(&*percent_decoded("%ff"), b"\xff");
    }

    #[test]
    fn prefixes_ignore_case() {
        for (text, rest) in [
            ("v1/x", Some("x")),
            ("V1/X", Some("X")),
            ("v1/", Some("")),
            ("v2/x", None),
            ("v1", None),
            ("ü1/", None),
            ("", None),
        ] {
            assert_eq!(strip_prefix(text, "v1/"), rest, "{text}");
        }
    }

    #[test]
    fn numbers_have_only_digits_and_a_limited_length() {
        for (text, expected) in [
            ("0", Some(0)),
            ("200", Some(200)),
            ("007", Some(7)),
            ("65535", Some(u16::MAX)),
            ("65536", None),
            ("00000000000000000000", None),
            ("", None),
            ("+5", None),
            ("-5", None),
            (" 5", None),
            ("5a", None),
            ("5:", None),
            ("٥", None),
        ] {
            assert_eq!(number::<u16>(text.as_bytes()), expected, "{text:?}");
        }
        assert_eq!(number(&[b'9'; 19]), Some(9_999_999_999_999_999_999_u64));
    }

    #[test]
    fn texts_are_split_like_the_standard_librarys() {
        let long = "abcdefg/hijklmnopq/rstuvwxyz/0123456789";
        for text in ["", "/", "a", "a/b", "/a//b/", "ü/é", "a&b", "///", long] {
            assert_eq!(split_once(text, b'/'), text.split_once('/'), "{text}");
            assert!(split(text, b'/').eq(text.split('/')), "{text}");
            assert_eq!(contains(text, b'/'), text.contains('/'), "{text}");
        }
    }

    #[test]
    fn a_set_contains_exactly_its_bytes() {
        let set = ByteSet::of(b"a\xff\0");
        for byte in 0..=u8::MAX {
            assert_eq!(
                set.contains(byte),
                matches!(byte, b'a' | 0xff | 0),
                "{byte}"
            );
        }
        for (bytes, position, run) in [
            (&b"bca"[..], 2, 0),
            (b"aab", 0, 2),
            (b"bcd", 3, 0),
            (b"a\xff", 0, 2),
            (b"", 0, 0),
        ] {
            assert_eq!((set.position(bytes), set.run(bytes)), (position, run));
        }
    }
}
