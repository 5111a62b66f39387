//! Patches of Envoy Gateway's configuration of Envoy, for settings that its API lacks.

use render::parts::{self, Role};
use render::yaml::{indented, item, quoted};
use render::{Admin, Engine, Fleet, STATUS_NAME};

use super::{targets, LISTENER, NAME, RULES, VERSION};
use crate::kubernetes::{resource, Kubernetes};

/// The patches for settings that the API lacks.
pub(super) fn patches(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let mut patches = entra_id(fleet);
    patches.push_str(&status(fleet));
    if kubernetes.full {
        patches.push_str(&full(kubernetes));
    }
    if patches.is_empty() {
        return patches;
    }
    let spec = format!(
        "\
targetRef: {{group: gateway.networking.k8s.io, kind: Gateway, name: {gateway}}}
type: JSONPatch
jsonPatches:
{patches}",
        gateway = quoted(&names.gateway),
    );
    resource(
        "# Settings that Envoy Gateway's own API lacks.\n",
        VERSION,
        "EnvoyPatchPolicy",
        NAME,
        names,
        &spec,
    )
}

/// A listener or a cluster that is added.
fn add(kind: &str, name: &str, value: &str) -> String {
    item(&format!(
        "\
type: type.googleapis.com/envoy.config.{kind}
name: {}
operation:
  op: add
  path: \"\"
  value:
{}",
        quoted(name),
        indented(value, 4)
    ))
}

/// The status page of each of the gateway's pods.
fn status(fleet: &Fleet) -> String {
    // The address at which Envoy Gateway has Envoy listen.
    let admin = Admin {
        address: "127.0.0.1".to_owned(),
        port: 19000,
    };
    let Some((listener, cluster)) = parts::status(fleet, &admin) else {
        return String::new();
    };
    let listener = add("listener.v3.Listener", STATUS_NAME, &listener);
    let cluster = add("cluster.v3.Cluster", STATUS_NAME, &cluster);
    format!("# The status page of each pod, for `kubectl port-forward`.\n{listener}# Where it gets its statistics.\n{cluster}")
}

/// The clusters for tokens of Entra ID, and the listener of the token file.
fn entra_id(fleet: &Fleet) -> String {
    let mut patches = String::new();
    for authority in &fleet.authorities {
        let cluster = parts::authority_cluster(authority);
        patches.push_str("# Where the module gets access tokens of Entra ID.\n");
        patches.push_str(&add("cluster.v3.Cluster", &authority.cluster, &cluster));
    }
    for file in &fleet.token_files {
        let listener = parts::token_file_listener(file);
        patches.push_str(
            "# The token file of workload identity, for the module alone, which reads no files.\n",
        );
        patches.push_str(&add("listener.v3.Listener", &file.cluster, &listener));
        let cluster = parts::token_file_cluster(file);
        patches.push_str("# The cluster through which the module reads it.\n");
        patches.push_str(&add("cluster.v3.Cluster", &file.cluster, &cluster));
    }
    patches
}

/// The path of the module's configuration in Envoy Gateway's filter.
const FILTER_CONFIG: &str = ".typed_config.config";

/// Settings of Envoy Gateway's filter and connection manager.
fn full(kubernetes: &Kubernetes) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let listener = format!("{}/{}/{LISTENER}", names.namespace, names.gateway);
    let set = |path: &str, field: &str, value: &str| {
        setting("listener.v3.Listener", &listener, path, field, value)
    };
    let manager = "$.filter_chains[*].filters[?(@.name=='envoy.filters.network.http_connection_manager')].typed_config";
    // Envoy Gateway names the filter after its policy.
    let filter = format!(
        "{manager}.http_filters[?(@.name=='envoy.filters.http.wasm/envoyextensionpolicy/{}/{NAME}/wasm/0')]{FILTER_CONFIG}",
        names.namespace
    );
    let mut patches = limits(fleet, &listener, &filter);
    patches.push_str(&match fleet.engine {
        Engine::Router => router_engine(kubernetes, &listener, &filter),
        _ => filter_engine(&set, &filter),
    });
    patches
        .push_str("# A stream that its backend breaks off ends at once for the client as well.\n");
    patches.push_str(&set(manager, "delayed_close_timeout", " 0s\n"));
    // The path ends with the field's name.
    if let Some((_, refusals)) = parts::refusals(fleet).split_once("local_reply_config:") {
        patches.push_str("# Refusals have the shape that OpenAI's clients parse.\n");
        let refusals = indented(refusals, 2);
        patches.push_str(&set(manager, "local_reply_config", &refusals));
    }
    patches
}

