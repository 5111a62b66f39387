//! Counts tests from what `cargo test` prints.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// The number of tests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and passed.
    pub passed: u64,
    /// Ran and failed; a test program that ended without a result counts as one.
    pub failed: u64,
    /// Marked `#[ignore]`.
    pub ignored: u64,
    /// Could not run here, for a reason that is printed.
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
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} passed, {} failed, {} ignored, {} skipped",
            self.passed, self.failed, self.ignored, self.skipped
        )
    }
}

/// How a check ended that cargo does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The check passed.
    Passed,
    /// The check failed, or an earlier check failed and this one did not run.
    Failed,
    /// The check could not run here, for this reason.
    Skipped(&'static str),
}

/// The tests of all runs of `cargo test`. A run is named by its version of Envoy.
#[derive(Debug, Default)]
pub struct Tally {
    run: String,
    /// The test program whose output is being read.
    program: String,
    /// Whether that program has printed no result yet.
    is_running: bool,
    counts: BTreeMap<String, Counts>,
    failed: Vec<String>,
    ignored: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Begins a run of `cargo test`. Lines that are read from now on belong to it.
    pub fn begin(&mut self, run: &str) {
        self.end_program();
        self.program.clear();
        self.run = run.to_owned();
    }

    /// Reads one line of stdout or stderr. Lines must come in the order in which they were printed.
    pub fn read(&mut self, line: &str) {
        let line = without_colors(line);
        if let Some(name) = announced(&line) {
            self.end_program();
            self.program = name;
            self.is_running = true;
        } else if let Some(counts) = result(&line) {
            self.is_running = false;
            self.add(counts);
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            let name = format!("Envoy {}: {}: {name}", self.run, self.program);
            if outcome.starts_with("FAILED") {
                self.failed.push(name);
            } else if outcome.starts_with("ignored") {
                self.ignored.push(name);
            }
        }
    }

    /// Ends the last run. A test program without a result has failed.
    pub fn finish(&mut self) {
        self.end_program();
    }

    fn end_program(&mut self) {
        if std::mem::take(&mut self.is_running) {
            self.failed.push(format!(
                "Envoy {}: {} ended without a result",
                self.run, self.program
            ));
            self.add(Counts {
                failed: 1,
                ..Counts::default()
            });
        }
    }

    fn add(&mut self, counts: Counts) {
        *self.counts.entry(self.run.clone()).or_default() += counts;
    }

    /// Adds checks that cargo does not run.
    pub fn record(&mut self, name: &str, ends: &[(&str, End)]) {
        for (check, end) in ends {
            let mut counts = Counts::default();
            match end {
                End::Passed => counts.passed = 1,
                End::Failed => {
                    counts.failed = 1;
                    self.failed.push(format!("{name}: {check}"));
                }
                End::Skipped(reason) => {
                    counts.skipped = 1;
                    self.skipped.push(format!("{name}: {check}: {reason}"));
                }
            }
            self.add(counts);
        }
    }

    /// The sum of all runs.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.counts.values().for_each(|counts| total += *counts);
        total
    }

    /// The counts of one run.
    pub fn total_of(&self, run: &str) -> Counts {
        self.counts.get(run).copied().unwrap_or_default()
    }

    /// The tests that failed, each with its run and program.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// The tests that were not run, each with its run and program.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// The checks that could not run, each with the reason.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }
}

impl fmt::Display for Tally {
    /// A line per run.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (run, counts) in &self.counts {
            writeln!(formatter, "Envoy {run}: {counts}")?;
        }
        Ok(())
    }
}

/// The name in `Running unittests src/lib.rs (target/debug/deps/name-0123)`, `Running tests/name.rs (...)` or
/// `Doc-tests name`.
fn announced(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(name) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{} (documentation)", name.trim()));
    }
    let (source, file) = line
        .strip_prefix("Running ")?
        .trim_end()
        .strip_suffix(')')?
        .rsplit_once(" (")?;
    let file = file.rsplit('/').next()?;
    let name = file.rsplit_once('-').map_or(file, |(name, _hash)| name);
    let source = source.trim_start_matches("unittests ");
    Some(format!("{name} ({source})"))
}

