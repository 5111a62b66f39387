//! The budget of a request: `tests/budget.toml`, which only people change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cost::Quantities;
use crate::module::Function;

/// The file, below the workspace.
const FILE: &str = "tests/budget.toml";

/// The budget.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The module.
    pub module: Size,
    /// The module's memory for lasting objects in bytes, by name.
    pub memory: BTreeMap<String, u64>,
    /// The paths of requests, by name.
    pub paths: BTreeMap<String, Quantities>,
}

/// The limits of the module's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// In bytes.
    pub bytes: u64,
    /// The body of its largest function, in bytes.
    pub largest_function: u64,
}

impl Budget {
    /// Reads the file.
    ///
    /// # Panics
    /// When the file is missing or invalid.
    pub fn read() -> Self {
        let file = workspace().join(FILE);
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
    }

    /// The differences between the cost of `path` and its budget.
    ///
    /// Calls and bytes follow from the source, so they must equal the budget: a fall must be written down, or it could
    /// rise again unnoticed. Instructions and code also depend on the compiler, so they may be lower, but not by much.
    pub fn judge(&self, path: &str, cost: Quantities) -> Vec<String> {
        let section = format!("[paths.{path:?}]");
        let Some(budget) = self.paths.get(path) else {
            return vec![format!("{FILE} has no section {section}")];
        };
        let exact = [
            ("callbacks", cost.callbacks, budget.callbacks),
            ("host_calls", cost.host_calls, budget.host_calls),
            ("bytes_in", cost.bytes_in, budget.bytes_in),
            ("bytes_out", cost.bytes_out, budget.bytes_out),
        ];
        let exact = exact
            .into_iter()
            .filter_map(|(name, is, may)| changed(&section, name, is, may));
        let limits = [
            ("instructions", cost.instructions, budget.instructions),
            ("code", cost.code, budget.code),
        ];
        let limits = limits
            .into_iter()
            .filter_map(|(name, is, may)| left(&section, name, is, may));
        exact.chain(limits).collect()
    }

    /// The difference between the module's size and its budget.
    pub fn judge_size(&self, bytes: u64) -> Option<String> {
        left("[module]", "bytes", bytes, self.module.bytes)
    }

    /// The difference between the memory of this name and its budget.
    pub fn judge_memory(&self, name: &str, bytes: u64) -> Option<String> {
        match self.memory.get(name) {
            Some(may) => left("[memory]", name, bytes, *may),
            None => Some(format!("{FILE} has no {name:?} below [memory]")),
        }
    }

    /// The difference between the largest function and its budget.
    pub fn judge_largest(&self, function: &Function) -> Option<String> {
        let Function { name, bytes } = function;
        let may = self.module.largest_function;
        if *bytes > may {
            return Some(format!(
                "the largest function, {name}, has {bytes} bytes, {} more than {may}. What compiling it takes, Envoy keeps: hold apart by \
                 `#[inline(never)]` what start-up, a tick or a failure alone calls, and have a large generic function's body in one \
                 that is not generic. If it cannot be smaller, write `largest_function = {bytes}` below [module] in {FILE} and say \
                 why in the commit",
                bytes - may
            ));
        }
        left("[module]", "largest_function", *bytes, may)
    }
}

/// The difference between compilers, in percent of a budget.
const ROOM: u64 = 35;

/// Quantities that follow from the source: reports any change.
fn changed(section: &str, name: &str, is: u64, may: u64) -> Option<String> {
    rose(section, name, is, may).or_else(|| fell(section, name, is, may))
}

/// Quantities that also depend on the compiler: reports a rise, or a fall that compilers do not explain.
fn left(section: &str, name: &str, is: u64, may: u64) -> Option<String> {
    rose(section, name, is, may)
        .or_else(|| fell(section, name, is, may - may.saturating_mul(ROOM) / 100))
}

fn fell(section: &str, name: &str, is: u64, least: u64) -> Option<String> {
    (is < least).then(|| {
        format!(
            "{name} fell to {is}, below {least}. Keep the gain: lower `{name}` below {section} in {FILE}"
        )
    })
}

