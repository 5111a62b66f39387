//! Failures behind the router: which of them count, and what happens when every breaker is open.

use serde_json::json;

use super::*;

#[test]
fn when_all_are_failing_open_breakers_are_ignored() {
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}});
    let gateway = fleet(1, rules);
    for _ in 0..4 {
        let request = gateway.send();
        answer(&request.attempt(), 500, "the real answer");
        assert_eq!(outcome(&request), is(500, "east", "1", "the real answer"));
    }
    assert_eq!(gateway.counted("aoai.backend.east.panic"), 3);
    assert_eq!(gateway.host.statistic("aoai.refused.unavailable"), 0);
}

#[test]
fn a_request_that_fails_everywhere_counts_against_one_backend() {
    let mut config = routing(json!({}));
    config["backends"][1]["priority"] = json!(1);
    config["backends"][2]["priority"] = json!(2);
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    for index in 0..5 {
        let request = gateway.send();
        assert_eq!(request.attempt().cluster(), "aoai_east");
        // With an answer and without one.
        for attempt in 0..3 {
            match (index + attempt) % 2 {
                0 => answer(&request.attempt(), 500, "x"),
                _ => request.attempt().fail(),
            }
        }
        assert_eq!(request.attempts().len(), 3);
    }
    assert_eq!(served_by(&gateway, 4), ["aoai_west"; 4]);
    for (backend, cooldowns) in [("east", 1), ("west", 0), ("north", 0)] {
        let counter = |name| gateway.counted(&format!("aoai.backend.{backend}.{name}"));
        assert_eq!(counter("outcome.unavailable"), 5, "{backend}");
        assert_eq!(counter("cooldowns.failing"), cooldowns, "{backend}");
    }
}

#[test]
fn a_request_that_is_refused_everywhere_throttles_one_backend() {
    let gateway = fleet(3, json!({}));
    let request = gateway.send();
    for _ in 0..3 {
        throttle(&request.attempt(), "60");
    }
    assert_eq!(outcome(&request).0, 429);
    let served = served_by(&gateway, 20);
    assert!(!served.contains(&"aoai_east".to_owned()), "{served:?}");
    assert_eq!(gateway.counted("aoai.refused.throttled"), 0);
}

#[test]
fn a_backend_that_refuses_two_new_tokens_is_misconfigured() {
    let gateway = fleet(2, json!({}));
    let first = gateway.send();
    answer(&first.attempt(), 401, &error("401"));
    gateway.host.advance(millis(1100));
    give_token(&gateway.vm, SECOND_TOKEN);
    answer(&first.attempt(), 401, &error("401"));
    answer(&first.attempt(), 200, "fine");
    assert_eq!(outcome(&first), is(200, "west", "3", "fine"));
    let second = loop {
        let request = gateway.send();
        if request.attempt().cluster() == "aoai_east" {
            break request;
        }
        answer(&request.attempt(), 200, "fine");
    };
    answer(&second.attempt(), 401, &error("401"));
    answer(&second.attempt(), 200, "fine");
    assert_eq!(outcome(&second), is(200, "west", "2", "fine"));
    assert_eq!(served_by(&gateway, 10), ["aoai_west"; 10]);
    assert_eq!(gateway.counted("aoai.backend.east.state"), 3);
    assert_eq!(gateway.host.statistic("aoai.identity.fetches"), 2);
}
