//! The lifetime of silent connections, and the end of connections.

use crate::yaml::quoted;

/// The seconds of silence after which a connection sends a probe. Azure's load balancers, NAT and firewalls forget a
/// connection after four minutes of silence, and a model may think for longer.
pub const KEEPALIVE_TIME: u32 = 60;

/// The seconds between two probes without an answer.
pub const KEEPALIVE_INTERVAL: u32 = 10;

/// The number of probes without an answer after which the connection is broken: two minutes after the last sign of the
/// other side. Azure may pause a machine for half a minute.
pub const KEEPALIVE_PROBES: u32 = 6;

/// The milliseconds that a client may take to accept data, or to answer a probe.
const USER_TIMEOUT: u32 = 300_000;

/// A part of a cluster.
pub(crate) fn of_cluster() -> String {
    format!(
        "\
# A model may think for minutes; Azure's load balancers, NAT and firewalls forget a connection that is silent for four.
upstream_connection_options:
  tcp_keepalive:
    keepalive_time: {KEEPALIVE_TIME}
    keepalive_interval: {KEEPALIVE_INTERVAL}
    keepalive_probes: {KEEPALIVE_PROBES}
"
    )
}

/// A part of a listener: Linux gives each connection the options of the socket that it was accepted from.
pub(crate) fn of_listener() -> String {
    format!(
        "\
# Silent connections send a probe each minute, because load balancers forget them after a few. A client that reads nothing for
# five minutes, or has vanished, loses its connection.
socket_options:
- {{description: SO_KEEPALIVE, level: 1, name: 9, int_value: 1}}
- {{description: TCP_KEEPIDLE, level: 6, name: 4, int_value: {KEEPALIVE_TIME}}}
- {{description: TCP_USER_TIMEOUT, level: 6, name: 18, int_value: {USER_TIMEOUT}}}
"
    )
}

/// A part of the connection manager: the end of HTTP/1 connections. A request of HTTP/1.0 without `host` is one for
/// `host`.
pub(crate) fn of_manager(host: &str) -> String {
    format!(
        "\
# A stream that its backend breaks off ends at once for the client as well. More than 0s would delay that, and would cut
# answers off: it limits how long a connection that is closing waits for a client that reads slowly.
delayed_close_timeout: 0s
# nginx uses HTTP/1.0 towards its upstreams by default.
http_protocol_options:
  accept_http_10: true
  default_host_for_http_10: {}
",
        quoted(host)
    )
}
