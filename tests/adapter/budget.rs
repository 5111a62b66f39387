//! What a plain request costs in host calls, on both sides of the router where the module is. Each takes about a microsecond,
//! so more of them is a decision, made here.

use std::collections::BTreeMap;

use mock_host::Host;
use serde_json::{json, Value};

use super::engines::*;

type Calls = BTreeMap<&'static str, u64>;

/// The host calls since the counts were cleared, callbacks left out.
pub(crate) fn host_calls(host: &Host) -> Calls {
    let counts = host.counts().into_iter();
    counts
        .filter(|(function, _)| !function.starts_with("proxy_on_"))
        .map(|(function, count)| (function, count.calls))
        .collect()
}

/// The host calls of one request with this in the configuration.
fn calls(engine: Engine, more: Value) -> Calls {
    let gateway = engine.fleet(3, more);
    // The first request finds out whether held bodies are shown, and every backend's first answer is written down; from then
    // on the turns are this worker's alone, and it becomes sure of that.
    for _ in 0..9 {
        answer(&gateway.send().attempt(), 200, "warm");
    }
    gateway.host.clear_counts();
    let request = gateway.send();
    answer(
        &request.attempt(),
        200,
        r#"{"usage":{"prompt_tokens":9,"completion_tokens":4}}"#,
    );
    drop(request);
    host_calls(&gateway.host)
}

/// Both engines' calls, with so many headers set, what each needs besides, and whether usage is counted.
fn expected(engine: Engine, set: u64, usage: bool) -> Calls {
    // The end of the answer's body; the tokens of prompt and completion for the access log.
    let (reads, logs) = if usage { (1, 2) } else { (0, 0) };
    let mut calls = Calls::from([
        // Those of the request. Those of the answer, which may be a stream: its status would be a call as well.
        ("proxy_get_header_map_pairs", 2),
        ("proxy_set_shared_data", 1),
        // `api-key`; `authorization` is replaced.
        ("proxy_remove_header_map_value", 1),
    ]);
    calls.extend(match engine {
        Engine::Filter => vec![
            // The body, for another attempt.
            ("proxy_get_buffer_bytes", 1 + reads),
            ("proxy_set_property", logs),
            // The cluster too.
            ("proxy_replace_header_map_value", set + 1),
        ],
        Engine::Router => vec![
            ("proxy_replace_header_map_value", set),
            // Its cluster and its number, then the cluster that would be next.
            ("proxy_set_property", 2 + logs),
            ("proxy_get_buffer_bytes", reads),
            // Its number, where the attempt begins.
            ("proxy_get_property", 1),
        ],
    });
    calls.retain(|_, calls| *calls > 0);
    calls
}

cases! {
    fn a_request_served_at_the_first_attempt(engine) {
        // Host, token, time limit; on the answer backend and attempts.
        assert_eq!(calls(engine, json!({})), expected(engine, 5, true));
    }

    fn counting_no_tokens_saves_three_calls(engine) {
        assert_eq!(calls(engine, json!({"usage": false})), expected(engine, 5, false));
    }

    fn the_same_where_all_is_left_to_envoy_that_can_be(engine) {
        let more = json!({"left_to_envoy": ["timeout", "host"]});
        // The token; on the answer backend and attempts.
        assert_eq!(calls(engine, more), expected(engine, 3, true));
    }
}
