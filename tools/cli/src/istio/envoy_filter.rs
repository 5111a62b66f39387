//! Patches of Istio's configuration of Envoy, for settings that Istio's API lacks.

use render::parts::{self, Role};
use render::yaml::{indented, item, quoted};
use render::{Admin, Clients, Engine, Fleet};

use super::services::service;
use super::ROUTE;
use crate::kubernetes::{resource, Kubernetes};

/// The EnvoyFilter with the settings that Istio's API lacks.
pub(super) fn envoy_filter(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let mut patches = item(&format!(
        "\
applyTo: LISTENER
match: {{context: GATEWAY}}
patch:
  operation: MERGE
  value:
    # Istio's 32 KiB are too little for prompts: Envoy holds a request while it waits, for a backend or for a token.
    per_connection_buffer_limit_bytes: {limit}
{sockets}",
        limit = parts::BUFFER_LIMIT,
        sockets = indented(&parts::sockets(), 4),
    ));
    patches.push_str(&item(&format!(
        "\
applyTo: NETWORK_FILTER
match:
  context: GATEWAY
  listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}
patch:
  operation: MERGE
  value:
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
{connections}{early}{refusals}",
        connections = indented(&parts::connections(&names.host), 6),
        // Envoy needs a route with a cluster before it applies the limits.
        early = indented(&early_cluster(fleet), 6),
        refusals = indented(&refusals(fleet), 6),
    )));
    if let (Clients::Keys { .. }, Some(filter)) = (&fleet.clients, parts::client_filter(fleet)) {
        patches.push_str(&http_filter(
            "Clients need a key from the file.",
            "INSERT_FIRST",
            "",
            &filter,
        ));
    }
    if let Some(filter) = module(kubernetes) {
        if kubernetes.full {
            patches.push_str(&extension(kubernetes, Role::Listener));
        }
        let before = "        subFilter: {name: envoy.filters.http.router}\n";
        for (comment, filter) in parts::limit_filters(fleet) {
            patches.push_str(&http_filter(comment, "INSERT_BEFORE", before, &filter));
        }
        patches.push_str(&http_filter(
            "The filter, last before the router.",
            "INSERT_BEFORE",
            before,
            &filter,
        ));
    }
    if fleet.engine == Engine::Router {
        patches.push_str(&router_engine(kubernetes));
    }
    patches.push_str(&entra_id(fleet));
    patches.push_str(&status(fleet));
    for (comment, _, cluster) in parts::limit_clusters(fleet) {
        patches.push_str(&add(comment, "CLUSTER", &cluster));
    }
    let spec = format!(
        "\
workloadSelector:
  labels: {{istio: {gateway}}}
configPatches:
{patches}",
        gateway = quoted(&names.gateway),
    );
    let comment = "# Settings that Istio's own API lacks.\n";
    resource(
        comment,
        "networking.istio.io/v1alpha3",
        "EnvoyFilter",
        ROUTE,
        names,
        &spec,
    )
}

/// The first backend's cluster, which has a route. It is every request's cluster until the filter chooses another.
fn early_cluster(fleet: &Fleet) -> String {
    let first = fleet.backends.first();
    let cluster = first.map_or("", |backend| &backend.cluster);
    parts::early_cluster(fleet, cluster)
}

/// The module among the listener's filters, if it is not a WasmPlugin's.
fn module(kubernetes: &Kubernetes) -> Option<String> {
    let Kubernetes { fleet, full, .. } = kubernetes;
    match (full, fleet.engine) {
        (true, _) => Some(discovered(Role::Listener)),
        (false, Engine::Router) => Some(parts::module(fleet)),
        (false, _) => None,
    }
}

/// The module with its configuration, from the image, as an extension that Istio distributes separately. Istio's agent
/// fetches images for such extensions only.
fn extension(kubernetes: &Kubernetes, role: Role) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let code = format!(
        "\
# Istio's agent fetches the image and puts a file in this place. \"nil\" says that there is no checksum.
remote:
  http_uri: {{uri: {image}, cluster: _, timeout: 30s}}
  sha256: \"nil\"
",
        image = quoted(&format!("oci://{}", names.image)),
    );
    let value = format!(
        "name: {}\n{}",
        role.root_id(),
        parts::extension(fleet, role, &code)
    );
    let comment = match role {
        Role::Listener => {
            "The module with its configuration. WasmPlugin cannot let it read bodies."
        }
        Role::Cluster => "The module in the backends' clusters, where it sees every attempt.",
    };
    add(comment, "EXTENSION_CONFIG", &value)
}

