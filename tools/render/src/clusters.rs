//! The clusters of the backends and the token services.

use std::net::IpAddr;

use crate::clients::JWKS_CLUSTER;
use crate::listener::upstream_module;
use crate::yaml::{indented, item, quoted};
use crate::{
    connections, limits, status, token_file, Authority, Backend, Clients, Engine, Fleet, Identity,
    LimitService, TlsOptions,
};

/// All clusters, as a YAML list that starts at the left margin.
pub(crate) fn all(fleet: &Fleet) -> String {
    let mut out = String::from(
        "\
# One cluster per backend. The filter takes the place of load balancing, so that each cluster is one resource with nothing to
# choose from.
",
    );
    for backend in &fleet.backends {
        out.push_str(&item(&of_backend(fleet, backend)));
    }
    if let Some(identity) = &fleet.identity {
        out.push_str(
            "\n# The endpoint for access tokens. It speaks plain HTTP and refuses requests with an `x-forwarded-for`: add no headers.\n",
        );
        out.push_str(&item(&of_identity(identity)));
    }
    for identity in &fleet.further_identities {
        out.push_str(&item(&of_identity(identity)));
    }
    for authority in &fleet.authorities {
        out.push_str("\n# The source of the module's access tokens.\n");
        out.push_str(&item(&of_authority(authority)));
    }
    for file in &fleet.token_files {
        out.push_str(
            "\n# Where the module reads the token file: Envoy's own listener on a unix socket.\n",
        );
        out.push_str(&item(&token_file::cluster(file)));
    }
    if fleet.status.is_some() {
        out.push_str("\n# Envoy's own admin interface, for the statistics of the status page.\n");
        out.push_str(&item(&status::cluster(&fleet.admin)));
    }
    if let Clients::Tokens(issuer) = &fleet.clients {
        out.push_str("\n# Where the keys are that clients' tokens are signed with.\n");
        out.push_str(&item(&of_server(
            JWKS_CLUSTER,
            &issuer.host,
            &issuer.host,
            issuer.port,
            issuer.tls.as_ref(),
        )));
    }
    if let Some(limits) = &fleet.limits {
        out.push_str("\n# The rate limit service, which keeps the limits of clients for all Envoys together.\n");
        out.push_str(&item(&of_limit_service(&limits.service)));
        out.push_str(
            "\n# No request goes here: requests have this cluster until the limits let them pass.\n",
        );
        out.push_str(&item(&of_undecided()));
    }
    out
}

/// The cluster of the rate limit service.
pub(crate) fn of_limit_service(service: &LimitService) -> String {
    let LimitService { address, port, tls } = service;
    format!(
        "\
name: {name}
{discovery}\
connect_timeout: 1s
{keepalive}\
{LIMITS}\
{GRPC}\
{tls}\
{endpoint}",
        name = limits::SERVICE_CLUSTER,
        discovery = discovery(address),
        keepalive = connections::of_cluster(),
        tls = match tls {
            Some(options) => tls_with(address, options, "h2"),
            None => String::new(),
        },
        endpoint = endpoint(limits::SERVICE_CLUSTER, address, *port, None),
    )
}

/// The cluster of requests before a cluster is chosen: it has no endpoint.
pub(crate) fn of_undecided() -> String {
    let name = limits::LIMITS_CLUSTER;
    format!("name: {name}\ntype: STATIC\nload_assignment: {{cluster_name: {name}}}\n")
}

/// The cluster of an authority of Entra ID.
pub(crate) fn of_authority(authority: &Authority) -> String {
    of_server(
        &authority.cluster,
        &authority.host,
        &authority.address,
        authority.port,
        authority.tls.as_ref(),
    )
}

fn of_backend(fleet: &Fleet, backend: &Backend) -> String {
    let tls = match &backend.tls {
        Some(options) => tls(&backend.host, options),
        None => String::new(),
    };
    format!(
        "\
name: {name}
{discovery}\
connect_timeout: 5s
{keepalive}\
{LIMITS}\
{protocol}\
{tls}\
{endpoint}",
        protocol = protocol(fleet),
        keepalive = connections::of_cluster(),
        name = quoted(&backend.cluster),
        discovery = discovery(&backend.address),
        endpoint = endpoint(
            &backend.cluster,
            &backend.address,
            backend.port,
            Some(fleet.authority(backend))
        ),
    )
}

