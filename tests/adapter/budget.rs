//! What a plain request costs in host calls. Each takes about a microsecond, so more of them is a decision, made here.

use std::collections::BTreeMap;

use mock_host::{Host, Setup};
use serde_json::{json, Value};

use super::support::*;

/// The host calls since the counts were cleared, callbacks left out.
pub(crate) fn host_calls(host: &Host) -> BTreeMap<&'static str, u64> {
    let counts = host.counts().into_iter();
    counts
        .filter(|(function, _)| !function.starts_with("proxy_on_"))
        .map(|(function, count)| (function, count.calls))
        .collect()
}

#[test]
fn a_request_served_at_the_first_attempt_by_the_filter_engine() {
    assert_eq!(
        calls(CONFIG.to_owned()),
        BTreeMap::from([
            ("proxy_get_header_map_pairs", 1),
            ("proxy_set_shared_data", 1),
            // The body, for another attempt.
            ("proxy_get_buffer_bytes", 1),
            // `api-key`; `authorization` is replaced.
            ("proxy_remove_header_map_value", 1),
            // Host, token, time limit, cluster; on the answer backend and attempts.
            ("proxy_replace_header_map_value", 6),
            // `:status`
            ("proxy_get_header_map_value", 1),
        ])
    );
}

#[test]
fn the_same_where_all_is_left_to_envoy_that_can_be() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["left_to_envoy"] = json!(["timeout", "host"]);
    assert_eq!(
        calls(config.to_string()),
        BTreeMap::from([
            ("proxy_get_header_map_pairs", 1),
            ("proxy_set_shared_data", 1),
            // The body, for another attempt.
            ("proxy_get_buffer_bytes", 1),
            // `api-key`; `authorization` is replaced.
            ("proxy_remove_header_map_value", 1),
            // Token and cluster; on the answer backend and attempts.
            ("proxy_replace_header_map_value", 4),
            // `:status`
            ("proxy_get_header_map_value", 1),
        ])
    );
}

/// The host calls of one request with this configuration.
fn calls(config: String) -> BTreeMap<&'static str, u64> {
    let (host, vm) = ready_with(Setup::new(config));
    // The first request finds out whether held bodies are shown, and every backend's first answer is written down; from then on the turns are this
    // worker's alone, and it becomes sure of that.
    for _ in 0..9 {
        respond(&send(&vm), 200, "warm");
    }
    host.clear_counts();
    let request = send(&vm);
    respond(&request, 200, "hello");
    drop(request);
    host_calls(&host)
}
