//! The listener and its filters.

use serde_json::Value;

use crate::yaml::{folder_of, indented, item, quoted};
use crate::{clients, connections, json, limits, route, Clients, Fleet};

/// The listener's name, by which Envoy recognizes an updated listener.
pub const LISTENER_NAME: &str = "azure_openai";

/// The listener alone, as a file that Envoy reads while it runs (see [`crate::bootstrap`]).
pub fn listener(fleet: &Fleet) -> String {
    let typed = format!(
        "\"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n{}",
        resource(fleet)
    );
    format!("resources:\n{}", item(&typed))
}

/// The listener as a block of YAML that starts at the left margin.
pub(crate) fn resource(fleet: &Fleet) -> String {
    format!(
        "\
name: {name}
address:
  socket_address:
    address: {address}
    port_value: {port}
# While a request waits (for the choice of a backend, for a token) Envoy holds its body in memory, up to this many
# bytes a connection. A larger one that has to wait is answered 413; prompts with images are megabytes.
per_connection_buffer_limit_bytes: 33554432
{sockets}\
filter_chains:
- filters:
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
{manager}{tls}",
        name = LISTENER_NAME,
        address = quoted(&fleet.listener.address),
        port = fleet.listener.port,
        sockets = connections::of_listener(),
        tls = indented(&tls(fleet), 2),
        manager = indented(&manager(fleet), 6),
    )
}

/// The certificate for clients; empty for plain HTTP.
fn tls(fleet: &Fleet) -> String {
    let Some(certificate) = &fleet.listener.tls else {
        return String::new();
    };
    let file = |path: &std::path::Path| quoted(&path.to_string_lossy());
    let folder = folder_of(&certificate.chain);
    format!(
        "\
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    common_tls_context:
      alpn_protocols: [\"h2\", \"http/1.1\"]
      tls_certificates:
      - certificate_chain: {{filename: {chain}}}
        private_key: {{filename: {key}}}
        # Another certificate that is renamed into this folder is taken up without a restart.
        watched_directory: {{path: {folder}}}
",
        chain = file(&certificate.chain),
        key = file(&certificate.key),
        folder = file(folder),
    )
}

fn manager(fleet: &Fleet) -> String {
    format!(
        "\
stat_prefix: azure_openai
# Clients are not trusted: headers that would steer Envoy (`x-envoy-retry-on` and the like) are dropped. Leave
# `internal_address_config` out: an empty one makes Envoy trust every private address.
use_remote_address: true
skip_xff_append: true
# Every request has an `x-request-id`, which finds it in logs. The client's own id is kept.
generate_request_id: true
preserve_external_request_id: true
# A model may think for minutes before its first byte.
stream_idle_timeout: 900s
{connections}{early_cluster}\
# The Realtime API is a WebSocket.
upgrade_configs:
- upgrade_type: websocket
{access_log}{refusals}{routes}\
http_filters:
{clients}{limits}{module}\
- name: envoy.filters.http.router
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
    # Neither side needs Envoy's own headers, such as timeouts.
    suppress_envoy_headers: true
",
        connections = connections::of_manager("azure-openai"),
        early_cluster = limits::early_cluster(fleet, limits::LIMITS_CLUSTER),
        access_log = access_log(fleet),
        refusals = clients::refusals(fleet),
        routes = route::configuration(fleet),
        clients = clients::filter(fleet),
        limits = limits::filters(fleet)
            .iter()
            .map(|(comment, filter)| format!("# {comment}\n{}", item(filter)))
            .collect::<String>(),
        module = item(&module(fleet)),
    )
}

fn access_log(fleet: &Fleet) -> String {
    format!(
        "\
# One line of JSON per request, without credentials: no header that has one, and the path without its query,
# where clients may put a key. `first_cluster` is the first attempt's cluster, and `backend` answered.
access_log:
- name: envoy.access_loggers.stdout
  typed_config:
    \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
    log_format:
      json_format:
        time: \"%START_TIME%\"
        request_id: \"%REQ(x-request-id)%\"
{client}        address: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"
        method: \"%REQ(:METHOD)%\"
        path: \"%PATH(NQ)%\"
        status: \"%RESPONSE_CODE%\"
        details: \"%RESPONSE_CODE_DETAILS%\"
        flags: \"%RESPONSE_FLAGS%\"
        backend: {backend}
        attempts: {attempts}
{tokens}        first_cluster: \"%UPSTREAM_CLUSTER%\"
        duration_ms: \"%DURATION%\"
        first_byte_ms: \"%RESPONSE_DURATION%\"
        bytes_in: \"%BYTES_RECEIVED%\"
        bytes_out: \"%BYTES_SENT%\"
",
        client = match fleet.clients {
            Clients::Open => "",
            _ => "        client: \"%FILTER_STATE(wasm.aoai_client:PLAIN)%\"\n",
        },
        // The names of OpenTelemetry's conventions for generative AI.
        tokens = match fleet.plugin["usage"] == false {
            true => "",
            false => concat!(
                "        gen_ai.usage.input_tokens: \"%FILTER_STATE(wasm.aoai_input_tokens:PLAIN)%\"\n",
                "        gen_ai.usage.output_tokens: \"%FILTER_STATE(wasm.aoai_output_tokens:PLAIN)%\"\n",
            ),
        },
        backend = quoted(&format!("%RESP({})%", fleet.backend_header())),
        attempts = quoted(&format!("%RESP({})%", fleet.attempts_header())),
    )
}

/// The module among the listener's filters.
pub(crate) fn module(fleet: &Fleet) -> String {
    filter(&extension(fleet, Role::Listener, &file(fleet)))
}

/// The module as one of a cluster's filters, where it sees every attempt.
pub(crate) fn upstream_module(fleet: &Fleet) -> String {
    filter(&extension(fleet, Role::Cluster, &file(fleet)))
}

/// The place of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Among the listener's filters.
    Listener,
    /// Among a cluster's filters, where it sees every attempt.
    Cluster,
}

