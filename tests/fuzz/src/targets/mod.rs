//! The targets, and their common parts.

pub(crate) mod configuration;
pub(crate) mod events;
pub(crate) mod inflate;
mod json;
pub(crate) mod machine;
pub(crate) mod multipart;
pub(crate) mod path;
pub(crate) mod records;
pub(crate) mod retry_after;
pub(crate) mod scan;
pub(crate) mod stream_start;
pub(crate) mod stripper;
pub(crate) mod tagger;
pub(crate) mod usage;

/// A number that follows from the input. It makes the choices that are not part of the input, so that inputs stay like
/// the bytes of clients and backends.
fn choice(input: &[u8]) -> u64 {
    input.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The input in one chunk, in chunks of one byte, and in chunks whose ends its [`choice`] decides.
fn cuts(input: &[u8]) -> [Vec<&[u8]>; 3] {
    let mut state = choice(input);
    let mut chosen = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // Most chunks are short, and some are empty.
        let most = if state >> 63 == 0 { 8 } else { rest.len() };
        let (chunk, after) = rest.split_at((state >> 33) as usize % (most + 1) % (rest.len() + 1));
        chosen.push(chunk);
        rest = after;
    }
    [vec![input], input.chunks(1).collect(), chosen]
}

/// The result of `read`, which must not depend on the chunks.
fn same_for_all_cuts<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    read: impl Fn(&[&[u8]]) -> T,
) -> T {
    let [whole, bytes, chosen] = cuts(input).map(|chunks| (read(&chunks), chunks.len()));
    assert_eq!(whole.0, bytes.0, "whole, and in single bytes");
    assert_eq!(whole.0, chosen.0, "whole, and in {} chunks", chosen.1);
    whole.0
}
