//! Parts of the Envoy configuration as blocks of YAML that start at the left margin, for control planes that put them
//! in other places.

use serde_json::Value;

pub use crate::connections::{KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIME};
pub use crate::listener::Role;
use crate::{clients, clusters, connections, json, limits, listener, route, status, token_file};
use crate::{Admin, Authority, Fleet, TokenFile};

/// The bytes that Envoy may hold of each connection while a request waits.
pub const BUFFER_LIMIT: u32 = 32 * 1024 * 1024;

/// The keepalive of clients' connections, as a part of the listener.
pub fn sockets() -> String {
    connections::of_listener()
}

/// The end of clients' connections, as a part of the connection manager. `host` is the authority of an HTTP/1.0 request
/// without one.
pub fn connections(host: &str) -> String {
    connections::of_manager(host)
}

/// The authentication filter; `None` in an open configuration.
pub fn client_filter(fleet: &Fleet) -> Option<String> {
    clients::block(fleet)
}

/// The answers to refused clients, as a part of the connection manager; empty in an open configuration.
pub fn refusals(fleet: &Fleet) -> String {
    clients::refusals(fleet)
}

/// The filters that call the rate limit service, in their order, each with a comment. They belong before the module.
pub fn limit_filters(fleet: &Fleet) -> Vec<(&'static str, String)> {
    limits::filters(fleet)
}

/// The part of the connection manager that gives each request this cluster until the module chooses one; empty if
/// limits do not need it.
pub fn early_cluster(fleet: &Fleet, cluster: &str) -> String {
    limits::early_cluster(fleet, cluster)
}

/// The clusters that the limits' filters need, each after a comment and its name.
pub fn limit_clusters(fleet: &Fleet) -> Vec<(&'static str, &'static str, String)> {
    let Some(limits) = &fleet.limits else {
        return Vec::new();
    };
    let mut clusters = vec![(
        "The rate limit service.",
        limits::SERVICE_CLUSTER,
        clusters::of_limit_service(&limits.service),
    )];
    if limits::names_cluster(fleet) {
        clusters.push((
            "The cluster of requests that the limits are yet to let pass: none goes there.",
            limits::LIMITS_CLUSTER,
            clusters::of_undecided(),
        ));
    }
    clusters
}

/// The module among the listener's filters.
pub fn module(fleet: &Fleet) -> String {
    listener::module(fleet)
}

/// The module's `typed_config`, with its code from this data source: a block of YAML such as `local: {filename:
/// /module.wasm}`.
pub fn extension(fleet: &Fleet, role: Role, code: &str) -> String {
    listener::extension(fleet, role, code)
}

/// The route's action.
pub fn route(fleet: &Fleet) -> String {
    route::action(fleet)
}

/// The headers that the route adds to a request; empty with the filter engine.
pub fn added_headers(fleet: &Fleet) -> String {
    route::added_headers(fleet)
}

/// The protocol of a backend's cluster, and the filters for every attempt on it.
pub fn protocol(fleet: &Fleet) -> String {
    clusters::protocol(fleet)
}

/// The protocol of a backend's cluster, with this module among its filters.
pub fn protocol_with(module: &str) -> String {
    clusters::protocol_with(module)
}

/// The cluster of an authority of Entra ID.
pub fn authority_cluster(authority: &Authority) -> String {
    clusters::of_authority(authority)
}

/// The cluster through which the module requests a token file.
pub fn token_file_cluster(file: &TokenFile) -> String {
    token_file::cluster(file)
}

/// The listener that answers with a token file.
pub fn token_file_listener(file: &TokenFile) -> String {
    token_file::listener(file)
}

/// The listener of the status page, and the cluster of the `admin` interface behind it; `None` without a status page.
pub fn status(fleet: &Fleet, admin: &Admin) -> Option<(String, String)> {
    let status = fleet.status.as_ref()?;
    Some((status::listener(fleet, status), status::cluster(admin)))
}

/// JSON for people to read, which is valid inside YAML.
pub fn json(value: &Value) -> String {
    json::pretty(value)
}
