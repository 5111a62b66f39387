//! How well the fleet is balanced: requests, backends and workers in a small world of their own, under a virtual clock.
//!
//! The code that ships chooses the backends and learns from the answers. What it serves is compared with what a balancer serves
//! that knows every quota and the health of every backend at that moment. Everything follows from a seed, which is printed;
//! `AOAI_SEED` runs one alone.
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
    pub(crate) mod driver;
    pub(crate) mod families;
    pub(crate) mod map;
    mod named;
    pub(crate) mod simulation;
    pub(crate) mod world;
}

use fleet::families::FAMILIES;
use fleet::simulation::{run, Counts};
use random::{seeds, Random};

const SEEDS: u64 = 8;

#[test]
fn families() {
    let only = std::env::var("FAMILY").unwrap_or_default();
    for family in FAMILIES.into_iter().filter(|f| f.name.contains(&only)) {
        let mut why = std::collections::BTreeMap::<String, u64>::new();
        let mut all = Counts::default();
        let started = std::time::Instant::now();
        for seed in seeds(0..SEEDS) {
            let scenario = (family.make)(&mut Random(seed));
            let (counts, records) = run(seed, &scenario);
            for r in records.iter().filter(|r| r.could && !r.served) {
                *why.entry(format!("{:?} refused {}", r.no_retry, r.refused))
                    .or_insert(0) += 1;
            }
            if std::env::var_os("SHOW").is_some() {
                println!(
                "  seed {seed}: {} backends {} workers: {:.1} % of {} ({} asked), {} refused, {:.1} per cooldown, {} cooldowns, {} trials",
                scenario.backends, scenario.workers, counts.share(), counts.could, counts.asked, counts.refused, counts.throttled_per_cooldown(), counts.cooldowns, counts.trials
            );
            }
            all.add(&counts);
        }
        println!(
            "{}: {} requests, {} served, {} omniscient: {:.1} %; {:.1} 429 per cooldown; {} refused; {:.2} attempts; {:?}",
            family.name, all.requests, all.served, all.could, all.share(), all.throttled_per_cooldown(), all.refused,
            all.attempts as f64 / all.requests as f64, started.elapsed()
        );
        println!("     {why:?}");
        if std::env::var_os("HOLD").is_some() {
            assert!(all.share() >= family.least, "{}", family.name);
        }
    }
}
