//! The alerts and the dashboard use the statistics that the module exports, and no others.
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
use std::path::Path;

use self::statistics::statistics;

const ALERTS: &str = "deploy/prometheus/alerts.yml";
const DASHBOARD: &str = "deploy/grafana/azure-openai-balancer.json";

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The name of every statistic of the module as Envoy exports it to Prometheus. Backend, deployment and client become
/// labels, and dots become underscores. `tests/e2e/tests/prometheus.rs` compares this with a real Envoy.
fn exported() -> BTreeSet<String> {
    statistics()
        .iter()
        .map(|name| name.replace(".NAME", "").replace('.', "_"))
        .collect()
}

/// The labels that backends, deployments, clients and identities become.
const LABELS: [&str; 4] = [
    "aoai_backend",
    "aoai_deployment",
    "aoai_client",
    "aoai_identity",
];

/// Every word that begins like the name of a statistic of the module.
fn asked_for(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words
        .filter(|word| word.starts_with("aoai_") && !LABELS.contains(word))
        // Prometheus has several series for a histogram.
        .map(|word| word.strip_suffix("_bucket").unwrap_or(word).to_owned())
        .collect()
}

#[test]
fn alerts_and_dashboard_ask_for_what_is_exported() {
    let exported = exported();
    for path in [ALERTS, DASHBOARD] {
        let asked = asked_for(&read(path));
        assert!(asked.len() > 10, "{path}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&exported).collect();
        assert!(
            unknown.is_empty(),
            "{path} asks for {unknown:?}, which are not exported"
        );
    }
}

#[test]
fn the_dashboard_shows_everything_that_is_exported() {
    // Statistics of the alerts alone.
    const ALERTS_ALONE: [&str; 1] = ["aoai_backend_missing_deployments"];
    let asked = asked_for(&read(DASHBOARD));
    let exported = exported();
    let missing: Vec<_> = exported
        .difference(&asked)
        .filter(|name| !ALERTS_ALONE.contains(&name.as_str()))
        .collect();
    assert!(missing.is_empty(), "the dashboard lacks {missing:?}");
}

#[test]
fn every_alert_is_tested_and_explained() {
    let names = |text: &str, key: &str| -> BTreeSet<String> {
        let lines = text.lines().filter_map(|line| line.split_once(key));
        lines
            .map(|(_, name)| name.trim_end_matches('}').trim().to_owned())
            .collect()
    };
    let alerts = names(&read(ALERTS), "- alert: ");
    assert!(alerts.len() > 10);
    let tested = read("deploy/prometheus/alerts.test.yml");
    let explained = read("docs/operations.md");
    for alert in &alerts {
        // At least one test has each alert fire.
        let fires = format!("    alertname: {alert}\n    exp_alerts:");
        assert!(tested.contains(&fires), "{alert} is not shown to fire");
        assert!(
            explained.contains(&format!("`{alert}`")),
            "{alert} is not explained"
        );
    }
}

#[test]
fn every_panel_of_the_dashboard_can_be_drawn() {
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id");
        assert!(
            !panel["description"].as_str().unwrap().is_empty(),
            "{title}"
        );
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title}: beside the grid");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title}: lies on another panel");
            }
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        let refs: BTreeSet<_> = targets
            .iter()
            .map(|t| t["refId"].as_str().unwrap())
            .collect();
        assert_eq!(refs.len(), targets.len(), "{title}: the targets' names");
        for target in targets {
            assert!(!target["expr"].as_str().unwrap().is_empty(), "{title}");
        }
    }
}
