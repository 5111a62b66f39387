//! Small replacements in a body that otherwise stays unchanged, byte for byte.
//!
//! Parsing and rewriting a JSON document would change it: numbers lose digits, and keys lose their order and
//! duplicates. So the filter replaces only the bytes of a deployment's name or an id's tag.

use crate::prelude::*;
use core::ops::Range;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Splice {
    range: Range<usize>,
    replacement: Vec<u8>,
}

/// Replacements of ranges of a body, in order. No two of them overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Splices(Vec<Splice>);

impl Splices {
    /// Replaces `range` of the original body. `false`, without a change, if the range overlaps another one or ends
    /// before its start.
    ///
    /// An empty range inserts before the byte at its start. At the end of the body it inserts nothing.
    #[must_use]
    pub fn replace(&mut self, range: Range<usize>, replacement: &[u8]) -> bool {
        // Most ranges are found in order, so this is usually the end.
        let place = self
            .0
            .partition_point(|splice| splice.range.start <= range.start);
        let (before, after) = self.0.split_at_checked(place).unwrap_or_default();
        let free = before
            .last()
            .is_none_or(|splice| splice.range.end <= range.start)
            && after
                .first()
                .is_none_or(|splice| range.end <= splice.range.start)
            && range.start <= range.end;
        if free {
            let replacement = replacement.to_vec();
            self.0.insert(place, Splice { range, replacement });
        }
        free
    }

    /// Cuts `range` out of the original body, see [`replace`](Self::replace).
    #[must_use]
    pub fn cut(&mut self, range: Range<usize>) -> bool {
        self.replace(range, &[])
    }

    /// Whether nothing is replaced.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The growth of the body in bytes.
    pub fn delta(&self) -> isize {
        let signed = |length: usize| isize::try_from(length).unwrap_or(isize::MAX);
        self.0
            .iter()
            .map(|splice| signed(splice.replacement.len()) - signed(splice.range.len()))
            .sum()
    }

    /// The position of the original `offset` after all replacements.
    pub fn moved(&self, offset: usize) -> usize {
        let before = self.0.iter().filter(|splice| splice.range.end <= offset);
        let before = Self(before.cloned().collect());
        offset.saturating_add_signed(before.delta())
    }

    /// Whether anything in this range of the original body is replaced.
    pub fn touch(&self, range: Range<usize>) -> bool {
        let mut splices = self.0.iter();
        splices.any(|splice| splice.range.start < range.end && range.start < splice.range.end)
    }

    /// The whole body after all replacements.
    pub fn apply(&self, body: &[u8]) -> Vec<u8> {
        let mut spliced = Vec::with_capacity(body.len().saturating_add_signed(self.delta()));
        self.apply_chunk(0, body, &mut spliced);
        spliced
    }

    /// Appends the result for one chunk of the body to `out`. The chunk starts at `offset` of the original. A
    /// replacement is written with the chunk in which its range starts.
    pub fn apply_chunk(&self, offset: usize, chunk: &[u8], out: &mut Vec<u8>) {
        let end = offset.saturating_add(chunk.len());
        let first = self
            .0
            .partition_point(|splice| splice.range.end <= offset && splice.range.start < offset);
        let mut copied = offset;
        for Splice { range, replacement } in self.0.iter().skip(first) {
            if range.start >= end {
                break;
            }
            out.extend_from_slice(between(chunk, offset, copied, range.start));
            if range.start >= offset {
                out.extend_from_slice(replacement);
            }
            copied = copied.max(range.end);
        }
        out.extend_from_slice(between(chunk, offset, copied, end));
    }
}

/// The bytes `from..to` of a body whose part `chunk` starts at `offset`.
fn between(chunk: &[u8], offset: usize, from: usize, to: usize) -> &[u8] {
    let range = from.saturating_sub(offset)..to.saturating_sub(offset);
    chunk.get(range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splices(list: &[(Range<usize>, &str)]) -> Splices {
        let mut splices = Splices::default();
        for (range, replacement) in list {
            assert!(splices.replace(range.clone(), replacement.as_bytes()));
        }
        splices
    }

    #[test]
    fn other_bytes_are_unchanged() {
        for (list, expected) in [
            (&[][..], "0123456789"),
            (&[(2..4, "ab")], "01ab456789"),
            (&[(2..4, "")], "01456789"),
            (&[(2..2, "ab")], "01ab23456789"),
            (&[(0..10, "x")], "x"),
            (&[(0..1, "long"), (9..10, "")], "long12345678"),
            (&[(8..9, "b"), (0..2, "a"), (2..3, "")], "a34567b9"),
            (&[(4..4, "a"), (4..5, "b")], "0123ab56789"),
            (&[(8..12, "x")], "01234567x"),
            (&[(10..10, "never"), (12..13, "never")], "0123456789"),
        ] {
            let splices = splices(list);
            assert_eq!(
                String::from_utf8(splices.apply(b"0123456789")).unwrap(),
                expected,
                "{list:?}"
            );
            assert_eq!(splices.is_empty(), list.is_empty());
        }
    }

    #[test]
    fn the_growth_is_known_beforehand() {
        assert_eq!(splices(&[]).delta(), 0);
        assert_eq!(
            splices(&[(2..4, ""), (5..6, "abcd"), (7..7, "a")]).delta(),
            2
        );
        assert_eq!(splices(&[(2..4, "")]).delta(), -2);
    }

    #[test]
    fn ranges_that_overlap_are_refused() {
        let mut some = splices(&[(2..4, "a"), (6..8, "b")]);
        let before = some.clone();
        #[allow(clippy::reversed_empty_ranges)]
        for range in [1..3, 2..4, 3..3, 3..5, 5..7, 0..9, 7..9, 2..2, 5..4] {
            assert!(!some.cut(range.clone()), "{range:?}");
        }
        assert_eq!(some, before);
        assert!(some.cut(4..6) && some.cut(0..2) && some.cut(8..8));
    }

    #[test]
    fn three_chunks_are_spliced_like_the_whole() {
        let body = b"0123456789";
        let all = [
            splices(&[(1..3, "abc"), (3..3, "-"), (4..9, "")]),
            splices(&[(0..0, "x"), (0..1, "y"), (9..10, "zz")]),
            splices(&[(2..8, "abc")]),
        ];
        for splices in all {
            let whole = splices.apply(body);
            for one in 0..=body.len() {
                for two in one..=body.len() {
                    let mut out = Vec::new();
                    splices.apply_chunk(0, &body[..one], &mut out);
                    splices.apply_chunk(one, &body[one..two], &mut out);
                    splices.apply_chunk(two, &body[two..], &mut out);
                    assert_eq!(out, whole, "{one} {two} {splices:?}");
                }
            }
        }
    }

    #[test]
    fn bytes_after_a_replacement_move() {
        let mut splices = Splices::default();
        assert!(splices.cut(2..5) && splices.replace(10..12, b"longer"));
        for (before, after) in [(0, 0), (2, 2), (5, 2), (9, 6), (10, 7), (12, 13), (20, 21)] {
            assert_eq!(splices.moved(before), after, "{before}");
        }
        for (range, touched) in [(0..2, false), (0..3, true), (4..9, true), (5..10, false)] {
            assert_eq!(splices.touch(range.clone()), touched, "{range:?}");
        }
    }
}
