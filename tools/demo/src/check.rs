//! Checks: the claim, the expected value and the actual value.

use std::cell::Cell;
use std::error::Error;
use std::fmt::{self, Display};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::processes::Processes;
use crate::screen::Screen;

/// The longest time beyond the expected one until a claim must hold.
const PATIENCE: Duration = Duration::from_secs(10);

/// A claim that does not hold.
#[derive(Debug)]
pub struct Mismatch {
    claim: String,
    expected: String,
    actual: String,
}

impl Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            claim,
            expected,
            actual,
        } = self;
        write!(
            formatter,
            "this does not hold: {claim}\n  expected  {expected}\n  actual    {actual}"
        )
    }
}

impl Error for Mismatch {}

/// Checks claims, and writes and counts those that hold.
#[derive(Debug)]
pub struct Checks {
    screen: Screen,
    processes: Processes,
    passed: Cell<u32>,
}

impl Checks {
    /// No checks yet.
    pub fn new(screen: Screen, processes: Processes) -> Self {
        Self {
            screen,
            processes,
            passed: Cell::new(0),
        }
    }

    /// The number of claims that held.
    pub fn passed(&self) -> u32 {
        self.passed.get()
    }

    /// Claims that a value equals the expected one.
    ///
    /// # Errors
    /// When it is not.
    pub fn equal<T: PartialEq + Display>(&self, claim: &str, expected: T, actual: T) -> Result<()> {
        self.holds(claim, expected == actual, expected, actual)
    }

    /// Claims a fact that the caller has found out.
    ///
    /// # Errors
    /// When it does not hold.
    pub fn holds(
        &self,
        claim: &str,
        holds: bool,
        expected: impl Display,
        actual: impl Display,
    ) -> Result<()> {
        if !holds {
            return Err(Mismatch {
                claim: claim.to_owned(),
                expected: expected.to_string(),
                actual: actual.to_string(),
            }
            .into());
        }
        self.passed.set(self.passed.get() + 1);
        self.screen.passed(claim);
        Ok(())
    }

    /// Repeats a check until it has nothing to complain of, and then claims it.
    ///
    /// # Errors
    /// When the complaint stays. The error has the actual value beside the `expected` one.
    pub fn eventually(
        &self,
        claim: &str,
        expected: &str,
        mut complaint: impl FnMut() -> Result<Option<String>>,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let actual = complaint()?;
            let overdue = Instant::now() >= deadline;
            match actual {
                None => return self.holds(claim, true, expected, ""),
                Some(actual) if overdue => return self.holds(claim, false, expected, actual),
                Some(_) => self.processes.pause(Duration::from_millis(100))?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Checks {
        Checks::new(Screen::new(), Processes::default())
    }

    #[test]
    fn a_failed_check_has_the_expected_and_the_real_value() {
        let checks = checks();
        checks.equal("one is one", 1, 1).unwrap();
        let error = checks.equal("one is two", 2, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "this does not hold: one is two\n  expected  2\n  actual    1"
        );
        assert_eq!(checks.passed(), 1);
    }

    #[test]
    fn what_takes_a_moment_is_waited_for() {
        let mut looks = 0;
        checks()
            .eventually("it comes", "3", || {
                looks += 1;
                Ok((looks < 3).then(|| looks.to_string()))
            })
            .unwrap();
        assert_eq!(looks, 3);
    }
}
