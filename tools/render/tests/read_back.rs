//! The rendered configuration, read back with a YAML parser.

use std::path::Path;

use render::{Backend, Fleet, TlsOptions};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{json, Value};

fn parse(text: &str) -> Yaml<'_> {
    let mut documents = Yaml::load_from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(documents.len(), 1, "one document");
    documents.remove(0)
}

fn manager<'a, 'b>(listener: &'b Yaml<'a>) -> &'b Yaml<'a> {
    &listener["filter_chains"][0]["filters"][0]["typed_config"]
}

fn plugin<'a, 'b>(listener: &'b Yaml<'a>) -> &'b Yaml<'a> {
    &manager(listener)["http_filters"][0]["typed_config"]["config"]
}

/// A text that tries to leave its place in every way that a file allows.
const HOSTILE: &str = "x\"}, {\"y: 1\n- injected: true # '%RESP(a)%\u{7f}\u{85}\u{2028}\\";

#[test]
fn the_demo_has_the_expected_settings() {
    let text = render::envoy(&render::demo_fleet());
    let yaml = parse(&text);
    let listener = &yaml["static_resources"]["listeners"][0];
    assert_eq!(
        listener["address"]["socket_address"]["port_value"].as_integer(),
        Some(10000)
    );
    let route = &manager(listener)["route_config"]["virtual_hosts"][0]["routes"][0];
    assert_eq!(
        route["route"]["cluster_header"].as_str(),
        Some("x-aoai-cluster")
    );
    assert_eq!(route["route"]["timeout"].as_str(), Some("0s"));
    assert_eq!(
        plugin(listener)["failure_policy"].as_str(),
        Some("FAIL_RELOAD")
    );
    let configuration = plugin(listener)["configuration"]["value"]
        .as_str()
        .expect("a string");
    let configuration: Value = serde_json::from_str(configuration).expect("JSON");
    let mut expected = render::demo_fleet().plugin;
    expected["left_to_envoy"] = json!(["timeout", "host"]);
    assert_eq!(configuration, expected);
    let policy = &route["route"]["retry_policy"];
    assert_eq!(policy["per_try_timeout"].as_str(), Some("300s"));

    let clusters = yaml["static_resources"]["clusters"]
        .as_sequence()
        .expect("a list");
    let names: Vec<_> = clusters.iter().map(|c| c["name"].as_str()).collect();
    let expected = ["aoai_eastus", "aoai_westus", "aoai_swedencentral", "imds"];
    assert_eq!(names, expected.map(Some));
    assert!(clusters
        .iter()
        .all(|c| c["type"].as_str() == Some("STATIC")));
}

#[test]
fn an_azure_backends_certificate_is_checked() {
    let mut fleet = render::demo_fleet();
    fleet.backends = vec![Backend::new("eastus", "contoso-eastus.openai.azure.com")];
    let text = render::envoy(&fleet);
    let yaml = parse(&text);
    let cluster = &yaml["static_resources"]["clusters"][0];
    assert_eq!(cluster["type"].as_str(), Some("LOGICAL_DNS"));
    let socket =
        &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
    let socket = &socket["socket_address"];
    assert_eq!(
        socket["address"].as_str(),
        Some("contoso-eastus.openai.azure.com")
    );
    assert_eq!(socket["port_value"].as_integer(), Some(443));
    let tls = &cluster["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"].as_str(), Some("contoso-eastus.openai.azure.com"));
    let validation = &tls["common_tls_context"]["validation_context"];
    assert_eq!(
        validation["trusted_ca"]["filename"].as_str(),
        Some("/etc/ssl/certs/ca-certificates.crt")
    );
    assert_eq!(
        validation["match_typed_subject_alt_names"][0]["matcher"]["exact"].as_str(),
        Some("contoso-eastus.openai.azure.com")
    );
}

