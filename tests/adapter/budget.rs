//! The host calls of a plain request, on both sides of Envoy's router. Each takes about a microsecond, so an additional
//! call is a decision that is made here.

use std::collections::BTreeMap;

use mock_host::Host;
use serde_json::{json, Value};

use super::engines::*;

type Calls = BTreeMap<&'static str, u64>;

/// The host calls since the counts were cleared, without callbacks.
pub(crate) fn host_calls(host: &Host) -> Calls {
    let counts = host.counts().into_iter();
    counts
        .filter(|(function, _)| !function.starts_with("proxy_on_"))
        .map(|(function, count)| (function, count.calls))
        .collect()
}

/// The host calls of one request with these settings.
fn calls(engine: Engine, more: Value) -> Calls {
    let gateway = engine.fleet(3, more);
    // The first request finds out whether Envoy shows held bodies. Every backend's first success is written down. After
    // that the worker becomes sure that no other worker draws turns.
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

/// The expected calls of an engine, if it sets this many headers, with or without counted tokens.
fn expected(engine: Engine, set: u64, usage: bool) -> Calls {
    // The end of the answer's body is read, and both token counts are set for the access log.
    let (reads, logs) = if usage { (1, 2) } else { (0, 0) };
    let mut calls = Calls::from([
        // One call for the request, and one for the answer: an answer that may be a stream is asked for all headers,
        // not only for its status.
        ("proxy_get_header_map_pairs", 2),
        ("proxy_set_shared_data", 1),
        // The call removes `api-key`; `authorization` is replaced.
        ("proxy_remove_header_map_value", 1),
    ]);
    calls.extend(match engine {
        Engine::Filter => vec![
            // The body, for a further attempt.
            ("proxy_get_buffer_bytes", 1 + reads),
            ("proxy_set_property", logs),
            // The header with the cluster is set too.
            ("proxy_replace_header_map_value", set + 1),
        ],
        Engine::Router => vec![
            ("proxy_replace_header_map_value", set),
            // One call for the cluster and the request's number, and one for the cluster that follows.
            ("proxy_set_property", 2 + logs),
            ("proxy_get_buffer_bytes", reads),
            // The request's number is read where the attempt begins.
            ("proxy_get_property", 1),
        ],
    });
    calls.retain(|_, calls| *calls > 0);
    calls
}

cases! {
    fn a_first_attempt_costs_these_host_calls(engine) {
        // Host, token and time limit; on the answer, backend and attempts.
        assert_eq!(calls(engine, json!({})), expected(engine, 5, true));
    }

    fn counting_no_tokens_saves_three_calls(engine) {
        assert_eq!(calls(engine, json!({"usage": false})), expected(engine, 5, false));
    }

    fn settings_left_to_envoy_save_two_calls(engine) {
        let more = json!({"left_to_envoy": ["timeout", "host"]});
        // The token; on the answer, backend and attempts.
        assert_eq!(calls(engine, more), expected(engine, 3, true));
    }
}
