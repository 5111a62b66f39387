//! Recognizes disturbances by other programs.
//!
//! A core of a virtual machine often shares a physical core with a neighbour. While the neighbour computes, the same work takes up to twice
//! as long. Such a disturbance lasts some tenths of a second, or minutes.

use std::cell::Cell;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{clock_gettime, ClockId};
use serde::{Deserialize, Serialize};

use crate::cores::Cores;

/// The number of additions that show the speed of a core: about a millisecond.
const ADDITIONS: u64 = 3_000_000;

/// A core that needs longer than this, compared with its best time, is disturbed.
const DISTURBED: f64 = 1.25;

/// The pause between two looks at the speed.
const PAUSE: Duration = Duration::from_millis(20);

/// The most measurements of a slice, until one is undisturbed.
const TRIES: usize = 3;

/// Slices that are longer are measured once, because hardly a quiet moment lasts as long.
const LONGEST_REPEATED: Duration = Duration::from_secs(1);

/// The number of slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slices {
    /// All slices, if they waited for quiet moments.
    pub all: usize,
    /// Those that other programs disturbed at their start or at their end.
    pub disturbed: usize,
}

/// Measures in quiet moments.
pub struct Quiet<'c> {
    cores: &'c Cores,
    longest_wait: Duration,
    /// The best time of the proxy's core.
    best: Cell<Duration>,
    slices: Cell<Slices>,
}

impl<'c> Quiet<'c> {
    /// Waits this long for quiet moments. Without a wait, nothing looks at the speed, and no slice is counted.
    pub fn new(cores: &'c Cores, longest_wait: Duration) -> Self {
        let this = Self {
            cores,
            longest_wait,
            best: Cell::new(Duration::MAX),
            slices: Cell::default(),
        };
        // A quiet moment shows the best time.
        let start = Instant::now();
        while start.elapsed() < longest_wait {
            this.is_disturbed();
            thread::sleep(PAUSE);
        }
        this
    }

    /// Measures a slice of this length in a quiet moment. If the moment ended meanwhile, measures again.
    ///
    /// # Errors
    /// Those of `measure`.
    pub fn measure<T, E>(
        &self,
        length: Duration,
        mut measure: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        if self.longest_wait.is_zero() {
            return measure();
        }
        let mut left = match length <= LONGEST_REPEATED {
            true => TRIES,
            false => 1,
        };
        loop {
            left -= 1;
            let was_disturbed = self.wait();
            let measured = measure()?;
            let is_disturbed = was_disturbed || self.is_disturbed();
            if !is_disturbed || left == 0 {
                let Slices { all, disturbed } = self.slices.get();
                self.slices.set(Slices {
                    all: all + 1,
                    disturbed: disturbed + usize::from(is_disturbed),
                });
                return Ok(measured);
            }
        }
    }

    /// The slices so far.
    pub fn slices(&self) -> Slices {
        self.slices.get()
    }

    /// Waits for a quiet moment. Returns whether none came.
    fn wait(&self) -> bool {
        let start = Instant::now();
        while self.is_disturbed() {
            if start.elapsed() > self.longest_wait {
                return true;
            }
            thread::sleep(PAUSE);
        }
        false
    }

    fn is_disturbed(&self) -> bool {
        let took = self.cores.on_proxy_core(time_of_additions);
        let best = self.best.get();
        self.best.set(best.min(took));
        took.as_secs_f64() > best.as_secs_f64() * DISTURBED
    }
}

/// The processor time that the additions take the calling thread.
fn time_of_additions() -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default();
    let before = now();
    let mut sum = 0_u64;
    for more in 0..ADDITIONS {
        sum = black_box(sum.wrapping_add(more));
    }
    now().saturating_sub(before)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn count(quiet: &Quiet<'_>, length: Duration) -> usize {
        let mut count = 0;
        let counted = quiet.measure(length, || {
            count += 1;
            Ok::<_, Infallible>(count)
        });
        counted.unwrap()
    }

    #[test]
    fn a_disturbed_slice_is_measured_again() {
        let cores = Cores::find().unwrap();
        let quiet = Quiet::new(&cores, PAUSE);
        // No core is as fast.
        quiet.best.set(Duration::from_nanos(1));
        assert_eq!(count(&quiet, LONGEST_REPEATED), TRIES);
        assert_eq!(count(&quiet, 2 * LONGEST_REPEATED), 1);
        let expected = Slices {
            all: 2,
            disturbed: 2,
        };
        assert_eq!(quiet.slices(), expected);
        // No core is as slow.
        quiet.best.set(Duration::MAX);
        assert_eq!(count(&quiet, LONGEST_REPEATED), 1);
        assert_eq!(quiet.slices().disturbed, 2);
    }

    #[test]
    fn a_quick_run_neither_waits_nor_counts() {
        let cores = Cores::find().unwrap();
        let quiet = Quiet::new(&cores, Duration::ZERO);
        assert_eq!(count(&quiet, LONGEST_REPEATED), 1);
        assert_eq!(quiet.slices(), Slices::default());
    }
}
