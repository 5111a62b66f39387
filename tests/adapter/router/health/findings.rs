//! Findings of attempts about their backends, with and without an answer.

use serde_json::json;

use super::*;

#[test]
fn the_routers_time_limit_is_the_largest_of_all_backends() {
    let mut config = routing(json!({"per_try_timeout": "10s"}));
    config["backends"].as_array_mut().unwrap().truncate(2);
    for (limits, expected) in [
        ([Some("2s"), Some("4s")], "4000"),
        ([Some("2s"), None], "10000"),
        ([Some("2s"), Some("60s")], "10000"),
    ] {
        let backends = config["backends"].as_array_mut().unwrap();
        for (backend, limit) in backends.iter_mut().zip(limits) {
            match limit {
                Some(limit) => backend["first_byte_timeout"] = json!(limit),
                None => drop(
                    backend
                        .as_object_mut()
                        .unwrap()
                        .remove("first_byte_timeout"),
                ),
            }
        }
        let gateway = ready(&config);
        let forwarded = gateway.send().forwarded().unwrap();
        let limit = forwarded
            .headers
            .get("x-envoy-upstream-rq-per-try-timeout-ms");
        assert_eq!(limit, Some(expected));
    }
}

#[test]
fn an_answer_that_begins_in_time_is_no_failure() {
    let mut config = routing(json!({}));
    config["backends"].as_array_mut().unwrap().truncate(1);
    config["backends"][0]["first_byte_timeout"] = json!("2s");
    let gateway = ready(&config);
    let request = gateway.send();
    gateway.host.advance(seconds(2));
    request.attempt().time_out();
    assert_eq!(outcome(&request).0, 504);
}
