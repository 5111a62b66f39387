//! Runs of a target for a time, with its corpus and random mutations.

use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::mutation::Mutator;
use crate::Target;

/// The longest input that mutations make, in bytes.
pub const LONGEST: usize = 4096;

/// The number of inputs between two reads of the clock.
const ROUND: u64 = 16;

/// An input for which a target's property does not hold.
#[derive(Debug)]
pub struct Broken {
    /// The input.
    pub input: Vec<u8>,
    /// The number of inputs before it for which the property held.
    pub executions: u64,
}

/// Tries the corpus, and then inputs that follow from `seed`, until `time` is over. Returns the number of inputs.
///
/// # Errors
/// The property does not hold for an input; the panic's message has been printed.
pub fn run(target: &Target, seed: u64, time: Duration) -> Result<u64, Broken> {
    let start = Instant::now();
    let corpus = target.corpus();
    let mut executions = 0;
    let mut attempt = |input: &[u8]| {
        let checked = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
        if checked.is_err() {
            let input = input.to_vec();
            return Err(Broken { input, executions });
        }
        executions += 1;
        Ok(())
    };
    corpus.iter().try_for_each(|input| attempt(input))?;
    let mut mutator = Mutator(seed);
    while start.elapsed() < time {
        for _ in 0..ROUND {
            attempt(&mutator.input(&corpus, LONGEST))?;
        }
    }
    Ok(executions)
}

/// Writes the input of `broken` below `folder`, and returns its path.
///
/// # Panics
/// When it cannot be written.
pub fn keep(target: &Target, broken: &Broken, folder: &Path) -> PathBuf {
    let hash = broken
        .input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let path = folder.join(format!("{}-{hash:016x}", target.name));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, &broken.input));
    written.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    path
}
