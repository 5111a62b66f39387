//! The resources rendered for Istio and Envoy Gateway, in a real Envoy.
//!
//! No control plane runs here. The functions below play its part, from a resource to Envoy's configuration: names of
//! clusters, routes by header, the filter's place and configuration. They use nothing but the resources.

mod patches;

use std::fs;

use cli::document::Document;
use cli::plugin::Engine;
use cli::{Options, Target};
use e2e::{cases, chat_request, simulate_tls, Gateway, GatewayBuilder};
use ratelimit::{Limits, Server, Settings};
use render::{Backend, Fleet, Identity, TlsOptions};
use serde_json::{json, Map, Value};
use simulator::{Behaviour, Failure, Simulator};
use tempfile::TempDir;

/// The simulator's backends as a list. Each has its own name for the deployment `gpt-4o`.
fn list(azure: &Simulator) -> String {
    let mut list = String::from("backends:\n");
    for backend in azure.backends() {
        let (name, host, address) = (backend.name(), backend.host(), backend.addr());
        list.push_str(&format!(
            "- {{name: {name}, host: {host}, endpoint: \"https://{address}\", deployments: {{gpt-4o: gpt-{name}}}}}\n"
        ));
    }
    list
}

/// The resources that are rendered for the simulator's backends.
fn resources(azure: &Simulator, target: Target, engine: Engine, full: bool) -> Vec<Value> {
    resources_of(azure, target, engine, full, "")
}

/// The resources rendered for the simulator's backends, with these further lines in the list.
fn resources_of(
    azure: &Simulator,
    target: Target,
    engine: Engine,
    full: bool,
    more: &str,
) -> Vec<Value> {
    let imds = azure.imds().addr();
    let list = format!(
        "{}identity: {{endpoint: \"http://{imds}\"}}\n{more}",
        list(azure)
    );
    let options = Options {
        engine: Some(engine),
        open: true,
        full,
    };
    documents(target, &list, options)
}

fn documents(target: Target, list: &str, options: Options) -> Vec<Value> {
    let text = cli::render(target, list, options).expect("right");
    let documents = text.split("\n---\n").skip(1);
    documents
        .map(|text| Document::parse(text).expect("YAML").value)
        .collect()
}

