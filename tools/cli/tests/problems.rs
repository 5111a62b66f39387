//! Golden texts for every problem that `check` reports: `problems/NAME.yaml` (or `.json`) is invalid, and
//! `problems/NAME.txt` has the messages.
//!
//! `UPDATE_GOLDEN=1 cargo test -p cli` writes the texts again. Look at the diff.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/problems")
}

/// The tool's output for a file, with its exit status.
fn check(file: &Path) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_azure-openai-balancer"))
        .arg("check")
        .arg(file.file_name().expect("a file"))
        .current_dir(file.parent().expect("a folder"))
        .output()
        .expect("the tool runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let status = output.status.code().expect("it ended by itself");
    (status, text(output.stdout), text(output.stderr))
}

#[test]
fn every_invalid_file_has_its_messages() {
    let mut cases: Vec<PathBuf> = fs::read_dir(folder())
        .expect("tests/problems")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml" || e == "json"))
        .collect();
    cases.sort();
    assert!(cases.len() >= 10, "{cases:?}");
    for case in cases {
        let (status, out, err) = check(&case);
        let golden = case.with_extension("txt");
        if env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &err).expect("write the golden text");
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(err, expected, "{}", case.display());
        assert_eq!((status, out.as_str()), (1, ""), "{}", case.display());
    }
}

/// Every kind of problem of the module's parser and the tool must be in some golden text. The test looks for the words
/// of each kind.
#[test]
fn every_kind_of_problem_has_a_golden_text() {
    let texts: String = fs::read_dir(folder())
        .expect("tests/problems")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .map(|path| fs::read_to_string(path).expect("a text"))
        .collect();
    for kind in [
        "unknown field; use one of",
        "is missing; use",
        "audience: is missing; use",
        "is used twice; use a different name",
        "is used twice; use a different cluster",
        "use a host name such as",
        "use a whole number from",
        "use 100ms to 1h",
        "use a duration with a unit",
        "use a size with a unit",
        "use \"pass\" or \"refuse\"",
        "use \"round_robin\" or \"least_throttled\"",
        "use \"filter\" or \"router\"",
        "use \"imds\", \"app_service\", \"workload_identity\" or \"client_secret\"",
        "use \"upstream\", alone",
        "use names of 1 to 128",
        "use an object such as",
        "use a version of the API",
        "use a path such as",
        "use the name of an environment variable",
        "use the name of a header in lower case",
        "use a status from 400 to 599, except 401",
        "use max_attempts 1 to disable retries",
        "use a list with at least one backend",
        "use an object such as {host:",
        "or set api_key_env for every backend",
        "not allowed beside client_id",
        "not allowed beside keys_file",
        "is longer than cooldown.longest",
        "backends are not allowed; use 1 to 100",
        "names are not allowed; use at most 200",
        "use the audience of the token",
        "use the id of an identity",
        "use an entry of `identities` for each cloud",
        "use a port from 1 to 65535",
        "use an IP address",
        "use a URL such as",
        "use the path of a file",
        "use a text without spaces",
        "use an object of keys_file, entra_id",
        "use the address in IDENTITY_ENDPOINT",
        "use one of chat, responses",
        "use a list of chat, responses",
        "use the name of one of `identities`",
        "use the name of one of the backends",
        "use \"tagged\" or \"plain\"",
        "use \"refuse\", \"pass\" or a list of paths",
        "use true or false",
        "of 1 to 20 names",
        "differs from `engine`; use that alone",
        "differs from that of another identity with cluster",
        "differs from that of another identity with token_file_cluster",
        "is not that of another identity with cluster",
        "use the id of the tenant",
        "use a host such as",
        "this is not YAML",
        "is given twice; use it once",
        "the file is empty",
        "documents are not allowed; use one",
        "a tag is not allowed",
        "is not allowed as a name; put it in quotes",
        "a number without end",
    ] {
        assert!(texts.contains(kind), "no golden text has {kind:?}");
    }
}

