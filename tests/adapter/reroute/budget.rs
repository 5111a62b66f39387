//! What a plain request costs in host calls, on both sides of the router.

use std::collections::BTreeMap;

use super::*;
use crate::adapter::budget::host_calls;

#[test]
fn a_request_served_at_the_first_attempt_by_the_router_engine() {
    let gateway = Gateway::ready(Setup::new(routing(json!({})).to_string()));
    // Every backend's first answer is written down.
    for _ in 0..3 {
        answer(&gateway.send().attempt(), 200, "warm");
    }
    gateway.host.clear_counts();
    let request = gateway.send();
    answer(&request.attempt(), 200, "hello");
    drop(request);
    assert_eq!(
        host_calls(&gateway.host),
        BTreeMap::from([
            ("proxy_get_header_map_pairs", 1),
            ("proxy_get_shared_data", 1),
            ("proxy_set_shared_data", 1),
            // `api-key`; on the answer the mark that no backend may set.
            ("proxy_remove_header_map_value", 2),
            // Host, token, time limit; on the answer backend and attempts.
            ("proxy_replace_header_map_value", 5),
            // The request's number and its cluster, then the cluster that would be next.
            ("proxy_set_property", 3),
            // The request's number, where the attempt begins.
            ("proxy_get_property", 1),
            // `:status`
            ("proxy_get_header_map_value", 1),
        ])
    );
}
