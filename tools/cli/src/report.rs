//! The result of a check as JSON, for editors and pipelines.

use serde_json::{json, Value};

use crate::check::Checked;
use crate::Problem;

/// The result as one line of JSON: `ok`, and a list each of `problems` and `warnings`. An entry has the `line` and `column`,
/// both from 1, the `path` of the field (empty for the whole file) and a `message`.
pub fn report(checked: &Result<Checked, Vec<Problem>>) -> String {
    let (problems, warnings): (&[Problem], &[Problem]) = match checked {
        Ok(checked) => (&[], &checked.warnings),
        Err(problems) => (problems, &[]),
    };
    let report = json!({
        "ok": checked.is_ok(),
        "problems": entries(problems),
        "warnings": entries(warnings),
    });
    format!("{report}\n")
}

fn entries(problems: &[Problem]) -> Vec<Value> {
    let entry = |problem: &Problem| {
        let at = problem.position();
        let message = problem.text();
        json!({
            "line": at.line,
            "column": at.column,
            "path": problem.path(),
            "message": message.strip_prefix("warning: ").unwrap_or(message),
        })
    };
    problems.iter().map(entry).collect()
}
