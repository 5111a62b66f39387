//! The revision of the sources that are built.

use std::process::Command;

use crate::{paths, process};

/// The environment variable that passes the revision to the module's build.
pub const VARIABLE: &str = "AOAI_REVISION";

/// The commit that is checked out, with `-dirty` if files have changed. It is `unknown` without git.
pub fn of_workspace() -> String {
    let mut describe = Command::new("git");
    describe
        .args([
            "describe",
            "--always",
            "--dirty",
            "--abbrev=12",
            "--exclude=*",
        ])
        .current_dir(paths::workspace());
    match process::output(&mut describe) {
        Ok(revision) => revision.trim().to_owned(),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_is_one_word() {
        let revision = of_workspace();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(
            !revision.is_empty() && revision.chars().all(is_word),
            "{revision}"
        );
    }
}
