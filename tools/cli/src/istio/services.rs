//! Istio's resources for the listener, the backends and the token services.

use std::net::IpAddr;

use render::parts::{KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIME};
use render::yaml::quoted;
use render::Backend;

use crate::kubernetes::{resource, Names};

/// A host name for a token service, unknown to any DNS server.
pub(super) fn identity_host(index: usize) -> String {
    match index {
        0 => "imds.azure-openai.internal".to_owned(),
        n => format!("imds-{n}.azure-openai.internal"),
    }
}

pub(super) fn gateway(names: &Names) -> String {
    let spec = format!(
        "\
selector:
  istio: {gateway}
servers:
- port:
    number: 443
    name: https
    protocol: HTTPS
  hosts: [{host}]
  tls:
    mode: SIMPLE
    credentialName: {secret}
",
        gateway = quoted(&names.gateway),
        host = quoted(&names.host),
        secret = quoted(&names.tls_secret),
    );
    resource(
        "# The listener for clients.\n",
        "networking.istio.io/v1",
        "Gateway",
        &names.gateway,
        names,
        &spec,
    )
}

/// The backend's host and port, as the name of Istio's cluster has them.
pub(super) fn service(backend: &Backend) -> (&str, &str) {
    let mut parts = backend.cluster.split('|').skip(1);
    let port = parts.next().unwrap_or("443");
    (parts.nth(1).unwrap_or(&backend.host), port)
}

pub(super) fn service_entry(names: &Names, name: &str, backend: &Backend) -> String {
    let (host, port) = service(backend);
    let protocol = if backend.tls.is_some() {
        "HTTPS"
    } else {
        "HTTP"
    };
    let address: Result<IpAddr, _> = backend.address.parse();
    let elsewhere = backend.address != host || backend.port.to_string() != port;
    let endpoints = match elsewhere {
        true => format!(
            "endpoints:\n- address: {}\n  ports: {{backend: {}}}\n",
            quoted(&backend.address),
            backend.port
        ),
        false => String::new(),
    };
    let spec = format!(
        "\
hosts: [{host}]
exportTo: [\".\"]
location: MESH_EXTERNAL
ports:
- number: {port}
  name: backend
  protocol: {protocol}
resolution: {resolution}
{endpoints}",
        host = quoted(host),
        resolution = if address.is_ok() { "STATIC" } else { "DNS" },
    );
    let comment = format!("# The backend {}.\n", backend.name);
    resource(
        &comment,
        "networking.istio.io/v1",
        "ServiceEntry",
        name,
        names,
        &spec,
    )
}

pub(super) fn destination_rule(names: &Names, name: &str, backend: &Backend) -> String {
    let (host, _) = service(backend);
    let tls = match &backend.tls {
        Some(options) => format!(
            "  tls:\n    mode: SIMPLE\n    sni: {host}\n    subjectAltNames: [{host}]\n    caCertificates: {authorities}\n",
            host = quoted(&backend.host),
            authorities = options.authorities().display()
        ),
        None => String::new(),
    };
    let spec = format!(
        "\
host: {host}
exportTo: [\".\"]
trafficPolicy:
  connectionPool:
    tcp:
      connectTimeout: 5s
      maxConnections: 100000
      # Azure's load balancers, NAT and firewalls forget a connection that is silent for four minutes.
      tcpKeepalive: {{time: {KEEPALIVE_TIME}s, interval: {KEEPALIVE_INTERVAL}s, probes: {KEEPALIVE_PROBES}}}
    # Istio's default time limits are too short: a model may think for minutes.
    http: {{http1MaxPendingRequests: 100000, http2MaxRequests: 100000, maxRetries: 100000, idleTimeout: 60s}}
{tls}",
        host = quoted(host),
    );
    resource(
        "",
        "networking.istio.io/v1",
        "DestinationRule",
        name,
        names,
        &spec,
    )
}

pub(super) fn imds(names: &Names, index: usize, address: &str, port: u16) -> String {
    let host = identity_host(index);
    let spec = format!(
        "\
hosts: [{host}]
exportTo: [\".\"]
location: MESH_EXTERNAL
ports:
- number: 80
  name: http
  protocol: HTTP
resolution: {resolution}
endpoints:
- address: {address}
  ports: {{http: {port}}}
",
        host = quoted(&host),
        address = quoted(address),
        resolution = if address.parse::<IpAddr>().is_ok() {
            "STATIC"
        } else {
            "DNS"
        },
    );
    let comment = "# The endpoint for access tokens. On AKS, the proxy sidecar of workload identity answers here.\n";
    let name = host.split('.').next().unwrap_or("imds");
    let name = format!("azure-openai-{name}");
    resource(
        comment,
        "networking.istio.io/v1",
        "ServiceEntry",
        &name,
        names,
        &spec,
    )
}
