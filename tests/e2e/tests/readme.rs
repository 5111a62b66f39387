//! The README's snippets, put together as it says, are a configuration that Envoy takes.

use std::path::Path;
use std::process::Command;

use e2e::{module, EnvoyVersion};

/// The README's YAML blocks in order, without the indentation of the list they may stand in.
fn snippets() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let mut snippets = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "```yaml" {
            let indent = line.len() - line.trim_start().len();
            let block = lines.by_ref().take_while(|line| line.trim() != "```");
            let block = block.map(|line| line.get(indent..).unwrap_or_default().to_owned() + "\n");
            snippets.push(block.collect());
        }
    }
    snippets
}

fn indented(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    text.lines().map(|line| format!("{pad}{line}\n")).collect()
}

fn assert_valid(version: EnvoyVersion, filters: &str, routes: &str, clusters: &str) {
    let configuration = format!(
        "static_resources:\n  listeners:\n  - address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n    \
         filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
         stat_prefix: readme\n          route_config:\n            virtual_hosts:\n            - name: readme\n              domains: [\"*\"]\n{}{}{}",
        indented(routes, 14),
        indented(filters, 10),
        indented(clusters, 2),
    );
    let module = module().display().to_string();
    let configuration = configuration.replace("/etc/envoy/azure_openai_balancer.wasm", &module);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("envoy.yaml");
    std::fs::write(&file, &configuration).unwrap();
    let output = Command::new(version.binary())
        .args(["--mode", "validate", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{configuration}");
}

#[test]
fn the_filter_engines_snippets_are_a_configuration() {
    let snippets = snippets();
    assert!(snippets[0].starts_with("http_filters:") && snippets[1].starts_with("routes:"));
    for version in [EnvoyVersion::V1_36_4, EnvoyVersion::V1_40_0] {
        assert_valid(version, &snippets[0], &snippets[1], &snippets[2]);
    }
}

#[test]
fn the_router_engines_snippets_are_a_configuration() {
    let snippets = snippets();
    let filters = snippets[0].replace(
        r#""identity": {"cluster": "imds"}"#,
        r#""identity": {"cluster": "imds"}, "retry": {"engine": "router"}"#,
    );
    let routes = format!(
        "routes:\n- match: {{prefix: /}}\n{}",
        indented(&snippets[3], 2)
    );
    assert_valid(EnvoyVersion::V1_40_0, &filters, &routes, &snippets[2]);
}