fn of_kind<'r>(resources: &'r [Value], kind: &'r str) -> impl Iterator<Item = &'r Value> {
    resources
        .iter()
        .filter(move |resource| resource["kind"] == kind)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// The parts of Envoy's configuration that a control plane makes.
struct Translation {
    backends: Vec<Backend>,
    identity: Option<Identity>,
    plugin: Value,
    routes: Vec<Value>,
    /// The protocol options of every backend's cluster.
    protocol: Option<Value>,
    /// The filter, if it is not the one that the renderer for Envoy makes without `allow_on_headers_stop_iteration`.
    filter: Option<Value>,
    /// Filters before that one.
    filters_before: Vec<Value>,
    /// Further fields of the connection manager.
    manager: Map<String, Value>,
    /// Operations on the listener and on the routes, in the form of JSON Patch.
    patches: Vec<Value>,
    route_patches: Vec<Value>,
    /// Headers that are removed before Envoy looks for a route.
    early_removed: Value,
    /// Listeners and clusters through which no client's request passes.
    listeners: Vec<Value>,
    clusters: Vec<Value>,
}

fn backend(
    azure: &Simulator,
    cluster: String,
    host: String,
    address: &str,
    port: &Value,
) -> Backend {
    Backend {
        name: cluster.clone(),
        cluster,
        host,
        address: address.to_owned(),
        port: u16::try_from(port.as_u64().expect("a port")).expect("a port"),
        tls: Some(TlsOptions {
            ca_file: Some(azure.ca_path().to_owned()),
        }),
    }
}

/// Istio: a ServiceEntry becomes the cluster `outbound|PORT||HOST`, and a VirtualService's routes are matched in their
/// order. Discovered resources are files in `folder`.
fn istio(azure: &Simulator, resources: &[Value], folder: &TempDir) -> Translation {
    let cluster = |host: &Value, port: &Value| format!("outbound|{port}||{}", text(host));
    let mut backends = Vec::new();
    let mut identity = None;
    for entry in of_kind(resources, "ServiceEntry") {
        let (spec, host) = (&entry["spec"], &entry["spec"]["hosts"][0]);
        let endpoint = &spec["endpoints"][0];
        let (address, ports) = (
            text(&endpoint["address"]),
            endpoint["ports"].as_object().expect("ports"),
        );
        let port = ports.values().next().expect("a port");
        let name = cluster(host, &spec["ports"][0]["number"]);
        let rule = of_kind(resources, "DestinationRule").find(|rule| rule["spec"]["host"] == *host);
        match rule {
            Some(rule) => {
                let policy = &rule["spec"]["trafficPolicy"];
                let keepalive = &policy["connectionPool"]["tcp"]["tcpKeepalive"];
                assert_keepalive(
                    &keepalive["time"],
                    &keepalive["interval"],
                    &keepalive["probes"],
                );
                let sni = text(&policy["tls"]["sni"]);
                backends.push(backend(azure, name, sni, &address, port));
            }
            None => {
                let at = u16::try_from(port.as_u64().expect("a port")).expect("a port");
                let imds = Identity::imds().at(&address, at);
                identity = Some(Identity {
                    cluster: name,
                    ..imds
                });
            }
        }
    }
    let service = of_kind(resources, "VirtualService")
        .next()
        .expect("a VirtualService");
    let mut routes: Vec<Value> = service["spec"]["http"]
        .as_array()
        .expect("routes")
        .iter()
        .map(|route| {
            let headers: Vec<Value> = route["match"][0]["headers"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, matching)| json!({"name": name, "string_match": {"exact": matching["exact"]}}))
                .collect();
            let destination = &route["route"][0]["destination"];
            assert_eq!(route["retries"]["attempts"], 0, "Istio would retry by itself");
            json!({
                "name": route["name"],
                "match": {"prefix": "/", "headers": headers},
                "route": {
                    "cluster": cluster(&destination["host"], &destination["port"]["number"]),
                    "timeout": route["timeout"],
                },
                "request_headers_to_remove": route["headers"]["request"]["remove"],
            })
        })
        .collect();
    let mut plugin = of_kind(resources, "WasmPlugin")
        .next()
        .map(|plugin| plugin["spec"]["pluginConfig"].clone());
    let mut protocol = None;
    let (mut module, mut listeners, mut clusters) = (None, Vec::new(), Vec::new());
    let (mut filters_before, mut own) = (Vec::new(), Map::new());
    let filter = of_kind(resources, "EnvoyFilter")
        .next()
        .expect("an EnvoyFilter");
    for patch in filter["spec"]["configPatches"].as_array().expect("patches") {
        let value = &patch["patch"]["value"];
        match patch["applyTo"].as_str().expect("a place") {
            "EXTENSION_CONFIG" => {
                let fetched = patches::fetched(value, &e2e::module());
                if plugin.is_none() {
                    plugin = Some(configuration(&fetched));
                }
                patches::hand_out(folder, &fetched);
            }
            "HTTP_FILTER" => {
                let before = &patch["match"]["listener"]["filterChain"]["filter"]["subFilter"];
                assert_eq!(before["name"], "envoy.filters.http.router");
                if text(&value["name"]).starts_with("envoy.filters.http.ratelimit.") {
                    assert!(module.is_none(), "limits come before the module");
                    filters_before.push(value.clone());
                    continue;
                }
                if value.get("typed_config").is_some() {
                    plugin = Some(configuration(value));
                }
                module = Some(patches::discovering(value, folder));
            }
            "HTTP_ROUTE" => {
                let name = &patch["match"]["routeConfiguration"]["vhost"]["route"]["name"];
                let route = routes
                    .iter_mut()
                    .find(|route| route["name"] == *name)
                    .expect("the route");
                // A route names its cluster in one of several ways. The patched way replaces the rendered one.
                let action = route["route"].as_object_mut().expect("an action");
                action.remove("cluster");
                action.extend(value["route"].as_object().expect("an action").clone());
                route["request_headers_to_add"] = value["request_headers_to_add"].clone();
            }
            "CLUSTER" if patch["patch"]["operation"] == "ADD" => clusters.push(value.clone()),
            "LISTENER" if patch["patch"]["operation"] == "ADD" => listeners.push(value.clone()),
            "CLUSTER" => {
                let cluster = &patch["match"]["cluster"];
                let host = text(&cluster["service"]);
                assert!(backends.iter().any(|backend| backend.cluster
                    == format!("outbound|{}||{host}", cluster["portNumber"])));
                protocol = Some(patches::discovering(value, folder));
            }
            "LISTENER" => assert_is_rendered(value),
            "NETWORK_FILTER" => {
                let mut manager = value["typed_config"].clone();
                let fields = manager.as_object_mut().expect("fields");
                fields.remove("@type");
                for name in ["early_header_mutation_extensions", "local_reply_config"] {
                    own.extend(fields.remove_entry(name));
                }
                // The Gateway's host stands in for a missing host.
                let host = &mut manager["http_protocol_options"]["default_host_for_http_10"];
                assert_eq!(*host, "openai.example.com");
                *host = json!("azure-openai");
                assert_is_rendered(&manager);
            }
            other => panic!("{other}"),
        }
    }
    Translation {
        backends,
        identity,
        plugin: plugin.expect("the filter's configuration"),
        routes,
        protocol,
        filter: module,
        filters_before,
        manager: own,
        patches: Vec::new(),
        route_patches: Vec::new(),
        early_removed: Value::Null,
        listeners,
        clusters,
    }
}

