//! A rendered configuration, read by a real Envoy.

use std::path::Path;
use std::process::Command;

use crate::files::ExpectedFile;

/// Lets the program `envoy` read the `configuration`, without serving.
///
/// # Errors
/// Envoy's reason. A file that Envoy cannot read is named with its field in the list of backends.
pub fn validate(envoy: &Path, configuration: &Path, files: &[ExpectedFile]) -> Result<(), String> {
    let output = Command::new(envoy)
        .args(["--mode", "validate", "--log-level", "warn", "-c"])
        .arg(configuration)
        .output()
        .map_err(|error| format!("{}: {error}; use the path of an Envoy", envoy.display()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(in_our_words(
            &String::from_utf8_lossy(&output.stderr),
            files,
        )),
    }
}

fn in_our_words(log: &str, files: &[ExpectedFile]) -> String {
    let reason = reason(log);
    let is_named = |file: &&ExpectedFile| log.contains(&*file.path.to_string_lossy());
    // The only field of a rendered configuration that older Envoys lack. Protobuf puts spaces into its messages at
    // random.
    if log.contains("'refresh_cluster_on_retry'") {
        return "this Envoy is older than 1.39 and cannot run the router engine; render with `--engine filter`".to_owned();
    }
    let Some(file) = files.iter().find(is_named) else {
        return match modules_words(log) {
            words if words.is_empty() => format!("Envoy refuses the configuration: {reason}"),
            words => format!("the module refuses its configuration: {}", words.join("; ")),
        };
    };
    let ExpectedFile {
        path,
        field,
        origin,
    } = file;
    let path = path.display();
    match file.is_here() {
        false => format!("Envoy needs {path}, which is missing; set `{field}` to another path, or put it there: {origin}"),
        true => format!("Envoy refuses {path} (`{field}`): {reason}"),
    }
}

/// The module's log lines about its configuration.
fn modules_words(log: &str) -> Vec<&str> {
    let words = log.lines().filter(|line| line.contains("wasm log "));
    let words = words.filter_map(|line| line.split_once("configuration refused: "));
    words.map(|(_, words)| words).collect()
}

/// Envoy's last log line, without its head.
fn reason(log: &str) -> &str {
    let says = |line: &&str| !line.trim().is_empty();
    let critical = log.lines().rfind(|line| line.contains("][critical]"));
    let line = critical.or_else(|| log.lines().rfind(says));
    let line = line.unwrap_or("it gives no reason").trim();
    match line.split_once("error initializing configuration '") {
        Some((_, rest)) => rest.split_once("': ").map_or(rest, |(_, reason)| reason),
        None => line.rsplit_once("] ").map_or(line, |(_, reason)| reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_its_field() {
        let file = ExpectedFile {
            path: "/nowhere/ca.pem".into(),
            field: "tls.trusted_ca",
            origin: "a package has it",
        };
        let log = "[2026-01-01 00:00:00.000][1][critical][main] [source/server/config_validation/server.cc:72] \
                   error initializing configuration '/tmp/envoy.yaml': Invalid path: /nowhere/ca.pem\n";
        assert_eq!(
            in_our_words(log, &[file]),
            "Envoy needs /nowhere/ca.pem, which is missing; set `tls.trusted_ca` to another path, or put it there: a package has it"
        );
        assert_eq!(
            in_our_words(log, &[]),
            "Envoy refuses the configuration: Invalid path: /nowhere/ca.pem"
        );
        let module = "[1][error][wasm] [context.cc:1] wasm log a b: configuration refused: identity.tenant_id: is missing\n";
        assert_eq!(
            in_our_words(&format!("{module}{log}"), &[]),
            "the module refuses its configuration: identity.tenant_id: is missing"
        );
        let old = "near 1:3113: no  such field:  'refresh_cluster_on_retry') has unknown fields";
        assert!(in_our_words(old, &[]).contains("render with `--engine filter`"));
        assert_eq!(
            in_our_words("\n", &[]),
            "Envoy refuses the configuration: it gives no reason"
        );
    }
}
