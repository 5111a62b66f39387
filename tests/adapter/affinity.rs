//! Requests with the same key go to the same backend, as long as it has room.

use serde_json::{json, Value};

use super::engines::*;

const CHAT: &str = "/openai/v1/chat/completions";

/// The cluster that serves a chat with this body.
fn served_by(gateway: &Gateway, headers: mock_host::Headers, body: &Value) -> String {
    let request = gateway.request(headers, false);
    request.body(body.to_string(), true);
    let cluster = request.attempt().cluster();
    answer(&request.attempt(), 200, "fine");
    cluster
}

fn with_key(key: &str) -> Value {
    json!({"messages": [{"content": "Hello"}], "prompt_cache_key": key, "model": "gpt-4o"})
}

fn keyed(engine: Engine) -> Gateway {
    engine.fleet(3, json!({"affinity": {"by": "prompt_cache_key"}}))
}

cases! {
    fn equal_prompt_cache_keys_go_to_one_backend(engine) {
        let unbounded = json!({"by": "prompt_cache_key", "most": 10});
        let gateway = engine.fleet(3, json!({"affinity": unbounded}));
        let mut clusters = Vec::new();
        for key in 0..12 {
            let body = with_key(&format!("conversation-{key}"));
            let first = served_by(&gateway, post(CHAT), &body);
            // This holds for a dated path too, because the key is in the body.
            for path in [CHAT, PATH, "/openai/v1/responses"] {
                assert_eq!(served_by(&gateway, post(path), &body), first);
            }
            clusters.push(first);
        }
        for cluster in CLUSTERS {
            assert!(clusters.iter().any(|is| is == cluster), "{clusters:?}");
        }
        assert_eq!(gateway.counted("aoai.affinity.requests"), 48);
        assert_eq!(gateway.host.statistic("aoai.affinity.kept"), 48);
    }

    fn requests_without_a_key_take_turns(engine) {
        let gateway = keyed(engine);
        let body = json!({"messages": [], "model": "gpt-4o"});
        let clusters = (0..6).map(|_| served_by(&gateway, post(CHAT), &body));
        assert_eq!(clusters.collect::<Vec<_>>(), [CLUSTERS, CLUSTERS].concat());
        assert_eq!(gateway.counted("aoai.affinity.requests"), 0);
    }

    fn a_throttled_key_moves_to_one_second_choice_and_back(engine) {
        let gateway = keyed(engine);
        let body = with_key("conversation");
        let first = served_by(&gateway, post(PATH), &body);
        let request = gateway.request(post(PATH), false);
        request.body(body.to_string(), true);
        assert_eq!(request.attempt().cluster(), first);
        throttle(&request.attempt(), "7");
        let second = request.attempt().cluster();
        answer(&request.attempt(), 200, "fine");
        assert_ne!(second, first);
        for _ in 0..3 {
            assert_eq!(served_by(&gateway, post(PATH), &body), second);
        }
        gateway.host.advance(seconds(8));
        assert_eq!(served_by(&gateway, post(PATH), &body), first);
    }

    fn one_key_gets_no_more_than_a_bounded_share(engine) {
        let gateway = keyed(engine);
        let body = with_key("popular");
        let mut counts = [0; 3];
        for _ in 0..90 {
            let cluster = served_by(&gateway, post(CHAT), &body);
            counts[CLUSTERS.iter().position(|is| *is == cluster).unwrap()] += 1;
        }
        // 1.25 times a third of 90 attempts.
        assert_eq!(counts.iter().max(), Some(&38), "{counts:?}");
        assert_eq!(gateway.counted("aoai.affinity.overflowed"), 90 - 38);
    }

    fn a_header_or_the_client_can_be_the_key(engine) {
        for (by, header) in [(json!({"header": "session_id"}), "session_id"), (json!("client"), "x-client")] {
            let gateway = engine.fleet(
                3,
                json!({"affinity": {"by": by}, "headers": {"client": "x-client"}}),
            );
            let ask = |key: &str| {
                let request = gateway.request(chat().with(header, key), true);
                let cluster = request.attempt().cluster();
                answer(&request.attempt(), 200, "fine");
                cluster
            };
            let mut clusters: Vec<_> = (0..12).map(|key| ask(&key.to_string())).collect();
            for (key, cluster) in clusters.iter().enumerate() {
                assert_eq!(ask(&key.to_string()), *cluster);
            }
            clusters.sort();
            clusters.dedup();
            assert_eq!(clusters.len(), 3, "{clusters:?}");
        }
    }

    fn an_encoded_body_has_no_key_and_passes(engine) {
        let gateway = keyed(engine);
        let clusters: Vec<_> = (0..3)
            .map(|_| {
                let request = gateway.request(post(CHAT).with("content-encoding", "gzip"), false);
                request.body("not JSON at all", true);
                let cluster = request.attempt().cluster();
                answer(&request.attempt(), 200, "fine");
                cluster
            })
            .collect();
        assert_eq!(clusters, CLUSTERS);
    }
}
