//! Decodes the body of an error: gzip (RFC 1952), zlib (RFC 1950) and DEFLATE (RFC 1951).
//!
//! A crate for this adds 20 KB to the module, and a function larger than any other. Error bodies have a few hundred
//! bytes, so this decoder is small and bounded rather than fast. It ignores checksums: a damaged body affects only the
//! destination of one request.

use crate::prelude::*;
use alloc::borrow::Cow;

/// The longest decoded body. No error is longer, while a few encoded bytes can decode to gigabytes.
pub const MOST_DECODED: usize = 64 * 1024;

/// The JSON `body` of an answer, decoded if it is encoded.
///
/// The body shows its own encoding. JSON begins with a brace, gzip with two bytes that no text begins with, and the
/// rest can be tried. So no header is needed, which would cost a host call. A body that cannot be decoded stays
/// unchanged: it has another encoding, or is damaged, incomplete or longer than [`MOST_DECODED`].
pub fn decoded(body: &[u8]) -> Cow<'_, [u8]> {
    let decoded = match body {
        [] | [b'{' | b' ' | b'\t' | b'\r' | b'\n', ..] => None,
        [0x1f, 0x8b, ..] => after_gzip_header(body).and_then(inflated),
        // `deflate` means zlib, but some servers send plain DEFLATE.
        _ => {
            let zlib = after_zlib_header(body).and_then(inflated);
            zlib.or_else(|| inflated(body))
        }
    };
    decoded.map_or(Cow::Borrowed(body), Cow::Owned)
}

/// The encodings in this line of `accept-encoding` that [`decoded`] supports. `None` if it supports all of them.
///
/// With this line no backend uses an encoding in which the code of an error is unreadable. An unencoded answer is
/// always acceptable (RFC 9110, section 12.5.3).
pub fn readable_of(accepted: &str) -> Option<String> {
    let named = || accepted.split(',').map(str::trim);
    if named().all(is_readable) {
        return None;
    }
    let mut readable = named().filter(|named| is_readable(named));
    let mut kept = readable.next().unwrap_or("identity").to_owned();
    readable.for_each(|named| kept.extend([", ", named]));
    Some(kept)
}

/// Whether an element of `accept-encoding` names an encoding that [`decoded`] supports.
#[inline(never)]
fn is_readable(named: &str) -> bool {
    const READABLE: &[&str] = &["gzip", "deflate", "identity", "x-gzip", ""];
    let name = named.split(';').next().unwrap_or_default().trim();
    READABLE
        .iter()
        .any(|readable| name.eq_ignore_ascii_case(readable))
}

fn after_gzip_header(body: &[u8]) -> Option<&[u8]> {
    const CHECKSUM: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    let ([0x1f, 0x8b, 8, flags, ..], mut rest) = body.split_first_chunk::<10>()? else {
        return None;
    };
    if flags & EXTRA != 0 {
        let (length, after) = rest.split_first_chunk::<2>()?;
        rest = after.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let end = rest.iter().position(|byte| *byte == 0)?;
            rest = rest.get(end..)?.get(1..)?;
        }
    }
    match flags & CHECKSUM {
        0 => Some(rest),
        _ => rest.get(2..),
    }
}

fn after_zlib_header(body: &[u8]) -> Option<&[u8]> {
    const DICTIONARY: u8 = 1 << 5;
    let (header, rest) = body.split_first_chunk::<2>()?;
    let [method, flags] = *header;
    let is_zlib = method & 0x0f == 8 && u16::from_be_bytes(*header) % 31 == 0;
    (is_zlib && flags & DICTIONARY == 0).then_some(rest)
}

/// Decodes a complete DEFLATE stream.
fn inflated(stream: &[u8]) -> Option<Vec<u8>> {
    let mut bits = Bits {
        rest: stream,
        held: 0,
        count: 0,
    };
    let mut output = Output(Vec::new());
    loop {
        let is_last = bits.take(1)? == 1;
        match bits.take(2)? {
            0 => bits.copy_stored(&mut output)?,
            1 => {
                let (literals, distances) = fixed_codes()?;
                bits.copy_coded(&literals, &distances, &mut output)?;
            }
            2 => {
                let (literals, distances) = bits.codes()?;
                bits.copy_coded(&literals, &distances, &mut output)?;
            }
            _ => return None,
        }
        if is_last {
            return Some(output.0);
        }
    }
}

