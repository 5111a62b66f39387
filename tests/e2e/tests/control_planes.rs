//! What Istio and Envoy Gateway make of the rendered resources, in a real Envoy.
//!
//! No control plane runs here. Its part, from a resource to what Envoy is told, is played by the few functions below, as Istio and
//! Envoy Gateway do it: names of clusters, routes by header, the filter's place and configuration. What they say is taken from the
//! resources alone.

use cli::document::Document;
use cli::plugin::Engine;
use cli::{Options, Target};
use e2e::{cases, chat_request, simulate_tls, Gateway, GatewayBuilder};
use render::{Backend, Fleet, Identity, TlsOptions};
use serde_json::{json, Map, Value};
use simulator::{Behaviour, Simulator};

/// The resources that are rendered for the simulator's backends.
fn resources(azure: &Simulator, target: Target, engine: Engine) -> Vec<Value> {
    let mut short = String::from("backends:\n");
    for backend in azure.backends() {
        let (name, host, address) = (backend.name(), backend.host(), backend.addr());
        short.push_str(&format!(
            "- {{name: {name}, host: {host}, endpoint: \"https://{address}\"}}\n"
        ));
    }
    short.push_str(&format!(
        "identity: {{endpoint: \"http://{}\"}}\n",
        azure.imds().addr()
    ));
    let options = Options {
        engine: Some(engine),
        open: true,
    };
    let text = cli::render(target, &short, options).expect("right");
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

/// What a control plane tells Envoy.
struct Told {
    backends: Vec<Backend>,
    identity: Identity,
    plugin: Value,
    routes: Vec<Value>,
    /// What every backend's cluster is told beside its place.
    protocol: Option<Value>,
    /// The filter is off, but for routes that switch it on.
    per_route: bool,
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

/// Istio: a ServiceEntry becomes the cluster `outbound|PORT||HOST`, a VirtualService's routes are asked in their order.
fn istio(azure: &Simulator, resources: &[Value]) -> Told {
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
    let filter = of_kind(resources, "EnvoyFilter")
        .next()
        .expect("an EnvoyFilter");
    for patch in filter["spec"]["configPatches"].as_array().expect("patches") {
        let value = &patch["patch"]["value"];
        match patch["applyTo"].as_str().expect("a place") {
            "HTTP_FILTER" => {
                let configuration =
                    text(&value["typed_config"]["config"]["configuration"]["value"]);
                plugin = Some(serde_json::from_str(&configuration).expect("JSON"));
            }
            "HTTP_ROUTE" => {
                let name = &patch["match"]["routeConfiguration"]["vhost"]["route"]["name"];
                let route = routes
                    .iter_mut()
                    .find(|route| route["name"] == *name)
                    .expect("the route");
                // One of the ways to say the cluster takes the place of the other.
                let action = route["route"].as_object_mut().expect("an action");
                action.remove("cluster");
                action.extend(value["route"].as_object().expect("an action").clone());
                route["request_headers_to_add"] = value["request_headers_to_add"].clone();
            }
            "CLUSTER" => {
                let cluster = &patch["match"]["cluster"];
                let host = text(&cluster["service"]);
                assert!(backends.iter().any(|backend| backend.cluster
                    == format!("outbound|{}||{host}", cluster["portNumber"])));
                protocol = Some(value.clone());
            }
            "LISTENER" => assert_is_rendered(value),
            "NETWORK_FILTER" => {
                let mut manager = value["typed_config"].clone();
                manager.as_object_mut().expect("fields").remove("@type");
                // A request without a host is for the one that the Gateway is for.
                let host = &mut manager["http_protocol_options"]["default_host_for_http_10"];
                assert_eq!(*host, "openai.example.com");
                *host = json!("azure-openai");
                assert_is_rendered(&manager);
            }
            other => panic!("{other}"),
        }
    }
    Told {
        backends,
        identity: identity.expect("a token service"),
        plugin: plugin.expect("the filter's configuration"),
        routes,
        protocol,
        per_route: false,
    }
}

/// What is patched into the listener is there already in the one that the stand-in starts from.
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

/// Silent connections are kept alive as in the clusters that the stand-in starts with.
fn assert_keepalive(time: &Value, interval: &Value, probes: &Value) {
    use render::parts::{KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIME};
    assert_eq!(*time, json!(format!("{KEEPALIVE_TIME}s")));
    assert_eq!(*interval, json!(format!("{KEEPALIVE_INTERVAL}s")));
    assert_eq!(*probes, json!(KEEPALIVE_PROBES));
}

/// Envoy Gateway: a rule becomes the cluster `httproute/NAMESPACE/NAME/rule/INDEX`, and routes that match headers are asked first.
fn envoy_gateway(azure: &Simulator, resources: &[Value]) -> Told {
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
            list.push(json!({
                "match": {"prefix": "/", "headers": headers},
                "route": {"cluster": cluster, "timeout": rule["timeouts"]["request"]},
                "request_headers_to_remove": rule["filters"][0]["requestHeaderModifier"]["remove"],
                "typed_per_filter_config": {"envoy.filters.http.wasm": enabled},
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
    Told {
        backends,
        identity: identity.expect("a token service"),
        plugin: policy["spec"]["wasm"][0]["config"].clone(),
        routes: by_header,
        protocol: None,
        per_route: true,
    }
}

/// An Envoy that is told this.
fn gateway(told: Told) -> GatewayBuilder {
    let mut builder = Gateway::builder();
    let mut plugin = told.plugin;
    if plugin.get("left_to_envoy").is_none() {
        // The renderer would leave all that it can.
        plugin["left_to_envoy"] = json!([]);
    }
    let fleet = Fleet {
        backends: told.backends,
        identity: Some(told.identity),
        plugin,
        ..render::demo_fleet()
    };
    // The routes of one's own give way to those of the control plane.
    let listener = render::listener(&fleet);
    let start = listener.find("routes:\n").expect("routes");
    let end = listener[start..].find("http_filters:").expect("filters") + start;
    let end = listener[..end].rfind('\n').expect("a line") + 1;
    let routes = format!("routes: {}\n", Value::Array(told.routes));
    builder = builder.rewrite(&listener[start..end], &routes);
    // Neither control plane can say this.
    builder = builder.rewrite(
        "allow_on_headers_stop_iteration: true",
        "allow_on_headers_stop_iteration: false",
    );
    if told.per_route {
        let filter = "- name: envoy.filters.http.wasm\n";
        let at = listener.find(filter).expect("the filter");
        let column = at - listener[..at].rfind('\n').expect("a line") - 1;
        let off = format!(
            "- disabled: true\n{:1$}name: envoy.filters.http.wasm\n",
            "",
            column + 2
        );
        builder = builder.rewrite(filter, &off);
    }
    if let Some(protocol) = told.protocol {
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

/// Requests are balanced, sent again, shown a token, and led nowhere else.
fn assert_serves(azure: &Simulator, gateway: &Gateway) {
    let chat = chat_request();
    let imds = gateway
        .fleet()
        .identity
        .as_ref()
        .expect("an identity")
        .cluster
        .clone();
    let first = gateway.fleet().backends[0].cluster.clone();
    for forged in [first.as_str(), imds.as_str(), "nowhere"] {
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

cases! {
    fn what_istio_makes_of_its_resources_serves(engine) {
        let azure = simulate_tls(&["east", "west", "north"]);
        let chosen = match engine {
            e2e::Engine::Router => Engine::Router,
            _ => Engine::Filter,
        };
        let mut resources = resources(&azure, Target::Istio, chosen);
        // The module is where the resources say that it is; here that is where the harness has it.
        let module = e2e::module().display().to_string();
        replace(&mut resources, "/etc/envoy/azure_openai_balancer.wasm", &module);
        let told = istio(&azure, &resources);
        assert_eq!(told.protocol.is_some(), engine == e2e::Engine::Router);
        assert_serves(&azure, &gateway(told).start());
    }
}

/// Puts one text in the place of another, wherever that is a value.
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
fn what_envoy_gateway_makes_of_its_resources_serves_with_the_filter_engine() {
    let azure = simulate_tls(&["east", "west", "north"]);
    let told = envoy_gateway(
        &azure,
        &resources(&azure, Target::EnvoyGateway, Engine::Filter),
    );
    assert_serves(&azure, &gateway(told).start());
}
