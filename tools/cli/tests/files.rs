//! `render`'s report of the files that Envoy reads.

use std::fs;
use std::process::{Command, Output};

fn tool(arguments: &[&str]) -> Output {
    let mut tool = Command::new(env!("CARGO_BIN_EXE_azure-openai-balancer"));
    tool.args(arguments).output().expect("the tool runs")
}

#[test]
fn files_that_envoy_reads_are_reported() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("module"), "").expect("write");
    let list = format!(
        "\
backends: [{{host: a.openai.azure.com}}, {{host: b.openai.azure.com}}]
module: {}
clients: {{keys_file: /nowhere/clients.yaml}}
listener: {{tls: {{certificate: /nowhere/c, key: /nowhere/k}}}}
tls: {{trusted_ca: /nowhere/ca}}
identity: {{source: workload_identity, token_file: /nowhere/token}}
",
        path("module"),
    );
    fs::write(path("backends.yaml"), list).expect("write");
    let output = tool(&[
        "render",
        "envoy",
        &path("backends.yaml"),
        "-o",
        &path("envoy.yaml"),
    ]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let printed = String::from_utf8(output.stderr).expect("UTF-8");
    let printed: Vec<_> = printed.lines().collect();
    let (first, rest) = printed.split_first().expect("a line");
    assert_eq!(*first, "Envoy will read these files:");
    for (line, (file, state, field)) in rest.iter().zip([
        (path("module").as_str(), "there", "`module`"),
        ("/nowhere/c", "missing", "`listener.tls.certificate`: "),
        ("/nowhere/k", "missing", "`listener.tls.key`: "),
        ("/nowhere/clients.yaml", "missing", "`clients.keys_file`: "),
        ("/nowhere/ca", "missing", "`tls.trusted_ca`: "),
        ("/nowhere/token", "missing", "`identity.token_file`: "),
    ]) {
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..2], [file, state], "{line}");
        assert!(line.contains(field), "{line}");
    }
    assert_eq!(rest.len(), 6, "{rest:#?}");
    let resources = tool(&["render", "istio", &path("backends.yaml")]);
    let printed = String::from_utf8(resources.stderr).expect("UTF-8");
    assert!(
        !printed.contains("these files"),
        "those are a pod's: {printed}"
    );
}

#[test]
fn a_missing_envoy_cannot_validate() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("backends.yaml"), "backends: [{host: a}]\n").expect("write");
    let (list, made) = (path("backends.yaml"), path("envoy.yaml"));
    let with = |more: &[&str]| {
        let output = tool(
            &[
                &["render", "envoy", &list, "--validate", "/nowhere/envoy"],
                more,
            ]
            .concat(),
        );
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(with(&["-o", &made]).contains("error: /nowhere/envoy: "));
    assert!(with(&[]).contains("--output"), "a file is what Envoy reads");
    let resources = tool(&["render", "istio", &list, "-o", &made, "--validate", "envoy"]);
    let printed = String::from_utf8(resources.stderr).expect("UTF-8");
    assert!(printed.contains("use it with `render envoy`"), "{printed}");
}

#[test]
fn the_version_is_one_line() {
    let output = tool(&["--version"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let version = concat!("azure-openai-balancer ", env!("CARGO_PKG_VERSION"));
    let revision = text.strip_prefix(version).expect(&text).trim_end();
    assert!(
        revision.is_empty() || revision.starts_with(" (revision ") && revision.ends_with(')'),
        "{text}"
    );
}