fn of_identity(identity: &Identity) -> String {
    format!(
        "\
name: {name}
{discovery}\
connect_timeout: 2s
{endpoint}",
        name = quoted(&identity.cluster),
        discovery = discovery(&identity.address),
        endpoint = endpoint(&identity.cluster, &identity.address, identity.port, None),
    )
}

/// The cluster of a server with few requests.
fn of_server(
    cluster: &str,
    host: &str,
    address: &str,
    port: u16,
    options: Option<&TlsOptions>,
) -> String {
    format!(
        "\
name: {name}
{discovery}\
connect_timeout: 5s
{keepalive}\
{tls}\
{endpoint}",
        name = quoted(cluster),
        keepalive = connections::of_cluster(),
        discovery = discovery(address),
        tls = match options {
            Some(options) => tls(host, options),
            None => String::new(),
        },
        endpoint = endpoint(cluster, address, port, None),
    )
}

/// The way in which the cluster resolves its addresses.
fn discovery(address: &str) -> &'static str {
    if address.parse::<IpAddr>().is_ok() {
        "type: STATIC\n"
    } else {
        "\
# New connections go to the name's current address. Connections with a streaming answer stay.
type: LOGICAL_DNS
dns_lookup_family: V4_PREFERRED
"
    }
}

/// Envoy's defaults would refuse the fourth concurrent retry and the 1025th concurrent request.
const LIMITS: &str = "\
circuit_breakers:
  thresholds:
  - max_connections: 100000
    max_pending_requests: 100000
    max_requests: 100000
    max_retries: 100000
";

/// The protocol of a backend's cluster, and the filters for every attempt on it.
pub(crate) fn protocol(fleet: &Fleet) -> String {
    match fleet.engine {
        Engine::Filter => PROTOCOL.to_owned(),
        Engine::Router => protocol_with(&upstream_module(fleet)),
    }
}

/// The protocol with this module among the filters.
pub(crate) fn protocol_with(module: &str) -> String {
    let filters = format!(
        "\
# Every attempt passes here. The VM is the one of the listener's filter: the vm_config must be the same.
http_filters:
{module}\
- name: envoy.filters.http.upstream_codec
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec
",
        module = item(module),
    );
    format!("{PROTOCOL}{}", indented(&filters, 4))
}

const PROTOCOL: &str = "\
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    # HTTP/1.1, over which a WebSocket upgrade works everywhere.
    explicit_http_config:
      http_protocol_options: {}
    # Idle connections end here before the other side ends them, so that no request starts on a dying one.
    common_http_protocol_options:
      idle_timeout: 60s
";

const GRPC: &str = "\
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http2_protocol_options: {}
";

fn tls(host: &str, options: &TlsOptions) -> String {
    tls_with(host, options, "http/1.1")
}

fn tls_with(host: &str, options: &TlsOptions, protocol: &str) -> String {
    format!(
        "\
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    sni: {host}
    common_tls_context:
      alpn_protocols: [\"{protocol}\"]
      # Without this block Envoy would accept any certificate.
      validation_context:
        trusted_ca:
          filename: {ca_file}
        match_typed_subject_alt_names:
        - san_type: DNS
          matcher:
            exact: {host}
",
        host = quoted(host),
        ca_file = quoted(&options.authorities().to_string_lossy()),
    )
}

/// `host` is the route's authority for it.
fn endpoint(cluster: &str, address: &str, port: u16, host: Option<&str>) -> String {
    let hostname = host.map(|host| format!("  hostname: {}\n", quoted(host)));
    let endpoint = format!(
        "\
endpoint:
{hostname}  address:
    socket_address:
      address: {address}
      port_value: {port}
",
        hostname = hostname.unwrap_or_default(),
        address = quoted(address),
    );
    format!(
        "\
load_assignment:
  cluster_name: {cluster}
  endpoints:
  - lb_endpoints:
{}",
        indented(&item(&endpoint), 4),
        cluster = quoted(cluster),
    )
}
