//! The floor: modules that replace the balancer's module, make the host calls of a plain chat request, and compute nothing. Their cost is
//! Envoy's price for these calls. No module that makes these calls can cost less.
//!
//! `floor/*.wat` lists the calls. A change of the balancer's calls needs the same change there.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::backend::{token, BACKENDS};
use crate::config::{cluster, CLUSTER_HEADER};

/// The files of the modules.
pub struct Floor {
    /// The module with the filter engine's host calls.
    pub filter: PathBuf,
    /// The module with the router engine's host calls in the listener's filter.
    pub router: PathBuf,
    /// The module with the router engine's host calls in the clusters' filters.
    pub upstream: PathBuf,
}

impl Floor {
    /// Assembles the modules and writes them into `folder`.
    pub fn write(folder: &Path) -> Result<Self> {
        let write = |name: &str, calls: &str| {
            let file = folder.join(format!("floor_{name}.wasm"));
            let module = assemble(calls).with_context(|| format!("floor/{name}.wat"))?;
            fs::write(&file, module)
                .with_context(|| format!("{}: cannot be written", file.display()))?;
            anyhow::Ok(file)
        };
        Ok(Self {
            filter: write("filter", include_str!("floor/filter.wat"))?,
            router: write("router", include_str!("floor/router.wat"))?,
            upstream: write("upstream", include_str!("floor/upstream.wat"))?,
        })
    }
}

/// Assembles a module from its own calls, the common part and the constants.
fn assemble(calls: &str) -> Result<Vec<u8>> {
    let common = include_str!("floor/common.wat");
    let constants = constants();
    // WebAssembly's text format requires imports first, and the common part has them.
    let text = format!("(module\n{common}\n{constants}\n{calls}\n)");
    Ok(wat::parse_str(text)?)
}

/// The constant arguments, which are as long as the balancer's. Each has two globals: its address `$NAME` and its size `$NAME.size`.
fn constants() -> String {
    let mut constants = Constants::default();
    constants.add("turns", b"aoai.turn.0123456789abcdef");
    constants.add("first_turn", &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    constants.add("authorization", b"authorization");
    constants.add("token", format!("Bearer {}", token()).as_bytes());
    constants.add("cluster_header", CLUSTER_HEADER.as_bytes());
    constants.add("api_key", b"api-key");
    constants.add("next", b"aoai_next");
    constants.add("input_tokens", b"aoai_input_tokens");
    constants.add("output_tokens", b"aoai_output_tokens");
    constants.add("tokens", b"1234");
    constants.add("backend_header", b"x-aoai-backend");
    constants.add("backend", b"swedencentral");
    constants.add("attempts_header", b"x-aoai-attempts");
    constants.add("attempts", b"1");
    let clusters: Vec<_> = (0..BACKENDS).map(cluster).collect();
    let next = |cluster: &String| format!("{cluster} 0000002a");
    let nexts: Vec<_> = clusters.iter().map(next).collect();
    constants.add("foreseen", nexts[0].as_bytes());
    constants.add_table("clusters", &clusters);
    constants.add_table("nexts", &nexts);
    constants.text
}

/// Constants in a module's first page of memory, after the first bytes, which hold the results of host calls.
struct Constants {
    text: String,
    end: usize,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            text: String::new(),
            end: 64,
        }
    }
}

impl Constants {
    /// Adds a constant and returns its address.
    fn add(&mut self, name: &str, bytes: &[u8]) -> usize {
        let (at, size) = (self.end, bytes.len());
        let escaped: String = bytes.iter().fold(String::new(), |mut escaped, byte| {
            // Writing to a string does not fail.
            let _ = write!(escaped, "\\{byte:02x}");
            escaped
        });
        let _ = writeln!(
            self.text,
            "(global ${name} i32 (i32.const {at})) (global ${name}.size i32 (i32.const {size})) (data (i32.const {at}) \"{escaped}\")"
        );
        self.end = (at + size).next_multiple_of(8);
        at
    }

    /// Adds texts, and a table of their addresses and sizes.
    fn add_table(&mut self, name: &str, texts: &[String]) {
        let entries = texts.iter().enumerate().map(|(index, text)| {
            let at = self.add(&format!("{name}_{index}"), text.as_bytes());
            [at, text.len()]
        });
        let table: Vec<_> = entries
            .flatten()
            .flat_map(|number| (number as u32).to_le_bytes())
            .collect();
        self.add(name, &table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of host calls that a module makes for a request with its body in one piece.
    fn host_calls(calls: &str) -> usize {
        let turns = calls.matches("(call $draw_turn ").count();
        calls.matches("(call $do (call $").count() + turns
    }

    /// The exact number of the balancer's host calls, from its budget.
    fn budget(path: &str) -> usize {
        let budget = include_str!("../../../tests/budget.toml");
        let section = budget
            .split("[paths.\"")
            .find(|part| part.starts_with(path));
        let calls = section.unwrap().split("host_calls = ").nth(1).unwrap();
        calls.lines().next().unwrap().parse().unwrap()
    }

    #[test]
    fn the_floor_makes_as_many_calls_as_the_balancer() {
        let filter = host_calls(include_str!("floor/filter.wat"));
        let router = host_calls(include_str!("floor/router.wat"))
            + host_calls(include_str!("floor/upstream.wat"));
        assert_eq!(filter, budget("filter engine: served at once"));
        assert_eq!(router, budget("router engine: served at once"));
    }

    #[test]
    fn constants_do_not_overlap() {
        let mut constants = Constants::default();
        assert_eq!(constants.add("a", b"123456789"), 64);
        assert_eq!(constants.add("b", b""), 80);
        assert_eq!(constants.add("c", b"\"\\"), 80);
        assert!(constants.text.contains(
            "(global $c i32 (i32.const 80)) (global $c.size i32 (i32.const 2)) (data (i32.const 80) \"\\22\\5c\")"
        ));
    }

    #[test]
    fn all_constants_are_in_the_first_page() {
        let text = constants();
        let table = text.lines().last().unwrap();
        let at = table.split("i32.const ").nth(1).unwrap();
        let at: usize = at.split(')').next().unwrap().parse().unwrap();
        assert!(at + 8 * BACKENDS <= 65_536, "{table}");
    }
}
