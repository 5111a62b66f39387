//! Envoy's filters before the module that call the rate limit service.
//!
//! The peculiarities noted here were observed in Envoy 1.36.4, 1.38.2, 1.39.0 and 1.40.0.

use super::{Kind, OnFailure, SharedLimits, Subject, DOMAIN, SERVICE_CLUSTER, UNNAMED};
use crate::yaml::{indented, item, quoted};
use crate::{Clients, Engine, Fleet};

/// Where the filters keep the client's name: the module removes the header that has it, and the tokens are charged after that.
const NAMESPACE: &str = "azure_openai.limits";

/// The filters in their order, each with a comment before it, as blocks of YAML; none without limits.
pub(crate) fn filters(fleet: &Fleet) -> Vec<(&'static str, String)> {
    let Some(limits) = &fleet.limits else {
        return Vec::new();
    };
    let mut filters = Vec::new();
    if names_clients(fleet) {
        filters.push((
            "Keeps the client's name for the limits, spelled as in statistics.",
            keep_client(fleet.client_header()),
        ));
    }
    for (subject, comment) in [
        (
            Subject::Tokens,
            "Limits tokens: asks the service whether the client has any left, and reports those of the answer when that is over.",
        ),
        (Subject::Requests, "Limits requests: each counts on arrival."),
    ] {
        let kinds = Kind::ALL.into_iter();
        let kinds = kinds.filter(|kind| Subject::of(*kind) == subject && limits.has(*kind));
        let kinds: Vec<Kind> = kinds.collect();
        if !kinds.is_empty() {
            filters.push((comment, rate_limit(fleet, limits, subject, &kinds)));
        }
    }
    filters
}

/// The part of the connection manager that gives each request this cluster until the module chooses one; empty where that is not
/// needed.
///
/// Envoy's filter asks nobody about a request that has no cluster. With the router engine the route itself has one.
pub(crate) fn early_cluster(fleet: &Fleet, cluster: &str) -> String {
    if fleet.limits.is_none() || fleet.engine == Engine::Router {
        return String::new();
    }
    format!(
        "\
# Envoy applies limits to requests with a cluster. All requests have this one until the filter chooses another.
early_header_mutation_extensions:
- name: envoy.http.early_header_mutation.header_mutation
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation
    mutations:
    - append:
        header: {{key: {header}, value: {cluster}}}
        append_action: OVERWRITE_IF_EXISTS_OR_ADD
",
        header = quoted(fleet.cluster_header()),
        cluster = quoted(cluster),
    )
}

/// Whether the route has to name [`LIMITS_CLUSTER`] for requests whose cluster is yet to be chosen.
pub(crate) fn names_cluster(fleet: &Fleet) -> bool {
    fleet.limits.is_some() && fleet.engine == Engine::Router
}

/// Whether a filter before these says who a client is.
fn names_clients(fleet: &Fleet) -> bool {
    fleet.clients != Clients::Open || fleet.plugin["headers"]["client"].is_string()
}

fn keep_client(header: &str) -> String {
    format!(
        "\
name: envoy.filters.http.header_to_metadata
typed_config:
  \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config
  request_rules:
  - header: {header}
    on_header_present:
      metadata_namespace: {NAMESPACE}
      key: client
      regex_value_rewrite:
        pattern: {{google_re2: {{}}, regex: \"[^A-Za-z0-9_-]\"}}
        substitution: \"_\"
    # Without a client's name there would be no descriptor, and no limit.
    on_header_missing: {{metadata_namespace: {NAMESPACE}, key: client, value: \"{UNNAMED}\"}}
",
        header = quoted(header),
    )
}

fn rate_limit(fleet: &Fleet, limits: &SharedLimits, subject: Subject, kinds: &[Kind]) -> String {
    let name = subject.name();
    // Envoy ignores `hits_addend` in a route's list of limits; here it heeds it.
    let mut descriptors: String = kinds
        .iter()
        .map(|kind| descriptor(fleet, *kind, check(subject)))
        .collect();
    if subject == Subject::Tokens {
        // An amount that is missing charges nothing.
        for state in ["aoai_input_tokens", "aoai_output_tokens"] {
            let charge = format!("apply_on_stream_done: true\nhits_addend: {{format: \"%FILTER_STATE(wasm.{state}:PLAIN)%\"}}\n");
            let charges = kinds.iter().map(|kind| descriptor(fleet, *kind, &charge));
            descriptors.extend(charges);
        }
    }
    format!(
        "\
name: envoy.filters.http.ratelimit.{name}
typed_config:
  \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
  domain: {DOMAIN}
  stat_prefix: {name}
  rate_limit_service:
    transport_api_version: V3
    grpc_service: {{envoy_grpc: {{cluster_name: {SERVICE_CLUSTER}}}}}
  # A service that takes longer than this does not answer: then requests {pass}.
  timeout: {timeout}s
  failure_mode_deny: {deny}
  status_on_error: {{code: ServiceUnavailable}}
  enable_x_ratelimit_headers: DRAFT_VERSION_03
  response_headers_to_add:
  - header: {{key: retry-after, value: \"%RESP(x-ratelimit-reset)%\"}}
  - header: {{key: x-ratelimit-remaining-{name}, value: \"%RESP(x-ratelimit-remaining)%\"}}
  - header: {{key: x-ratelimit-reset-{name}, value: \"%RESP(x-ratelimit-reset)%s\"}}
  rate_limits:
{descriptors}",
        timeout = limits.timeout.as_secs_f64(),
        pass = match limits.on_failure {
            OnFailure::Pass => "pass",
            OnFailure::Refuse => "are answered 503",
        },
        deny = limits.on_failure == OnFailure::Refuse,
        descriptors = indented(&descriptors, 2),
    )
}

/// The filter's charge for a request on arrival.
fn check(subject: Subject) -> &'static str {
    match subject {
        // Takes nothing: the tokens are not known yet.
        Subject::Tokens => "hits_addend: {number: 0}\n",
        Subject::Requests => "hits_addend: {number: 1}\n",
    }
}

/// One entry of the list of limits: the client's limit of this kind, and how much of it is taken.
fn descriptor(fleet: &Fleet, kind: Kind, amount: &str) -> String {
    let key = kind.key();
    let action = match names_clients(fleet) {
        true => format!(
            "metadata: {{descriptor_key: {key}, metadata_key: {{key: {NAMESPACE}, path: [{{key: client}}]}}, source: DYNAMIC}}"
        ),
        false => format!("generic_key: {{descriptor_key: {key}, descriptor_value: \"{UNNAMED}\"}}"),
    };
    item(&format!("actions: [{{{action}}}]\n{amount}"))
}
