//! Resources of Envoy Gateway.
//!
//! Envoy Gateway names a cluster after the rule of the HTTPRoute that leads there. So each backend and the token
//! service have a rule. Its API lacks the settings of the router engine; patches add them.

mod patches;

use render::parts::{self, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, KEEPALIVE_TIME};
use render::yaml::{indented, item, quoted};
use render::{Clients, Engine, Fleet, TokenIssuer};

use self::patches::patches;
use crate::kubernetes::{identity_notes, limit_notes, resource, secret_variables};
use crate::kubernetes::{Clusters, Kubernetes, Names};

/// Envoy Gateway's names for clusters: `httproute/NAMESPACE/NAME/rule/INDEX`.
pub(crate) const CLUSTERS: Clusters = Clusters {
    backend: |names, index, _| cluster(names, index),
    identity: |names, index, backends| cluster(names, backends + index),
    sockets: "/tmp",
};

const NAME: &str = "azure-openai";
const LISTENER: &str = "https";
const GROUP: &str = "gateway.envoyproxy.io";
const VERSION: &str = "gateway.envoyproxy.io/v1alpha1";
const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";

/// The most rules of an HTTPRoute that lead to a cluster. The API allows 16, and one is for requests without a cluster.
const RULES: usize = 15;

/// The HTTPRoute whose rules include the cluster with this index.
fn route_name(index: usize) -> String {
    match index / RULES {
        0 => NAME.to_owned(),
        n => format!("{NAME}-{}", n + 1),
    }
}

fn cluster(names: &Names, index: usize) -> String {
    let (route, rule) = (route_name(index), index % RULES);
    format!("httproute/{}/{route}/rule/{rule}", names.namespace)
}

pub(crate) fn resources(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let mut out = format!(
        "\
# Envoy Gateway in front of several Azure OpenAI resources.
#
# Made by `azure-openai-balancer render envoy-gateway`: change the list of backends it was made from, and render it again.
# Backend resources have to be switched on in Envoy Gateway's own configuration (`extensionApis.enableBackend`).
{notes}",
        notes = notes(kubernetes),
    );
    out.push_str(&gateway(names));
    for (backend, name) in fleet.backends.iter().zip(&kubernetes.resources) {
        let comment = format!("# The backend {}.\n", backend.name);
        out.push_str(&at(&comment, names, name, &backend.address, backend.port));
        if backend.tls.is_some() {
            out.push_str(&tls(names, name, &backend.host));
        }
    }
    let identities = fleet.identity.iter().chain(&fleet.further_identities);
    for (i, identity) in identities.enumerate() {
        let comment = "# The endpoint for access tokens. On AKS, the proxy sidecar of workload identity answers here.\n";
        out.push_str(&at(
            comment,
            names,
            &imds(i),
            &identity.address,
            identity.port,
        ));
    }
    out.push_str(&http_routes(kubernetes));
    out.push_str(&extension(kubernetes));
    out.push_str(&traffic(kubernetes));
    out.push_str(&clients(kubernetes));
    out.push_str(&patches(kubernetes));
    out
}

fn notes(kubernetes: &Kubernetes) -> String {
    let fleet = &kubernetes.fleet;
    let mut notes = String::new();
    if let Clients::Keys { .. } = fleet.clients {
        notes.push_str(
            "#\n# Clients' keys are in the Secret azure-openai-clients: a field for each client, with its name and its key.\n",
        );
    }
    if fleet.engine == Engine::Router {
        notes.push_str(&format!(
            "#\n# The router engine needs Envoy 1.39 or later, and the module as a file in its pods, at {}.\n",
            fleet.module.display()
        ));
    }
    let variables = secret_variables(fleet);
    if !variables.is_empty() {
        notes.push_str(&format!(
            "#\n# Envoy needs these variables, from a Secret, by the EnvoyProxy resource: {}.\n",
            variables.join(", ")
        ));
    }
    if kubernetes.full || !fleet.authorities.is_empty() {
        notes.push_str(
            "#\n# EnvoyPatchPolicy has to be switched on in Envoy Gateway's own configuration (`extensionApis.enableEnvoyPatchPolicy`).\n",
        );
    }
    notes.push_str(limit_notes(fleet));
    notes.push_str(&identity_notes(fleet));
    notes
}

fn imds(index: usize) -> String {
    match index {
        0 => "azure-openai-imds".to_owned(),
        n => format!("azure-openai-imds-{n}"),
    }
}