#[test]
fn nothing_in_the_fleet_breaks_out_of_its_place() {
    let mut fleet = render::demo_fleet();
    fleet.backends = vec![Backend {
        name: HOSTILE.to_owned(),
        cluster: HOSTILE.to_owned(),
        host: HOSTILE.to_owned(),
        address: HOSTILE.to_owned(),
        port: 1,
        tls: Some(TlsOptions {
            ca_file: Some(HOSTILE.into()),
        }),
    }];
    fleet.module = HOSTILE.into();
    fleet.plugin = json!({ HOSTILE: HOSTILE, "headers": {"cluster": HOSTILE, "backend": HOSTILE} });
    fleet.environment = [(HOSTILE.to_owned(), HOSTILE.to_owned())].into();
    fleet.host_environment = vec![HOSTILE.to_owned()];
    fleet.status = Some(render::Status {
        address: HOSTILE.to_owned(),
        port: 9902,
    });

    let text = render::envoy(&fleet);
    let yaml = parse(&text);
    let listener = &yaml["static_resources"]["listeners"][0];
    let config = plugin(listener);
    let vm = &config["vm_config"];
    assert_eq!(vm["code"]["local"]["filename"].as_str(), Some(HOSTILE));
    let variables = &vm["environment_variables"];
    assert_eq!(variables["key_values"][HOSTILE].as_str(), Some(HOSTILE));
    assert_eq!(variables["host_env_keys"][0].as_str(), Some(HOSTILE));
    let configuration = config["configuration"]["value"].as_str().expect("a string");
    let configuration: Value = serde_json::from_str(configuration).expect("JSON");
    let mut expected = fleet.plugin;
    expected["left_to_envoy"] = json!(["timeout", "host"]);
    assert_eq!(configuration, expected);
    let cluster = &yaml["static_resources"]["clusters"][0];
    assert_eq!(cluster["name"].as_str(), Some(HOSTILE));
    let tls = &cluster["transport_socket"]["typed_config"];
    assert_eq!(tls["sni"].as_str(), Some(HOSTILE));
    assert_eq!(
        tls["common_tls_context"]["validation_context"]["trusted_ca"]["filename"].as_str(),
        Some(HOSTILE)
    );
}

#[test]
fn a_plugin_configuration_in_a_string_is_passed_on() {
    let fleet = Fleet {
        plugin: "{ not json".into(),
        ..render::demo_fleet()
    };
    let text = render::envoy(&fleet);
    let yaml = parse(&text);
    let listener = &yaml["static_resources"]["listeners"][0];
    assert_eq!(
        plugin(listener)["configuration"]["value"].as_str(),
        Some("{ not json")
    );
}

#[test]
fn header_names_follow_the_plugin() {
    let mut fleet = render::demo_fleet();
    fleet.plugin["headers"] = json!({"cluster": "x-target", "backend": "x-served-by"});
    let text = render::envoy(&fleet);
    let yaml = parse(&text);
    let manager = manager(&yaml["static_resources"]["listeners"][0]);
    let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0];
    assert_eq!(route["route"]["cluster_header"].as_str(), Some("x-target"));
    assert_eq!(
        route["request_headers_to_remove"][0].as_str(),
        Some("x-target")
    );
    let log = &manager["access_log"][0]["typed_config"]["log_format"]["json_format"];
    assert_eq!(log["backend"].as_str(), Some("%RESP(x-served-by)%"));
    assert_eq!(log["attempts"].as_str(), Some("%RESP(x-aoai-attempts)%"));
}

#[test]
fn the_split_form_has_the_same_content() {
    let fleet = render::demo_fleet();
    let whole = render::envoy(&fleet);
    let whole = parse(&whole);
    let bootstrap = render::bootstrap(&fleet, Path::new("/some/where/lds.yaml"));
    let bootstrap = parse(&bootstrap);
    let listener = render::listener(&fleet);
    let listener = parse(&listener);

    let source = &bootstrap["dynamic_resources"]["lds_config"]["path_config_source"];
    assert_eq!(source["path"].as_str(), Some("/some/where/lds.yaml"));
    assert_eq!(
        source["watched_directory"]["path"].as_str(),
        Some("/some/where")
    );
    assert_eq!(
        bootstrap["static_resources"]["clusters"],
        whole["static_resources"]["clusters"]
    );
    assert_eq!(
        listener["resources"][0]["filter_chains"],
        whole["static_resources"]["listeners"][0]["filter_chains"]
    );
}

