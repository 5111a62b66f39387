//! The start of an event stream: the decision does not depend on the chunks.

use azure_openai_balancer::core::stream_start::{Start, StreamStart, STREAM_START};

use super::{choice, same_for_all_cuts};

pub(crate) fn check(input: &[u8]) {
    let start = same_for_all_cuts(input, decided);
    let whole = StreamStart::of_whole(input);
    assert_eq!(whole.start(), start);
    assert_eq!(whole.failure().is_some(), matches!(start, Start::Failed(_)));

    // The limit is within some of the inputs only, because long streams take long.
    let choice = choice(input);
    if choice.is_multiple_of(16) {
        let room = (choice >> 32) as usize % (input.len() + 2);
        let mut long = vec![b':'; STREAM_START.saturating_sub(room)];
        long.extend_from_slice(b"\n\n");
        long.extend_from_slice(input);
        let of_chunks = |size| decided(&long.chunks(size).collect::<Vec<_>>());
        let start = of_chunks(long.len());
        assert_eq!(start, of_chunks(1021), "in chunks of 1021 bytes");
        let seen = StreamStart::of_whole(&long).failure();
        assert_eq!(seen.is_some(), matches!(start, Start::Failed(_)), "whole");
    }
}

fn decided(chunks: &[&[u8]]) -> Start {
    let mut reading = StreamStart::default();
    for (number, chunk) in chunks.iter().enumerate() {
        let before = reading.start();
        let start = reading.push(chunk, number + 1 == chunks.len());
        assert!(
            before == Start::Undecided || before == start,
            "decided twice"
        );
    }
    reading.start()
}
