//! `check --json`: the result for programs.

use std::fs;
use std::process::Command;

use serde_json::{json, Value};

/// The exit status and the report for this list of backends.
fn report(list: &str) -> (Option<i32>, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backends.yaml");
    fs::write(&file, list).expect("write");
    let output = Command::new(env!("CARGO_BIN_EXE_azure-openai-balancer"))
        .args(["check", "--json"])
        .arg(&file)
        .output()
        .expect("the tool runs");
    assert!(output.stderr.is_empty(), "{output:?}");
    let report = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.status.code(), report)
}

#[test]
fn problems_have_a_place_a_path_and_a_message() {
    let (status, report) = report("backends:\n- {host: a, weight: 0}\n");
    assert_eq!(status, Some(1));
    let problem = json!({
        "line": 2, "column": 21, "path": "backends[0].weight",
        "message": "0 is not allowed; use a whole number from 1 to 100",
    });
    assert_eq!(
        report,
        json!({"ok": false, "problems": [problem], "warnings": []})
    );
}

#[test]
fn warnings_are_a_separate_list() {
    let (status, report) = report("backends: [{host: a}]\nadmin: {port: 10000}\n");
    assert_eq!(status, Some(0));
    let warning = json!({
        "line": 2, "column": 15, "path": "admin.port",
        "message": "10000 is the listener's port too; use a port of its own",
    });
    assert_eq!(
        report,
        json!({"ok": true, "problems": [], "warnings": [warning]})
    );
}
