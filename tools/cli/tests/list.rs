//! Values derived from the list of backends.

use cli::document::Document;
use cli::plugin::Engine;
use cli::{Options, Target};
use render::{Clients, Fleet};
use serde_json::{json, Value};

fn fleet(list: &str) -> Fleet {
    cli::fleet(list, Options::default()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

#[test]
fn two_hosts_are_enough() {
    let fleet = fleet("backends:\n- host: contoso-eastus.openai.azure.com\n- host: contoso-westus.openai.azure.com\n");
    let expected = json!({
        "backends": [
            {"name": "contoso-eastus", "cluster": "aoai_contoso-eastus", "host": "contoso-eastus.openai.azure.com"},
            {"name": "contoso-westus", "cluster": "aoai_contoso-westus", "host": "contoso-westus.openai.azure.com"}
        ],
        "identity": {"cluster": "imds"},
        "retry": {"engine": "router"}
    });
    assert_eq!(fleet.plugin, expected);
    let backend = &fleet.backends[0];
    assert_eq!(
        (backend.address.as_str(), backend.port),
        ("contoso-eastus.openai.azure.com", 443)
    );
    assert!(backend.tls.is_some());
    let imds = fleet.identity.expect("an identity");
    assert_eq!(
        (imds.address.as_str(), imds.port, imds.cluster.as_str()),
        ("169.254.169.254", 80, "imds")
    );
    assert_eq!(fleet.listener.address, "0.0.0.0");
    assert_eq!(
        fleet.admin.address, "127.0.0.1",
        "no one from elsewhere reaches the admin interface"
    );
    let Clients::Keys { file } = fleet.clients else {
        panic!("{:?}: closed unless asked otherwise", fleet.clients);
    };
    assert_eq!(file.to_str(), Some("/etc/envoy/clients.yaml"));
}

#[test]
fn affinity_by_client_sets_the_client_header() {
    let fleet = fleet("backends: [{host: a.example.com}]\naffinity: {by: client}\n");
    assert_eq!(fleet.plugin["headers"]["client"], "x-aoai-client");
}

#[test]
fn limits_set_the_client_header() {
    let own = "limits: {clients: {a: {tokens_per_minute: 5}}}\n";
    let fleet = fleet(&format!("backends: [{{host: a.example.com}}]\n{own}"));
    assert_eq!(fleet.plugin["headers"]["client"], "x-aoai-client");
}

#[test]
fn in_open_configurations_no_client_names_itself() {
    let open = |more: &str| {
        let options = Options {
            open: true,
            ..Options::default()
        };
        let list = format!("backends: [{{host: a.example.com}}]\n{more}");
        cli::fleet(&list, options)
    };
    let all = "limits: {default: {tokens_per_minute: 5}}\n";
    let fleet = open(all).expect("right");
    assert_eq!(fleet.plugin["headers"]["client"], Value::Null);
    let own = "limits: {clients: {a: {tokens_per_minute: 5}}}\n";
    let problems = open(own).expect_err("no names");
    assert_eq!(
        problems[0].to_string(),
        "2:19: limits.clients: with `--open` no filter tells clients apart; render without it, or name the header that a filter \
         of your own sets in `headers.client`"
    );
    let fleet = open(&format!("{own}headers: {{client: x-me}}\n")).expect("right");
    assert_eq!(fleet.plugin["headers"]["client"], "x-me");
}

/// Limits that a service keeps.
const SHARED: &str = "\
backends: [{host: a.example.com}]
limits:
  default: {tokens_per_minute: 100, requests_per_minute: 6}
  clients:
    team-a: {tokens_per_minute: 500, tokens_per_day: 4294967295}
    team-b: {requests_per_minute: null}
    batch: null
  service: {endpoint: \"http://ratelimit:8081\", on_failure: refuse}
";

#[test]
fn a_rate_limit_service_keeps_limits_in_the_modules_place() {
    let fleet = fleet(SHARED);
    assert_eq!(fleet.plugin.get("limits"), None);
    let limits = fleet.limits.expect("limits");
    assert_eq!(
        (&*limits.service.address, limits.service.port),
        ("ratelimit", 8081)
    );
    assert_eq!(limits.on_failure, render::OnFailure::Refuse);
    let own = |name: &str| {
        let own = limits.clients[name];
        [
            own.tokens_per_minute,
            own.tokens_per_day,
            own.requests_per_minute,
        ]
    };
    assert_eq!(own("team-a"), [Some(500), Some(u32::MAX), Some(6)]);
    assert_eq!(own("team-b"), [Some(100), None, None]);
    assert_eq!(own("batch"), [None; 3]);
}

#[test]
fn limits_of_a_service_are_refused_where_unsupported() {
    for (target, reason) in [
        (Target::Istio, "a WasmPlugin cannot put"),
        (Target::EnvoyGateway, "an EnvoyExtensionPolicy cannot put"),
    ] {
        let options = Options {
            engine: Some(Engine::Filter),
            ..Options::default()
        };
        let problems = cli::render(target, SHARED, options).expect_err("no support");
        let problem = problems[0].to_string();
        assert!(
            problem.contains(&format!("limits.service: {reason}"))
                && problem.ends_with("use `--full`"),
            "{problem}"
        );
    }
}

#[test]
fn the_service_reads_a_file_of_its_own() {
    let file = cli::render(Target::RateLimit, SHARED, Options::default()).expect("right");
    let (_, limits) = file.split_once("domain: ").expect("a domain");
    let expected = "\
azure_openai
descriptors:
- key: tokens_per_minute
  value: \"batch\"
  rate_limit: {unlimited: true}
- key: tokens_per_minute
  value: \"team-a\"
  rate_limit: {unit: minute, requests_per_unit: 500}
- key: tokens_per_minute
  rate_limit: {unit: minute, requests_per_unit: 100}
- key: tokens_per_day
  value: \"team-a\"
  rate_limit: {unit: day, requests_per_unit: 4294967295}
- key: requests_per_minute
  value: \"batch\"
  rate_limit: {unlimited: true}
- key: requests_per_minute
  value: \"team-b\"
  rate_limit: {unlimited: true}
- key: requests_per_minute
  rate_limit: {unit: minute, requests_per_unit: 6}
";
    assert_eq!(limits, expected);
    let without = "backends: [{host: a.example.com}]\n";
    let problems = cli::render(Target::RateLimit, without, Options::default());
    let problem = problems.expect_err("no service")[0].to_string();
    assert!(problem.contains("limits.service: is missing"), "{problem}");
}

#[test]
fn every_field_of_the_plugin_passes_through() {
    let fleet = fleet(
        "\
backends:
- {host: a.example.com, weight: 3, deployments: {gpt-4o: own}, first_byte_timeout: 2s}
policy: least_throttled
cooldown: null
retry: {max_attempts: 2, budget: null}
headers: {backend: null}
engine: filter
",
    );
    let expected = json!({
        "backends": [{
            "name": "a", "cluster": "aoai_a", "host": "a.example.com", "weight": 3,
            "deployments": {"gpt-4o": "own"}, "first_byte_timeout": "2s"
        }],
        "identity": {"cluster": "imds"},
        "policy": "least_throttled",
        "cooldown": null,
        "retry": {"max_attempts": 2, "budget": null},
        "headers": {"backend": null}
    });
    assert_eq!(fleet.plugin, expected);
}

#[test]
fn an_endpoint_is_an_address_and_the_host_a_name() {
    let fleet = fleet(
        "\
backends:
- {host: a.example.com, endpoint: \"https://10.0.0.4\"}
- {host: b.example.com, endpoint: \"http://127.0.0.1:8080\", name: second}
- {host: \"c.example.com:8443\"}
",
    );
    let at = |n: usize| {
        (
            fleet.backends[n].address.as_str(),
            fleet.backends[n].port,
            fleet.backends[n].tls.is_some(),
        )
    };
    assert_eq!(at(0), ("10.0.0.4", 443, true));
    assert_eq!(at(1), ("127.0.0.1", 8080, false));
    assert_eq!(at(2), ("c.example.com", 8443, true));
    assert_eq!(fleet.backends[0].host, "a.example.com");
    assert_eq!(
        fleet.plugin["backends"][2]["host"], "c.example.com:8443",
        "as :authority"
    );
    assert!(!fleet.plugin.to_string().contains("endpoint"));
}

#[test]
fn app_service_names_its_endpoint_and_its_variables() {
    let fleet = fleet(
        "\
backends:
- {host: a.example.com, api_key_env: A_KEY}
- {host: b.example.com}
- {host: c.example.com, api_key_env: A_KEY}
identity: {source: app_service, endpoint: \"http://127.0.0.1:42356\"}
",
    );
    let identity = fleet.identity.expect("an identity");
    assert_eq!(
        (identity.address.as_str(), identity.port),
        ("127.0.0.1", 42356)
    );
    assert_eq!(identity.cluster, "app_service_identity");
    assert_eq!(
        fleet.host_environment,
        ["A_KEY", "IDENTITY_ENDPOINT", "IDENTITY_HEADER"]
    );
    assert!(
        fleet.environment.is_empty(),
        "no value stands in the configuration"
    );
}

#[test]
fn backends_with_keys_alone_need_no_identity() {
    let fleet = fleet("backends: [{host: a.example.com, api_key_env: A_KEY}]\n");
    assert_eq!(fleet.identity, None);
    assert!(fleet.plugin.get("identity").is_none());
}

#[test]
fn the_command_line_overrides_the_engine() {
    let list = "backends: [{host: a}]\nengine: filter\n";
    let with = |engine| {
        let options = Options {
            engine,
            open: true,
            full: false,
        };
        let fleet = cli::fleet(list, options).expect("right");
        assert_eq!(fleet.clients, Clients::Open);
        fleet.engine
    };
    assert_eq!(with(None), render::Engine::Filter);
    assert_eq!(with(Some(Engine::Router)), render::Engine::Router);
}

#[test]
fn tokens_of_entra_id() {
    let fleet = fleet(
        "backends: [{host: a}]\nclients: {entra_id: {tenant: T, audience: \"api://gateway\"}}\n",
    );
    let Clients::Tokens(issuer) = fleet.clients else {
        panic!("{:?}", fleet.clients);
    };
    assert_eq!(issuer.issuer, "https://login.microsoftonline.com/T/v2.0");
    assert_eq!(
        issuer.jwks,
        "https://login.microsoftonline.com/T/discovery/v2.0/keys"
    );
    assert_eq!(
        (issuer.host.as_str(), issuer.port),
        ("login.microsoftonline.com", 443)
    );
    assert_eq!(issuer.client_claim, "azp");
    assert!(issuer.tls.is_some());
}

#[test]
fn identities_share_a_token_service_or_have_one_of_their_own() {
    let fleet = fleet(
        "\
backends:
- {host: a.example.com}
- {host: b.example.com, identity: other}
- {host: c.example.com, identity: app}
identities:
  other: {client_id: an-id}
  app: {source: app_service, endpoint: \"http://127.0.0.1:42356\"}
",
    );
    assert_eq!(fleet.identity.expect("the default").cluster, "imds");
    let further: Vec<&str> = fleet
        .further_identities
        .iter()
        .map(|identity| identity.cluster.as_str())
        .collect();
    assert_eq!(further, ["app_service_identity"]);
    assert_eq!(
        fleet.plugin["identities"]["other"],
        json!({"cluster": "imds", "client_id": "an-id"})
    );
    assert_eq!(
        fleet.host_environment,
        ["IDENTITY_ENDPOINT", "IDENTITY_HEADER"]
    );
}

#[test]
fn workload_identity_gets_an_authority_and_a_token_file() {
    let fleet =
        fleet("backends: [{host: a.openai.azure.us}]\nidentity: {source: workload_identity}\n");
    assert_eq!(fleet.identity, None, "no machine is asked");
    let [authority] = &fleet.authorities[..] else {
        panic!("{:?}", fleet.authorities);
    };
    assert_eq!(authority.cluster, "entra_id");
    assert_eq!(
        (authority.host.as_str(), authority.address.as_str()),
        ("login.microsoftonline.us", "login.microsoftonline.us")
    );
    assert!(authority.port == 443 && authority.tls.is_some());
    let [file] = &fleet.token_files[..] else {
        panic!("{:?}", fleet.token_files);
    };
    assert_eq!(file.cluster, "token_file");
    assert_eq!(
        file.file.to_str(),
        Some("/var/run/secrets/azure/tokens/azure-identity-token")
    );
    assert_eq!(
        fleet.plugin["identity"],
        json!({
            "source": "workload_identity",
            "cluster": "entra_id",
            "token_file_cluster": "token_file",
            "authority_host": "https://login.microsoftonline.us",
        })
    );
    assert_eq!(
        fleet.host_environment,
        ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]
    );
}

#[test]
fn a_client_secret_needs_no_file() {
    let fleet = fleet(
        "\
backends: [{host: a.openai.azure.com}]
identity: {source: client_secret, tenant_id: t, client_id: c, client_secret_env: S, authority_host: \"login.example.com/\",
  endpoint: \"http://10.0.0.7:8080\"}
",
    );
    assert!(fleet.token_files.is_empty());
    let authority = &fleet.authorities[0];
    assert_eq!(
        (
            authority.host.as_str(),
            authority.address.as_str(),
            authority.port
        ),
        ("login.example.com", "10.0.0.7", 8080)
    );
    assert_eq!(authority.tls, None);
    assert_eq!(fleet.host_environment, ["S"]);
}

#[test]
fn identities_of_one_cluster_share_its_address() {
    let problems = |list: &str| {
        let problems = cli::check(list, Some(cli::Form::Backends)).expect_err("a problem");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        text.join("\n")
    };
    let two = |first: &str, second: &str| {
        format!(
            "\
backends:
- {{host: a.openai.azure.com, identity: a}}
- {{host: b.openai.azure.com, identity: b}}
identities:
  a: {{source: workload_identity, {first}}}
  b: {{source: workload_identity, {second}}}
"
        )
    };
    let text = problems(&two("token_file: /a", "token_file: /b"));
    assert!(
        text.contains("identities.b.token_file: differs from that of another identity"),
        "{text}"
    );
    let text = problems(&two(
        "client_id: a",
        "client_id: b, authority_host: login.example.com",
    ));
    assert!(
        text.contains("identities.b.authority_host: \"login.example.com\" is not that of"),
        "{text}"
    );
    let text = problems(&two("client_id: a", "token_fil: /b"));
    assert!(
        text.contains("identities.b.token_fil: unknown field, did you mean token_file?"),
        "{text}"
    );
}

#[test]
fn the_certificate_authorities_file_can_be_set() {
    let list = "\
backends: [{host: a.openai.azure.com}]
identity: {source: workload_identity}
clients: {entra_id: {tenant: t, audience: a}}
";
    let named = format!("{list}tls: {{trusted_ca: /etc/pki/tls/certs/ca-bundle.crt}}\n");
    for target in [Target::Envoy, Target::Istio] {
        let files = |list: &str| {
            let rendered = cli::render(target, list, Options::default()).expect("it is right");
            let usual = rendered
                .matches("/etc/ssl/certs/ca-certificates.crt")
                .count();
            (
                usual,
                rendered.matches("/etc/pki/tls/certs/ca-bundle.crt").count(),
            )
        };
        let (usual, other) = files(list);
        assert!(usual > 1 && other == 0, "{target:?}: {usual}");
        assert_eq!(files(&named), (0, usual), "{target:?}");
    }
}

#[test]
fn a_status_page_is_rendered_for_every_target() {
    let list = "backends: [{host: a.openai.azure.com}]\nlistener: {port: 8080}\n";
    let with_status = format!("{list}status: {{port: 9902}}\n");
    for (target, admin) in [
        (Target::Envoy, 9901),
        (Target::Istio, 15000),
        (Target::EnvoyGateway, 19000),
    ] {
        let rendered = |list| cli::render(target, list, Options::default()).expect("it is right");
        assert!(!rendered(list).contains(render::STATUS_NAME), "{target:?}");
        let text = rendered(&with_status);
        for port in [9902, admin] {
            let port = format!("port_value: {port}\n");
            assert!(text.contains(&port), "{target:?}: {port}");
        }
        // A listener on the loopback interface, with the page.
        assert!(text.contains("<!doctype html>") && text.contains("address: \"127.0.0.1\""));
        let has_more_than_comments = |document: &&str| {
            let mut lines = document.lines();
            lines.any(|line| !line.is_empty() && !line.starts_with('#'))
        };
        for document in text.split("\n---\n").filter(has_more_than_comments) {
            Document::parse(document).unwrap_or_else(|problem| panic!("{target:?}: {problem:?}"));
        }
    }
}