#[test]
fn a_fleet_with_keys_alone_needs_no_identity() {
    let mut fleet = render::demo_fleet();
    fleet.identity = None;
    fleet.plugin = render::minimal_plugin(&fleet.backends, None);
    assert!(!render::envoy(&fleet).contains("imds"));
}

#[test]
fn the_route_sets_the_time_limit_unless_backends_have_one() {
    let limit = |plugin: Value| {
        let mut fleet = render::demo_fleet();
        for (key, value) in plugin.as_object().expect("an object") {
            fleet.plugin[key] = value.clone();
        }
        let text = render::envoy(&fleet);
        let yaml = parse(&text);
        let listener = &yaml["static_resources"]["listeners"][0];
        let configuration = crate::plugin(listener)["configuration"]["value"].clone();
        let configuration: Value =
            serde_json::from_str(configuration.as_str().expect("a string")).expect("JSON");
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        let route = &manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
        let policy = route.as_mapping_get("retry_policy");
        let limit = policy.and_then(|policy| policy["per_try_timeout"].as_str());
        let left = configuration["left_to_envoy"].as_array().cloned();
        let by_route = left.is_some_and(|left| left.contains(&json!("timeout")));
        (limit.map(str::to_owned), by_route)
    };
    let by_route = |limit: &str| (Some(limit.to_owned()), true);
    for (limit_of_plugin, rendered) in [("500ms", "0.5s"), ("2m", "120s"), ("1.5s", "1.5s")] {
        let retry = json!({"retry": {"per_try_timeout": limit_of_plugin}});
        assert_eq!(limit(retry), by_route(rendered));
    }
    let by_filter = json!({"left_to_envoy": ["host"]});
    assert_eq!(limit(by_filter), (None, false));
    let own = json!({"backends": [{"first_byte_timeout": "1s"}]});
    assert_eq!(limit(own), (None, false));
}

fn with_status(address: &str) -> Fleet {
    let mut fleet = render::demo_fleet();
    fleet.status = Some(render::Status {
        address: address.to_owned(),
        port: 9902,
    });
    fleet
}

/// The routes of the status page, and their host names.
fn status_routes<'a, 'b>(yaml: &'b Yaml<'a>) -> (&'b Yaml<'a>, Vec<String>) {
    let listeners = yaml["static_resources"]["listeners"].as_sequence();
    let mut listeners = listeners.expect("a list").iter();
    let name = Some(render::STATUS_NAME);
    let listener = listeners.find(|listener| listener["name"].as_str() == name);
    let host = &manager(listener.expect("a listener"))["route_config"]["virtual_hosts"][0];
    let domains = host["domains"].as_sequence().expect("a list").iter();
    let domains = domains.filter_map(|domain| domain.as_str());
    (&host["routes"], domains.map(str::to_owned).collect())
}

#[test]
fn the_status_page_has_its_own_listener_and_cluster() {
    let fleet = with_status("127.0.0.1");
    let text = render::envoy(&fleet);
    let yaml = parse(&text);
    let (routes, domains) = status_routes(&yaml);
    assert_eq!(domains, ["localhost", "127.0.0.1", "[::1]"]);
    let statistics = &routes[2]["route"];
    assert_eq!(statistics["cluster"].as_str(), Some(render::STATUS_NAME));
    assert_eq!(
        statistics["prefix_rewrite"].as_str(),
        Some(
            "/stats?format=json&usedonly&filter=%5E%28wasmcustom%5C.aoai%5C.%7Cserver%5C.uptime%24%7Ccluster%5C.%28aoai_eastus%7C\
             aoai_westus%7Caoai_swedencentral%29%5C.upstream_rq_active%24%29"
        )
    );
    let clusters = yaml["static_resources"]["clusters"].as_sequence();
    let cluster = clusters.expect("a list").last().expect("a cluster");
    let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    let socket = &endpoint["address"]["socket_address"];
    assert_eq!(socket["address"].as_str(), Some("127.0.0.1"));
    assert_eq!(socket["port_value"].as_integer(), Some(9901));
    assert!(!render::envoy(&render::demo_fleet()).contains(render::STATUS_NAME));
}

