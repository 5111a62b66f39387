//! `cargo xtask fuzz`: runs the targets of `tests/fuzz` for a limited time.
//!
//! With a C++ compiler, libFuzzer makes inputs that coverage guides. The stable compiler can instrument the code for that. The code has
//! no `unsafe`, so no sanitizer, and no nightly toolchain, is needed. Without a C++ compiler the corpus is mutated at random.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use anyhow::{anyhow, bail, Context, Result};
use provision::{paths, process};

/// The compiler flags that cargo-fuzz also sets. The code counts its executions and reports its comparisons to libFuzzer.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs one target, or each target, for a number of seconds.
pub fn command(target: Option<&str>, seconds: u64, seed: Option<u32>) -> Result<()> {
    let all = targets()?;
    let targets = match target {
        None => all,
        Some(name) if all.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(name) => bail!("{name}: not a target; use one of {}", all.join(", ")),
    };
    let now = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos();
    // To libFuzzer, the seed 0 means that there is no seed.
    let seed = seed.unwrap_or(now as u32).max(1);
    let guided = has_cpp_compiler();
    let program = process::step("build the fuzzer", || build(guided))?;
    let mut broken = Vec::new();
    for name in &targets {
        let result = match guided {
            true => run_guided(&program, name, seconds, seed),
            false => process::run(
                Command::new(&program)
                    .args([name, &seconds.to_string(), &seed.to_string()])
                    .current_dir(paths::workspace()),
            ),
        };
        if let Err(error) = result {
            eprintln!("error: {error:#}");
            broken.push(name.as_str());
        }
    }
    match broken[..] {
        [] => Ok(()),
        _ => bail!("targets that failed: {}", broken.join(", ")),
    }
}

/// The names of the targets. Each target has a folder in the corpus.
fn targets() -> Result<Vec<String>> {
    let folder = corpus();
    let names = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names = names
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn corpus() -> PathBuf {
    paths::workspace().join("tests/fuzz/corpus")
}

/// Reports whether libFuzzer can be built.
fn has_cpp_compiler() -> bool {
    let mut command = Command::new("c++");
    let command = command.arg("--version").stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Builds the fuzzer and returns its path.
fn build(guided: bool) -> Result<PathBuf> {
    let mut command = process::cargo();
    command.current_dir(paths::workspace());
    command.args([
        "build",
        "--package",
        "fuzz",
        "--bin",
        "fuzz",
        "--profile",
        "fuzz",
    ]);
    let folder = match guided {
        true => {
            let host = process::output(process::rustc().args(["--print", "host-tuple"]))?;
            let host = host.trim();
            let folder = paths::target().join("fuzz-guided");
            // With `--target`, cargo does not apply RUSTFLAGS to build scripts.
            command
                .args(["--target", host])
                .arg("--target-dir")
                .arg(&folder);
            command.env("RUSTFLAGS", FLAGS);
            folder.join(host)
        }
        false => paths::target(),
    };
    process::run(&mut command)?;
    Ok(folder.join("fuzz/fuzz"))
}

fn run_guided(program: &Path, name: &str, seconds: u64, seed: u32) -> Result<()> {
    // libFuzzer keeps the inputs that reach new code here, for later runs.
    let kept = paths::target().join("fuzz-kept").join(name);
    let found = paths::target().join("fuzz-found").join(name);
    fs::create_dir_all(&kept)?;
    fs::create_dir_all(&found)?;
    let mut command = Command::new(program);
    command
        .arg(&kept)
        .arg(corpus().join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-seed={seed}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-print_final_stats=1", "-timeout=10"])
        .env("AOAI_FUZZ_TARGET", name);
    let start = Instant::now();
    let output = command
        .output()
        .map_err(|error| process::not_started(&command, &error))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let executions = statistic(&text, "stat::number_of_executed_units:").unwrap_or("?");
    if output.status.success() {
        let covered = last(&text, " cov: ").unwrap_or("?");
        let took = start.elapsed().as_secs();
        println!(
            "{name}: {executions} executions in {took} s, seed {seed}, {covered} places covered"
        );
        return Ok(());
    }
    // Lines that begin with `#` are libFuzzer's progress.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        eprintln!("{line}");
    }
    let input = statistic(&text, "Test unit written to");
    let input = input.ok_or_else(|| anyhow!("{name}: libFuzzer ended with {}", output.status))?;
    bail!(
        "{name}: fails for {input}, after {executions} executions with seed {seed}; repeat with `cargo run -p fuzz {name} {input}`"
    )
}

/// The word after `label` in libFuzzer's output.
fn statistic<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(label)?;
    rest.split_whitespace().next()
}

/// The word after the last `label` in libFuzzer's output.
fn last<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let (_, rest) = text.rsplit_once(label)?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_lists_the_targets() {
        let error = command(Some("json"), 1, None).unwrap_err().to_string();
        assert!(
            error.starts_with("json: not a target; use one of configuration, events, "),
            "{error}"
        );
    }

    #[test]
    fn the_numbers_of_libfuzzer_are_found() {
        let text = "#8 INITED cov: 12 ft: 13\n#9 DONE cov: 15 ft: 20\nstat::number_of_executed_units: 4711\n\
                    artifact_prefix='found/'; Test unit written to found/crash-1\nBase64: AA==\n";
        assert_eq!(last(text, " cov: "), Some("15"));
        assert_eq!(
            statistic(text, "stat::number_of_executed_units:"),
            Some("4711")
        );
        assert_eq!(
            statistic(text, "Test unit written to"),
            Some("found/crash-1")
        );
        assert_eq!(statistic(text, "absent"), None);
    }
}
