//! Random numbers that follow from a seed, so that a simulation can be repeated.
#![allow(dead_code)] // Not every simulation needs all of it.

use std::ops::Range;
use std::time::Duration;

/// A random number generator: splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn from(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    pub(crate) fn millis(&mut self, end: u64) -> Duration {
        Duration::from_millis(self.below(end))
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds to run: those in `range`, or only the one that the environment variable `AOAI_SEED` names.
pub(crate) fn seeds(range: Range<u64>) -> Range<u64> {
    let one = std::env::var("AOAI_SEED").ok();
    match one.and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => range,
    }
}
