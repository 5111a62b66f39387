//! Resources of Istio, for the pods of an ingress gateway.
//!
//! Istio names its clusters itself, and has no `cluster_header`. So a route for each backend matches the header that
//! the filter sets. An EnvoyFilter makes the settings that Istio's API lacks. With the router engine it also adds the
//! module, which must be equal in two places.

mod envoy_filter;
mod services;

use render::parts;
use render::yaml::{indented, item, quoted};
use render::{Backend, Clients, Engine, Fleet, TokenIssuer};

use self::envoy_filter::envoy_filter;
use self::services::{destination_rule, gateway, identity_host, imds, service, service_entry};
use crate::kubernetes::{identity_notes, limit_notes, resource, secret_variables};
use crate::kubernetes::{Clusters, Kubernetes, Names};

/// Istio's names for clusters: `outbound|PORT||HOST`.
pub(crate) const CLUSTERS: Clusters = Clusters {
    backend: |_, _, host| {
        let (host, port) = host.split_once(':').unwrap_or((host, "443"));
        format!("outbound|{port}||{host}")
    },
    identity: |_, index, _| format!("outbound|80||{}", identity_host(index)),
    // Among the volumes of Istio's pods, this is the one that its proxy may write to.
    sockets: "/etc/istio/proxy",
};

/// The name of the route that the router engine's patch looks for.
const ROUTE: &str = "azure-openai";

pub(crate) fn resources(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let mut out = format!(
        "\
# Istio in front of several Azure OpenAI resources.
#
# Made by `azure-openai-balancer render istio`: change the list of backends it was made from, and render it again.
# It is for the pods of an ingress gateway that runs in the namespace {namespace} with the label `istio: {gateway}`.
{notes}",
        namespace = names.namespace,
        gateway = names.gateway,
        notes = notes(kubernetes),
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
    if fleet.engine == Engine::Filter && !kubernetes.full {
        out.push_str(&wasm_plugin(kubernetes));
    }
    if let Clients::Tokens(issuer) = &fleet.clients {
        out.push_str(&authentication(names, fleet, issuer));
    }
    out.push_str(&envoy_filter(kubernetes));
    out
}

/// Comments about the needs of the gateway's pods.
fn notes(kubernetes: &Kubernetes) -> String {
    let fleet = &kubernetes.fleet;
    let mut notes = String::new();
    if fleet.engine == Engine::Router {
        let file = match kubernetes.full {
            true => String::new(),
            false => format!(
                ", and the module as a file in its pods, at {}",
                fleet.module.display()
            ),
        };
        notes.push_str(&format!(
            "#\n# The router engine needs a proxy of Envoy 1.39 or later{file}.\n"
        ));
    }
    if let Clients::Keys { file } = &fleet.clients {
        notes.push_str(&format!(
            "#\n# Clients' keys are read from {}: mount a Secret there that holds what `azure-openai-balancer keys` made.\n",
            file.display()
        ));
    }
    let variables = secret_variables(fleet);
    if !variables.is_empty() {
        notes.push_str(&format!(
            "#\n# The container istio-proxy needs these variables, from a Secret: {}.\n",
            variables.join(", ")
        ));
    }
    notes.push_str(limit_notes(fleet));
    notes.push_str(&identity_notes(fleet));
    notes
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
# The filter makes the retries, and a stream may last as long as it sends something.
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
            "# The filter names a backend's cluster in a header, which chooses the route. It replaces a client's own header.\n",
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
# If the module ever traps, Envoy restarts it; no request passes without it.
failStrategy: FAIL_RELOAD
{environment}\
pluginConfig:
{plugin}",
        gateway = quoted(&names.gateway),
        url = quoted(&format!("oci://{}", names.image)),
        plugin = indented(&parts::json(&fleet.plugin_in_place()), 2),
    );
    let comment = "# The filter, last before the router, after the authentication of clients.\n";
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
