//! Runs targets. `fuzz TARGET SECONDS SEED` tries a target for a time, and `fuzz TARGET FILE` tries one input. Built
//! with `--cfg fuzzing`, it is a libFuzzer of the target that `AOAI_FUZZ_TARGET` names. `cargo xtask fuzz` runs either.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use std::sync::LazyLock;

#[cfg(fuzzing)]
static CHECK: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("AOAI_FUZZ_TARGET").unwrap_or_default();
    match fuzz::target(&name) {
        Ok(target) => target.check,
        Err(error) => panic!("AOAI_FUZZ_TARGET: {error}"),
    }
});

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| CHECK(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match command(&arguments) {
        Ok(line) => {
            println!("{line}");
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(fuzzing))]
fn command(arguments: &[&str]) -> Result<String, String> {
    use std::time::{Duration, Instant};
    let usage = || "use `fuzz TARGET SECONDS SEED` or `fuzz TARGET FILE`".to_owned();
    match arguments {
        [name, file] => {
            let target = fuzz::target(name)?;
            let input = std::fs::read(file).map_err(|error| format!("{file}: {error}"))?;
            (target.check)(&input);
            Ok(format!("{name}: holds for {file}"))
        }
        [name, seconds, seed] => {
            let target = fuzz::target(name)?;
            let seconds = seconds.parse().map_err(|_| usage())?;
            let number: u64 = seed.parse().map_err(|_| usage())?;
            let start = Instant::now();
            match fuzz::run::run(&target, number, Duration::from_secs(seconds)) {
                Ok(executions) => {
                    let took = start.elapsed().as_secs();
                    Ok(format!(
                        "{name}: {executions} executions in {took} s, seed {seed}"
                    ))
                }
                Err(broken) => {
                    let folder = std::path::Path::new("target/fuzz-found");
                    let path = fuzz::run::keep(&target, &broken, folder);
                    let path = path.display();
                    Err(format!(
                        "{name}: does not hold for {path}, after {} executions with seed {seed}; repeat with `cargo run -p fuzz {name} {path}`",
                        broken.executions
                    ))
                }
            }
        }
        _ => Err(usage()),
    }
}