/// The module's configuration within the filter's.
fn configuration(filter: &Value) -> Value {
    let text = text(&filter["typed_config"]["config"]["configuration"]["value"]);
    serde_json::from_str(&text).expect("JSON")
}

/// The stand-in's listener already has the fields that this patch adds.
fn assert_is_rendered(patch: &Value) {
    let listener = render::listener(&render::demo_fleet());
    let listener = Document::parse(&listener).expect("YAML").value;
    let listener = &listener["resources"][0];
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    for (field, value) in patch.as_object().expect("fields") {
        let rendered = listener.get(field).or_else(|| manager.get(field));
        assert_eq!(rendered, Some(value), "{field}");
    }
}

/// The keepalive settings are those of the stand-in's clusters.
fn assert_keepalive(time: &Value, interval: &Value, probes: &Value) {
    use render::parts::{KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIME};
    assert_eq!(*time, json!(format!("{KEEPALIVE_TIME}s")));
    assert_eq!(*interval, json!(format!("{KEEPALIVE_INTERVAL}s")));
    assert_eq!(*probes, json!(KEEPALIVE_PROBES));
}

/// Envoy Gateway: a rule becomes the cluster `httproute/NAMESPACE/NAME/rule/INDEX`. Routes that match headers are
/// matched first.
fn envoy_gateway(azure: &Simulator, resources: &[Value]) -> Translation {
    let (mut backends, mut identity) = (Vec::new(), None);
    let (mut by_header, mut others) = (Vec::new(), Vec::new());
    for route in of_kind(resources, "HTTPRoute") {
        let meta = &route["metadata"];
        for (i, rule) in route["spec"]["rules"]
            .as_array()
            .expect("rules")
            .iter()
            .enumerate()
        {
            let cluster = format!(
                "httproute/{}/{}/rule/{i}",
                text(&meta["namespace"]),
                text(&meta["name"])
            );
            let headers: Vec<Value> = rule["matches"][0]["headers"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|header| json!({"name": header["name"], "string_match": {"exact": header["value"]}}))
                .collect();
            let list = if headers.is_empty() {
                &mut others
            } else {
                &mut by_header
            };
            let enabled = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
            let enabled = json!({WASM: enabled});
            let host = text(&route["spec"]["hostnames"][0]).replace('.', "_");
            list.push(json!({
                "name": format!("{cluster}/match/0/{host}"),
                "match": {"prefix": "/", "headers": headers},
                "route": {"cluster": cluster, "timeout": rule["timeouts"]["request"]},
                "request_headers_to_remove": rule["filters"][0]["requestHeaderModifier"]["remove"],
                "typed_per_filter_config": enabled,
            }));
            let target = &rule["backendRefs"][0]["name"];
            let place = of_kind(resources, "Backend")
                .find(|backend| backend["metadata"]["name"] == *target);
            let place = &place.expect("a Backend")["spec"]["endpoints"][0]["ip"];
            let (address, port) = (text(&place["address"]), &place["port"]);
            let tls = of_kind(resources, "BackendTLSPolicy")
                .find(|tls| tls["spec"]["targetRefs"][0]["name"] == *target);
            match tls {
                Some(tls) => {
                    let host = text(&tls["spec"]["validation"]["hostname"]);
                    backends.push(backend(azure, cluster, host, &address, port));
                }
                None => {
                    let at = u16::try_from(port.as_u64().expect("a port")).expect("a port");
                    let imds = Identity::imds().at(&address, at);
                    identity = Some(Identity { cluster, ..imds });
                }
            }
        }
    }
    by_header.append(&mut others);
    for kind in ["BackendTrafficPolicy", "ClientTrafficPolicy"] {
        let policy = of_kind(resources, kind).next().expect("a policy");
        let keepalive = &policy["spec"]["tcpKeepalive"];
        assert_keepalive(
            &keepalive["idleTime"],
            &keepalive["interval"],
            &keepalive["probes"],
        );
    }
    let policy = of_kind(resources, "EnvoyExtensionPolicy")
        .next()
        .expect("a policy");
    let extension = &policy["spec"]["wasm"][0];
    let plugin = &extension["config"];
    let filter = json!({
        "name": WASM,
        "disabled": true,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": extension["name"],
                "root_id": extension["rootID"],
                "vm_config": {
                    "vm_id": "envoyextensionpolicy/azure-openai/azure-openai/wasm/0",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": e2e::module()}},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": left_to_none(plugin).to_string(),
                },
            },
        },
    });
    let (mut operations, mut route_operations) = (Vec::new(), Vec::new());
    let (mut listeners, mut clusters, mut protocol) = (Vec::new(), Vec::new(), None);
    for policy in of_kind(resources, "EnvoyPatchPolicy") {
        for patch in policy["spec"]["jsonPatches"].as_array().expect("patches") {
            let operation = &patch["operation"];
            let (kind, name) = (text(&patch["type"]), &patch["name"]);
            let kind = kind.rsplit('.').next().expect("a type");
            match (kind, operation["path"] == "") {
                ("Listener", true) => listeners.push(operation["value"].clone()),
                ("Cluster", true) => clusters.push(operation["value"].clone()),
                ("Listener", false) => {
                    assert_eq!(*name, "azure-openai/azure-openai/https");
                    operations.push(operation.clone());
                }
                ("RouteConfiguration", false) => {
                    assert_eq!(*name, "azure-openai/azure-openai/https");
                    route_operations.push(operation.clone());
                }
                ("Cluster", false) => {
                    assert!(backends.iter().any(|backend| backend.cluster == *name));
                    let field = text(&operation["path"]);
                    let field = field.strip_prefix('/').expect("a field").to_owned();
                    protocol = Some(json!({field: operation["value"]}));
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let early = of_kind(resources, "ClientTrafficPolicy").next();
    let early = &early.expect("a policy")["spec"]["headers"]["earlyRequestHeaders"]["remove"];
    Translation {
        backends,
        identity,
        plugin: plugin.clone(),
        routes: by_header,
        protocol,
        filter: Some(filter),
        filters_before: Vec::new(),
        manager: Map::new(),
        patches: operations,
        route_patches: route_operations,
        early_removed: early.clone(),
        listeners,
        clusters,
    }
}

/// Envoy Gateway's name for the filter of the first Wasm of the policy `azure-openai`.
const WASM: &str = "envoy.filters.http.wasm/envoyextensionpolicy/azure-openai/azure-openai/wasm/0";

/// The module's configuration with an explicit `left_to_envoy`. By default that is empty here, because the renderer for
/// Envoy would leave to Envoy all that it can.
fn left_to_none(plugin: &Value) -> Value {
    let mut plugin = plugin.clone();
    if plugin.get("left_to_envoy").is_none() {
        plugin["left_to_envoy"] = json!([]);
    }
    plugin
}

/// An Envoy with this configuration.
fn gateway(translation: Translation) -> GatewayBuilder {
    let mut builder = Gateway::builder();
    let fleet = Fleet {
        backends: translation.backends,
        identity: translation.identity,
        plugin: left_to_none(&translation.plugin),
        module: e2e::module(),
        ..render::demo_fleet()
    };
    let rendered = render::listener(&fleet);
    let mut listener = Document::parse(&rendered).expect("YAML").value["resources"][0].clone();
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    // The control plane's routes replace the stand-in's.
    manager["route_config"]["virtual_hosts"][0]["routes"] = Value::Array(translation.routes);
    let module = &mut manager["http_filters"][0];
    match translation.filter {
        Some(filter) => *module = filter,
        None => {
            let config = &mut module["typed_config"]["config"];
            config["allow_on_headers_stop_iteration"] = json!(false);
        }
    }
    let filters = manager["http_filters"].as_array_mut().expect("filters");
    filters.splice(0..0, translation.filters_before);
    manager
        .as_object_mut()
        .expect("fields")
        .extend(translation.manager);
    for operation in &translation.route_patches {
        patches::apply(&mut manager["route_config"], operation);
    }
    if let Value::Array(removed) = &translation.early_removed {
        let mutations = removed.iter().map(|name| json!({"remove": name}));
        manager["early_header_mutation_extensions"] = json!([{
            "name": "removed",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                "mutations": mutations.collect::<Vec<_>>(),
            },
        }]);
    }
    for operation in &translation.patches {
        patches::apply(&mut listener, operation);
    }
    let start = rendered.find("filter_chains:").expect("filters");
    let chains = format!("filter_chains: {}\n", listener["filter_chains"]);
    builder = builder.rewrite(&rendered[start..], &chains);
    if !translation.listeners.is_empty() || !translation.clusters.is_empty() {
        let listeners = Value::Array(translation.listeners);
        let clusters = translation
            .clusters
            .iter()
            .map(|cluster| format!("  - {cluster}\n"));
        let clusters: String = clusters.collect();
        builder = builder.rewrite_clusters(
            "static_resources:\n  clusters:\n",
            &format!("static_resources:\n  listeners: {listeners}\n  clusters:\n{clusters}"),
        );
    }
    if let Some(protocol) = translation.protocol {
        let own = render::yaml::indented(&render::parts::protocol(&fleet), 4);
        let fields: Map<String, Value> = protocol.as_object().expect("fields").clone();
        let theirs: String = fields
            .iter()
            .map(|(name, value)| format!("    {name}: {value}\n"))
            .collect();
        builder = builder.rewrite_clusters(&own, &theirs);
    }
    builder.fleet(move |harness| {
        *harness = Fleet {
            backends: fleet.backends,
            identity: fleet.identity,
            plugin: fleet.plugin,
            ..harness.clone()
        };
    })
}

/// Requests are balanced, retried, authenticated with a token, and sent nowhere else.
fn assert_serves(azure: &Simulator, gateway: &Gateway) {
    let chat = chat_request();
    let service = gateway.fleet().identity.as_ref();
    let service = service.map_or("entra_id".to_owned(), |identity| identity.cluster.clone());
    let first = gateway.fleet().backends[0].cluster.clone();
    for forged in [first.as_str(), service.as_str(), "nowhere"] {
        let headers = [
            ("x-aoai-cluster", forged),
            ("x-forwarded-for", "203.0.113.7"),
        ];
        let answer = gateway
            .client()
            .send("POST", &chat.path, &headers, &chat.bytes())
            .expect("an answer");
        assert_eq!(answer.status, 200, "{}; {}", answer.text(), gateway.log());
    }
    for backend in azure.backends() {
        assert_eq!(backend.count(), 1, "{} had its turn", backend.name());
    }
    azure.backend("east").set(Behaviour::throttled(60));
    for _ in 0..6 {
        assert_eq!(gateway.chat(&chat).status, 200);
    }
    assert_eq!(azure.imds().count(), 1);
    let mut asked = 0;
    for backend in azure.backends() {
        for request in backend.requests() {
            asked += 1;
            assert_eq!(request.authority, backend.host());
            assert_eq!(request.sni.as_deref(), Some(backend.host()));
            assert_eq!(request.header("x-aoai-cluster"), None);
            assert_eq!(request.header("x-forwarded-for"), None);
        }
    }
    assert_eq!(asked, 3 + 6 + 1, "one was sent again");
}

/// The bodies are read: the name of a deployment in the v1 API, the home of a response, the code of an error.
fn assert_reads_bodies(azure: &Simulator, gateway: &Gateway) {
    let ask = |more: Value| {
        let mut body = json!({"model": "gpt-4o", "input": "hi"});
        body.as_object_mut()
            .expect("fields")
            .extend(more.as_object().expect("fields").clone());
        let answer = gateway.call("POST", "/openai/v1/responses", &body);
        assert_eq!(answer.status, 200, "{}; {}", answer.text(), gateway.log());
        (
            text(&answer.json()["id"]),
            answer
                .header("x-aoai-backend")
                .expect("a backend")
                .to_owned(),
        )
    };
    for _ in 0..2 {
        let (id, backend) = ask(json!({}));
        assert_eq!(ask(json!({"previous_response_id": id})).1, backend);
        let requests = azure.backend(&backend).requests();
        let last: Value =
            serde_json::from_slice(&requests.last().expect("one").body).expect("JSON");
        assert_eq!(last["model"], format!("gpt-{backend}"));
        assert!(
            id.starts_with(&text(&last["previous_response_id"])),
            "{last} has no tag of {id}"
        );
    }
    let missing = Failure::coded(
        404,
        "DeploymentNotFound",
        "The API deployment does not exist.",
    );
    azure.backend("north").set(Behaviour::error(missing));
    for _ in 0..4 {
        ask(json!({}));
    }
}

/// A rate limit service with 20 tokens for every client, and the limits for a list of backends that uses it.
fn limited_to_20_tokens() -> (Server, String) {
    // The window is a day, so that it does not end during the test.
    let file = "domain: azure_openai\ndescriptors: [{key: tokens_per_minute, rate_limit: {unit: day, requests_per_unit: 20}}]\n";
    let limits = Limits::parse(file).expect("limits");
    let service = Server::start(Settings::new(limits)).expect("a service");
    let more = format!(
        "limits: {{default: {{tokens_per_minute: 20}}, service: {{endpoint: \"http://{}\"}}}}\n",
        service.address()
    );
    (service, more)
}

/// Checks that requests pass until the service has counted 20 tokens, and that the refusal has OpenAI's shape.
fn assert_limits(gateway: &Gateway) {
    assert_eq!(gateway.chat(&chat_request()).status, 200);
    let limit = std::time::Duration::from_secs(10);
    gateway.wait_for(
        |gateway| gateway.chat(&chat_request()).status == 429,
        limit,
        "the limit",
    );
    let answer = gateway.chat(&chat_request());
    assert_eq!(
        answer.json()["error"]["code"],
        "rate_limit_exceeded",
        "{}",
        answer.text()
    );
}

fn engine_of(engine: e2e::Engine) -> Engine {
    match engine {
        e2e::Engine::Router => Engine::Router,
        _ => Engine::Filter,
    }
}

/// The folder of discovered resources.
fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

cases! {
    fn istios_configuration_serves(engine) {
        let azure = simulate_tls(&["east", "west", "north"]);
        let mut resources = resources(&azure, Target::Istio, engine_of(engine), false);
        // The resources name a path of the module. Here the module is where the harness has it.
        let module = e2e::module().display().to_string();
        replace(&mut resources, "/etc/envoy/azure_openai_balancer.wasm", &module);
        let translation = istio(&azure, &resources, &folder());
        assert_eq!(translation.protocol.is_some(), engine == e2e::Engine::Router);
        assert_serves(&azure, &gateway(translation).start());
    }

    fn envoy_gateway_with_full_reads_bodies(engine) {
        let azure = simulate_tls(&["east", "west", "north"]);
        let mut resources = resources(&azure, Target::EnvoyGateway, engine_of(engine), true);
        let module = e2e::module().display().to_string();
        replace(&mut resources, "/etc/envoy/azure_openai_balancer.wasm", &module);
        let translation = envoy_gateway(&azure, &resources);
        assert!(!translation.patches.is_empty());
        assert_eq!(translation.protocol.is_some(), engine == e2e::Engine::Router);
        let gateway = gateway(translation).start();
        assert_serves(&azure, &gateway);
        assert_reads_bodies(&azure, &gateway);
    }

    fn istio_with_full_reads_bodies(engine) {
        let azure = simulate_tls(&["east", "west", "north"]);
        let folder = folder();
        let translation = istio(&azure, &resources(&azure, Target::Istio, engine_of(engine), true), &folder);
        let gateway = gateway(translation).start();
        assert_serves(&azure, &gateway);
        assert_reads_bodies(&azure, &gateway);
    }

    fn istio_with_full_uses_the_rate_limit_service(engine) {
        let (service, more) = limited_to_20_tokens();
        let azure = simulate_tls(&["east", "west", "north"]);
        let folder = folder();
        let translation = istio(&azure, &resources_of(&azure, Target::Istio, engine_of(engine), true, &more), &folder);
        assert_limits(&gateway(translation).start());
        drop(service);
    }

    fn envoy_gateway_with_full_uses_the_rate_limit_service(engine) {
        let (service, more) = limited_to_20_tokens();
        let azure = simulate_tls(&["east", "west", "north"]);
        let mut resources = resources_of(&azure, Target::EnvoyGateway, engine_of(engine), true, &more);
        let module = e2e::module().display().to_string();
        replace(&mut resources, "/etc/envoy/azure_openai_balancer.wasm", &module);
        assert_limits(&gateway(envoy_gateway(&azure, &resources)).start());
        drop(service);
    }
}

/// Replaces a text wherever it is a value.
fn replace(values: &mut [Value], from: &str, to: &str) {
    for value in values {
        match value {
            Value::String(text) if text == from => *text = to.to_owned(),
            Value::Array(items) => replace(items, from, to),
            Value::Object(fields) => {
                for field in fields.values_mut() {
                    replace(std::slice::from_mut(field), from, to);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn envoy_gateways_configuration_serves() {
    let azure = simulate_tls(&["east", "west", "north"]);
    let resources = resources(&azure, Target::EnvoyGateway, Engine::Filter, false);
    assert_serves(&azure, &gateway(envoy_gateway(&azure, &resources)).start());
}

/// Patches add workload identity's listener and clusters to Envoy.
#[test]
fn patches_bring_workload_identity() {
    for target in [Target::Istio, Target::EnvoyGateway] {
        let azure = simulate_tls(&["east", "west", "north"]);
        let folder = folder();
        let (file, socket) = (folder.path().join("token"), folder.path().join("socket"));
        fs::write(&file, azure.imds().assertion(3600).token()).expect("write the token");
        let entra = simulator::EntraSettings::default();
        let list = format!(
            "{}identity: {{source: workload_identity, tenant_id: {}, client_id: {}, endpoint: \"http://{}\", \
             token_file: {}, token_socket: {}}}\n",
            list(&azure),
            entra.tenant,
            entra.client_id,
            azure.imds().addr(),
            file.display(),
            socket.display(),
        );
        let options = Options {
            open: true,
            ..Options::default()
        };
        let resources = documents(target, &list, options);
        let translation = match target {
            Target::Istio => istio(&azure, &resources, &folder),
            _ => envoy_gateway(&azure, &resources),
        };
        assert_eq!(
            (translation.listeners.len(), translation.clusters.len()),
            (1, 2)
        );
        let gateway = gateway(translation).start();
        assert_serves(&azure, &gateway);
        assert_eq!(azure.imds().requests()[0].method, "POST", "an exchange");
    }
}
