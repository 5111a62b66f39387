//! The package mirrors this machine is set up with, read from apt's own configuration.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Result};

/// apt's configuration on every Debian and what derives from it.
pub const CONFIGURATION: &str = "/etc/apt";

#[derive(Debug, PartialEq)]
struct Source {
    uri: String,
    suite: String,
    components: Vec<String>,
}

impl Source {
    /// Whether a full Debian archive may lie here: not the security archive, not a flat or third-party one.
    fn may_hold_a_release(&self) -> bool {
        let security = self.uri.contains("security") || self.suite.contains("security");
        let medium = self.uri.starts_with("cdrom:");
        !security && !medium && self.components.iter().any(|component| component == "main")
    }
}

/// The mirrors named under `configuration` which may hold a Debian release, in apt's order, each once.
pub fn mirrors(configuration: &Path) -> Result<Vec<String>> {
    let mut mirrors = Vec::new();
    for file in source_files(configuration) {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let deb822 = file
            .extension()
            .is_some_and(|extension| extension == "sources");
        let sources = if deb822 {
            parse_deb822(&text)
        } else {
            parse_one_line(&text)
        };
        for source in sources.into_iter().filter(Source::may_hold_a_release) {
            if !mirrors.contains(&source.uri) {
                mirrors.push(source.uri);
            }
        }
    }
    if mirrors.is_empty() {
        bail!(
            "{}: neither sources.list nor sources.list.d names a mirror with the component `main`; \
             add one, as in `deb MIRROR stable main`",
            configuration.display()
        );
    }
    Ok(mirrors)
}

fn source_files(configuration: &Path) -> Vec<PathBuf> {
    let parts = fs::read_dir(configuration.join("sources.list.d"));
    let mut files: Vec<_> = parts
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "list" || extension == "sources")
        })
        .collect();
    files.sort();
    files.insert(0, configuration.join("sources.list"));
    files
}

/// `deb [option=value ...] URI SUITE COMPONENT...`, one per line.
fn parse_one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    // Otherwise the word goes on, as in `deb-src`.
    let rest = rest.starts_with([' ', '\t']).then(|| rest.trim_start())?;
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suite: words.next()?,
        components: words.collect(),
    })
}

/// Stanzas of `Field: value`, separated by empty lines; a line that begins with a space continues the field before.
fn parse_deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut stanza = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .chain([""])
    {
        if line.trim().is_empty() {
            sources.extend(sources_of(&stanza));
            stanza.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, values)) = stanza.last_mut() {
                values.extend(words(line));
            }
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.push((field.trim().to_ascii_lowercase(), words(value)));
        }
    }
    sources
}

fn sources_of(stanza: &[(String, Vec<String>)]) -> Vec<Source> {
    let field = |name: &str| {
        stanza
            .iter()
            .find(|(field, _)| field == name)
            .map_or(&[][..], |(_, values)| values)
    };
    let disabled = field("enabled")
        .iter()
        .any(|value| ["no", "false", "0"].contains(&value.as_str()));
    if disabled || !field("types").iter().any(|kind| kind == "deb") {
        return Vec::new();
    }
    let mut sources = Vec::new();
    for uri in field("uris") {
        for suite in field("suites") {
            let components = field("components").to_vec();
            sources.push(Source {
                uri: uri.clone(),
                suite: suite.clone(),
                components,
            });
        }
    }
    sources
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(uri: &str, suite: &str, components: &[&str]) -> Source {
        let components = components
            .iter()
            .map(|component| (*component).to_owned())
            .collect();
        Source {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            components,
        }
    }

    #[test]
    fn one_line_sources() {
        let text = "\
# a comment
deb http://mirror.example/debian bookworm main contrib # why
deb-src http://mirror.example/debian bookworm main
deb [ arch=amd64 signed-by=/k.gpg ]  https://other.example/apt stable main
#deb http://off.example/debian bookworm main
deb
";
        assert_eq!(
            parse_one_line(text),
            [
                source(
                    "http://mirror.example/debian",
                    "bookworm",
                    &["main", "contrib"]
                ),
                source("https://other.example/apt", "stable", &["main"]),
            ]
        );
    }

    #[test]
    fn deb822_sources() {
        let text = "\
Types: deb deb-src
# a comment in the middle
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 URIs: not a field

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main";
        assert_eq!(
            parse_deb822(text),
            [
                source("http://mirror.example/debian", "bookworm", &["main"]),
                source(
                    "http://mirror.example/debian",
                    "bookworm-updates",
                    &["main"]
                ),
            ]
        );
    }

    #[test]
    fn only_archives_that_may_hold_a_release() {
        assert!(source("http://m.example/debian", "bookworm", &["main"]).may_hold_a_release());
        assert!(!source(
            "http://m.example/debian-security",
            "bookworm-security",
            &["main"]
        )
        .may_hold_a_release());
        assert!(
            !source("http://m.example/debian", "bookworm-security", &["main"]).may_hold_a_release()
        );
        assert!(!source("https://m.example/cloud", "cloud-sdk", &["cloud"]).may_hold_a_release());
        assert!(!source("cdrom:[Debian]/", "bookworm", &["main"]).may_hold_a_release());
    }

    #[test]
    fn files_are_read_in_order_and_mirrors_named_once() {
        let directory = std::env::temp_dir().join(format!("xtask-apt-{}", std::process::id()));
        let parts = directory.join("sources.list.d");
        fs::create_dir_all(&parts).unwrap();
        fs::write(
            directory.join("sources.list"),
            "deb http://b.example/debian sid main\n",
        )
        .unwrap();
        fs::write(
            parts.join("a.sources"),
            "Types: deb\nURIs: http://a.example/debian\nSuites: sid\nComponents: main\n",
        )
        .unwrap();
        fs::write(
            parts.join("b.list"),
            "deb http://b.example/debian sid main\n",
        )
        .unwrap();
        fs::write(
            parts.join("c.list.save"),
            "deb http://c.example/debian sid main\n",
        )
        .unwrap();
        assert_eq!(
            mirrors(&directory).unwrap(),
            ["http://b.example/debian", "http://a.example/debian"]
        );
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn no_mirror_is_an_error_that_names_the_place() {
        let error = mirrors(Path::new("/nowhere/apt")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/apt: "), "{error}");
    }
}
