//! What the router engine learns from attempts, and how it leads the router past those who are out.

use mock_host::Stream;

use super::*;

/// A worker with `count` backends, a token, and this in its configuration.
fn fleet(count: usize, more: Value) -> Gateway {
    let mut config = routing(json!({"per_try_timeout": "10s"}));
    config["backends"].as_array_mut().unwrap().truncate(count);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Gateway::ready(Setup::new(config.to_string()))
}

fn throttle(attempt: &Attempt, retry_after: &str) {
    attempt.respond(429, [("retry-after", retry_after)], true);
}

/// Where the router would go if the current attempt got no answer.
fn foreseen(request: &Routed) -> String {
    let property = request.property("aoai_cluster").unwrap();
    String::from_utf8(property).unwrap()
}

/// Where the next requests go, each answered.
fn served_by(gateway: &Gateway, requests: usize) -> Vec<String> {
    let served = (0..requests).map(|_| {
        let request = gateway.send();
        answer(&request.attempt(), 200, "fine");
        request.clusters().pop().unwrap()
    });
    served.collect()
}

/// The first backend answers 429 to a request that another one then serves.
fn throttle_east(gateway: &Gateway, retry_after: &str) {
    let request = gateway.send();
    assert_eq!(request.attempt().cluster(), "aoai_east");
    throttle(&request.attempt(), retry_after);
    answer(&request.attempt(), 200, "fine");
}

#[test]
fn a_throttled_backend_gets_no_request_until_its_wait_is_over_then_one_probe() {
    let gateway = fleet(2, json!({}));
    throttle_east(&gateway, "7");
    assert_eq!(served_by(&gateway, 4), ["aoai_west"; 4]);
    gateway.host.advance(seconds(7));
    let requests: Vec<_> = (0..4).map(|_| gateway.send()).collect();
    let probes = requests
        .iter()
        .filter(|request| request.attempt().cluster() == "aoai_east");
    assert_eq!(probes.count(), 1);
    for request in &requests {
        answer(&request.attempt(), 200, "fine");
    }
    let served = served_by(&gateway, 4);
    assert_eq!(
        served
            .iter()
            .filter(|cluster| *cluster == "aoai_east")
            .count(),
        2
    );
    drop(requests);
    assert_eq!(gateway.counted("aoai.backend.east.probes"), 1);
}

#[test]
fn when_all_are_out_nothing_reaches_the_router() {
    let gateway = fleet(2, json!({}));
    let request = gateway.send();
    throttle(&request.attempt(), "20");
    throttle(&request.attempt(), "30");
    let last = request.answer();
    assert_eq!(last.headers.get("retry-after"), Some("20"), "of both");
    let request = gateway.send();
    let answer = request.answer();
    assert_eq!(
        (answer.status, code(answer.text()).as_str()),
        (429, "all_backends_throttled")
    );
    assert_eq!(answer.headers.get("retry-after-ms"), Some("20000"));
    assert!(request.forwarded().is_none());
    drop(request);
    assert_eq!(gateway.counted("aoai.refused.throttled"), 1);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
}

#[test]
fn the_router_is_led_past_those_who_are_out() {
    let gateway = fleet(3, json!({}));
    let slow = gateway.send();
    assert_eq!(foreseen(&slow), "aoai_west");
    let other = gateway.send();
    assert_eq!(other.attempt().cluster(), "aoai_west");
    throttle(&other.attempt(), "30");
    answer(&other.attempt(), 200, "fine");
    // What follows an answer is chosen with the answer; what follows none is looked at again every second.
    gateway.host.advance(seconds(2));
    assert_eq!(foreseen(&slow), "aoai_north");
    slow.attempt().fail();
    assert_eq!(slow.attempt().cluster(), "aoai_north");
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "north", "2", "fine"));
    assert_quiet(&gateway.host);
}

#[test]
fn an_attempt_that_finds_its_backend_out_is_made_all_the_same() {
    let gateway = fleet(3, json!({}));
    let slow = gateway.send();
    let other = gateway.send();
    throttle(&other.attempt(), "30");
    answer(&other.attempt(), 200, "fine");
    slow.attempt().fail();
    assert_eq!(
        slow.attempt().cluster(),
        "aoai_west",
        "there is no going back"
    );
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "west", "2", "fine"));
    let served = served_by(&gateway, 4);
    assert!(
        !served.contains(&"aoai_west".to_owned()),
        "nor did it decide anything: {served:?}"
    );
}

