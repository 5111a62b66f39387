//! Every list of backends in the documentation is valid, and every command exists.

use std::fs;
use std::path::Path;
use std::process::Command;

use cli::{Form, Options, Target};

/// The pages, by name.
fn pages() -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = fs::read_dir(top.join("docs")).expect("docs");
    let docs = folder.map(|entry| entry.expect("a page").path());
    let pages: Vec<_> = docs
        .chain([top.join("README.md"), top.join("CONTRIBUTING.md")])
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            (path.display().to_string(), text)
        })
        .collect();
    assert!(pages.len() > 10, "{}", pages.len());
    pages
}

/// The code blocks of this language.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let start = format!("```{language}\n");
    let blocks = page.split(start.as_str()).skip(1);
    blocks
        .map(|rest| rest.split("\n```").next().unwrap_or_default())
        .collect()
}

#[test]
fn every_list_of_backends_is_valid() {
    let mut found = 0;
    for (name, page) in pages() {
        for block in blocks(&page, "yaml") {
            let list = match block {
                block if block.lines().any(|line| line == "backends:") => block.to_owned(),
                block if block.starts_with("clients:") => {
                    format!("backends: [{{host: a}}]\n{block}\n")
                }
                _ => continue,
            };
            found += 1;
            for target in [Target::Envoy, Target::Istio, Target::EnvoyGateway] {
                let rendered = cli::render(target, &list, Options::default());
                rendered.unwrap_or_else(|problems| panic!("{name}: {problems:?}\n{block}"));
            }
            cli::check(&list, Some(Form::Backends))
                .unwrap_or_else(|problems| panic!("{name}: {problems:?}\n{block}"));
        }
    }
    assert!(found >= 6, "{found}");
}

#[test]
fn every_command_exists() {
    let mut found = 0;
    for (name, page) in pages() {
        for block in blocks(&page, "sh") {
            for line in block
                .lines()
                .filter(|line| line.starts_with("azure-openai-balancer "))
            {
                found += 1;
                let words = line.split(['|', '>', '#']).next().unwrap_or_default();
                let words = words.split_whitespace().skip(1);
                let output = Command::new(env!("CARGO_BIN_EXE_azure-openai-balancer"))
                    .args(words)
                    .current_dir("/")
                    .output()
                    .expect("the tool runs");
                let printed = String::from_utf8_lossy(&output.stderr);
                // The files do not exist, but the tool gets as far as looking for them.
                assert!(
                    output.status.success() || printed.contains("backends.yaml: "),
                    "{name}: {line}\n{printed}"
                );
            }
        }
    }
    assert!(found >= 8, "{found}");
}
