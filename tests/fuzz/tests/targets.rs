//! Every target holds for its corpus, and for a second of random mutations. `cargo xtask fuzz` runs targets longer.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuzz::run::run;
use fuzz::{target, TARGETS};

const TIME: Duration = Duration::from_secs(1);

fn holds(name: &str) {
    let target = target(name).unwrap();
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let seed = now.as_nanos() as u64;
    match run(&target, seed, TIME) {
        Ok(executions) => println!("{name}: {executions} executions, seed {seed}"),
        Err(broken) => {
            let path = fuzz::run::keep(&target, &broken, Path::new(env!("CARGO_TARGET_TMPDIR")));
            panic!(
                "seed {seed}; repeat with `cargo run -p fuzz {name} {}`",
                path.display()
            );
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*
    };
}

targets! {
    configuration
    events
    inflate
    machine
    multipart
    path
    records
    retry_after
    scan
    stream_start
    stripper
    tagger
    usage
}

#[test]
fn every_target_is_tested_and_has_a_small_corpus() {
    assert_eq!(TARGETS.map(|target| target.name), TESTED);
    for target in TARGETS {
        let corpus = target.corpus();
        assert!(
            (5..=15).contains(&corpus.len()),
            "{}: {}",
            target.name,
            corpus.len()
        );
        assert!(
            corpus.iter().all(|input| input.len() <= 2048),
            "{}",
            target.name
        );
    }
    let folders = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")).unwrap();
    assert_eq!(folders.count(), TARGETS.len());
}

#[test]
fn a_wrong_name_lists_the_targets() {
    let error = target("json").err().unwrap();
    assert!(
        error.starts_with("\"json\" is not a target; use one of configuration, events,"),
        "{error}"
    );
}

#[test]
fn the_corpus_has_configurations_that_are_accepted() {
    use azure_openai_balancer::core::config::Plugin;
    let folder = target("configuration").unwrap().corpus_folder();
    for name in [
        "full.json",
        "full.pb",
        "identities.json",
        "keys.json",
        "small.json",
        "small.pb",
    ] {
        let bytes = fs::read(folder.join(name)).unwrap();
        let read = Plugin::from_bytes(&bytes, &|name| {
            (!name.starts_with("AZURE_")).then(|| "value".to_owned())
        });
        assert!(matches!(read, Ok(Plugin::Balancer(_))), "{name}: {read:?}");
    }
}
