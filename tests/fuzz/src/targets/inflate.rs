//! The decoder of errors' bodies, against `flate2`.

use std::borrow::Cow;
use std::io::{Read, Write};

use azure_openai_balancer::core::inflate::{decoded, readable_of, MOST_DECODED};
use flate2::read::{DeflateDecoder, GzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use flate2::Compression;

use super::choice;

const GZIP: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
const ZLIB: &[u8] = &[0x78, 0x9c];

pub(crate) fn check(input: &[u8]) {
    assert!(decoded(input).len() <= MOST_DECODED.max(input.len()));
    check_whole(input);
    check_framed(input);
    check_encoded(input);
    if let Ok(line) = std::str::from_utf8(input) {
        let readable = readable_of(line);
        let again = readable.as_deref().and_then(readable_of);
        assert_eq!(again, None, "{readable:?}");
    }
}

/// A body that flate2 decodes unchanged.
fn check_whole(input: &[u8]) {
    let expected = match input {
        [0x1f, 0x8b, ..] => all(GzDecoder::new(input)),
        [b'{' | b' ' | b'\t' | b'\r' | b'\n', ..] => Some(input.to_vec()),
        _ => all(ZlibDecoder::new(input)),
    };
    agrees(input, expected.as_ref());
}

/// The input as a DEFLATE stream in gzip, whose checksum is not checked, and in zlib.
fn check_framed(input: &[u8]) {
    let expected = all(DeflateDecoder::new(input));
    for frame in [GZIP, ZLIB] {
        let body = [frame, input].concat();
        agrees(&body, expected.as_ref());
    }
}

/// The decoded bytes are those of flate2, if flate2 decodes the body. If a stream repeats bytes from before its output,
/// flate2 takes zeros for them. Here that is an error.
fn agrees(body: &[u8], expected: Option<&Vec<u8>>) {
    if let (Some(expected), Cow::Owned(decoded)) = (expected, decoded(body)) {
        assert_eq!(&decoded, expected);
    }
}

/// Bodies that flate2 encodes are decoded.
fn check_encoded(input: &[u8]) {
    let level = Compression::new((choice(input) % 10) as u32);
    let mut gzip = GzEncoder::new(Vec::new(), level);
    let mut zlib = ZlibEncoder::new(Vec::new(), level);
    let mut raw = DeflateEncoder::new(Vec::new(), level);
    let written = [&mut gzip as &mut dyn Write, &mut zlib, &mut raw].map(|to| to.write_all(input));
    assert!(written.iter().all(Result::is_ok));
    let bodies = [gzip.finish(), zlib.finish(), raw.finish()];
    for body in bodies.into_iter().flatten() {
        // A stream without a frame may look like anything.
        let is_framed = body.starts_with(&GZIP[..2]) || all(ZlibDecoder::new(&body[..])).is_some();
        if is_framed {
            assert_eq!(decoded(&body), Cow::Borrowed(input));
        }
    }
}

/// All bytes of a decoder; `None` after an error, or if there are more than the core decodes.
fn all(decoder: impl Read) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = MOST_DECODED as u64 + 1;
    decoder.take(most).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= MOST_DECODED).then_some(bytes)
}
