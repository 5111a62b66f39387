//! `keys --add` adds a client to a file of keys.

use std::fs;
use std::process::{Command, Output};

fn tool(arguments: &[&str], folder: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_azure-openai-balancer"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the tool runs")
}

#[test]
fn an_added_key_is_printed_once_and_put_into_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.yaml");
    let made = tool(&["keys", "app-1"], folder.path());
    fs::write(&file, made.stdout).expect("write");
    let added = tool(
        &["keys", "app-2", "app-3", "--add", "clients.yaml"],
        folder.path(),
    );
    assert!(added.status.success(), "{added:?}");
    let printed = String::from_utf8(added.stdout).expect("UTF-8");
    let text = fs::read_to_string(&file).expect("a file");
    assert_eq!(printed.lines().count(), 2, "{printed}");
    for line in printed.lines() {
        let (client, key) = line.split_once(' ').expect("a name and a key");
        let entry = format!("    - client: \"{client}\"\n      key: \"{key}\"\n");
        assert!(text.contains(&entry), "{text}");
    }
    let files = fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(files, 1, "nothing but the file is left");
}

#[test]
fn a_refused_addition_leaves_the_file_unchanged() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("clients.yaml");
    fs::write(&file, tool(&["keys", "app-1"], folder.path()).stdout).expect("write");
    let before = fs::read_to_string(&file).expect("a file");
    let refused = tool(
        &["keys", "app-2", "app-1", "--add", "clients.yaml"],
        folder.path(),
    );
    assert_eq!(refused.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        printed.contains("clients.yaml: \"app-1\" has a key already"),
        "{printed}"
    );
    assert_eq!(fs::read_to_string(&file).expect("a file"), before);
}
