//! Requests with the same key go to the same backend, whose prompt cache is warm for them.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::{cases, simulate, Gateway};
use serde_json::json;
use simulator::Behaviour;

/// The backend that serves a chat with this key.
fn served_by(gateway: &Gateway, key: &str) -> String {
    let body = json!({"model": "gpt-4o", "messages": [], "prompt_cache_key": key}).to_string();
    let json = [("content-type", "application/json")];
    let path = "/openai/v1/chat/completions";
    let answer = gateway.client().send("POST", path, &json, body.as_bytes());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
        .header("x-aoai-backend")
        .expect("a backend")
        .to_owned()
}

cases! {
    fn case_46_a_prompt_cache_key_keeps_its_backend(engine) {
        let azure = simulate(&["east", "west", "north"]);
        // All workers know the throttled backends, and each worker chooses the same backend for a key.
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .workers(2)
            .plugin(|p| p["affinity"] = json!({"by": "prompt_cache_key", "most": 10}))
            .start();
        let own: Vec<_> = (0..12).map(|key| served_by(&gateway, &key.to_string())).collect();
        for _ in 0..3 {
            for (key, backend) in own.iter().enumerate() {
                assert_eq!(served_by(&gateway, &key.to_string()), *backend);
            }
        }
        for backend in ["east", "west", "north"] {
            assert!(own.iter().any(|own| own == backend), "{own:?}");
        }

        azure.backend(&own[0]).set(Behaviour::throttled(2));
        let second = served_by(&gateway, "0");
        assert_ne!(second, own[0]);
        for _ in 0..3 {
            assert_eq!(served_by(&gateway, "0"), second, "one second choice");
        }
        azure.backend(&own[0]).set(Behaviour::normal());
        gateway.wait_for(
            |gateway| served_by(gateway, "0") == own[0],
            Duration::from_secs(5),
            "the key to be served by its own backend again",
        );
    }

    fn case_46_a_popular_key_gets_a_bounded_share(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .plugin(|p| p["affinity"] = json!({"by": "prompt_cache_key"}))
            .start();
        let mut counts = BTreeMap::<String, u32>::new();
        for _ in 0..60 {
            *counts.entry(served_by(&gateway, "popular")).or_default() += 1;
        }
        // 1.25 times a third of 60 attempts.
        assert_eq!(counts.values().max(), Some(&25), "{counts:?}");
    }
}
