//! Tests of the Markdown pages: the README is short, links lead somewhere, and configurations are valid. Fields and
//! statistics are those of the module. `tools/xtask` and `tools/cli` test the commands that the pages name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod statistics;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use azure_openai_balancer::core::config::Plugin;
use serde_json::Value;

use self::statistics::statistics;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = [top.to_owned(), top.join("docs")]
        .into_iter()
        .flat_map(|folder| {
            fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().path())
        });
    let pages: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    assert!(pages.len() > 4, "{pages:?}");
    pages
}

/// The targets of links: the text between `](` and `)`.
fn links(text: &str) -> Vec<&str> {
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| Some(rest.split_once(')')?.0))
        .collect()
}

/// The headings of a page. A comment in a code block is not a heading.
fn headings(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    let lines = outside.flat_map(str::lines);
    lines
        .filter(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
        .collect()
}

/// The texts between single backticks, outside code blocks.
fn code_spans(text: &str) -> Vec<&str> {
    let outside = text.split("```").step_by(2);
    let lines = outside.flat_map(str::lines);
    lines
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// The anchor that GitHub makes from a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text)
            .into_iter()
            .filter(|link| !link.contains("://"))
        {
            let (file, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{}: {link}", page.display());
            if !wanted.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let found = headings(&text)
                    .into_iter()
                    .any(|line| anchor(line) == wanted);
                assert!(found, "{}: {link}", page.display());
            }
            followed += 1;
        }
    }
    assert!(followed > 10);
}

#[test]
fn configurations_are_ones() {
    let mut read = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```json\n").skip(1) {
            let block = block.split("```").next().unwrap();
            if block.contains("\"backends\"") {
                if let Err(problems) = Plugin::from_bytes(block.as_bytes(), &|_| None) {
                    panic!("{}: {problems}\n{block}", page.display());
                }
                read += 1;
            }
        }
    }
    assert!(read > 0);
}

#[test]
fn the_readme_is_one_page() {
    let readme = read("README.md");
    let (lines, words) = (readme.lines().count(), readme.split_whitespace().count());
    assert!(lines <= 130, "README.md has {lines} lines");
    assert!(words <= 900, "README.md has {words} words");
    for command in ["cargo xtask test", "cargo xtask demo"] {
        let is_shown = readme.lines().any(|line| line.starts_with(command));
        assert!(is_shown, "README.md does not show `{command}`");
    }
}

/// Every file below these folders.
fn files(folders: &[&str]) -> Vec<String> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut to_see: Vec<PathBuf> = folders.iter().map(|folder| top.join(folder)).collect();
    while let Some(path) = to_see.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            to_see.extend(entries.map(|entry| entry.unwrap().path()));
        } else {
            let path = path.strip_prefix(top).unwrap();
            found.push(format!("/{}", path.to_str().unwrap()));
        }
    }
    found
}

#[test]
fn names_of_functions_have_at_most_60_letters() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = files(&["src", "tests", "tools"]);
    let mut found = 0;
    for file in sources.iter().filter(|file| file.ends_with(".rs")) {
        let text = fs::read_to_string(top.join(&file[1..])).unwrap();
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("fn ") else {
                continue;
            };
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            assert!(name.contains(' ') || name.len() <= 60, "{file}: {name}");
            found += 1;
        }
    }
    assert!(found > 2000, "{found}");
}

