//! The Envoy configurations of all variants. Each is the configuration that is shipped for the balancer, without its access log, and
//! with only the changes that the variant needs.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use render::{Admin, Backend, Clients, Engine, Fleet, Identity, Listener};
use serde_json::{json, Value};

use crate::backend::{token, Backends, BACKENDS};
use crate::curves::Shape;
use crate::floor::Floor;
use crate::variant::{Settings, Variant};

/// The request header that names the cluster.
pub const CLUSTER_HEADER: &str = "x-aoai-cluster";

const NAMES: [&str; BACKENDS] = ["eastus", "westus", "swedencentral"];

/// The name of a backend's cluster.
pub fn cluster(index: usize) -> String {
    format!("aoai_{}", NAMES[index])
}

/// The host name of a backend.
pub fn host(index: usize) -> String {
    format!("contoso-{}.openai.azure.com", NAMES[index])
}

/// Files and addresses that configurations name.
pub struct Surroundings<'a> {
    /// The backends.
    pub backends: &'a Backends,
    /// The module that is measured.
    pub module: &'a Path,
    /// Another build of the module, to compare with.
    pub against: Option<&'a Path>,
    /// The path of the module that does nothing.
    pub idle: &'a Path,
    /// The modules that only make the balancer's host calls.
    pub floor: &'a Floor<'a>,
    /// The address of the `ext_proc` service, if it runs.
    pub ext_proc: Option<SocketAddr>,
}

