//! The floors: modules that replace the balancer's module, make the host calls of a plain chat request in one of the balancer's
//! configurations, and compute nothing. Their cost is Envoy's price for these calls. No module that makes these calls can cost less.
//!
//! `floor/*.wat` lists the calls. A change of the balancer's calls needs the same change there. A test compares the calls in a real Envoy.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::backend::{token, BACKENDS};
use crate::config::{cluster, CLUSTER_HEADER};
use crate::variant::{Settings, Variant};

/// The files of the modules.
pub struct Floor<'a> {
    folder: &'a Path,
}

impl<'a> Floor<'a> {
    /// Assembles the modules of all floors and writes them into `folder`.
    pub fn write(folder: &'a Path) -> Result<Self> {
        let floor = Self { folder };
        let write = |file: &Path, variant, calls| {
            let module = assemble(variant, calls).with_context(|| format!("{}", file.display()))?;
            fs::write(file, module)
                .with_context(|| format!("{}: cannot be written", file.display()))
        };
        let (listener, upstream) = (
            include_str!("floor/listener.wat"),
            include_str!("floor/upstream.wat"),
        );
        for variant in Variant::ALL.into_iter().filter(|it| it.is_floor()) {
            write(&floor.listener(variant), variant, listener)?;
            if variant.is_router() {
                write(&floor.upstream(variant), variant, upstream)?;
            }
        }
        Ok(floor)
    }

    /// The module with the host calls in the listener's filter.
    pub fn listener(&self, variant: Variant) -> PathBuf {
        self.folder.join(format!("{}.wasm", variant.key()))
    }

    /// The module with the router engine's host calls in the clusters' filters.
    pub fn upstream(&self, variant: Variant) -> PathBuf {
        self.folder.join(format!("{}_upstream.wasm", variant.key()))
    }
}

/// Assembles a module of `variant` from its own calls, the common part, the constants and the flags.
fn assemble(variant: Variant, calls: &str) -> Result<Vec<u8>> {
    let common = include_str!("floor/common.wat");
    let (constants, flags) = (constants(variant), flags(variant));
    // WebAssembly's text format requires imports first, and the common part has them.
    let text = format!("(module\n{common}\n{constants}\n{flags}\n{calls}\n)");
    Ok(wat::parse_str(text)?)
}

/// Globals that select the host calls of `variant`.
fn flags(variant: Variant) -> String {
    let settings = variant.settings();
    let flags = [
        ("is_router", variant.is_router()),
        ("reads_answers", settings != Settings::Lean),
        ("everything", settings == Settings::Everything),
    ];
    let globals = flags.map(|(name, is_set)| {
        let value = i32::from(is_set);
        format!("(global ${name} i32 (i32.const {value}))")
    });
    globals.join(" ")
}

/// The constant arguments, which are as long as the balancer's, and the shared values. Each has two globals: its address `$NAME` and its
/// size `$NAME.size`.
fn constants(variant: Variant) -> String {
    let mut constants = Constants::default();
    for (name, text) in [
        ("turns_key", "aoai.turn.0123456789abcdef"),
        ("account_key", "aoai.limits.123"),
        ("authorization", "authorization"),
        ("token", &format!("Bearer {}", token())),
        ("cluster_header", CLUSTER_HEADER),
        ("api_key", "api-key"),
        ("client_header", "x-client"),
        ("client_property", "aoai_client"),
        ("client", "team-a"),
        ("next", "aoai_next"),
        ("status", ":status"),
        ("input_tokens", "aoai_input_tokens"),
        ("output_tokens", "aoai_output_tokens"),
        ("tokens", "123"),
        ("backend_header", "x-aoai-backend"),
        ("backend", "eastus"),
        ("attempts_header", "x-aoai-attempts"),
        ("attempts", "1"),
        ("why_header", "x-aoai-why"),
        ("why", "eastus turn success"),
    ] {
        constants.add(name, text.as_bytes());
    }
    // The turns, and the account of one client.
    for (name, size) in [("turns", 17), ("account", 89)] {
        constants.add(name, &vec![0; size]);
        // The number of the value's next change, which $change stores.
        constants.add(&format!("{name}_number"), &[0; 4]);
    }
    let clusters: Vec<_> = (0..BACKENDS).map(cluster).collect();
    let next = |cluster: &String| format!("{cluster} 0000002a");
    let nexts: Vec<_> = clusters.iter().map(next).collect();
    constants.add("foreseen", nexts[0].as_bytes());
    let choices = match variant.is_router() {
        true => nexts,
        false => clusters,
    };
    constants.add_table("choices", &choices);
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
        let text = constants(Variant::FloorRouterEverything);
        let table = text.lines().last().unwrap();
        let at = table.split("i32.const ").nth(1).unwrap();
        let at: usize = at.split(')').next().unwrap().parse().unwrap();
        assert!(at + 8 * BACKENDS <= 65_536, "{table}");
    }
}