#[test]
fn source_files_in_the_pages_exist() {
    const FOLDERS: [&str; 6] = ["src", "tests", "tools", "deploy", "envoy", "schema"];
    let files = files(&FOLDERS);
    let mut found = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for span in code_spans(&text) {
            let is_path = FOLDERS
                .iter()
                .any(|folder| span.starts_with(&format!("{folder}/")));
            let is_name = !span.contains([' ', '*', '"']);
            if !is_name || !(is_path || span.ends_with(".rs")) {
                continue;
            }
            found += 1;
            let (end, start) = (
                format!("/{span}"),
                format!("/{}/", span.trim_end_matches('/')),
            );
            // A name without its folder is not the name of a test.
            let exists = files.iter().any(|file| {
                let is_meant = is_path || !file.starts_with("/tests/");
                is_meant && (file.ends_with(&end) || file.starts_with(&start))
            });
            assert!(exists, "{}: there is no {span}", page.display());
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn tests_that_the_security_page_names_exist() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = files(&["src", "tests"]);
    let sources = sources.iter().filter(|file| file.ends_with(".rs"));
    let code: String = sources
        .map(|file| fs::read_to_string(top.join(&file[1..])).unwrap())
        .collect();
    let page = read("docs/security.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let mut found = 0;
    for row in rows.filter(|row| !row.starts_with("| attack") && !row.starts_with("| **")) {
        let tests = row.trim_end_matches([' ', '|']).rsplit(" | ").next();
        let tests = code_spans(tests.unwrap_or_default());
        assert!(!tests.is_empty(), "no test: {row}");
        for test in tests {
            found += 1;
            let is_there = code.contains(&format!("fn {test}("));
            assert!(is_there, "docs/security.md: there is no test {test}");
        }
    }
    assert!(found > 30, "{found}");
}

/// The sentences of a page, without code and addresses: `x` stands for a piece of code.
fn sentences(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.split("```").step_by(2).flat_map(str::lines) {
        let item = line.trim_start();
        let starts_anew = item.is_empty()
            || item.starts_with(['#', '|', '-'])
            || item.starts_with(|c: char| c.is_ascii_digit());
        let cells: Vec<_> = match item.starts_with('|') {
            true => item.split(" | ").collect(),
            false => vec![item],
        };
        for cell in cells {
            match parts.last_mut() {
                Some(part) if !starts_anew => *part += &format!(" {cell}"),
                _ => parts.push(cell.to_owned()),
            }
        }
    }
    let plain = |part: &String| {
        let code = part.split('`').enumerate();
        let text: String = code
            .map(|(index, piece)| if index % 2 == 1 { "x" } else { piece })
            .collect();
        let mut links = text.split("](");
        let first = links.next().unwrap_or_default().to_owned();
        links.fold(first, |text, rest| {
            text + "]" + rest.split_once(')').map_or("", |(_, rest)| rest)
        })
    };
    let ends = [". ", ".** ", ": ", "; ", "? "];
    let parts = parts.iter().map(plain);
    parts
        .flat_map(|part| {
            let cut = ends.iter().fold(part, |part, end| part.replace(end, "\n"));
            cut.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

/// The pages that people write; the benchmarks are generated.
fn written_pages() -> Vec<PathBuf> {
    let pages = pages().into_iter();
    pages
        .filter(|page| !page.ends_with("benchmarks.md"))
        .collect()
}

#[test]
fn sentences_in_the_pages_are_short() {
    const MOST: usize = 25;
    let mut long = Vec::new();
    for page in written_pages() {
        // The entries of a changelog are not sentences.
        if page.ends_with("CHANGELOG.md") {
            continue;
        }
        for sentence in sentences(&fs::read_to_string(&page).unwrap()) {
            let words = sentence.split_whitespace().count();
            if words > MOST {
                long.push(format!("{}: {words} words: {sentence}", page.display()));
            }
        }
    }
    assert!(long.is_empty(), "use two sentences:\n{}", long.join("\n"));
}

#[test]
fn the_pages_use_the_words_of_the_glossary() {
    const PLAIN: [(&str, &str); 7] = [
        ("left alone", "in cooldown"),
        ("well again", "recovered"),
        ("anew", "again"),
        ("for want of", "without"),
        ("mend", "fix"),
        ("whoever", "who or everyone who"),
        ("is said by", "sets, as a verb"),
    ];
    for page in written_pages() {
        // One page lists the words to avoid, and the other quotes old texts.
        if page.ends_with("CONTRIBUTING.md") || page.ends_with("CHANGELOG.md") {
            continue;
        }
        for sentence in sentences(&fs::read_to_string(&page).unwrap()) {
            let words: Vec<_> = sentence
                .split(|c: char| !c.is_alphanumeric())
                .map(str::to_lowercase)
                .collect();
            let sentence = format!(" {} ", words.join(" "));
            for (word, plain) in PLAIN {
                let is_there = sentence.contains(&format!(" {word} "));
                assert!(
                    !is_there,
                    "{}: write {plain:?} for {word:?}",
                    page.display()
                );
            }
        }
    }
}

#[test]
fn the_readme_links_to_every_page() {
    let readme = read("README.md");
    let links = links(&readme);
    for page in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).unwrap() {
        let name = page.unwrap().file_name().into_string().unwrap();
        let link = format!("docs/{name}");
        assert!(
            !name.ends_with(".md") || links.contains(&link.as_str()),
            "README.md has no link to {link}"
        );
    }
}

/// The statistics that a name in a page stands for, such as `aoai.backend.NAME.outcome.OUTCOME`, or that name itself.
fn meant_by<'s>(written: &str, statistics: &'s BTreeSet<String>) -> Vec<&'s String> {
    let parts: Vec<_> = written.split('.').collect();
    let fits = |name: &&String| {
        let own: Vec<_> = name.split('.').collect();
        let pairs = own.iter().zip(&parts);
        let mut pairs = pairs.map(|(own, part)| {
            own == part || *own == "NAME" || matches!(*part, "OUTCOME" | "REASON")
        });
        own.len() == parts.len() && pairs.all(|fits| fits)
    };
    statistics.iter().filter(fits).collect()
}

#[test]
fn statistics_in_the_pages_exist() {
    let statistics = statistics();
    let exported: BTreeSet<String> = statistics
        .iter()
        .map(|name| name.replace(".NAME", "").replace('.', "_"))
        .collect();
    let short = ["no_retry.", "outcome.", "cooldowns.", "refused."];
    let mut found = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for span in code_spans(&text) {
            let span = span.trim_start_matches("wasmcustom.");
            let full = match short.iter().find(|start| span.starts_with(**start)) {
                Some(start) if matches!(*start, "outcome." | "cooldowns.") => {
                    format!("aoai.backend.NAME.{span}")
                }
                Some(_) => format!("aoai.{span}"),
                None => span.to_owned(),
            };
            // A value, such as `aoai.backend.eastus.state: 1`, is not part of the name.
            let name = full.split(':').next().unwrap();
            if name.starts_with("aoai.") && !name.ends_with('*') {
                found += 1;
                let is_one = !meant_by(name, &statistics).is_empty();
                assert!(is_one, "{}: there is no {span}", page.display());
            }
        }
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| is_prometheus_name(word)) {
            found += 1;
            let page = page.display();
            let word = word.strip_suffix("_bucket").unwrap_or(word);
            assert!(exported.contains(word), "{page}: there is no {word}");
        }
    }
    assert!(found > 40, "{found}");
}