#[test]
fn a_public_status_page_answers_to_every_name() {
    for (address, expected) in [
        ("0.0.0.0", &["*"][..]),
        ("10.0.0.4", &["*"]),
        ("::1", &["localhost", "127.0.0.1", "[::1]"]),
        (
            "127.0.0.2",
            &["localhost", "127.0.0.1", "[::1]", "127.0.0.2"],
        ),
    ] {
        let text = render::envoy(&with_status(address));
        assert_eq!(status_routes(&parse(&text)).1, expected, "{address}");
    }
}

#[test]
fn an_admin_interface_on_all_addresses_is_used_locally() {
    for (address, expected) in [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "::1"),
        ("10.0.0.4", "10.0.0.4"),
    ] {
        let mut fleet = with_status("127.0.0.1");
        fleet.admin.address = address.to_owned();
        let text = render::envoy(&fleet);
        let yaml = parse(&text);
        let clusters = yaml["static_resources"]["clusters"].as_sequence();
        let cluster = clusters.expect("a list").last().expect("a cluster");
        let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
        let socket = &endpoint["address"]["socket_address"];
        assert_eq!(socket["address"].as_str(), Some(expected));
    }
}

/// The page as Envoy serves it.
fn status_page(fleet: &Fleet) -> String {
    let text = render::envoy(fleet);
    let yaml = parse(&text);
    let page = &status_routes(&yaml).0[1]["direct_response"]["body"]["inline_string"];
    page.as_str().expect("a page").to_owned()
}

#[test]
fn the_status_page_is_small_and_whole() {
    let page = status_page(&with_status("127.0.0.1"));
    assert!(page.len() < 40_000, "{} bytes", page.len());
    // The address in an SVG element is the element's namespace.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for elsewhere in ["http:", "https://", "src=", "@import", "url("] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert!(!page.contains("innerHTML") && page.is_ascii());
}

#[test]
fn a_hundred_long_names_fit_into_the_status_page() {
    let mut fleet = with_status("127.0.0.1");
    let host = |i: usize| format!("{}{i:03}.openai.azure.com", "h".repeat(230));
    fleet.backends = (0..100)
        .map(|i| Backend::new(&format!("{}{i:03}", "n".repeat(61)), &host(i)))
        .collect();
    fleet.plugin = render::minimal_plugin(&fleet.backends, None);
    let page = status_page(&fleet);
    assert!(page.len() < 131_072, "{} bytes", page.len());
}

#[test]
fn the_status_page_has_facts_that_statistics_lack() {
    let mut fleet = with_status("127.0.0.1");
    fleet.plugin["backends"][0]["priority"] = json!(2);
    fleet.plugin["backends"][1]["api_key_env"] = json!("KEY");
    fleet.plugin["backends"][2]["identity"] = json!("blue");
    fleet.backends[0].cluster = "a:b</script>&".to_owned();
    let page = status_page(&fleet);
    let data = page.split_once("id=\"fleet\">").expect("the data").1;
    let data = data.split_once("</script>").expect("its end").0;
    assert!(!data.contains(['<', '>', '&']), "{data}");
    let data: Value = serde_json::from_str(data).expect("JSON");
    let expected = json!([
        {"name": "eastus", "host": "contoso-eastus.openai.azure.com", "cluster": "a_b</script>&", "priority": 2},
        {"name": "westus", "host": "contoso-westus.openai.azure.com", "cluster": "aoai_westus", "key": true},
        {"name": "swedencentral", "host": "contoso-swedencentral.openai.azure.com", "cluster": "aoai_swedencentral", "identity": "blue"},
    ]);
    assert_eq!(data["backends"], expected);
    let text = render::envoy(&fleet);
    assert!(
        text.contains("%28a_b%5C%3C%5C%2Fscript%5C%3E%5C%26%7C"),
        "{text}"
    );
}
