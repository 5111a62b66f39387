//! `cargo xtask soak`: a long run of requests through a real Envoy, under random faults. The test itself is `tests/e2e/tests/soak.rs`.

use anyhow::{ensure, Result};
use provision::{envoy, paths, pins, process};

use crate::demo::Engine;
use crate::wasm;

/// The default number of requests for each engine.
const REQUESTS: u64 = 1_000_000;

/// The limits, the seed and the engine of a soak run.
#[derive(clap::Args)]
pub struct Arguments {
    /// The number of requests for each engine; a million unless --minutes limits the time
    #[arg(long)]
    requests: Option<u64>,
    /// The maximum time for each engine
    #[arg(long)]
    minutes: Option<u64>,
    /// The random seed, to repeat a run
    #[arg(long)]
    seed: Option<u64>,
    /// Only one engine
    #[arg(long, value_enum)]
    engine: Option<Engine>,
}

impl Arguments {
    /// The environment variables that the test reads.
    fn variables(&self) -> Vec<(&'static str, String)> {
        let requests = self.requests.or(match self.minutes {
            Some(_) => None,
            None => Some(REQUESTS),
        });
        let seconds = self.minutes.map(|minutes| minutes.saturating_mul(60));
        let variables = [
            ("AOAI_SOAK_REQUESTS", requests),
            ("AOAI_SOAK_SECONDS", seconds),
            ("AOAI_SOAK_SEED", self.seed),
        ];
        let set = variables.into_iter();
        set.filter_map(|(name, value)| Some((name, value?.to_string())))
            .collect()
    }

    /// The test filter: a part of the names of the tests to run.
    fn filter(&self) -> &'static str {
        match self.engine {
            Some(Engine::Filter) => "soak::filter_engine",
            Some(Engine::Router) => "soak::router_engine",
            None => "soak::",
        }
    }
}

/// Runs the soak test with the newest Envoy, one engine after the other.
pub fn command(arguments: &Arguments) -> Result<()> {
    ensure!(
        arguments.requests != Some(0) && arguments.minutes != Some(0),
        "--requests and --minutes: 0 is not allowed; use 1 or more"
    );
    let module = wasm::build()?;
    let newest = envoy::known(pins::DEFAULT_ENVOY)?;
    let mut command = process::cargo();
    command.args([
        "test",
        "--locked",
        "--package",
        "e2e",
        "--test",
        "end_to_end",
    ]);
    command.args([arguments.filter(), "--", "--nocapture", "--test-threads=1"]);
    command
        .current_dir(paths::workspace())
        .env("AOAI_WASM", module)
        .env(envoy::variable(newest.version), envoy::pinned(newest)?)
        .envs(arguments.variables());
    process::run(&mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(requests: Option<u64>, minutes: Option<u64>) -> Arguments {
        Arguments {
            requests,
            minutes,
            seed: None,
            engine: None,
        }
    }

    #[test]
    fn a_million_requests_unless_the_time_is_limited() {
        let limits = |requests, minutes| {
            let variables = arguments(requests, minutes).variables();
            let lines = variables
                .iter()
                .map(|(name, value)| format!("{name}={value}"));
            lines.collect::<Vec<_>>().join(" ")
        };
        let (million, ten_minutes) = ("AOAI_SOAK_REQUESTS=1000000", "AOAI_SOAK_SECONDS=600");
        assert_eq!(limits(None, None), million);
        assert_eq!(limits(None, Some(10)), ten_minutes);
        assert_eq!(
            limits(Some(1_000_000), Some(10)),
            format!("{million} {ten_minutes}")
        );
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        let error = command(&arguments(Some(0), None)).unwrap_err().to_string();
        assert!(
            error.ends_with("0 is not allowed; use 1 or more"),
            "{error}"
        );
    }
}