#[test]
fn no_problem_shows_a_key() {
    let shown = |text: &str| text.contains("3f9c0b1d5e7a4286") || text.contains("pa55");
    let secrets = folder().join("secrets.yaml");
    assert!(shown(&fs::read_to_string(&secrets).expect("a file")));
    let (_, _, err) = check(&secrets);
    assert!(!shown(&err), "{err}");
    // A file of another kind.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key.txt");
    for text in [
        "3f9c0b1d5e7a42863f9c0b1d5e7a4286\n",
        "KEY=3f9c0b1d5e7a42863f9c0b1d5e7a4286\n",
        "- 3f9c0b1d5e7a42863f9c0b1d5e7a4286\n",
        "resources: [{key: 3f9c0b1d5e7a42863f9c0b1d5e7a4286}]\n",
        "a: *3f9c0b1d5e7a42863f9c0b1d5e7a4286\n",
        "a: !3f9c0b1d5e7a42863f9c0b1d5e7a4286 b\n",
    ] {
        fs::write(&file, text).expect("write");
        let (status, out, err) = check(&file);
        assert_eq!((status, out.as_str()), (1, ""), "{text}");
        assert!(!shown(&err), "{err}");
    }
}

#[test]
fn a_single_backend_is_retried_only_with_a_renewed_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backends.yaml");
    for (list, retries) in [
        ("backends: [{host: a}]\n", "up to 2 attempts in all, "),
        ("backends: [{host: a, api_key_env: K}]\n", "none\n"),
        (
            "backends: [{host: a}]\nretry: {max_attempts: 1}\n",
            "none\n",
        ),
    ] {
        fs::write(&file, list).expect("write");
        let (_, out, _) = check(&file);
        assert!(out.contains(&format!("retries      {retries}")), "{out}");
    }
}

#[test]
fn a_valid_file_has_a_summary() {
    let file = folder().join("../../../../envoy/backends.yaml");
    let (status, out, err) = check(&file);
    assert_eq!((status, err.as_str()), (0, ""));
    let expected = "\
This is a list of backends, to be rendered.

backend        host                                    priority  weight  sends    cluster
eastus         contoso-eastus.openai.azure.com         0         1       a token  aoai_eastus
westus         contoso-westus.openai.azure.com         0         1       a token  aoai_westus
swedencentral  contoso-swedencentral.openai.azure.com  0         1       a token  aoai_swedencentral

retries      up to 3 attempts in all, by Envoy's router (Envoy 1.39 or later)
identity     IMDS, through cluster imds
";
    assert_eq!(out, expected);
}

#[test]
fn a_plugin_configuration_is_recognized() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("plugin.json");
    let plugin = r#"{"backends": [{"name": "a", "cluster": "b", "host": "h", "api_key_env": "NOT_SET_HERE"}]}"#;
    fs::write(&file, plugin).expect("write");
    let (status, out, _) = check(&file);
    assert_eq!(status, 0);
    assert!(out.starts_with("This is a plugin configuration."), "{out}");
    assert!(out.contains("environment  NOT_SET_HERE"), "{out}");
    fs::write(&file, r#"{"role": "upstream"}"#).expect("write");
    assert_eq!(check(&file).0, 0);
}

#[test]
fn a_missing_file_is_reported() {
    let (status, _, err) = check(&folder().join("nowhere.yaml"));
    assert_eq!(status, 1);
    assert!(err.starts_with("error: nowhere.yaml: "), "{err}");
}

#[test]
fn warnings_leave_the_exit_status_at_success() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("backends.yaml");
    fs::write(&file, "backends: [{host: a}]\nadmin: {port: 10000}\n").expect("write");
    let (status, out, err) = check(&file);
    assert_eq!(status, 0);
    assert!(out.starts_with("This is a list of backends"), "{out}");
    assert!(
        err.starts_with("backends.yaml:2:15: admin.port: warning: "),
        "{err}"
    );
}
