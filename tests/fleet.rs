//! A simulation of the balancer: requests, backends and workers under a virtual clock.
//!
//! The code that ships chooses the backends and learns from the answers. An omniscient balancer serves the same
//! requests, and knows every quota and the health of every backend at each moment. The tests compare the two.
//! Everything follows from a seed, which is printed. `AOAI_SEED` runs one seed alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod random;
mod fleet {
    pub(crate) mod account;
    mod affinity;
    mod cases;
    pub(crate) mod driver;
    pub(crate) mod families;
    pub(crate) mod map;
    pub(crate) mod results;
    pub(crate) mod simulation;
    pub(crate) mod world;
}

use std::collections::BTreeMap;

use fleet::families::FAMILIES;
use fleet::results::{self, Row};
use fleet::simulation::{run, Counts, Record};
use random::{seeds, Random};

/// The number of seeds of each family: a million requests in all.
const SEEDS: u64 = 9;

/// Runs all families. `FAMILY` runs only those whose names contain it, and `SHOW` prints each seed's results.
#[test]
fn families() {
    let only = std::env::var("FAMILY").unwrap_or_default();
    let mut rows = Vec::new();
    let mut requests = 0;
    for family in FAMILIES.into_iter().filter(|f| f.name.contains(&only)) {
        let mut all = Counts::default();
        for seed in seeds(0..SEEDS) {
            let scenario = (family.make)(&mut Random(seed));
            let report = run(seed, &scenario);
            if std::env::var_os("SHOW").is_some() {
                println!(
                    "  {} {}",
                    describe(seed, &report.counts),
                    lost(&report.records)
                );
            }
            all.add(&report.counts);
        }
        println!("{}: {}", family.name, describe(seeds(0..SEEDS), &all));
        assert!(
            all.share() >= family.least,
            "{}: {:.2} % < {} %",
            family.name,
            all.share(),
            family.least
        );
        requests += all.requests;
        rows.push(Row::of(family.name, &all));
    }
    println!("{requests} requests");
    if rows.len() == FAMILIES.len() && seeds(0..SEEDS) == (0..SEEDS) {
        assert!(requests >= 1_000_000);
        results::check(&rows);
    }
}

fn describe(seeds: impl std::fmt::Debug, counts: &Counts) -> String {
    format!(
        "seeds {seeds:?}: {} requests, {:.2} % of {} served, {:.1} 429 per cooldown, {} refused, {:.2} attempts",
        counts.requests,
        counts.share(),
        counts.could,
        counts.throttled_per_cooldown(),
        counts.refused,
        counts.attempts as f64 / counts.requests as f64
    )
}

/// The reasons why requests were lost that the omniscient balancer serves.
fn lost(records: &[Record]) -> String {
    let mut why = BTreeMap::<String, u64>::new();
    for record in records.iter().filter(|r| r.could && !r.served) {
        let reason = match (record.refused, record.no_retry) {
            (true, _) => "refused".to_owned(),
            (false, reason) => format!("{reason:?}"),
        };
        *why.entry(reason).or_default() += 1;
    }
    format!("{why:?}")
}
