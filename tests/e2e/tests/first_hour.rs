//! The transcript of the first hour in `docs/envoy.md`, from Envoy's start on. `tools/cli/tests/first_hour.rs` replays
//! the part before.

use std::fs;
use std::path::Path;

use e2e::{simulate_tls, Gateway};
use serde_json::Value;

/// The transcript's commands, each with its output.
fn steps() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/envoy.md");
    let text = fs::read_to_string(&page).expect("docs/envoy.md");
    let (_, rest) = text.split_once("```console\n$ ").expect("a transcript");
    let (block, _) = rest.split_once("```\n").expect("its end");
    let steps = block.split("\n$ ").map(|step| {
        let (command, output) = step.split_once('\n').unwrap_or((step, ""));
        (command.to_owned(), output.to_owned())
    });
    steps.collect()
}

/// The words of a command for a shell that knows single quotes only.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for (i, part) in command.split('\'').enumerate() {
        if i % 2 == 1 {
            words.last_mut().expect("a word").push_str(part);
            continue;
        }
        for (j, piece) in part.split(' ').enumerate() {
            if j > 0 {
                words.push(String::new());
            }
            words.last_mut().expect("a word").push_str(piece);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// The values of an option.
fn values<'w>(words: &'w [String], option: &'w str) -> impl Iterator<Item = &'w str> {
    let pairs = words.windows(2).filter(move |pair| pair[0] == option);
    pairs.map(|pair| pair[1].as_str())
}

#[test]
fn the_first_hour_ends_with_the_pages_answers() {
    let azure = simulate_tls(&["eastus", "westus"]);
    let folder = tempfile::tempdir().expect("a folder");
    let steps = steps();
    let (_, list) = steps
        .iter()
        .find(|(command, _)| command.starts_with("cat "))
        .expect("a list");
    let mut fleet = cli::fleet(list, cli::Options::default()).expect("right");
    // The resources are simulated, and the machine has other Envoys.
    for (backend, simulated) in fleet.backends.iter_mut().zip(azure.backends()) {
        let at = simulated.addr();
        assert_eq!(backend.host, simulated.host());
        (backend.address, backend.port) = (at.ip().to_string(), at.port());
        backend.tls.as_mut().expect("TLS").ca_file = Some(azure.ca_path().to_owned());
    }
    let (identity, at) = (fleet.identity.as_mut().expect("IMDS"), azure.imds().addr());
    (identity.address, identity.port) = (at.ip().to_string(), at.port());
    fleet.module = e2e::module();
    fleet.listener.address = "127.0.0.1".to_owned();
    (fleet.listener.port, fleet.admin.port) = (0, 0);
    let keys = folder.path().join("clients.yaml");
    fleet.clients = render::Clients::Keys { file: keys.clone() };
    let requests: Vec<_> = steps
        .iter()
        .filter(|(command, _)| command.starts_with("curl "))
        .collect();
    let known = requests[0]
        .0
        .split("api-key: ")
        .nth(1)
        .and_then(|rest| rest.split('\'').next());
    let key = render::Key {
        client: "my-app".to_owned(),
        key: known.expect("a key").to_owned(),
    };
    fs::write(&keys, render::keys_file("x-aoai-client", &[key])).expect("write the keys");
    let gateway = Gateway::builder()
        .fleet(move |harness| *harness = fleet)
        .start();

    assert!(requests.len() >= 2, "{steps:?}");
    for (command, output) in requests {
        let words = words(command);
        let url = words
            .iter()
            .find_map(|word| word.strip_prefix("http://localhost:10000"));
        let headers: Vec<_> = values(&words, "-H")
            .filter_map(|header| header.split_once(": "))
            .collect();
        let body = values(&words, "-d").next().expect("a body");
        let client = gateway.client();
        let answer = client
            .send("POST", url.expect("a URL"), &headers, body.as_bytes())
            .expect("an answer");
        match output.strip_prefix("HTTP/1.1 ") {
            Some(head) => {
                let (status, headers) = head.split_once('\n').expect("headers");
                assert!(
                    status.starts_with(&answer.status.to_string()),
                    "{}",
                    answer.text()
                );
                for header in headers.lines() {
                    let (name, value) = header.split_once(": ").expect("a header");
                    assert_eq!(answer.header(name), Some(value), "{command}");
                }
            }
            None => {
                let expected: Value = serde_json::from_str(output).expect("JSON");
                assert_eq!(answer.json(), expected, "{command}");
            }
        }
    }
}
