//! Counts tests from what `cargo test` prints.

use std::fmt;

/// The results of one test binary, or of one crate's documentation tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Binary {
    run: String,
    name: String,
    counts: Counts,
    filtered: u64,
    finished: bool,
}

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and passed.
    pub passed: u64,
    /// Ran and failed; a test binary that ended without a result counts as one.
    pub failed: u64,
    /// Marked `#[ignore]`.
    pub ignored: u64,
    /// Could not be made here, and say why.
    pub skipped: u64,
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

/// How a check ended that is not of cargo's making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What it claims holds.
    Passed,
    /// It does not, or the check was not reached because of one that failed before it.
    Failed,
    /// It could not be made here, for this reason.
    Skipped(&'static str),
}

/// Everything one run of `cargo test` printed, as far as it matters.
#[derive(Debug, Default)]
pub struct Tally {
    run: String,
    binaries: Vec<Binary>,
    failed: Vec<String>,
    ignored: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// What is read from now on belongs to this run of `cargo test`: the version of Envoy it was made with.
    pub fn begin(&mut self, run: &str) {
        self.run = run.to_owned();
    }

    /// Takes in one line, of stdout or stderr, in the order they came.
    pub fn read(&mut self, line: &str) {
        let line = without_colors(line);
        if let Some(name) = announced(&line) {
            self.binaries.push(Binary {
                run: self.run.clone(),
                name,
                ..Binary::default()
            });
        } else if let Some((counts, filtered)) = result(&line) {
            self.add(counts, filtered);
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            let binary = self
                .binaries
                .last()
                .map_or("", |binary| binary.name.as_str());
            let name = format!("Envoy {}: {binary}: {name}", self.run);
            if outcome.starts_with("FAILED") {
                self.failed.push(name);
            } else if outcome.starts_with("ignored") {
                self.ignored.push(name);
            }
        }
    }

    /// The sum over all binaries of all runs.
    pub fn total(&self) -> Counts {
        self.sum(|_| true)
    }

    /// The sum over all binaries of one run.
    pub fn total_of(&self, run: &str) -> Counts {
        self.sum(|binary| binary.run == run)
    }

    fn sum(&self, belongs: impl Fn(&Binary) -> bool) -> Counts {
        let binaries = self.binaries.iter().filter(|binary| belongs(binary));
        binaries.fold(Counts::default(), |sum, binary| {
            let counts = binary.counts();
            Counts {
                passed: sum.passed + counts.passed,
                failed: sum.failed + counts.failed,
                ignored: sum.ignored + counts.ignored,
                skipped: sum.skipped + counts.skipped,
            }
        })
    }

    /// The tests that failed, each with its binary.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// The tests that were not run, each with its binary.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Takes in checks that are not of cargo's making, with the reason where one could not be made.
    pub fn record(&mut self, name: &str, ends: &[(&str, End)]) {
        let mut binary = Binary {
            run: self.run.clone(),
            name: name.to_owned(),
            finished: true,
            ..Binary::default()
        };
        for (check, end) in ends {
            match end {
                End::Passed => binary.counts.passed += 1,
                End::Failed => {
                    binary.counts.failed += 1;
                    self.failed.push(format!("{name}: {check}"));
                }
                End::Skipped(reason) => {
                    binary.counts.skipped += 1;
                    self.skipped.push(format!("{name}: {check}: {reason}"));
                }
            }
        }
        self.binaries.push(binary);
    }

    /// The checks that could not be made, with the reason.
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    fn add(&mut self, counts: Counts, filtered: u64) {
        if self.binaries.is_empty() {
            self.binaries.push(Binary {
                run: self.run.clone(),
                name: "(unnamed)".to_owned(),
                ..Binary::default()
            });
        }
        // One crate's documentation tests may come as several results.
        if let Some(binary) = self.binaries.last_mut() {
            binary.counts.passed += counts.passed;
            binary.counts.failed += counts.failed;
            binary.counts.ignored += counts.ignored;
            binary.filtered += filtered;
            binary.finished = true;
        }
    }
}

impl Binary {
    fn counts(&self) -> Counts {
        let lost = u64::from(!self.finished);
        Counts {
            failed: self.counts.failed + lost,
            ..self.counts
        }
    }
}

impl fmt::Display for Tally {
    /// A table with a line per binary and run. Binaries that had nothing to run are left out.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = || {
            self.binaries
                .iter()
                .filter(|binary| binary.counts() != Counts::default())
        };
        let width = rows()
            .map(|binary| binary.name.len())
            .max()
            .unwrap_or(0)
            .max("tests".len());
        writeln!(
            formatter,
            "{:7}  {:width$}  {:>7}  {:>7}  {:>7}  {:>7}",
            "Envoy", "tests", "passed", "failed", "ignored", "skipped"
        )?;
        for binary in rows() {
            let Counts {
                passed,
                failed,
                ignored,
                skipped,
            } = binary.counts();
            write!(
                formatter,
                "{:7}  {:width$}  {passed:>7}  {failed:>7}  {ignored:>7}  {skipped:>7}",
                binary.run, binary.name
            )?;
            if binary.filtered > 0 {
                write!(formatter, "  ({} filtered out)", binary.filtered)?;
            }
            if !binary.finished {
                write!(formatter, "  (ended without a result)")?;
            }
            writeln!(formatter)?;
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
fn result(line: &str) -> Option<(Counts, u64)> {
    let (_verdict, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        counts
            .split("; ")
            .find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    let counts = Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
        skipped: 0,
    };
    Some((counts, count("filtered out").unwrap_or(0)))
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
    fn the_table_has_a_line_per_binary() {
        let table = tally(RUN).to_string();
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert_eq!(
            lines[1].split_whitespace().collect::<Vec<_>>(),
            [
                "1.40.0",
                "one",
                "(src/lib.rs)",
                "1",
                "1",
                "1",
                "0",
                "(4",
                "filtered",
                "out)"
            ]
        );
        assert!(
            lines[2].starts_with("1.40.0   two_parts (tests/two-parts.rs) "),
            "{table}"
        );
        assert!(
            lines[3].starts_with("1.40.0   one (documentation) ") && lines[3].contains('3'),
            "{table}"
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
        let table = tally.to_string();
        assert_eq!(table.lines().count(), 5, "{table}");
        let last = table.lines().last().unwrap();
        assert!(
            last.starts_with("1.36.4   two_parts ") && last.ends_with("(15 filtered out)"),
            "{table}"
        );
    }

    #[test]
    fn a_binary_without_a_result_has_failed() {
        let tally =
            tally("     Running tests/crash.rs (target/debug/deps/crash-1)\nrunning 2 tests\n");
        assert_eq!(
            tally.total(),
            Counts {
                passed: 0,
                failed: 1,
                ignored: 0,
                skipped: 0
            }
        );
        assert!(tally.to_string().contains("ended without a result"));
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
