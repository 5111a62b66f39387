//! Shows what a request costs on each path, by callback and host call, and what the budget says of it.

use std::fs;
use std::process::ExitCode;

use meter::budget::Budget;
use meter::{module, paths};

fn main() -> ExitCode {
    let budget = Budget::read();
    let size = fs::metadata(module::path()).map_or(0, |file| file.len());
    println!("[module]\nbytes = {size}\n");
    let mut objections: Vec<_> = budget.judge_size(size).into_iter().collect();
    for (name, cost) in paths::all() {
        let quantities = cost.quantities();
        let said = budget.judge(&name, quantities);
        objections.extend(said.into_iter().map(|said| format!("{name}: {said}")));
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