/// The output, to which later parts of the stream refer.
struct Output(Vec<u8>);

impl Output {
    fn push(&mut self, byte: u8) -> Option<()> {
        if self.0.len() >= MOST_DECODED {
            return None;
        }
        self.0.push(byte);
        Some(())
    }

    /// Repeats `length` bytes from `distance` bytes back. The source and the result may overlap.
    fn repeat(&mut self, length: usize, distance: usize) -> Option<()> {
        for _ in 0..length {
            let from = self.0.len().checked_sub(distance)?;
            let byte = *self.0.get(from)?;
            self.push(byte)?;
        }
        Some(())
    }
}

/// The bits of a stream, from the lowest of each byte.
struct Bits<'a> {
    rest: &'a [u8],
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// The next `count` bits as a number. At most 16 bits.
    fn take(&mut self, count: u32) -> Option<u32> {
        while self.count < count {
            let (byte, rest) = self.rest.split_first()?;
            self.held |= u32::from(*byte) << self.count;
            self.count += 8;
            self.rest = rest;
        }
        let value = self.held & ((1 << count) - 1);
        self.held >>= count;
        self.count -= count;
        Some(value)
    }

    fn copy_stored(&mut self, output: &mut Output) -> Option<()> {
        // Fewer than eight bits are left, the rest of the byte in which the block's header ended.
        (self.held, self.count) = (0, 0);
        let length = self.take(16)?;
        if length ^ 0xffff != self.take(16)? {
            return None;
        }
        let (bytes, rest) = self.rest.split_at_checked(length as usize)?;
        self.rest = rest;
        bytes.iter().try_for_each(|byte| output.push(*byte))
    }

    #[inline(never)]
    fn copy_coded(&mut self, literals: &Code, distances: &Code, output: &mut Output) -> Option<()> {
        const END: u16 = 256;
        loop {
            let symbol = literals.read(self)?;
            if symbol < END {
                output.push(symbol as u8)?;
                continue;
            }
            if symbol == END {
                return Some(());
            }
            let length = self.extended(&LENGTHS, symbol - END - 1)?;
            let distance = distances.read(self)?;
            let distance = self.extended(&DISTANCES, distance)?;
            output.repeat(length, distance)?;
        }
    }

    /// The number of a symbol, including the extra bits that follow it.
    fn extended(&mut self, table: &[(u16, u8)], symbol: u16) -> Option<usize> {
        let (base, bits) = table.get(usize::from(symbol))?;
        Some(usize::from(*base) + self.take(u32::from(*bits))? as usize)
    }

    /// The two codes at the start of a dynamic block.
    #[inline(never)]
    fn codes(&mut self) -> Option<(Code, Code)> {
        let literals = self.take(5)? as usize + 257;
        let distances = self.take(5)? as usize + 1;
        let mut lengths = [0; 19];
        for place in LENGTH_ORDER.iter().take(self.take(4)? as usize + 4) {
            *lengths.get_mut(usize::from(*place))? = self.take(3)? as u8;
        }
        let lengths = self.lengths(&Code::of(&lengths)?, literals + distances)?;
        let (literals, distances) = lengths.split_at_checked(literals)?;
        Some((Code::of(literals)?, Code::of(distances)?))
    }

    /// Reads `count` code lengths, which are encoded by `code`.
    fn lengths(&mut self, code: &Code, count: usize) -> Option<Vec<u8>> {
        let mut lengths = Vec::with_capacity(count);
        while lengths.len() < count {
            let (length, times) = match code.read(self)? {
                length @ 0..=15 => (length as u8, 1),
                16 => (*lengths.last()?, 3 + self.take(2)?),
                17 => (0, 3 + self.take(3)?),
                _ => (0, 11 + self.take(7)?),
            };
            let all = lengths.len() + times as usize;
            lengths.resize(all, length);
        }
        // The last repetition must not exceed the count.
        (lengths.len() == count).then_some(lengths)
    }
}

