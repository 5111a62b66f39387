//! The route: to the cluster that the module chose.

use crate::yaml::{indented, quoted};
use crate::{limits, Backend, Engine, Fleet};

/// The listener's routes: one, for everything.
pub(crate) fn configuration(fleet: &Fleet) -> String {
    format!(
        "\
route_config:
  name: azure_openai
  virtual_hosts:
  - name: azure_openai
    domains: [\"*\"]
    routes:
    - match:
        prefix: /
      route:
{action}{added}      # What is not for the backend: {choice}, and who the client is.
      request_headers_to_remove:
      - {header}
      - x-envoy-external-address
      - x-forwarded-for
      # A backend's report that it fails concerns itself. Another Envoy in front would take it for this one's.
      response_headers_to_remove: [x-envoy-immediate-health-check-fail]
",
        action = indented(&action(fleet), 8),
        added = indented(&added_headers(fleet), 6),
        choice = match fleet.engine {
            Engine::Filter => "the choice",
            Engine::Router => "what a client takes for the choice",
        },
        header = quoted(fleet.cluster_header()),
    )
}

/// The route's action.
pub(crate) fn action(fleet: &Fleet) -> String {
    let choice = match fleet.engine {
        Engine::Filter => by_header(fleet),
        Engine::Router => by_plan(fleet),
    };
    format!(
        "\
{choice}{host}\
# A stream may last as long as it sends something. The limit is on the wait until an answer
# begins (`retry.per_try_timeout`).
timeout: 0s
",
        host = match fleet.leaves("host") {
            true =>
                "# The request's authority is the backend's own host.\nauto_host_rewrite: true\n",
            false => "",
        },
    )
}

/// The headers that the route adds to a request; empty with the filter engine.
pub(crate) fn added_headers(fleet: &Fleet) -> String {
    match fleet.engine {
        Engine::Filter => String::new(),
        Engine::Router => "\
# A connection that breaks after the request was sent causes another attempt, unless the filter forbids that:
# a creation may have succeeded and must not be repeated.
request_headers_to_add:
- header: {key: x-envoy-retry-on, value: reset}
  append_action: ADD_IF_ABSENT
"
        .to_owned(),
    }
}

fn by_header(fleet: &Fleet) -> String {
    format!(
        "\
# The filter names the cluster in this header. One that a client sends is replaced.
cluster_header: {header}
{timed}",
        header = quoted(fleet.cluster_header()),
        timed = match fleet.per_try_timeout() {
            Some(limit) => format!(
                "\
retry_policy:
  # The filter sends a request again itself.
  num_retries: 0
  per_try_timeout: {limit}
"
            ),
            None => String::new(),
        },
    )
}

fn by_plan(fleet: &Fleet) -> String {
    format!(
        "\
# The filter writes the cluster of the next attempt, a space and the request's number into the request's filter state, where
# this reads it again for every attempt.
inline_cluster_specifier_plugin:
  extension:
    name: azure_openai_plan
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier
      cluster_matcher:
        matcher_tree:
          input:
            name: azure_openai_cluster
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.FilterStateInput
              key: wasm.aoai_next
          prefix_match_map:
            map:
{clusters}{undecided}\
retry_policy:
  # The filter marks answers that need another attempt. The other conditions are attempts without an answer.
  retry_on: connect-failure,refused-stream,retriable-headers
  retriable_headers:
  - name: x-aoai-retry
    present_match: true
  # One less than `retry.max_attempts`.
  num_retries: {retries}
{timed}  refresh_cluster_on_retry: true
  # No wait is needed: the next attempt goes to another backend.
  retry_back_off:
    base_interval: 0.001s
    max_interval: 0.001s
",
        clusters = indented(&fleet.backends.iter().map(choice).collect::<String>(), 14),
        undecided = undecided(fleet),
        retries = fleet.max_attempts().saturating_sub(1),
        timed = match fleet.per_try_timeout() {
            Some(limit) => format!("  per_try_timeout: {limit}\n"),
            None => String::new(),
        },
    )
}

/// The cluster of requests before one is chosen, because limits are applied before that.
fn undecided(fleet: &Fleet) -> String {
    if !limits::names_cluster(fleet) {
        return String::new();
    }
    format!(
        "\
        # Envoy applies limits to requests with a cluster. All requests have this one until the filter chooses another.
        on_no_match:
{}",
        indented(&action_to(limits::LIMITS_CLUSTER), 10)
    )
}

/// One entry of the route's matcher.
fn choice(backend: &Backend) -> String {
    format!(
        "\
{next}:
{action}",
        next = quoted(&format!("{} ", backend.cluster)),
        action = indented(&action_to(&backend.cluster), 2),
    )
}

fn action_to(cluster: &str) -> String {
    format!(
        "\
action:
  name: cluster
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction
    cluster: {}
",
        quoted(cluster)
    )
}
