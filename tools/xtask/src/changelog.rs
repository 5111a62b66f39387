//! `cargo xtask release-notes`: the section of `CHANGELOG.md` about a version.

use std::fs;

use anyhow::{bail, Context, Result};
use provision::paths;

/// Prints the notes of the version that is being released.
pub fn command(version: &str) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    if version != own {
        bail!("{version} is not the version of the workspace, which is {own}; set it in Cargo.toml, or release {own}");
    }
    let path = paths::workspace().join("CHANGELOG.md");
    let text =
        fs::read_to_string(&path).with_context(|| format!("{}: cannot be read", path.display()))?;
    println!("{}", notes(&text, version)?);
    Ok(())
}

/// The section of a version, without its heading `## [1.2.3] - 2026-01-31`.
fn notes<'a>(changelog: &'a str, version: &str) -> Result<&'a str> {
    const HEADING: &str = "\n## [";
    let mut sections = changelog.split(HEADING).skip(1);
    let section = sections.find_map(|section| section.strip_prefix(version)?.strip_prefix(']'));
    let Some(section) = section else {
        bail!("CHANGELOG.md has no section `## [{version}] - DATE`; rename `## [Unreleased]`");
    };
    let (_, notes) = section.split_once('\n').unwrap_or_default();
    // The links at the end of the file belong to no version.
    let end = notes.find("\n[").unwrap_or(notes.len());
    let notes = notes.get(..end).unwrap_or(notes).trim();
    if notes.is_empty() {
        bail!("CHANGELOG.md has no notes on {version}");
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGELOG: &str = "\
# Changelog

## [Unreleased]

## [1.1.0] - 2026-02-01

### Added

- One thing.

### Fixed

- [A link](https://example.com).

## [1.0.0] - 2026-01-01

- The first.

[1.1.0]: https://example.com/1.1.0
";

    #[test]
    fn the_notes_are_those_of_the_version() {
        assert_eq!(
            notes(CHANGELOG, "1.1.0").unwrap(),
            "### Added\n\n- One thing.\n\n### Fixed\n\n- [A link](https://example.com)."
        );
        assert_eq!(notes(CHANGELOG, "1.0.0").unwrap(), "- The first.");
    }

    #[test]
    fn a_version_without_notes_is_not_released() {
        let error = |version| notes(CHANGELOG, version).unwrap_err().to_string();
        assert!(error("1.1").starts_with("CHANGELOG.md has no section `## [1.1] - DATE`"));
        assert_eq!(
            error("Unreleased"),
            "CHANGELOG.md has no notes on Unreleased"
        );
    }

    #[test]
    fn the_changelog_has_notes_on_this_version_or_unreleased() {
        let text = fs::read_to_string(paths::workspace().join("CHANGELOG.md")).unwrap();
        assert!(
            notes(&text, "Unreleased").is_ok() || notes(&text, env!("CARGO_PKG_VERSION")).is_ok()
        );
    }
}
