//! Counts tests by reading the printed output of Rust's test runner. Its JSON output is unstable, and cargo-nextest is a program that
//! one would have to install.

use std::fmt;
use std::ops::AddAssign;

/// The number of tests per result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that are marked `#[ignore]`.
    pub ignored: u64,
    /// Tests that cannot run on this machine, for a reason that is printed.
    pub skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
            skipped,
        } = self;
        write!(
            f,
            "{passed} passed, {failed} failed, {ignored} ignored, {skipped} skipped"
        )
    }
}

/// The tests of one run of `cargo test`, or of a program with the same output format.
#[derive(Debug, Default)]
pub struct Tally {
    /// The counts of all tests.
    pub counts: Counts,
    /// The printed lines of tests that did not pass: `name ... FAILED`.
    pub others: Vec<String>,
}

impl Tally {
    /// Reads a line of output, which may contain colour codes.
    pub fn read(&mut self, line: &str) {
        let line = without_colors(line);
        if let Some(counts) = result(&line) {
            self.counts += counts;
        } else if let Some(test) = line.strip_prefix("test ") {
            let end = test.rsplit_once(" ... ").map_or("", |(_, end)| end);
            if ["FAILED", "ignored", "skipped"]
                .iter()
                .any(|other| end.starts_with(other))
            {
                self.others.push(test.to_owned());
            }
        }
    }
}

/// The counts in `test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
fn result(line: &str) -> Option<Counts> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        let mut parts = counts.split("; ");
        parts.find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
        // Only the output of `tools/compose-test` has this count.
        skipped: count("skipped").unwrap_or(0),
    })
}

/// The line without terminal colours: `ESC [ ... m`.
fn without_colors(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| {
        plain + part.split_once('m').map_or("", |(_, after)| after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up_and_other_lines_are_not() {
        let mut tally = Tally::default();
        let text = "     Running unittests src/lib.rs (target/debug/deps/one-0123abcd)
test a::passes ... ok
test a::fails ... FAILED
test a::later ... ignored, needs a thing
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s
test result: \u{1b}[32mok\u{1b}[0m. 20 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
all doctests ran in 0.31s; merged doctests compilation took 0.30s
test compose::grafana ... skipped: no image
test result: ok. 3 passed; 0 failed; 0 ignored; 1 skipped
test result: ok
error: test failed, to rerun pass `--lib`";
        text.lines().for_each(|line| tally.read(line));
        let shown = "24 passed, 1 failed, 1 ignored, 1 skipped";
        assert_eq!(tally.counts.to_string(), shown);
        let others = [
            "a::fails ... FAILED",
            "a::later ... ignored, needs a thing",
            "compose::grafana ... skipped: no image",
        ];
        assert_eq!(tally.others, others);
    }
}