/// The longest code in bits.
const LONGEST: usize = 15;

/// A canonical Huffman code.
struct Code {
    /// The number of codes of each length. Length 0 has none.
    counts: [u16; LONGEST + 1],
    /// The symbols in the order of their codes.
    symbols: Vec<u16>,
}

impl Code {
    /// The code in which each symbol has the given length. Symbols of length 0 have no code.
    fn of(lengths: &[u8]) -> Option<Self> {
        let mut counts = [0; LONGEST + 1];
        let mut symbols = Vec::with_capacity(lengths.len());
        // The number of unused codes of the current length.
        let mut left = 1u32;
        for (length, count) in counts.iter_mut().enumerate().skip(1) {
            let of_length = (0u16..).zip(lengths);
            let of_length = of_length.filter(|(_, known)| usize::from(**known) == length);
            symbols.extend(of_length.map(|(symbol, _)| {
                *count += 1;
                symbol
            }));
            left = (left << 1).checked_sub(u32::from(*count))?;
        }
        Some(Self { counts, symbols })
    }

    /// Reads the next symbol.
    fn read(&self, bits: &mut Bits<'_>) -> Option<u16> {
        // The code so far, the first code of its length, and the position of that code's symbol.
        let (mut code, mut first, mut place) = (0, 0, 0);
        for count in self.counts.iter().skip(1) {
            let count = u32::from(*count);
            code |= bits.take(1)?;
            if code < first + count {
                let place = place + code.checked_sub(first)?;
                return self.symbols.get(place as usize).copied();
            }
            place += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        None
    }
}

/// The codes of a fixed block.
#[inline(never)]
fn fixed_codes() -> Option<(Code, Code)> {
    let lengths = [(8, 144), (9, 112), (7, 24), (8, 8)];
    let lengths = lengths
        .into_iter()
        .flat_map(|(length, count)| core::iter::repeat_n(length, count));
    let literals = Code::of(&lengths.collect::<Vec<u8>>())?;
    Some((literals, Code::of(&[5; 30])?))
}

/// The order in which the lengths of code-length codes are sent.
const LENGTH_ORDER: [u8; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];

/// The shortest length of each symbol, and its number of extra bits.
const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// The shortest distance of each symbol, and its number of extra bits.
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use flate2::{Compression, GzBuilder};

    use super::*;

