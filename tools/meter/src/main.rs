//! Prints the cost of a request on each path, by callback and host call, and compares it with the budget.

use std::fs;
use std::process::ExitCode;

use meter::budget::Budget;
use meter::{module, paths};

fn main() -> ExitCode {
    let budget = Budget::read();
    let size = fs::metadata(module::path()).map_or(0, |file| file.len());
    let largest = module::largest_function();
    println!("[module]\nbytes = {size}");
    println!("largest_function = {} # {}\n", largest.bytes, largest.name);
    let mut objections: Vec<_> = budget.judge_size(size).into_iter().collect();
    objections.extend(budget.judge_largest(&largest));
    println!("[memory]");
    for (name, bytes) in paths::memory() {
        objections.extend(budget.judge_memory(&name, bytes));
        println!("{name:?} = {bytes}");
    }
    println!();
    for (name, cost) in paths::all() {
        let quantities = cost.quantities();
        let messages = budget.judge(&name, quantities);
        objections.extend(
            messages
                .into_iter()
                .map(|message| format!("{name}: {message}")),
        );
        println!("[paths.{name:?}]\n{quantities}\n{cost}");
    }
    for objection in &objections {
        println!("{objection}");
    }
    match objections.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
