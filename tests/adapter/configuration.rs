//! Configurations: a wrong one is refused with a reason, and a correct one is read in one callback.

use mock_host::{Host, LogLevel, Setup};
use serde_json::json;

use super::support::*;

fn refusals(config: String) -> Vec<String> {
    let refused = match Host::new().start(Setup::new(config)) {
        Ok(_) => panic!("it was accepted"),
        Err(refused) => refused,
    };
    assert!(refused.logs.iter().all(|log| log.level == LogLevel::Error));
    refused.logs.into_iter().map(|log| log.text).collect()
}

#[test]
fn every_mistake_is_logged_with_its_path() {
    let config = json!({
        "backends": [
            {"name": "east", "cluster": "aoai_east", "host": "https://east"},
            {"name": "east", "cluster": "aoai_west", "host": "west.openai.azure.com"},
        ],
        "identity": {"cluster": "imds", "wait_timeout": 5},
        "retries": 3,
    });
    let logged = refusals(config.to_string());
    for path in [
        "backends[0].host",
        "backends[1].name",
        "identity.wait_timeout",
        "retries",
    ] {
        let hits = logged
            .iter()
            .filter(|text| text.contains(&format!(": {path}: ")));
        assert_eq!(hits.count(), 1, "{path}: {logged:#?}");
    }
    assert_eq!(logged.len(), 4, "a line each: {logged:#?}");
}

#[test]
fn a_configuration_that_is_not_json_is_refused() {
    let logged = refusals("{".to_owned());
    assert_eq!(logged.len(), 1, "{logged:?}");
    assert!(
        logged[0].starts_with("configuration refused: "),
        "{logged:?}"
    );
    assert!(!refusals(String::new()).is_empty());
}

#[test]
fn a_good_configuration_is_logged_in_one_line() {
    let host = Host::new();
    let _vm = host.vm(CONFIG);
    let logs = host.logs();
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert_eq!(logs[0].level, LogLevel::Info);
    assert!(logs[0].text.contains("3 backends"), "{logs:?}");
}

#[test]
fn a_refused_configuration_leaves_the_old_one_in_place() {
    let (host, vm) = ready();
    assert!(host.start(Setup::new("{}")).is_err());
    assert!(get(&vm).forwarded().is_some());
}

#[test]
fn a_reload_with_the_same_backends_keeps_their_state() {
    let (host, vm) = ready();
    assert_eq!(routed_to(&get(&vm)), "aoai_east");
    let reloaded = host.vm(CONFIG);
    drop(vm);
    let stream = get(&reloaded);
    assert_eq!(routed_to(&stream), "aoai_west");
    let forwarded = stream.forwarded().unwrap();
    assert_eq!(
        forwarded.headers.get("authorization"),
        Some("Bearer TOKEN-ONE")
    );
    host.advance(seconds(2));
    assert_eq!(reloaded.calls(), [], "the token was there");
}
