//! Every rendered resource is valid for its API.
//!
//! Resources of Istio and the Gateway API are read into types generated from the projects' CRDs, and written again.
//! Unknown fields would get lost, missing required fields and wrong values would be errors. Envoy Gateway's CRDs are in
//! no package. So `envoy_gateway/*.json` are this project's schemas of the fields in use, with the names, types and
//! bounds of the CRDs of Envoy Gateway 1.7.

use std::collections::BTreeMap;
use std::fmt::Debug;

use cli::document::Document;
use cli::plugin::Engine;
use cli::{Options, Target};
use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::{json, Value};

/// The documents of a file of YAML.
fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").skip(1);
    documents
        .map(|text| {
            Document::parse(text)
                .unwrap_or_else(|e| panic!("{e}\n{text}"))
                .value
        })
        .collect()
}

fn render(target: Target, list: &str, options: Options) -> Vec<Value> {
    let text = cli::render(target, list, options).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert!(
        text.lines().all(|line| line.trim_end() == line),
        "no blanks at the ends of lines"
    );
    documents(&text)
}

/// Lists of backends, from the smallest to one with every field.
fn lists() -> Vec<String> {
    let hosts = |n: usize| {
        (1..=n)
            .map(|n| format!("- host: contoso-{n}.openai.azure.com\n"))
            .collect::<String>()
    };
    let with = |n: usize, more: &str| format!("backends:\n{}{more}", hosts(n));
    vec![
        with(2, ""),
        with(5, "clients: {keys_file: /etc/keys/clients.yaml}\n"),
        with(30, "clients: {entra_id: {tenant: t, audience: api://gateway}}\n"),
        "\
backends:
- {host: contoso-eastus.openai.azure.com, api_key_env: EAST_KEY, priority: 1, weight: 3, deployments: {gpt-4o: own}}
- {host: contoso-westus.openai.azure.com, endpoint: \"https://10.0.0.4\"}
- {host: \"contoso.openai.azure.com:8443\", name: A_b, endpoint: \"https://private.example.com:9443\"}
- {host: plain.example.com, identity: third, endpoint: \"http://10.0.0.5:8080\", name: a-B}
identity: {client_id: an-id, endpoint: \"http://10.0.0.6:8080\"}
identities: {second: {client_id: another}, third: {cluster: third, endpoint: \"http://10.0.0.7\"}}
cooldown: null
headers: {backend: null, cluster: x-cluster}
kubernetes: {namespace: ai, image: \"registry.example.com/balancer@sha256:aa\", host: ai.example.com, gateway: ai, tls_secret: tls}
"
        .to_owned(),
        with(2, "identity: {source: workload_identity, resource: \"https://ai.azure.com\"}\n"),
        "\
backends:
- {host: contoso-eastus.openai.azure.com, identity: app}
- {host: contoso-westus.openai.azure.us, identity: lab}
identities:
  app: {source: client_secret, tenant_id: t, client_id: c}
  lab:
    source: workload_identity
    cluster: government
    token_file_cluster: lab_token
    token_file: /var/run/lab/token
    token_socket: /run/lab.sock
"
        .to_owned(),
    ]
}

fn options(engine: Option<Engine>, open: bool) -> Options {
    Options {
        engine,
        open,
        full: false,
    }
}

/// Reads the resource into `T` and writes it again. Nothing may get lost.
fn assert_round_trip<T: DeserializeOwned + Serialize + Debug>(resource: &Value) {
    let typed: T =
        serde_json::from_value(resource.clone()).unwrap_or_else(|e| panic!("{e}: {resource:#}"));
    let again = serde_json::to_value(&typed).expect("JSON");
    assert_eq!(&again, resource);
}

fn assert_valid(resource: &Value) {
    use kcr_extensions_istio_io::v1alpha1::wasmplugins::WasmPlugin;
    use kcr_gateway_networking_k8s_io::v1::{backendtlspolicies, gateways, httproutes};
    use kcr_networking_istio_io::{v1, v1alpha3};
    use kcr_security_istio_io::v1 as security;
    let text = |field: &str| resource[field].as_str().unwrap_or_default().to_owned();
    match (text("apiVersion").as_str(), text("kind").as_str()) {
        ("networking.istio.io/v1", "Gateway") => {
            assert_round_trip::<v1::gateways::Gateway>(resource)
        }
        ("networking.istio.io/v1", "ServiceEntry") => {
            assert_round_trip::<v1::serviceentries::ServiceEntry>(resource)
        }
        ("networking.istio.io/v1", "DestinationRule") => {
            assert_round_trip::<v1::destinationrules::DestinationRule>(resource)
        }
        ("networking.istio.io/v1", "VirtualService") => {
            assert_round_trip::<v1::virtualservices::VirtualService>(resource)
        }
        ("networking.istio.io/v1alpha3", "EnvoyFilter") => {
            assert_round_trip::<v1alpha3::envoyfilters::EnvoyFilter>(resource)
        }
        ("extensions.istio.io/v1alpha1", "WasmPlugin") => assert_round_trip::<WasmPlugin>(resource),
        ("security.istio.io/v1", "RequestAuthentication") => {
            assert_round_trip::<security::requestauthentications::RequestAuthentication>(resource)
        }
        ("security.istio.io/v1", "AuthorizationPolicy") => {
            assert_round_trip::<security::authorizationpolicies::AuthorizationPolicy>(resource)
        }
        ("gateway.networking.k8s.io/v1", "Gateway") => {
            assert_round_trip::<gateways::Gateway>(resource)
        }
        ("gateway.networking.k8s.io/v1", "HTTPRoute") => {
            assert_round_trip::<httproutes::HttpRoute>(resource);
            let rules = resource["spec"]["rules"].as_array().map_or(0, Vec::len);
            assert!(
                (1..=16).contains(&rules),
                "the API allows 16 rules: {rules}"
            );
        }
        ("gateway.networking.k8s.io/v1", "BackendTLSPolicy") => {
            assert_round_trip::<backendtlspolicies::BackendTlsPolicy>(resource)
        }
        ("gateway.envoyproxy.io/v1alpha1", kind) => assert_valid_by_schema(kind, resource),
        other => panic!("no one knows {other:?}"),
    }
    let name = resource["metadata"]["name"].as_str().expect("a name");
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    assert!(
        name.len() <= 253 && name.bytes().all(allowed) && !name.ends_with('-'),
        "{name}"
    );
}

fn assert_valid_by_schema(kind: &str, resource: &Value) {
    let schema = match kind {
        "Backend" => include_str!("envoy_gateway/backend.json"),
        "EnvoyExtensionPolicy" => include_str!("envoy_gateway/envoy_extension_policy.json"),
        "ClientTrafficPolicy" => include_str!("envoy_gateway/client_traffic_policy.json"),
        "BackendTrafficPolicy" => include_str!("envoy_gateway/backend_traffic_policy.json"),
        "SecurityPolicy" => include_str!("envoy_gateway/security_policy.json"),
        "EnvoyPatchPolicy" => include_str!("envoy_gateway/envoy_patch_policy.json"),
        other => panic!("no schema of {other}"),
    };
    let schema: Value = serde_json::from_str(schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let problems: Vec<String> = validator
        .iter_errors(&resource["spec"])
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(problems.is_empty(), "{kind}: {problems:#?}\n{resource:#}");
}

fn kinds(resources: &[Value]) -> BTreeMap<&str, usize> {
    let mut kinds = BTreeMap::new();
    for resource in resources {
        *kinds
            .entry(resource["kind"].as_str().expect("a kind"))
            .or_default() += 1;
    }
    kinds
}

#[test]
fn istio_accepts_every_resource() {
    for list in lists() {
        for (engine, open, full) in [
            (None, false, false),
            (Some(Engine::Router), false, false),
            (Some(Engine::Router), true, false),
            (None, true, false),
            (None, false, true),
            (Some(Engine::Router), false, true),
        ] {
            let options = Options { engine, open, full };
            for resource in render(Target::Istio, &list, options) {
                assert_valid(&resource);
            }
        }
    }
}

#[test]
fn envoy_gateway_accepts_every_resource() {
    for list in lists() {
        for (engine, open, full) in [
            (None, false, false),
            (None, true, false),
            (None, false, true),
            (Some(Engine::Router), true, true),
            (Some(Engine::Router), false, true),
        ] {
            let options = Options { engine, open, full };
            for resource in render(Target::EnvoyGateway, &list, options) {
                assert_valid(&resource);
            }
        }
    }
}

#[test]
fn envoy_gateway_accepts_the_limits_of_a_service() {
    let list = "\
backends: [{host: contoso-eastus.openai.azure.com}]
limits: {default: {tokens_per_day: 5, requests_per_minute: 5}, service: {endpoint: \"https://ratelimit:8081\"}}
";
    for engine in [Engine::Filter, Engine::Router] {
        let options = Options {
            full: true,
            ..options(Some(engine), false)
        };
        for resource in render(Target::EnvoyGateway, list, options) {
            assert_valid(&resource);
        }
    }
}

#[test]
fn a_field_that_no_api_knows_is_noticed() {
    for target in [Target::Istio, Target::EnvoyGateway] {
        for mut resource in render(target, &lists()[2], options(None, false)) {
            resource["spec"]["unheardOf"] = json!(1);
            let refused = std::panic::catch_unwind(|| assert_valid(&resource)).is_err();
            assert!(refused, "{resource:#}");
        }
    }
}

#[test]
fn istios_resources_have_the_expected_fields() {
    let resources = render(Target::Istio, &lists()[0], options(None, false));
    let expected = [
        ("DestinationRule", 2),
        ("EnvoyFilter", 1),
        ("Gateway", 1),
        ("ServiceEntry", 3),
        ("VirtualService", 1),
        ("WasmPlugin", 1),
    ];
    assert_eq!(kinds(&resources), BTreeMap::from(expected));
    let with_router = render(
        Target::Istio,
        &lists()[0],
        options(Some(Engine::Router), false),
    );
    assert!(
        !kinds(&with_router).contains_key("WasmPlugin"),
        "the module is in the EnvoyFilter"
    );
    let with_tokens = render(Target::Istio, &lists()[2], options(None, false));
    assert_eq!(kinds(&with_tokens)["RequestAuthentication"], 1);
    assert_eq!(kinds(&with_tokens)["AuthorizationPolicy"], 1);

    assert_clusters_exist(&resources);
    assert_clusters_exist(&render(Target::Istio, &lists()[3], options(None, false)));
}

/// Every cluster in the filter's configuration is one that Istio makes from a ServiceEntry.
fn assert_clusters_exist(resources: &[Value]) {
    let plugin = resources
        .iter()
        .find(|r| r["kind"] == "WasmPlugin")
        .expect("one");
    let plugin = &plugin["spec"]["pluginConfig"];
    let entries = resources.iter().filter(|r| r["kind"] == "ServiceEntry");
    let made: Vec<String> = entries
        .map(|r| {
            format!(
                "outbound|{}||{}",
                r["spec"]["ports"][0]["number"],
                r["spec"]["hosts"][0].as_str().expect("a host")
            )
        })
        .collect();
    let backends = plugin["backends"].as_array().expect("backends").iter();
    let named = plugin["identities"].as_object().into_iter().flatten();
    let identities = named
        .map(|(_, identity)| identity)
        .chain([&plugin["identity"]]);
    let used = backends.chain(identities).map(|named| &named["cluster"]);
    for cluster in used {
        assert!(
            made.iter().any(|made| cluster == made),
            "{cluster} of {made:?}"
        );
    }
}

#[test]
fn keys_of_backends_come_from_the_environment() {
    let resources = render(Target::Istio, &lists()[3], options(None, false));
    let plugin = resources
        .iter()
        .find(|r| r["kind"] == "WasmPlugin")
        .expect("one");
    assert_eq!(
        plugin["spec"]["vmConfig"]["env"],
        json!([{"name": "EAST_KEY", "valueFrom": "HOST"}])
    );
    let resources = render(Target::EnvoyGateway, &lists()[3], options(None, false));
    let policy = resources
        .iter()
        .find(|r| r["kind"] == "EnvoyExtensionPolicy")
        .expect("one");
    assert_eq!(
        policy["spec"]["wasm"][0]["env"]["hostKeys"],
        json!(["EAST_KEY"])
    );
}

/// Options that differ from the default in `full` only.
const FULL: Options = Options {
    engine: None,
    open: false,
    full: true,
};

#[test]
fn the_image_is_in_the_envoy_filter_with_full() {
    let patched = |options| {
        let resources = render(Target::Istio, &lists()[3], options);
        assert!(!kinds(&resources).contains_key("WasmPlugin"));
        let filter = resources.iter().find(|r| r["kind"] == "EnvoyFilter");
        let patches = filter.expect("one")["spec"]["configPatches"].clone();
        let patches = patches.as_array().expect("patches").clone();
        let extensions = patches
            .iter()
            .filter(|p| p["applyTo"] == "EXTENSION_CONFIG");
        let extensions: Vec<Value> = extensions.map(|p| p["patch"]["value"].clone()).collect();
        for extension in &extensions {
            let vm = &extension["typed_config"]["config"]["vm_config"];
            let uri = &vm["code"]["remote"]["http_uri"]["uri"];
            assert_eq!(uri, "oci://registry.example.com/balancer@sha256:aa");
            assert_eq!(
                vm["environment_variables"]["host_env_keys"],
                json!(["EAST_KEY"])
            );
        }
        extensions
    };
    assert_eq!(patched(FULL).len(), 1);
    let with_router = patched(Options {
        engine: Some(Engine::Router),
        ..FULL
    });
    let vms: Vec<&Value> = with_router
        .iter()
        .map(|e| &e["typed_config"]["config"]["vm_config"])
        .collect();
    assert_eq!(vms.len(), 2, "the listener's filter and the clusters'");
    assert_eq!(vms[0], vms[1], "they share a VM");
}

#[test]
fn a_note_names_features_that_need_bodies() {
    let host = "- host: contoso-1.openai.azure.com\n";
    let two = format!("backends:\n{host}- host: contoso-2.openai.azure.com\n");
    let plain = format!("{two}state: {{ids: plain}}\n");
    let renamed = "backends:\n- {host: contoso-1.openai.azure.com, deployments: {a: b}}\n";
    let ids = "ids in bodies (`previous_response_id`)";
    let codes = "the codes of errors (401, 403, 404, in streams)";
    let deployments = "`deployments` in the v1 API";
    for (list, lost) in [
        (format!("backends:\n{host}"), None),
        (
            format!("{two}affinity: {{by: prompt_cache_key}}\n"),
            Some(format!(
                "{ids}, `affinity` by `prompt_cache_key` and {codes}"
            )),
        ),
        (
            format!("{two}affinity: {{by: client}}\n"),
            Some(format!("{ids} and {codes}")),
        ),
        (two.clone(), Some(format!("{ids} and {codes}"))),
        (plain, Some(codes.to_owned())),
        (renamed.to_owned(), Some(deployments.to_owned())),
        (
            renamed.to_owned() + "- host: contoso-2.openai.azure.com\n",
            Some(format!("{deployments}, {ids} and {codes}")),
        ),
    ] {
        for (target, kind) in [
            (Target::Istio, "WasmPlugin"),
            (Target::EnvoyGateway, "EnvoyExtensionPolicy"),
        ] {
            let notes = |options| cli::rendered(target, &list, options).expect("right").notes;
            let note = lost.as_ref().map(|lost| {
                format!("the filter cannot read bodies from {kind}, so these resources lack {lost}; use `--full` for every feature")
            });
            assert_eq!(notes(Options::default()), Vec::from_iter(note), "{list}");
            assert_eq!(notes(FULL), [""; 0], "{list}");
        }
    }
    let notes = |target, full| {
        let options = Options {
            engine: Some(Engine::Router),
            open: false,
            full,
        };
        cli::rendered(target, &two, options).expect("right").notes
    };
    for full in [false, true] {
        assert_eq!(notes(Target::Istio, full), [""; 0]);
    }
    assert_eq!(notes(Target::EnvoyGateway, true), [""; 0]);
    let note = &notes(Target::EnvoyGateway, false)[0];
    assert!(
        note.starts_with("Envoy Gateway's API cannot set up the router engine"),
        "{note}"
    );
}

#[test]
fn equal_names_are_made_unique() {
    let resources = render(Target::Istio, &lists()[3], options(None, false));
    let mut names: Vec<String> = resources
        .iter()
        .map(|r| format!("{} {}", r["kind"], r["metadata"]["name"]))
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
}

#[test]
fn app_service_is_refused_for_kubernetes() {
    let source = "{source: app_service, endpoint: \"http://127.0.0.1:42356\"}";
    for (list, path) in [
        (
            format!("backends: [{{host: a}}]\nidentity: {source}\n"),
            "identity.source",
        ),
        (
            format!(
                "backends: [{{host: a, identity: research}}]\nidentities: {{research: {source}}}\n"
            ),
            "identities.research.source",
        ),
    ] {
        for target in [Target::Istio, Target::EnvoyGateway] {
            let problems = cli::render(target, &list, Options::default()).expect_err("refused");
            let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let text =
                "\"app_service\" is not there in Kubernetes; use \"workload_identity\" or \"imds\"";
            assert_eq!(problems, [format!("1:1: {path}: {text}")]);
        }
    }
}
