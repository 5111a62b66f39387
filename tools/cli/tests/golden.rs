//! The checked-in output of the tool is current: the configurations in `envoy/`, and the schemas in `schema/`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use cli::plugin::Engine;
use cli::{Form, Options, Target};

fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn assert_checked_in(path: &str, made: &str) {
    let file = workspace(path);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, made).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    let checked_in = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(
        checked_in == made,
        "{path} is not what the tool makes; run `UPDATE_GOLDEN=1 cargo test -p cli` and look at the diff"
    );
}

fn rendered(target: Target, backends: &str, options: Options) -> String {
    let text =
        fs::read_to_string(workspace(backends)).unwrap_or_else(|e| panic!("{backends}: {e}"));
    cli::render(target, &text, options)
        .unwrap_or_else(|problems| panic!("{backends}: {problems:#?}"))
}

fn with(engine: Engine) -> Options {
    Options {
        engine: Some(engine),
        ..Options::default()
    }
}

#[test]
fn the_filter_engines_configuration_is_current() {
    let made = rendered(Target::Envoy, "envoy/backends.yaml", with(Engine::Filter));
    assert_checked_in("envoy/envoy.yaml", &made);
}

#[test]
fn the_router_engines_configuration_is_current() {
    let made = rendered(Target::Envoy, "envoy/backends.yaml", with(Engine::Router));
    assert_checked_in("envoy/envoy-router.yaml", &made);
}

#[test]
fn the_page_of_fields_is_current() {
    let path = "docs/configuration.md";
    let page = fs::read_to_string(workspace(path)).expect(path);
    assert_checked_in(path, &cli::with_tables(&page).expect("tables"));
}

#[test]
fn the_schemas_are_current() {
    assert_checked_in("schema/plugin.json", &cli::schema::text(Form::Plugin));
    assert_checked_in("schema/backends.json", &cli::schema::text(Form::Backends));
}

/// The list that a newcomer starts with.
const TWO_HOSTS: &str = "\
backends:
- host: contoso-eastus.openai.azure.com
- host: contoso-westus.openai.azure.com
";

#[test]
fn the_output_for_two_hosts_is_current() {
    for (target, name) in [
        (Target::Envoy, "envoy.yaml"),
        (Target::Istio, "istio.yaml"),
        (Target::EnvoyGateway, "envoy-gateway.yaml"),
    ] {
        let made = cli::render(target, TWO_HOSTS, Options::default()).expect("right");
        assert_checked_in(&format!("tools/cli/tests/rendered/{name}"), &made);
    }
}

#[test]
fn the_full_output_for_two_hosts_is_current() {
    for (target, engine, name) in [
        (Target::Istio, Engine::Filter, "istio-full.yaml"),
        (Target::Istio, Engine::Router, "istio-full-router.yaml"),
        (
            Target::EnvoyGateway,
            Engine::Filter,
            "envoy-gateway-full.yaml",
        ),
        (
            Target::EnvoyGateway,
            Engine::Router,
            "envoy-gateway-full-router.yaml",
        ),
    ] {
        let options = Options {
            engine: Some(engine),
            open: false,
            full: true,
        };
        let made = cli::render(target, TWO_HOSTS, options).expect("right");
        assert_checked_in(&format!("tools/cli/tests/rendered/{name}"), &made);
    }
}

/// The list for a pod of AKS.
const WORKLOAD_IDENTITY: &str = "\
backends:
- host: contoso-eastus.openai.azure.com
identity: {source: workload_identity}
";

#[test]
fn the_output_for_workload_identity_is_current() {
    for (target, name) in [
        (Target::Envoy, "envoy"),
        (Target::Istio, "istio"),
        (Target::EnvoyGateway, "envoy-gateway"),
    ] {
        let made = cli::render(target, WORKLOAD_IDENTITY, Options::default()).expect("right");
        assert_checked_in(
            &format!("tools/cli/tests/rendered/workload-identity-{name}.yaml"),
            &made,
        );
    }
}

/// Limits that a service keeps for several Envoys.
const SHARED_LIMITS: &str = "\
backends:
- host: contoso-eastus.openai.azure.com
limits:
  default: {tokens_per_minute: 10000, requests_per_minute: 60}
  clients: {team-search: {tokens_per_minute: 50000, tokens_per_day: 5000000}}
  service: {endpoint: \"http://ratelimit:8081\"}
";

#[test]
fn the_output_for_a_rate_limit_service_is_current() {
    for (target, engine, name) in [
        (Target::Envoy, Engine::Filter, "envoy-filter"),
        (Target::Envoy, Engine::Router, "envoy-router"),
        (Target::Istio, Engine::Filter, "istio-full"),
        (Target::Istio, Engine::Router, "istio-full-router"),
        (Target::EnvoyGateway, Engine::Filter, "envoy-gateway-full"),
        (
            Target::EnvoyGateway,
            Engine::Router,
            "envoy-gateway-full-router",
        ),
        (Target::RateLimit, Engine::Router, "ratelimit"),
    ] {
        let options = Options {
            engine: Some(engine),
            open: false,
            full: matches!(target, Target::Istio | Target::EnvoyGateway),
        };
        let made = cli::render(target, SHARED_LIMITS, options).expect("right");
        assert_checked_in(
            &format!("tools/cli/tests/rendered/limits-{name}.yaml"),
            &made,
        );
    }
}

#[test]
fn only_changed_parts_of_the_output_change() {
    let rendered =
        |list: &str| cli::render(Target::Envoy, list, Options::default()).expect("right");
    let before = rendered(TWO_HOSTS);
    let after = rendered(&format!(
        "{TWO_HOSTS}- host: contoso-swedencentral.openai.azure.com\n"
    ));
    let is_in = |line: &&str, text: &str| {
        text.lines()
            .any(|other| other.trim_end_matches(',') == line.trim_end_matches(','))
    };
    let gone: Vec<&str> = before.lines().filter(|line| !is_in(line, &after)).collect();
    assert_eq!(
        gone, ["                    num_retries: 1"; 0],
        "a third backend takes nothing away"
    );
}
