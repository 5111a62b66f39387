//! The probe of a backend whose cooldown is over, made by the router.

use serde_json::json;

use super::*;

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
fn a_probe_that_finds_no_host_has_failed() {
    let gateway = fleet(
        2,
        json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}}),
    );
    for _ in 0..2 {
        answer(&gateway.send().attempt(), 500, "x");
    }
    gateway.host.advance(seconds(3));
    let router = gateway.router.clone().without_hosts("aoai_west");
    let request = send_through(&router);
    assert_eq!(request.attempt().cluster(), "aoai_east");
    answer(&request.attempt(), 500, "x");
    assert_eq!(outcome(&request).0, 500);
    drop(request);
    assert_eq!(gateway.counted("aoai.backend.west.cooldowns.failing"), 2);
}