/// A filter whose configuration Envoy gets separately.
fn discovered(role: Role) -> String {
    format!(
        "\
name: {}
config_discovery:
  config_source:
    resource_api_version: V3
    ads: {{}}
    # No request passes without the module, however long its image takes.
    initial_fetch_timeout: 0s
  type_urls: [type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm]
",
        role.root_id()
    )
}

/// The route and the clusters of the router engine.
fn router_engine(kubernetes: &Kubernetes) -> String {
    let Kubernetes { fleet, full, .. } = kubernetes;
    let mut patches = item(&format!(
        "\
applyTo: HTTP_ROUTE
match:
  context: GATEWAY
  routeConfiguration: {{vhost: {{route: {{name: {ROUTE}}}}}}}
patch:
  operation: MERGE
  value:
    route:
{route}{added}",
        route = indented(&parts::route(fleet), 6),
        added = indented(&parts::added_headers(fleet), 4),
    ));
    let protocol = match full {
        true => {
            patches.push_str(&extension(kubernetes, Role::Cluster));
            parts::protocol_with(&discovered(Role::Cluster))
        }
        false => parts::protocol(fleet),
    };
    for backend in &fleet.backends {
        let (host, port) = service(backend);
        patches.push_str(&item(&format!(
            "\
applyTo: CLUSTER
match:
  context: GATEWAY
  cluster: {{service: {host}, portNumber: {port}}}
patch:
  operation: MERGE
  value:
{protocol}",
            host = quoted(host),
            protocol = indented(&protocol, 4),
        )));
    }
    patches
}

/// An addition to the configuration of the gateway's pods.
fn add(comment: &str, to: &str, value: &str) -> String {
    let patch = item(&format!(
        "\
applyTo: {to}
match: {{context: GATEWAY}}
patch:
  operation: ADD
  value:
{}",
        indented(value, 4)
    ));
    format!("# {comment}\n{patch}")
}

/// The clusters for tokens of Entra ID, and the listener of the token file.
fn entra_id(fleet: &Fleet) -> String {
    let mut patches = String::new();
    for authority in &fleet.authorities {
        let cluster = parts::authority_cluster(authority);
        patches.push_str(&add(
            "The source of the module's access tokens.",
            "CLUSTER",
            &cluster,
        ));
    }
    for file in &fleet.token_files {
        let comment =
            "The token file of workload identity, for the module alone, which reads no files.";
        patches.push_str(&add(comment, "LISTENER", &parts::token_file_listener(file)));
        let comment = "The cluster through which the module reads it.";
        patches.push_str(&add(comment, "CLUSTER", &parts::token_file_cluster(file)));
    }
    patches
}

/// The status page of each of the gateway's pods.
fn status(fleet: &Fleet) -> String {
    // The address at which Istio's agent has Envoy listen.
    let admin = Admin {
        address: "127.0.0.1".to_owned(),
        port: 15000,
    };
    match parts::status(fleet, &admin) {
        None => String::new(),
        Some((listener, cluster)) => {
            let comment = "The status page of each pod, for `kubectl port-forward`.";
            let patch = add(comment, "LISTENER", &listener);
            patch + &add("Where it gets its statistics.", "CLUSTER", &cluster)
        }
    }
}

/// Istio's own filter refuses clients without a token, with a code of its own.
fn refusals(fleet: &Fleet) -> String {
    let refusals = parts::refusals(fleet);
    match fleet.clients {
        Clients::Tokens(_) => refusals.replace(
            "response.code_details.startsWith('jwt_authn_access_denied')",
            "response.code_details.startsWith('jwt_authn_access_denied') || response.code_details.startsWith('rbac_access_denied')",
        ),
        _ => refusals,
    }
}

fn http_filter(comment: &str, operation: &str, before: &str, filter: &str) -> String {
    let patch = item(&format!(
        "\
applyTo: HTTP_FILTER
match:
  context: GATEWAY
  listener:
    filterChain:
      filter:
        name: envoy.filters.network.http_connection_manager
{before}patch:
  operation: {operation}
  value:
{}",
        indented(filter, 4),
    ));
    format!("# {comment}\n{patch}")
}
