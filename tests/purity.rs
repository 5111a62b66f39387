//! The core knows no host: what would give it a clock, an environment or Envoy is not even named there.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

const FOREIGN: [&str; 8] = [
    "proxy_wasm",
    "crate::filter",
    "std::env",
    "std::fs",
    "std::net",
    "std::thread",
    "SystemTime",
    "Instant",
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn the_core_names_no_host() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core"));
    assert!(sources.len() > 10, "{sources:?}");
    for path in sources {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let named = FOREIGN.iter().find(|name| code.contains(*name));
            assert_eq!(named, None, "{}:{}", path.display(), number + 1);
        }
    }
}
