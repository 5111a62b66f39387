//! What a plain request costs in host calls, on both sides of the router.

use std::collections::BTreeMap;

use super::*;
use crate::adapter::budget::host_calls;

#[test]
fn a_request_served_at_the_first_attempt_by_the_router_engine() {
    assert_eq!(
        calls(routing(json!({}))),
        BTreeMap::from([
            ("proxy_get_header_map_pairs", 1),
            ("proxy_set_shared_data", 1),
            // `api-key`
            ("proxy_remove_header_map_value", 1),
            // Host, token, time limit; on the answer backend and attempts.
            ("proxy_replace_header_map_value", 5),
            // Its cluster and its number, then the cluster that would be next.
            ("proxy_set_property", 2),
            // Its number, where the attempt begins.
            ("proxy_get_property", 1),
            // `:status`
            ("proxy_get_header_map_value", 1),
        ])
    );
}

#[test]
fn the_same_where_all_is_left_to_envoy_that_can_be() {
    let mut config = routing(json!({}));
    config["left_to_envoy"] = json!(["timeout", "host"]);
    assert_eq!(
        calls(config),
        BTreeMap::from([
            ("proxy_get_header_map_pairs", 1),
            ("proxy_set_shared_data", 1),
            // `api-key`
            ("proxy_remove_header_map_value", 1),
            // The token; on the answer backend and attempts.
            ("proxy_replace_header_map_value", 3),
            // Its cluster and its number, then the cluster that would be next.
            ("proxy_set_property", 2),
            // Its number, where the attempt begins.
            ("proxy_get_property", 1),
            // `:status`
            ("proxy_get_header_map_value", 1),
        ])
    );
}

/// The host calls of one request with this configuration.
fn calls(config: Value) -> BTreeMap<&'static str, u64> {
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    // Every backend's first answer is written down; from then on the turns are this
    // worker's alone, and it becomes sure of that.
    for _ in 0..9 {
        answer(&gateway.send().attempt(), 200, "warm");
    }
    gateway.host.clear_counts();
    let request = gateway.send();
    answer(&request.attempt(), 200, "hello");
    drop(request);
    host_calls(&gateway.host)
}