#[test]
fn with_no_one_foreseen_the_client_is_told_and_one_that_becomes_well_is_found() {
    let gateway = fleet(2, json!({}));
    let slow = gateway.send();
    let other = gateway.send();
    throttle(&other.attempt(), "5");
    answer(&other.attempt(), 200, "fine");
    gateway.host.advance(seconds(2));
    slow.attempt().fail();
    assert_eq!(outcome(&slow).0, 503);
    drop(slow);
    assert_eq!(gateway.counted("aoai.no_retry.backends_cooling_down"), 1);

    let slow = gateway.send();
    assert_eq!(slow.attempt().cluster(), "aoai_east");
    gateway.host.advance(seconds(5));
    assert_eq!(foreseen(&slow), "aoai_west");
    slow.attempt().time_out();
    assert_eq!(slow.attempt().cluster(), "aoai_west");
    answer(&slow.attempt(), 200, "fine");
    assert_eq!(outcome(&slow), is(200, "west", "2", "fine"));
    drop(slow);
    assert_eq!(gateway.counted("aoai.backend.west.probes"), 1);
}

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
fn a_probes_claim_is_given_back() {
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
    let due = || {
        let gateway = fleet(1, rules.clone());
        answer(&gateway.send().attempt(), 500, "x");
        gateway.host.advance(seconds(3));
        gateway
    };
    let next_probes = |gateway: &Gateway| {
        assert_eq!(served_by(gateway, 1), ["aoai_east"]);
        assert_eq!(gateway.counted("aoai.backend.east.probes"), 2);
    };
    // The client leaves.
    let gateway = due();
    let probe = gateway.send();
    assert_eq!(gateway.send().answer().status, 503, "one is enough");
    probe.disconnect();
    next_probes(&gateway);

    // The token is refused, and there is no other one.
    let gateway = due();
    let probe = gateway.send();
    answer(&probe.attempt(), 401, &error("401"));
    probe.disconnect();
    next_probes(&gateway);
}

#[test]
fn a_probe_that_the_router_does_not_make_is_given_back() {
    let mut config = routing(json!({}));
    config["backends"].as_array_mut().unwrap().truncate(2);
    config["cooldown"] = json!({"consecutive_failures": 1, "failing": "2s"});
    let mut gateway = Gateway::ready(Setup::new(config.to_string()));
    for _ in 0..2 {
        let request = gateway.send();
        answer(&request.attempt(), 500, "x");
    }
    gateway.host.advance(seconds(3));
    gateway.router = Router::new(&gateway.vm, &gateway.upstream, &CLUSTERS).without_heed();
    let request = gateway.send();
    answer(&request.attempt(), 500, "x");
    assert_eq!(
        outcome(&request).0,
        500,
        "the router does not heed the mark"
    );
    drop(request);
    gateway.router = Router::new(&gateway.vm, &gateway.upstream, &CLUSTERS);
    let request = gateway.send();
    assert!(request.forwarded().is_some(), "the other one is still due");
    answer(&request.attempt(), 200, "fine");
}

#[test]
fn a_request_waits_for_a_backend_and_loses_nothing() {
    let gateway = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&gateway.send().attempt(), "2");
    let request = gateway.router.request(chat_of(BODY.len()), false);
    let (begin, end) = BODY.split_at(9);
    request.body(begin, false);
    gateway.host.advance(millis(1900));
    assert!(request.forwarded().is_none() && request.answered().is_none());
    gateway.host.advance(millis(200));
    request.body(end, true);
    assert_eq!(request.forwarded().unwrap().body, BODY.as_bytes());
    answer(&request.attempt(), 200, "fine");
    assert_eq!(outcome(&request), is(200, "east", "1", "fine"));

    throttle(&gateway.send().attempt(), "2");
    gateway.send().disconnect();
    assert_eq!(gateway.counted("aoai.client_gone"), 1);
    throttle(&gateway.send().attempt(), "6");
    assert_eq!(gateway.send().answer().status, 429, "too long to wait");
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
fn requests_of_the_filter_engine_are_left_alone_when_it_looks_ahead() {
    let gateway = fleet(2, json!({}));
    let other = gateway.vm.plugin(Setup::new(CONFIG)).unwrap();
    gateway.host.advance(millis(50));
    let stream: Stream = send(&other);
    gateway.host.advance(seconds(5));
    assert_eq!(stream.property("aoai_cluster"), None);
    respond(&stream, 200, "fine");
    assert_quiet(&gateway.host);
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