fn gateway(names: &Names) -> String {
    let spec = format!(
        "\
gatewayClassName: eg
listeners:
- name: {LISTENER}
  protocol: HTTPS
  port: 443
  hostname: {host}
  tls:
    mode: Terminate
    certificateRefs: [{{kind: Secret, name: {secret}}}]
",
        host = quoted(&names.host),
        secret = quoted(&names.tls_secret),
    );
    resource(
        "# The listener for clients.\n",
        GATEWAY_API,
        "Gateway",
        &names.gateway,
        names,
        &spec,
    )
}

/// The address of a service.
fn at(comment: &str, names: &Names, name: &str, address: &str, port: u16) -> String {
    let quoted_address = quoted(address);
    let endpoint = match address.parse::<std::net::IpAddr>() {
        Ok(_) => format!("ip: {{address: {quoted_address}, port: {port}}}"),
        Err(_) => format!("fqdn: {{hostname: {quoted_address}, port: {port}}}"),
    };
    let spec = format!("endpoints:\n- {endpoint}\n");
    resource(comment, VERSION, "Backend", name, names, &spec)
}

fn tls(names: &Names, name: &str, host: &str) -> String {
    let spec = format!(
        "\
targetRefs:
- {{group: {GROUP}, kind: Backend, name: {name}}}
validation:
  hostname: {host}
  wellKnownCACertificates: System
",
        name = quoted(name),
        host = quoted(host),
    );
    resource("", GATEWAY_API, "BackendTLSPolicy", name, names, &spec)
}

/// The destinations of the rules, in the order of the clusters: the backends, then the token services.
fn targets(kubernetes: &Kubernetes) -> Vec<String> {
    let fleet = &kubernetes.fleet;
    let identities = fleet.identity.iter().chain(&fleet.further_identities);
    let backends = kubernetes.resources.iter().cloned();
    backends.chain((0..identities.count()).map(imds)).collect()
}

/// All HTTPRoutes, as the `targetRefs` of policies.
fn route_refs(kubernetes: &Kubernetes) -> String {
    let count = targets(kubernetes).len();
    let routes = (0..count).step_by(RULES).map(|index| {
        let name = route_name(index);
        format!("- {{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name}}}\n")
    });
    format!("targetRefs:\n{}", routes.collect::<String>())
}

fn http_routes(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let targets = targets(kubernetes);
    let mut comment = "\
# The filter names a backend's cluster in a header, and the rule is chosen by that. One that a client sends is replaced. The
# clusters are named after the rules, so their order matters.
";
    let mut out = String::new();
    for (n, chunk) in targets.chunks(RULES).enumerate() {
        let start = n * RULES;
        let mut rules: String = chunk
            .iter()
            .enumerate()
            .map(|(i, target)| {
                let index = start + i;
                let comment = match index == kubernetes.resources.len() {
                    true => "# No request goes here: the rule makes the cluster through which the filter requests tokens.\n",
                    false => "",
                };
                let matching = format!(
                    "  headers:\n  - {{name: {}, value: {}}}\n",
                    quoted(fleet.cluster_header()),
                    quoted(&cluster(names, index))
                );
                format!("{comment}{}", rule(fleet, &matching, target))
            })
            .collect();
        if n == 0 {
            rules.push_str(
                "# The route of a request until the filter has set the header. The filter runs only if there is a route.\n",
            );
            rules.push_str(
                &chunk
                    .first()
                    .map(|first| rule(fleet, "", first))
                    .unwrap_or_default(),
            );
        }
        let spec = format!(
            "\
parentRefs:
- name: {gateway}
hostnames: [{host}]
rules:
{rules}",
            gateway = quoted(&names.gateway),
            host = quoted(&names.host),
        );
        out.push_str(&resource(
            comment,
            GATEWAY_API,
            "HTTPRoute",
            &route_name(start),
            names,
            &spec,
        ));
        comment = "";
    }
    out
}

fn rule(fleet: &Fleet, matching: &str, target: &str) -> String {
    item(&format!(
        "\
matches:
- path: {{type: PathPrefix, value: /}}
{matching}\
backendRefs:
- {{group: {GROUP}, kind: Backend, name: {target}}}
filters:
- type: RequestHeaderModifier
  requestHeaderModifier:
    remove: [{header}, x-forwarded-for, x-envoy-external-address]
timeouts: {{request: 0s}}
",
        target = quoted(target),
        header = quoted(fleet.cluster_header()),
    ))
}