/// The configuration of `variant` with a fleet of this `shape`, as JSON.
pub fn envoy(variant: Variant, shape: Shape, around: &Surroundings<'_>) -> Result<Value> {
    let engine = match variant.is_router() {
        true => Engine::Router,
        false => Engine::Filter,
    };
    let module = match variant {
        Variant::FilterAgainst | Variant::RouterAgainst => around.against,
        _ => Some(around.module),
    };
    let module = module.context("there is no other module to compare with")?;
    let settings = match variant.settings() {
        Settings::Default => json!({}),
        Settings::Affinity => json!({"affinity": {"by": "prompt_cache_key"}}),
        Settings::Uncounted => json!({"usage": false}),
        Settings::Lean => json!({"usage": false, "retry": {"stream_start": "0s"}}),
        Settings::Everything => everything(),
    };
    let mut config = shipped(engine, settings, shape, around.backends, module)?;
    let manager = manager(&mut config)?;
    manager
        .as_object_mut()
        .context("no connection manager")?
        .remove("access_log");
    match variant {
        Variant::Filter
        | Variant::Router
        | Variant::FilterAffinity
        | Variant::RouterAffinity
        | Variant::FilterUncounted
        | Variant::RouterUncounted
        | Variant::FilterLean
        | Variant::RouterLean
        | Variant::FilterEverything
        | Variant::RouterEverything
        | Variant::FilterAgainst
        | Variant::RouterAgainst => {}
        Variant::Envoy | Variant::EnvoyAgain => {
            filters(manager)?.remove(0);
            *route(manager)? = json!({"cluster": "pool", "timeout": "0s"});
            add_cluster(&mut config, pool(around.backends))?;
        }
        Variant::Stock => {
            filters(manager)?.remove(0);
            *route(manager)? = json!({
                "cluster": "pool", "timeout": "0s", "auto_host_rewrite": true, "retry_policy": retry_on_another_host(),
            });
            let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
            route["request_headers_to_remove"] = json!(["api-key"]);
            route["request_headers_to_add"] = json!([{
                "header": {"key": "authorization", "value": format!("Bearer {}", token())},
                "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }]);
            add_cluster(&mut config, pool(around.backends))?;
        }
        Variant::Lua => {
            filters(manager)?[0] = json!({
                "name": "envoy.filters.http.lua",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                    "default_source_code": {"inline_string": lua()},
                },
            });
        }
        Variant::ExtProc => {
            let address = around.ext_proc.context("there is no ext_proc service")?;
            filters(manager)?[0] = ext_proc();
            add_cluster(&mut config, ext_proc_cluster(address))?;
        }
        Variant::Idle => {
            replace_module(filters(manager)?, "idle", around.idle)?;
            *route(manager)? = json!({"cluster": "pool", "timeout": "0s"});
            add_cluster(&mut config, pool(around.backends))?;
        }
        Variant::FloorFilter
        | Variant::FloorRouter
        | Variant::FloorDownstream
        | Variant::FloorFilterLean
        | Variant::FloorRouterLean
        | Variant::FloorFilterEverything
        | Variant::FloorRouterEverything => {
            replace_module(filters(manager)?, "floor", &around.floor.listener(variant))?;
            if variant.is_router() {
                for filters in cluster_filters(&mut config)? {
                    match variant {
                        // The codec, the last filter of the cluster, stays.
                        Variant::FloorDownstream => drop(filters.remove(0)),
                        _ => {
                            let module = around.floor.upstream(variant);
                            replace_module(filters, "floor_upstream", &module)?;
                        }
                    }
                }
            }
        }
        Variant::Direct | Variant::LiteLlm => anyhow::bail!("{variant}: this variant has no Envoy"),
    }
    Ok(config)
}

/// LiteLLM's configuration. LiteLLM reads YAML, and JSON is valid YAML.
pub fn litellm(backends: &Backends) -> Value {
    let models = backends.addresses.iter().map(|address| {
        json!({
            "model_name": "gpt-4o",
            "litellm_params": {
                "model": "azure/gpt-4o", "api_base": format!("http://{address}"), "api_key": token(),
                "api_version": "2024-10-21",
            },
        })
    });
    json!({
        "model_list": models.collect::<Vec<_>>(),
        "litellm_settings": {"telemetry": false, "num_retries": 2, "set_verbose": false},
        "router_settings": {"routing_strategy": "simple-shuffle"},
    })
}

/// [`Settings::Everything`]: prices, client names, `headers.why` and limits of clients.
fn everything() -> Value {
    let limits = json!({
        "tokens_per_minute": 1_000_000_000, "tokens_per_day": 1_000_000_000_000_u64, "requests_per_minute": 1_000_000_000,
    });
    json!({
        "usage": {"prices": {"gpt-4o": {"prompt": 2.5, "cached": 1.25, "completion": 10}}},
        "headers": {"client": "x-client", "why": "x-aoai-why"},
        "limits": {"default": limits},
    })
}

fn shipped(
    engine: Engine,
    settings: Value,
    shape: Shape,
    backends: &Backends,
    module: &Path,
) -> Result<Value> {
    let loopback = || "127.0.0.1".to_owned();
    let fleet_backends: Vec<Backend> = (0..shape.backends)
        .map(|index| {
            let address = match shape.half_cool && index % 2 == 1 {
                true => backends.throttling,
                false => backends.addresses[index % BACKENDS],
            };
            let (name, host) = match NAMES.get(index) {
                Some(name) => ((*name).to_owned(), host(index)),
                None => (
                    format!("region{index}"),
                    format!("contoso-region{index}.openai.azure.com"),
                ),
            };
            Backend::new(&name, &host)
                .at("127.0.0.1", address.port())
                .tls(None)
        })
        .collect();
    let imds = match shape.is_tokenless {
        true => backends.silent,
        false => backends.imds,
    };
    let identity = Identity::imds().at("127.0.0.1", imds.port());
    let mut plugin = render::minimal_plugin(&fleet_backends, Some(&identity));
    if let (Some(plugin), Value::Object(settings)) = (plugin.as_object_mut(), settings) {
        plugin.extend(settings);
    }
    let fleet = Fleet {
        plugin,
        backends: fleet_backends,
        identity: Some(identity),
        further_identities: Vec::new(),
        authorities: Vec::new(),
        token_files: Vec::new(),
        listener: Listener {
            address: loopback(),
            port: 0,
            tls: None,
        },
        admin: Admin {
            address: loopback(),
            port: 0,
        },
        status: None,
        module: module.to_owned(),
        environment: Default::default(),
        host_environment: Vec::new(),
        engine,
        clients: Clients::Open,
        limits: None,
    };
    serde_saphyr::from_str(&render::envoy(&fleet)).context("the rendered configuration")
}

fn manager(config: &mut Value) -> Result<&mut Value> {
    let path = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    config
        .pointer_mut(path)
        .context("no HTTP connection manager")
}

fn filters(manager: &mut Value) -> Result<&mut Vec<Value>> {
    manager["http_filters"]
        .as_array_mut()
        .context("no HTTP filters")
}

/// The filter list of each cluster that has one.
fn cluster_filters(config: &mut Value) -> Result<Vec<&mut Vec<Value>>> {
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    let clusters = clusters.context("no clusters")?.iter_mut();
    let path = format!("/typed_extension_protocol_options/{HTTP_OPTIONS}/http_filters");
    let lists: Vec<_> = clusters
        .filter_map(|cluster| cluster.pointer_mut(&path)?.as_array_mut())
        .collect();
    ensure!(
        lists.len() == BACKENDS,
        "{} clusters with filters",
        lists.len()
    );
    Ok(lists)
}

/// Makes the first filter run another module, in a VM of this name.
fn replace_module(filters: &mut [Value], vm: &str, module: &Path) -> Result<()> {
    let filter = filters.first_mut().context("no HTTP filters")?;
    let config = filter.pointer_mut("/typed_config/config/vm_config");
    let config = config.context("the first filter is not a module")?;
    config["vm_id"] = json!(vm);
    config["code"] = json!({"local": {"filename": module.display().to_string()}});
    Ok(())
}

fn route(manager: &mut Value) -> Result<&mut Value> {
    let path = "/route_config/virtual_hosts/0/routes/0/route";
    manager.pointer_mut(path).context("no route")
}

fn add_cluster(config: &mut Value, cluster: Value) -> Result<()> {
    let clusters = config["static_resources"]["clusters"].as_array_mut();
    clusters.context("no clusters")?.push(cluster);
    Ok(())
}

fn endpoint(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn http_options(protocol: &str) -> Value {
    json!({HTTP_OPTIONS: {
        "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
        "explicit_http_config": {protocol: {}},
    }})
}

/// All backends as the hosts of one cluster.
fn pool(backends: &Backends) -> Value {
    let hosts = backends.addresses.iter().enumerate().map(|(index, address)| {
        json!({"endpoint": {"address": endpoint(*address), "hostname": host(index)}})
    });
    json!({
        "name": "pool", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000, "max_retries": 100_000,
        }]},
        "typed_extension_protocol_options": http_options("http_protocol_options"),
        "load_assignment": {"cluster_name": "pool", "endpoints": [{"lb_endpoints": hosts.collect::<Vec<_>>()}]},
    })
}