    /// The generator splitmix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) % end as u64) as usize
        }

        /// Text, noise and repetitions in parts of different kinds.
        fn body(&mut self) -> Vec<u8> {
            let mut body = Vec::new();
            for _ in 0..self.below(8) {
                let length = 1 << self.below(13);
                match self.below(4) {
                    0 => body.extend((0..length).map(|_| self.below(256) as u8)),
                    1 => body.extend((0..length).map(|_| b"{}\":, aeinorst"[self.below(14)])),
                    2 => body.extend(std::iter::repeat_n(self.below(256) as u8, length)),
                    _ if body.is_empty() => {}
                    _ => {
                        let start = self.below(body.len());
                        let end = body.len().min(start + length);
                        body.extend_from_within(start..end);
                    }
                }
            }
            body.truncate(MOST_DECODED);
            body
        }
    }

    fn gzip(body: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(body: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(body: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    /// Bytes decoded as an error's body, if that succeeds.
    fn read(body: &[u8]) -> Option<Vec<u8>> {
        match decoded(body) {
            Cow::Owned(decoded) => Some(decoded),
            Cow::Borrowed(_) => None,
        }
    }

    #[test]
    fn encoded_bodies_are_read_back_at_every_level() {
        let mut random = Random(1);
        for _ in 0..20 {
            let body = random.body();
            for level in 0..=9 {
                assert_eq!(read(&gzip(&body, level)).unwrap(), body);
                assert_eq!(read(&zlib(&body, level)).unwrap(), body);
                assert_eq!(inflated(&deflate(&body, level)).unwrap(), body);
            }
        }
    }

    #[test]
    fn errors_are_read_in_every_encoding() {
        let error = br#"{"error":{"code":"DeploymentNotFound","message":"..."}}"#;
        for level in 0..=9 {
            for encoded in [gzip, zlib, deflate] {
                assert_eq!(read(&encoded(error, level)).unwrap(), error);
            }
        }
        for plain in [
            &error[..],
            b" {}",
            b"\r\n{}",
            b"<html>",
            b"xxxx",
            b"",
            &[0x1f, 0x8b],
        ] {
            assert_eq!(decoded(plain), Cow::Borrowed(plain));
        }
    }

    #[test]
    fn every_part_of_a_gzip_header_is_skipped() {
        for parts in 0..8 {
            let mut header = GzBuilder::new();
            if parts & 1 != 0 {
                header = header.extra(*b"an extra field");
            }
            if parts & 2 != 0 {
                header = header.filename("error.json");
            }
            if parts & 4 != 0 {
                header = header.comment("none");
            }
            let mut encoder = header.write(Vec::new(), Compression::default());
            encoder.write_all(b"body").unwrap();
            let mut bytes = encoder.finish().unwrap();
            assert_eq!(read(&bytes).unwrap(), b"body");
            // flate2 writes no header checksum.
            bytes[3] |= 2;
            let end = bytes.len() - deflate(b"body", 6).len() - 8;
            bytes.splice(end..end, [0x12, 0x34]);
            assert_eq!(read(&bytes).unwrap(), b"body");
        }
    }

    #[test]
    fn too_long_bodies_are_not_decoded() {
        let most = vec![b'x'; MOST_DECODED];
        assert_eq!(read(&gzip(&most, 9)).as_ref(), Some(&most));
        for length in [MOST_DECODED + 1, 100 << 20] {
            assert_eq!(read(&gzip(&vec![0; length], 9)), None, "{length}");
        }
        assert_eq!(read(&zlib(&[0; MOST_DECODED + 1], 0)), None, "stored");
    }

    #[test]
    fn incomplete_bodies_are_not_decoded() {
        let body = Random(2).body();
        let whole = deflate(&body, 6);
        for end in 0..whole.len() {
            assert_eq!(inflated(&whole[..end]), None, "{end}");
        }
        let whole = gzip(&body, 6);
        for end in 0..whole.len() - 8 {
            assert_eq!(read(&whole[..end]), None, "{end}");
        }
    }

    #[test]
    fn damaged_bodies_never_panic_and_stay_within_the_bound() {
        let mut random = Random(3);
        for _ in 0..1_000 {
            let level = random.below(10) as u32;
            let mut bytes = deflate(&random.body(), level);
            for _ in 0..=random.below(4) {
                let place = random.below(bytes.len());
                bytes[place] ^= 1 << random.below(8);
            }
            bytes.truncate(1 + random.below(2 * bytes.len()));
            let decoded = inflated(&bytes).unwrap_or_default();
            assert!(decoded.len() <= MOST_DECODED);
        }
        for _ in 0..10_000 {
            let noise: Vec<u8> = (0..random.below(60))
                .map(|_| random.below(256) as u8)
                .collect();
            assert!(decoded(&noise).len() <= MOST_DECODED);
            let gzip = [&[0x1f, 0x8b, 8], &noise[..]].concat();
            assert!(decoded(&gzip).len() <= MOST_DECODED);
        }
    }

    #[test]
    fn unsupported_encodings_are_removed() {
        for (accepted, readable) in [
            ("gzip, deflate", None),
            ("GZIP;q=0.5,identity", None),
            ("", None),
            ("br, gzip, deflate", Some("gzip, deflate")),
            ("gzip, deflate, br, zstd", Some("gzip, deflate")),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", Some("gzip;q=0.8")),
            ("br", Some("identity")),
            ("*", Some("identity")),
            ("zstd, identity;q=0", Some("identity;q=0")),
        ] {
            assert_eq!(readable_of(accepted).as_deref(), readable, "{accepted}");
        }
    }

    #[test]
    fn a_code_with_too_many_codes_is_refused() {
        assert!(Code::of(&[1, 1]).is_some());
        assert!(Code::of(&[1, 1, 1]).is_none());
        assert!(Code::of(&[1, 2, 2, 15]).is_none());
        assert!(Code::of(&[]).is_some(), "distances that are not used");
    }
}