/// The counts in `test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
fn result(line: &str) -> Option<Counts> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        counts
            .split("; ")
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
        skipped: 0,
    })
}

/// The line without terminal colours: `ESC [ ... m`.
fn without_colors(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, sequence)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = sequence.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> Tally {
        let mut tally = Tally::default();
        tally.begin("1.40.0");
        text.lines().for_each(|line| tally.read(line));
        tally
    }

    const RUN: &str = "   Compiling one v0.1.0
    Finished `test` profile [unoptimized + debuginfo] target(s) in 0.50s
     Running unittests src/lib.rs (target/debug/deps/one-0123abcd)

running 3 tests
test a::passes ... ok
test a::fails ... FAILED
test a::later ... ignored, needs a thing

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s

     Running tests/two-parts.rs (target/debug/deps/two_parts-99)
test result: ok. 20 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s
   Doc-tests one
test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
all doctests ran in 0.31s; merged doctests compilation took 0.30s
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn counts_are_added_up() {
        let tally = tally(RUN);
        assert_eq!(
            tally.total(),
            Counts {
                passed: 24,
                failed: 1,
                ignored: 1,
                skipped: 0
            }
        );
        assert_eq!(
            tally.total().to_string(),
            "24 passed, 1 failed, 1 ignored, 0 skipped"
        );
        assert_eq!(tally.failed(), ["Envoy 1.40.0: one (src/lib.rs): a::fails"]);
        assert_eq!(
            tally.ignored(),
            ["Envoy 1.40.0: one (src/lib.rs): a::later"]
        );
    }

    #[test]
    fn runs_are_counted_apart_and_together() {
        let mut tally = tally(RUN);
        tally.begin("1.36.4");
        let again = "     Running tests/two-parts.rs (target/debug/deps/two_parts-99)
test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 15 filtered out; finished in 1.00s
     Running tests/nothing.rs (target/debug/deps/nothing-99)
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s
";
        again.lines().for_each(|line| tally.read(line));
        assert_eq!(tally.total_of("1.40.0").passed, 24);
        assert_eq!(tally.total_of("1.36.4").passed, 5);
        assert_eq!(tally.total().passed, 29);
        let line = "Envoy 1.36.4: 5 passed, 0 failed, 0 ignored, 0 skipped";
        assert_eq!(tally.to_string().lines().next(), Some(line));
    }

    #[test]
    fn a_binary_without_a_result_has_failed() {
        let mut tally =
            tally("     Running tests/crash.rs (target/debug/deps/crash-1)\nrunning 2 tests\n");
        tally.finish();
        assert_eq!(
            tally.total(),
            Counts {
                passed: 0,
                failed: 1,
                ignored: 0,
                skipped: 0
            }
        );
        assert_eq!(
            tally.failed(),
            ["Envoy 1.40.0: crash (tests/crash.rs) ended without a result"]
        );
    }

    #[test]
    fn checks_of_another_kind_count_as_well() {
        let mut tally = tally(RUN);
        let ends = [
            ("one", End::Passed),
            ("two", End::Failed),
            ("three", End::Skipped("no engine")),
        ];
        tally.record("containers", &ends);
        assert_eq!(
            tally.total().to_string(),
            "25 passed, 2 failed, 1 ignored, 1 skipped"
        );
        assert_eq!(tally.failed().last().unwrap(), "containers: two");
        assert_eq!(tally.skipped(), ["containers: three: no engine"]);
        assert_eq!(tally.total_of("1.40.0"), tally.total());
    }

    #[test]
    fn colours_do_not_matter() {
        let tally = tally(
            "\u{1b}[1m\u{1b}[92m     Running\u{1b}[0m unittests src/main.rs (target/debug/deps/x-1)\n\
             test result: \u{1b}[32mok\u{1b}[0m. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s\n",
        );
        assert_eq!(
            tally.total(),
            Counts {
                passed: 2,
                failed: 0,
                ignored: 0,
                skipped: 0
            }
        );
    }

    #[test]
    fn other_lines_count_nothing() {
        let tally = tally("test result: ok\nRunning late\ntest x ... ok\nerror: test failed, to rerun pass `--lib`\n");
        assert_eq!(tally.total(), Counts::default());
    }
}
