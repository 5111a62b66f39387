//! What attempts say about their backends, with an answer and without one.

use serde_json::{json, Value};

use super::*;

#[test]
fn failures_without_an_answer_count() {
    let gateway = fleet(
        2,
        json!({"cooldown": {"consecutive_failures": 2, "failing": "30s"}}),
    );
    for _ in 0..4 {
        let request = gateway.send();
        if request.attempt().cluster() == "aoai_east" {
            request.attempt().fail();
        }
        answer(&request.attempt(), 200, "fine");
    }
    assert_eq!(served_by(&gateway, 4), ["aoai_west"; 4]);
}

#[test]
fn failures_spend_the_budget() {
    let mut config = routing(json!({"budget": {"percent": 0, "min_per_second": 0}}));
    config["backends"].as_array_mut().unwrap().truncate(2);
    config["cooldown"] = Value::Null;
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    for index in 0..14 {
        let request = gateway.send();
        // With an answer and without one.
        match index % 2 {
            0 => answer(&request.attempt(), 500, "x"),
            _ => request.attempt().fail(),
        }
        if index < 10 {
            answer(&request.attempt(), 200, "fine");
        }
        let expected = match index {
            0..=9 => 200,
            even if even % 2 == 0 => 500,
            _ => 503,
        };
        assert_eq!(outcome(&request).0, expected, "{index}");
    }
    assert_eq!(gateway.counted("aoai.no_retry.budget_spent"), 4);
}

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
        let gateway = Gateway::ready(Setup::new(config.to_string()));
        let forwarded = gateway.send().forwarded().unwrap();
        let limit = forwarded
            .headers
            .get("x-envoy-upstream-rq-per-try-timeout-ms");
        assert_eq!(limit, Some(expected));
    }
}

#[test]
fn the_first_byte_in_time_is_told_from_none() {
    let mut config = routing(json!({}));
    config["backends"].as_array_mut().unwrap().truncate(1);
    config["backends"][0]["first_byte_timeout"] = json!("2s");
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    let request = gateway.send();
    gateway.host.advance(seconds(2));
    request.attempt().time_out();
    assert_eq!(outcome(&request).0, 504);
}

#[test]
fn a_client_that_is_too_slow_is_no_failure_of_the_backend() {
    let gateway = fleet(1, json!({}));
    for _ in 0..5 {
        let request = gateway.router.request(chat(), false);
        request.body("the beginning", false);
        request.answer_locally(408, "stream_idle_timeout");
    }
    assert_eq!(served_by(&gateway, 1), ["aoai_east"]);
    assert_eq!(gateway.counted("aoai.backend.east.outcome.unavailable"), 0);
}