fn retry_on_another_host() -> Value {
    json!({
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "retriable_status_codes": [408, 429, 500, 502, 503, 504],
        "num_retries": 2,
        "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
        "host_selection_retry_max_attempts": 3,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
    })
}

fn lua() -> String {
    let quoted = |text: fn(usize) -> String| {
        let names = (0..BACKENDS).map(|index| format!("{:?}", text(index)));
        names.collect::<Vec<_>>().join(", ")
    };
    format!(
        r#"local clusters, hosts = {{{}}}, {{{}}}
local authorization = "Bearer {}"
local turn = 0
function envoy_on_request(handle)
  turn = turn % #clusters + 1
  local headers = handle:headers()
  headers:replace("{CLUSTER_HEADER}", clusters[turn])
  headers:replace(":authority", hosts[turn])
  headers:replace("authorization", authorization)
  headers:remove("api-key")
end
"#,
        quoted(cluster),
        quoted(host),
        token()
    )
}

fn ext_proc() -> Value {
    json!({
        "name": "envoy.filters.http.ext_proc",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor",
            "grpc_service": {"envoy_grpc": {"cluster_name": "ext_proc"}, "timeout": "5s"},
            "processing_mode": {"request_header_mode": "SEND", "response_header_mode": "SKIP"},
            "mutation_rules": {"allow_all_routing": true},
        },
    })
}

fn ext_proc_cluster(address: SocketAddr) -> Value {
    json!({
        "name": "ext_proc", "type": "STATIC", "connect_timeout": "5s",
        "typed_extension_protocol_options": http_options("http2_protocol_options"),
        "load_assignment": {"cluster_name": "ext_proc", "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": endpoint(address)}},
        ]}]},
    })
}