fn rose(section: &str, name: &str, is: u64, may: u64) -> Option<String> {
    let more = is.checked_sub(may).filter(|more| *more > 0)?;
    let percent = more as f64 / may.max(1) as f64 * 100.0;
    Some(format!(
        "{name} rose from {may} to {is}, by {more} ({percent:.1} %). `cargo xtask budget` shows what a request costs, by callback and \
         host call. If it is worth that, write `{name} = {is}` below {section} in {FILE} and say why in the commit"
    ))
}

fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.ancestors().nth(2).unwrap_or(package);
    workspace.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        [module]
        bytes = 1000
        largest_function = 500
        [memory]
        "a stream" = 100
        [paths."one"]
        callbacks = 3
        host_calls = 10
        bytes_in = 100
        bytes_out = 200
        instructions = 5000
        code = 900
    "#;

    fn judged(change: impl FnOnce(&mut Quantities)) -> Vec<String> {
        let budget: Budget = toml::from_str(TEXT).unwrap();
        let mut cost = budget.paths["one"];
        change(&mut cost);
        budget.judge("one", cost)
    }

    #[test]
    fn what_costs_what_it_may_is_fine() {
        assert!(judged(|_| {}).is_empty());
        // Another compiler makes other instructions from the same source.
        assert!(judged(|cost| cost.instructions = 4000).is_empty());
        assert!(judged(|cost| cost.code = 800).is_empty());
    }

    #[test]
    fn a_higher_cost_is_reported_with_the_line_that_allows_it() {
        let messages = judged(|cost| {
            cost.host_calls = 12;
            cost.instructions = 5001;
            cost.code = 901;
        });
        assert_eq!(messages.len(), 3);
        assert!(
            messages[0].starts_with("host_calls rose from 10 to 12, by 2 (20.0 %).")
                && messages[0]
                    .contains("`host_calls = 12` below [paths.\"one\"] in tests/budget.toml"),
            "{messages:?}"
        );
        assert!(messages[1].starts_with("instructions rose from 5000 to 5001, by 1 (0.0 %)."));
        assert!(messages[2].starts_with("code rose from 900 to 901, by 1 (0.1 %)."));
    }

    #[test]
    fn what_fell_is_written_down() {
        let messages = judged(|cost| {
            cost.bytes_in = 99;
            cost.instructions = 3249;
        });
        assert!(
            messages[0].starts_with("bytes_in fell to 99, below 100.")
                && messages[1].starts_with("instructions fell to 3249, below 3250."),
            "{messages:?}"
        );
    }

    #[test]
    fn more_memory_and_memory_without_a_budget_are_reported() {
        let budget: Budget = toml::from_str(TEXT).unwrap();
        let judged = |name, bytes| budget.judge_memory(name, bytes);
        assert_eq!(judged("a stream", 100), None);
        assert!(judged("a stream", 101).unwrap().contains("by 1 "));
        assert!(judged("a stream", 60).unwrap().contains("fell to 60"));
        assert!(judged("a call", 1).unwrap().contains("below [memory]"));
    }

    #[test]
    fn a_path_without_a_budget_and_a_larger_module_are_reported() {
        let budget: Budget = toml::from_str(TEXT).unwrap();
        assert!(budget.judge("two", Quantities::default())[0].contains("no section"));
        assert!(budget.judge_size(1001).unwrap().contains("by 1 "));
        assert_eq!(budget.judge_size(1000), None);
    }

    #[test]
    fn a_larger_function_is_named_with_what_to_do() {
        let budget: Budget = toml::from_str(TEXT).unwrap();
        let judged = |bytes| {
            let name = "core::large".to_owned();
            budget.judge_largest(&Function { name, bytes })
        };
        assert_eq!(judged(500), None);
        assert_eq!(judged(325), None);
        let message = judged(501).unwrap();
        assert!(
            message
                .starts_with("the largest function, core::large, has 501 bytes, 1 more than 500.")
                && message.contains("#[inline(never)]")
                && message.contains("`largest_function = 501` below [module] in tests/budget.toml"),
            "{message}"
        );
        let message = judged(324).unwrap();
        assert!(
            message.starts_with("largest_function fell to 324, below 325."),
            "{message}"
        );
    }
}
