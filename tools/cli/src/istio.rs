//! Resources of Istio, for the pods of an ingress gateway.
//!
//! Istio names its clusters itself, and has no `cluster_header`: a route for each backend matches the header that the filter
//! sets. What its API cannot say is said by an EnvoyFilter; with the router engine that is the module too, which has to be the
//! same in two places.

use render::parts;
use render::yaml::{indented, item, quoted};
use render::{Backend, Clients, Engine, Fleet, TokenIssuer};

use crate::kubernetes::{resource, Clusters, Kubernetes, Names};

/// Istio's names for clusters: `outbound|PORT||HOST`.
pub(crate) const CLUSTERS: Clusters = Clusters {
    backend: |_, _, host| {
        let (host, port) = host.split_once(':').unwrap_or((host, "443"));
        format!("outbound|{port}||{host}")
    },
    identity: |_, index, _| format!("outbound|80||{}", identity_host(index)),
};

/// A name for a token service, which no DNS server needs to know.
fn identity_host(index: usize) -> String {
    match index {
        0 => "imds.azure-openai.internal".to_owned(),
        n => format!("imds-{n}.azure-openai.internal"),
    }
}

/// The name of the route that the router engine's patch looks for.
const ROUTE: &str = "azure-openai";

pub(crate) fn resources(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let mut out = format!(
        "\
# Istio in front of several Azure OpenAI resources.
#
# Made by `azure-openai-balancer render istio`: change the list of backends that it was made from, and make it anew.
# It is for the pods of an ingress gateway that runs in the namespace {namespace} with the label `istio: {gateway}`.
{notes}",
        namespace = names.namespace,
        gateway = names.gateway,
        notes = notes(fleet),
    );
    out.push_str(&gateway(names));
    let backends = fleet.backends.iter().zip(&kubernetes.resources);
    for (backend, name) in backends.clone() {
        out.push_str(&service_entry(names, name, backend));
        out.push_str(&destination_rule(names, name, backend));
    }
    let identities = fleet.identity.iter().chain(&fleet.further_identities);
    for (i, identity) in identities.enumerate() {
        out.push_str(&imds(names, i, &identity.address, identity.port));
    }
    out.push_str(&virtual_service(kubernetes));
    if fleet.engine == Engine::Filter {
        out.push_str(&wasm_plugin(kubernetes));
    }
    if let Clients::Tokens(issuer) = &fleet.clients {
        out.push_str(&authentication(names, fleet, issuer));
    }
    out.push_str(&envoy_filter(kubernetes));
    out
}

/// What has to be in the gateway's pods.
fn notes(fleet: &Fleet) -> String {
    let mut notes = String::new();
    if fleet.engine == Engine::Router {
        notes.push_str(&format!(
            "#\n# The router engine needs a proxy of Envoy 1.39 or later, and the module as a file in its pods, at {}.\n",
            fleet.module.display()
        ));
    }
    if let Clients::Keys { file } = &fleet.clients {
        notes.push_str(&format!(
            "#\n# Clients' keys are read from {}: mount a Secret there that holds what `azure-openai-balancer keys` made.\n",
            file.display()
        ));
    }
    if !fleet.host_environment.is_empty() {
        notes.push_str(&format!(
            "#\n# The container istio-proxy needs these variables, from a Secret: {}.\n",
            fleet.host_environment.join(", ")
        ));
    }
    notes
}

fn gateway(names: &Names) -> String {
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
        "# Where clients connect.\n",
        "networking.istio.io/v1",
        "Gateway",
        &names.gateway,
        names,
        &spec,
    )
}

/// The host and the port by which Istio knows the backend, as its cluster's name has them.
fn service(backend: &Backend) -> (&str, &str) {
    let mut parts = backend.cluster.split('|').skip(1);
    let port = parts.next().unwrap_or("443");
    (parts.nth(1).unwrap_or(&backend.host), port)
}