impl Role {
    /// The root id, by which logs distinguish the two.
    pub fn root_id(self) -> &'static str {
        match self {
            Self::Listener => "azure_openai_balancer",
            Self::Cluster => "azure_openai_balancer_upstream",
        }
    }

    fn configuration(self, fleet: &Fleet) -> String {
        match self {
            Self::Listener => configuration(&fleet.plugin_in_place()),
            Self::Cluster => "\
configuration:
  \"@type\": type.googleapis.com/google.protobuf.StringValue
  value: '{\"role\": \"upstream\"}'
"
            .to_owned(),
        }
    }
}

/// The module's code as a file.
fn file(fleet: &Fleet) -> String {
    format!(
        "local:\n  filename: {}\n",
        quoted(&fleet.module.to_string_lossy())
    )
}

fn filter(extension: &str) -> String {
    format!("name: envoy.filters.http.wasm\n{extension}")
}

/// The module's `typed_config`, with its code from this data source.
pub(crate) fn extension(fleet: &Fleet, role: Role, code: &str) -> String {
    format!(
        "\
typed_config:
  \"@type\": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm
  config:
    name: azure_openai_balancer
    root_id: {root_id}
    # If the module ever traps, Envoy restarts it with the next request, at most ten times a second; the default is to
    # refuse every request from then on.
    failure_policy: FAIL_RELOAD
    reload_config:
      backoff: {{base_interval: 0.1s}}
    # Lets the filter read bodies while their headers are held: a request until it is complete, an error for its code.
    allow_on_headers_stop_iteration: true
    vm_config:
      # The workers' shared state (counters, cooldowns, token) has this name.
      vm_id: azure_openai_balancer
      runtime: envoy.wasm.runtime.v8
      code:
{code}\
{environment}\
{configuration}",
        root_id = role.root_id(),
        code = indented(code, 8),
        environment = indented(&environment(fleet), 6),
        configuration = indented(&role.configuration(fleet), 4),
    )
}

/// The module's environment variables; empty without any.
fn environment(fleet: &Fleet) -> String {
    if fleet.environment.is_empty() && fleet.host_environment.is_empty() {
        return String::new();
    }
    let mut out = String::from("environment_variables:\n");
    if !fleet.host_environment.is_empty() {
        out.push_str("  # Taken from Envoy's own environment; their values show nowhere.\n");
        out.push_str("  host_env_keys:\n");
        for name in &fleet.host_environment {
            out.push_str(&format!("  - {}\n", quoted(name)));
        }
    }
    if !fleet.environment.is_empty() {
        out.push_str("  # These values show in /config_dump.\n");
        out.push_str("  key_values:\n");
        for (name, value) in &fleet.environment {
            out.push_str(&format!("    {}: {}\n", quoted(name), quoted(value)));
        }
    }
    out
}

/// The plugin's configuration as a string value, because Envoy passes a `google.protobuf.Struct` as the bytes of that
/// message and not as JSON.
fn configuration(plugin: &Value) -> String {
    let text = match plugin {
        Value::String(text) => format!(" {}\n", quoted(text)),
        json => format!(" |\n{}", indented(&json::pretty(json), 4)),
    };
    format!(
        "\
# The filter's configuration; docs/configuration.md lists every field.
configuration:
  \"@type\": type.googleapis.com/google.protobuf.StringValue
  value:{text}"
    )
}
