//! Finds the revision that `--version` shows: `AOAI_REVISION`, or the commit that is checked out.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const VARIABLE: &str = "AOAI_REVISION";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let given = env::var(VARIABLE).ok();
    // Tests need no commit. With it, each commit would rebuild this crate and every test that uses it.
    let is_release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = || is_release.then(commit).flatten();
    if let Some(revision) = given.or_else(commit).filter(|text| is_word(text)) {
        println!("cargo:rustc-env=AOAI_TOOL_REVISION={revision}");
    }
}

/// The commit, with `-dirty` after a change; `None` outside of a checkout of this project, such as in a container.
fn commit() -> Option<String> {
    let workspace = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?).join("../..");
    let workspace = workspace.canonicalize().ok()?;
    let top = git(&workspace, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != workspace {
        return None;
    }
    println!("cargo:rerun-if-changed=src");
    for file in ["logs/HEAD", "index"] {
        let file = workspace.join(git(&workspace, &["rev-parse", "--git-path", file])?);
        // Cargo would run this script with every build because of a missing file.
        if file.exists() {
            println!("cargo:rerun-if-changed={}", file.display());
        }
    }
    git(
        &workspace,
        &[
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ],
    )
}

fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let output = git.args(arguments).current_dir(folder).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn is_word(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    !text.is_empty() && text.bytes().all(allowed)
}