/// Whether a word is the name of a statistic in Prometheus, and not a label, a cluster or a key of Envoy's filter
/// state.
fn is_prometheus_name(word: &str) -> bool {
    let kinds = [
        "aoai_requests",
        "aoai_refused_",
        "aoai_no_retry_",
        "aoai_identity_",
        "aoai_client_",
        "aoai_backend_",
        "aoai_usage_",
    ];
    let is_one = kinds.iter().any(|kind| word.starts_with(kind));
    is_one && !word.ends_with('_')
}

#[test]
fn every_statistic_is_explained() {
    let page = read("docs/statistics.md");
    let explained: BTreeSet<_> = code_spans(&page).into_iter().collect();
    for name in statistics() {
        let (group, last) = name.rsplit_once('.').unwrap();
        let by_kind = [".OUTCOME", ".REASON"].iter().any(|kind| {
            explained.contains(format!("{group}{kind}").as_str()) && explained.contains(last)
        });
        let is_explained = explained.contains(name.as_str()) || by_kind;
        assert!(is_explained, "docs/statistics.md does not explain {name}");
    }
}

#[test]
fn every_code_of_the_balancers_own_answers_is_explained() {
    let source = read("src/core/reply.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let codes = source
        .split("code: \"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let codes: BTreeSet<_> = codes.collect();
    assert!(codes.len() > 8, "{codes:?}");
    let page = read("docs/behaviour.md");
    let explained: BTreeSet<_> = code_spans(&page).into_iter().collect();
    let missing: Vec<_> = codes.difference(&explained).collect();
    assert!(
        missing.is_empty(),
        "docs/behaviour.md does not explain {missing:?}"
    );
}

/// The fields of an object in a JSON Schema, with their schemas, by the paths that the pages use.
fn fields(root: &Value, object: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    for (name, schema) in object["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}{name}");
        let choices = schema["anyOf"].as_array();
        let mut parts = std::iter::once(schema).chain(choices.into_iter().flatten());
        let target = |schema: &Value| {
            let target = schema["$ref"].as_str()?.trim_start_matches('#');
            root.pointer(target).cloned()
        };
        let inner = parts.find_map(target);
        let element = target(&schema["items"]);
        for (inner, separator) in [(inner, "."), (element, "[].")] {
            if let Some(inner) = inner {
                fields(root, &inner, &format!("{path}{separator}"), found);
            }
        }
        found.push((path, schema.clone()));
    }
}

#[test]
fn every_field_of_a_list_of_backends_is_explained() {
    let all = |path: &str| {
        let schema: Value = serde_json::from_str(&read(path)).unwrap();
        let mut found = Vec::new();
        fields(&schema, &schema, "", &mut found);
        found.into_iter().map(|(path, _)| path).collect()
    };
    let plugin: BTreeSet<String> = all("schema/plugin.json");
    let list: BTreeSet<String> = all("schema/backends.json");
    let pages = ["docs/envoy.md", "docs/clients.md", "docs/istio.md"].map(read);
    let explained: BTreeSet<_> = pages
        .iter()
        .flat_map(|page| page.lines())
        .filter(|line| line.starts_with("| `"))
        .flat_map(|line| code_spans(line.split(" | ").next().unwrap()))
        .collect();
    let own: Vec<_> = list.difference(&plugin).collect();
    assert!(own.len() > 15, "{own:?}");
    for field in &own {
        let group = format!("{field}.");
        let is_group = own.iter().any(|other| other.starts_with(&group));
        let is_explained = is_group || explained.contains(field.as_str());
        assert!(is_explained, "docs/envoy.md has no row for {field}");
    }
}