fn service_entry(names: &Names, name: &str, backend: &Backend) -> String {
    let (host, port) = service(backend);
    let protocol = if backend.tls.is_some() {
        "HTTPS"
    } else {
        "HTTP"
    };
    let address: Result<std::net::IpAddr, _> = backend.address.parse();
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

fn destination_rule(names: &Names, name: &str, backend: &Backend) -> String {
    let (host, _) = service(backend);
    let tls = match backend.tls {
        Some(_) => format!(
            "  tls:\n    mode: SIMPLE\n    sni: {host}\n    subjectAltNames: [{host}]\n    caCertificates: /etc/ssl/certs/ca-certificates.crt\n",
            host = quoted(&backend.host)
        ),
        None => String::new(),
    };
    let spec = format!(
        "\
host: {host}
exportTo: [\".\"]
trafficPolicy:
  connectionPool:
    tcp: {{connectTimeout: 5s, maxConnections: 100000}}
    # Istio's defaults end what waits longer; a model may think for minutes.
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

fn imds(names: &Names, index: usize, address: &str, port: u16) -> String {
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
        resolution = if address.parse::<std::net::IpAddr>().is_ok() {
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

fn virtual_service(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let header = fleet.cluster_header();
    let route = |name: &str, matching: &str, backend: &Backend| {
        let (host, port) = service(backend);
        item(&format!(
            "\
name: {name}
{matching}\
route:
- destination: {{host: {host}, port: {{number: {port}}}}}
# The filter sends a request again; and a stream may last as long as it has something to say.
retries: {{attempts: 0}}
timeout: 0s
headers:
  request:
    remove: [{header}, x-forwarded-for, x-envoy-external-address]
",
            name = quoted(name),
            host = quoted(host),
            header = quoted(header),
        ))
    };
    let (comment, routes): (&str, String) = match (fleet.engine, fleet.backends.first()) {
        (Engine::Router, Some(first)) => (
            "# The EnvoyFilter below puts the filter's plan in the place of this route's destination.\n",
            route(ROUTE, "", first),
        ),
        _ => (
            "# The filter names a backend's cluster in a header, and the route is chosen by that. One that a client sends is replaced.\n",
            fleet
                .backends
                .iter()
                .zip(&kubernetes.resources)
                .map(|(backend, name)| {
                    let cluster = quoted(&backend.cluster);
                    let matching = format!("match:\n- headers:\n    {header}: {{exact: {cluster}}}\n", header = quoted(header));
                    route(name, &matching, backend)
                })
                .collect(),
        ),
    };
    let spec = format!(
        "\
hosts: [{host}]
gateways: [{gateway}]
exportTo: [\".\"]
http:
{routes}",
        host = quoted(&names.host),
        gateway = quoted(&names.gateway),
    );
    resource(
        comment,
        "networking.istio.io/v1",
        "VirtualService",
        ROUTE,
        names,
        &spec,
    )
}

fn wasm_plugin(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let environment: String = fleet
        .host_environment
        .iter()
        .map(|name| format!("  - {{name: {}, valueFrom: HOST}}\n", quoted(name)))
        .collect();
    let environment = match environment.as_str() {
        "" => String::new(),
        names => format!("# Taken from the container istio-proxy, whose values come from a Secret.\nvmConfig:\n  env:\n{names}"),
    };
    let spec = format!(
        "\
selector:
  matchLabels: {{istio: {gateway}}}
url: {url}
pluginName: azure_openai_balancer
# If the module ever traps, it is started anew; no request passes without it.
failStrategy: FAIL_RELOAD
{environment}\
pluginConfig:
{plugin}",
        gateway = quoted(&names.gateway),
        url = quoted(&format!("oci://{}", names.image)),
        plugin = indented(&parts::json(&fleet.plugin_in_place()), 2),
    );
    let comment =
        "# The filter, last before the router: after everything that asks clients who they are.\n";
    resource(
        comment,
        "extensions.istio.io/v1alpha1",
        "WasmPlugin",
        ROUTE,
        names,
        &spec,
    )
}

fn authentication(names: &Names, fleet: &Fleet, issuer: &TokenIssuer) -> String {
    let selector = format!(
        "selector:\n  matchLabels: {{istio: {}}}\n",
        quoted(&names.gateway)
    );
    let request = format!(
        "\
{selector}\
jwtRules:
- issuer: {name}
  audiences: [{audience}]
  jwksUri: {jwks}
  outputClaimToHeaders:
  - header: {header}
    claim: {claim}
",
        name = quoted(&issuer.issuer),
        audience = quoted(&issuer.audience),
        jwks = quoted(&issuer.jwks),
        header = quoted(fleet.client_header()),
        claim = quoted(&issuer.client_claim),
    );
    let authorization = format!(
        "\
{selector}\
action: DENY
rules:
- from:
  - source:
      notRequestPrincipals: [\"*\"]
"
    );
    let comment = "# Who may ask: those who have a token of this issuer for this audience ...\n";
    let first = resource(
        comment,
        "security.istio.io/v1",
        "RequestAuthentication",
        ROUTE,
        names,
        &request,
    );
    let comment = "# ... and no one without.\n";
    first
        + &resource(
            comment,
            "security.istio.io/v1",
            "AuthorizationPolicy",
            ROUTE,
            names,
            &authorization,
        )
}

/// What Istio's own API cannot say.
fn envoy_filter(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let mut patches = "\
# Istio's 32 KiB are too little for prompts: Envoy holds a request while it waits, for a backend or for a token.
"
    .to_owned();
    patches.push_str(&item(&format!(
        "\
applyTo: LISTENER
match: {{context: GATEWAY}}
patch:
  operation: MERGE
  value: {{per_connection_buffer_limit_bytes: {}}}
",
        parts::BUFFER_LIMIT
    )));
    let refusals = refusals(fleet);
    if !refusals.is_empty() {
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
{}",
            indented(&refusals, 6)
        )));
    }
    if let (Clients::Keys { .. }, Some(filter)) = (&fleet.clients, parts::client_filter(fleet)) {
        patches.push_str(&http_filter(
            "Who may ask: those whose key is in the file.",
            "INSERT_FIRST",
            "",
            &filter,
        ));
    }
    if fleet.engine == Engine::Router {
        let before = "        subFilter: {name: envoy.filters.http.router}\n";
        patches.push_str(&http_filter(
            "The filter, last before the router.",
            "INSERT_BEFORE",
            before,
            &parts::module(fleet),
        ));
        patches.push_str(&item(&format!(
            "\
applyTo: HTTP_ROUTE
match:
  context: GATEWAY
  routeConfiguration: {{vhost: {{route: {{name: {ROUTE}}}}}}}
patch:
  operation: MERGE
  value:
    route:
{}",
            indented(&parts::route(fleet), 6)
        )));
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
                protocol = indented(&parts::protocol(fleet), 4),
            )));
        }
    }
    let spec = format!(
        "\
workloadSelector:
  labels: {{istio: {gateway}}}
configPatches:
{patches}",
        gateway = quoted(&names.gateway),
    );
    let comment = "# What Istio's own API cannot say.\n";
    resource(
        comment,
        "networking.istio.io/v1alpha3",
        "EnvoyFilter",
        ROUTE,
        names,
        &spec,
    )
}

/// Istio refuses those without a token by a filter of its own, which has another word for it.
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