fn extension(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let environment = match &fleet.host_environment[..] {
        [] => String::new(),
        variables => {
            let variables: Vec<String> = variables.iter().map(|name| quoted(name)).collect();
            format!("  env:\n    hostKeys: [{}]\n", variables.join(", "))
        }
    };
    let spec = format!(
        "\
{routes}\
wasm:
- name: azure_openai_balancer
  rootID: azure_openai_balancer
  # No request passes without the module.
  failOpen: false
  code:
    type: Image
    image:
      url: {image}
{environment}  config:
{plugin}",
        routes = route_refs(kubernetes),
        image = quoted(&names.image),
        plugin = indented(&parts::json(&fleet.plugin_in_place()), 4),
    );
    resource(
        "# The filter.\n",
        VERSION,
        "EnvoyExtensionPolicy",
        NAME,
        names,
        &spec,
    )
}

/// Settings that the Envoy renderer makes as well.
fn traffic(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let (early, retries) = match fleet.engine {
        Engine::Router => (
            format!(
                "\
# A client could otherwise choose a rule and bypass the filter's plan.
headers:
  earlyRequestHeaders:
    remove: [{}]
",
                quoted(fleet.cluster_header())
            ),
            "  maxParallelRetries: 100000\n",
        ),
        _ => (String::new(), ""),
    };
    let keepalive = format!(
        "\
# A model may think for minutes; Azure's load balancers, NAT and firewalls forget a connection that is silent for four.
tcpKeepalive: {{idleTime: {KEEPALIVE_TIME}s, interval: {KEEPALIVE_INTERVAL}s, probes: {KEEPALIVE_PROBES}}}
"
    );
    let client = format!(
        "\
targetRefs:
- {{group: gateway.networking.k8s.io, kind: Gateway, name: {gateway}}}
connection:
  bufferLimit: 32Mi
timeout:
  http:
    streamIdleTimeout: 900s
{keepalive}\
# nginx uses HTTP/1.0 towards its upstreams by default.
http1:
  http10: {{useDefaultHost: true}}
{early}",
        gateway = quoted(&names.gateway),
    );
    let comment = "\
# Envoy Gateway's 32 KiB are too little for prompts: Envoy holds a request while it waits, for a backend or for a token. And a
# model may think for minutes before its first byte.
";
    let backend = format!(
        "\
{routes}\
connection:
  bufferLimit: 32Mi
{keepalive}\
circuitBreaker:
  maxConnections: 100000
  maxPendingRequests: 100000
  maxParallelRequests: 100000
{retries}",
        routes = route_refs(kubernetes),
    );
    resource(
        comment,
        VERSION,
        "ClientTrafficPolicy",
        NAME,
        names,
        &client,
    ) + &resource("", VERSION, "BackendTrafficPolicy", NAME, names, &backend)
}

fn clients(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let (comment, policy) = match &fleet.clients {
        Clients::Open => return String::new(),
        Clients::Keys { .. } => (
            "# Clients need a key from the Secret.\n",
            by_key(fleet.client_header()),
        ),
        Clients::Tokens(issuer) => (
            "# Who may ask: those who have a token of this issuer for this audience.\n",
            by_token(fleet.client_header(), issuer),
        ),
    };
    let spec = format!(
        "\
{routes}{policy}",
        routes = route_refs(kubernetes),
    );
    resource(comment, VERSION, "SecurityPolicy", NAME, names, &spec)
}

fn by_key(header: &str) -> String {
    format!(
        "\
apiKeyAuth:
  credentialRefs:
  - {{kind: Secret, name: azure-openai-clients}}
  extractFrom:
  - headers: [api-key, authorization, ocp-apim-subscription-key, x-api-key]
  forwardClientIDHeader: {}
  sanitize: true
",
        quoted(header)
    )
}

fn by_token(header: &str, issuer: &TokenIssuer) -> String {
    format!(
        "\
jwt:
  providers:
  - name: clients
    issuer: {name}
    audiences: [{audience}]
    remoteJWKS:
      uri: {jwks}
    claimToHeaders:
    - {{header: {header}, claim: {claim}}}
",
        name = quoted(&issuer.issuer),
        audience = quoted(&issuer.audience),
        jwks = quoted(&issuer.jwks),
        header = quoted(header),
        claim = quoted(&issuer.client_claim),
    )
}
