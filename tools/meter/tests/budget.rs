//! The module keeps its budget.

use std::fs;

use meter::budget::Budget;
use meter::{module, paths};

/// One test for all paths: see [`paths::all`].
#[test]
fn every_path_keeps_its_budget() {
    let budget = Budget::read();
    let costs = paths::all();
    let objections = costs.iter().flat_map(|(name, cost)| {
        let messages = budget.judge(name, cost.quantities()).into_iter();
        messages.map(move |message| format!("{name}: {message}"))
    });
    let objections: Vec<_> = objections.collect();
    assert!(objections.is_empty(), "{}", objections.join("\n"));
    // A budget without a path would be useless.
    let known: Vec<_> = budget.paths.keys().collect();
    let mut measured: Vec<_> = costs.iter().map(|(name, _)| name).collect();
    measured.sort_unstable();
    assert_eq!(known, measured);
}

#[test]
fn open_streams_stay_within_their_memory() {
    let budget = Budget::read();
    let measured = paths::memory();
    let objections = measured.iter();
    let objections = objections.filter_map(|(name, bytes)| budget.judge_memory(name, *bytes));
    let objections: Vec<_> = objections.collect();
    assert!(objections.is_empty(), "{}", objections.join("\n"));
    assert_eq!(measured.len(), budget.memory.len());
}

#[test]
fn the_module_keeps_its_size() {
    let size = fs::metadata(module::path()).unwrap().len();
    let objection = Budget::read().judge_size(size);
    assert_eq!(objection, None);
}

#[test]
fn no_function_is_larger_than_allowed() {
    let objection = Budget::read().judge_largest(&module::largest_function());
    assert_eq!(objection, None);
}