/// One patch: sets `field` to `value` in everything that the JSONPath finds in a resource.
fn setting(kind: &str, name: &str, path: &str, field: &str, value: &str) -> String {
    let path = match path {
        "" => String::new(),
        path => format!("  jsonPath: {}\n", quoted(path)),
    };
    item(&format!(
        "\
type: type.googleapis.com/envoy.config.{kind}
name: {name}
operation:
  op: add
{path}  path: /{field}
  value:{value}",
        name = quoted(name),
    ))
}

/// The filters that call the rate limit service, and their clusters.
///
/// A patch without a `path` adds its value at the place that the JSONPath finds. In a list, that is before the item
/// found (RFC 6902). So each filter comes right before the module, after Envoy Gateway's own filters that authenticate
/// clients. The rule for requests without the header gives these requests the cluster that Envoy's filter needs.
fn limits(fleet: &Fleet, listener: &str, filter: &str) -> String {
    let module = filter.strip_suffix(FILTER_CONFIG).unwrap_or(filter);
    let mut patches = String::new();
    for (comment, value) in parts::limit_filters(fleet) {
        let patch = item(&format!(
            "\
type: type.googleapis.com/envoy.config.listener.v3.Listener
name: {}
operation:
  op: add
  jsonPath: {}
  value:
{}",
            quoted(listener),
            quoted(module),
            indented(&value, 4)
        ));
        patches.push_str(&format!("# {comment}\n{patch}"));
    }
    for (comment, name, cluster) in parts::limit_clusters(fleet) {
        let patch = add("cluster.v3.Cluster", name, &cluster);
        patches.push_str(&format!("# {comment}\n{patch}"));
    }
    patches
}

/// Envoy Gateway's filter, with settings that its API lacks.
fn filter_engine(set: &dyn Fn(&str, &str, &str) -> String, filter: &str) -> String {
    let mut patches = format!(
        "# Lets the filter read bodies while their headers are held: a request until it is complete, an error for its code.\n{}",
        set(filter, "allow_on_headers_stop_iteration", " true\n")
    );
    patches.push_str("# If the module ever traps, Envoy restarts it with the next request, at most ten times a second.\n");
    patches.push_str(&set(filter, "failure_policy", " FAIL_RELOAD\n"));
    let backoff = "\n    backoff: {base_interval: 0.1s}\n";
    patches.push_str(&set(filter, "reload_config", backoff));
    patches
}

/// The filter in two places, both from a file: the module must be equal in both, and only Envoy Gateway knows the path
/// of its copy of the image.
fn router_engine(kubernetes: &Kubernetes, listener: &str, filter: &str) -> String {
    let Kubernetes { names, fleet, .. } = kubernetes;
    let code = format!(
        "local: {{filename: {}}}\n",
        quoted(&fleet.module.to_string_lossy())
    );
    let extension = parts::extension(fleet, Role::Listener, &code);
    let (_, config) = extension.split_once("  config:").unwrap_or_default();
    let filter = filter.strip_suffix(".config").unwrap_or(filter);
    let mut patches = format!(
        "# The filter before the router, from a file: it has to be the same as in the clusters.\n{}",
        setting("listener.v3.Listener", listener, filter, "config", config)
    );
    // Requests stay on the rule without a header, the last one of the first route.
    let rule = targets(kubernetes).len().min(RULES);
    let route = format!(
        "$.virtual_hosts[*].routes[?(@.name=='httproute/{}/{NAME}/rule/{rule}/match/0/{}')]",
        names.namespace,
        names.host.replace('.', "_")
    );
    let set = |field: &str, value: &str| {
        setting(
            "route.v3.RouteConfiguration",
            listener,
            &route,
            field,
            value,
        )
    };
    patches.push_str("# The filter's plan in the place of the rule's destination.\n");
    let action = format!(
        "\n{}    upgrade_configs: [{{upgrade_type: websocket}}]\n",
        indented(&parts::route(fleet), 4)
    );
    patches.push_str(&set("route", &action));
    let added = parts::added_headers(fleet);
    if let Some((comment, added)) = added.split_once("request_headers_to_add:") {
        patches.push_str(comment);
        let added = indented(added, 2);
        patches.push_str(&set("request_headers_to_add", &added));
    }
    let protocol = parts::protocol(fleet);
    let (field, protocol) = protocol.split_once(':').unwrap_or_default();
    patches.push_str("# The filter in the backends' clusters, where it sees every attempt.\n");
    for backend in &fleet.backends {
        let value = indented(protocol, 2);
        patches.push_str(&setting(
            "cluster.v3.Cluster",
            &backend.cluster,
            "",
            field,
            &value,
        ));
    }
    patches
}
