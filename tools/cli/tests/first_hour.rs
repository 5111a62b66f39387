//! The transcript of the first hour in `docs/envoy.md`: the tool's part. `tests/e2e/tests/first_hour.rs` replays the
//! rest.
//!
//! `UPDATE_GOLDEN=1 cargo test -p cli` writes the tool's part of the transcript. Look at the diff.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The transcript's lines: before the block, in the block, after it.
fn transcript() -> (PathBuf, [String; 3]) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/envoy.md");
    let text = fs::read_to_string(&page).expect("docs/envoy.md");
    let (before, rest) = text.split_once("```console\n").expect("a transcript");
    let (block, after) = rest.split_once("```\n").expect("its end");
    (page, [before, block, after].map(str::to_owned))
}

/// `text` with all keys replaced by a fixed one. Keys are random.
fn with_known_keys(text: &str) -> String {
    const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let is_key =
        |word: &str| word.len() == KEY.len() && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = text.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
    words
        .map(|word| {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            match is_key(bare) {
                true => word.replace(bare, KEY),
                false => word.to_owned(),
            }
        })
        .collect()
}

/// A folder with the module, and stand-ins for programs with these names.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let programs = folder.path().join("programs");
    fs::create_dir(&programs).expect("a folder");
    fs::write(folder.path().join("azure_openai_balancer.wasm"), "").expect("write");
    // `tests/e2e/tests/rendered.rs` tests a real Envoy with such files.
    let envoy = programs.join("envoy");
    fs::write(&envoy, "#!/bin/sh\n").expect("write");
    fs::set_permissions(&envoy, fs::Permissions::from_mode(0o755)).expect("executable");
    std::os::unix::fs::symlink(
        env!("CARGO_BIN_EXE_azure-openai-balancer"),
        programs.join("azure-openai-balancer"),
    )
    .expect("a link");
    folder
}

/// The output of `command` in a shell. Not every machine has the file of certificate authorities.
fn run(command: &str, folder: &Path) -> String {
    let path = env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .env(
            "PATH",
            format!("{}:{path}", folder.join("programs").display()),
        )
        .current_dir(folder)
        .output()
        .expect("a shell");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines = text
        .lines()
        .map(|line| match line.contains("ca-certificates.crt") {
            true => "  /etc/ssl/certs/ca-certificates.crt  there    `tls.trusted_ca`\n".to_owned(),
            false => format!("{line}\n"),
        });
    with_known_keys(&lines.collect::<String>())
}

#[test]
fn the_first_hour_runs_as_in_the_page() {
    let (page, [before, block, after]) = transcript();
    let folder = folder();
    let mut played = String::new();
    let mut commands = 0;
    for step in block
        .split_inclusive('\n')
        .fold(Vec::new(), |mut steps: Vec<String>, line| {
            match (line.starts_with("$ "), steps.last_mut()) {
                (false, Some(last)) => last.push_str(line),
                _ => steps.push(line.to_owned()),
            }
            steps
        })
    {
        let (command, output) = step.split_once('\n').expect("a line");
        let command = command.strip_prefix("$ ").expect("a command");
        if command.starts_with("cat ") {
            fs::write(folder.path().join("backends.yaml"), output).expect("write");
        }
        if !command.starts_with("azure-openai-balancer ") {
            played.push_str(&step);
            continue;
        }
        commands += 1;
        played.push_str(&format!("$ {command}\n{}", run(command, folder.path())));
    }
    assert!(commands >= 4, "{block}");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&page, format!("{before}```console\n{played}```\n{after}")).expect("write");
        return;
    }
    assert_eq!(block, played, "run `UPDATE_GOLDEN=1 cargo test -p cli`");
}
