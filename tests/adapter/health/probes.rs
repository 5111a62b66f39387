//! A backend whose cooldown is over is sent one request, the probe, and what becomes of it decides.

use mock_host::Fault;
use serde_json::{json, Value};

use super::*;

#[test]
fn a_throttled_backend_gets_no_request_until_its_wait_is_over_then_one_probe() {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "7");
    assert_eq!(served_by(&vm, 4), [WEST; 4]);
    host.advance(millis(6900));
    assert_eq!(served_by(&vm, 2), [WEST; 2]);
    host.advance(millis(100));
    let probe: Vec<_> = (0..2).map(|_| get(&vm)).collect();
    let clusters: Vec<_> = probe.iter().map(routed_to).collect();
    assert_eq!(
        clusters.iter().filter(|cluster| *cluster == EAST).count(),
        1,
        "{clusters:?}"
    );
    assert_eq!(served_by(&vm, 4), [WEST; 4], "while the probe is under way");
    for stream in &probe {
        respond(stream, 200, "fine");
    }
    assert_eq!(
        served_by(&vm, 4)
            .iter()
            .filter(|cluster| *cluster == EAST)
            .count(),
        2
    );
    drop(probe);
    assert_eq!(counted(&host, "aoai.backend.east.probes"), 1);
    assert_eq!(host.statistic("aoai.backend.east.cooldowns.throttled"), 1);
    let said = host.logged(mock_host::LogLevel::Info);
    let said: Vec<_> = said
        .iter()
        .filter(|line| line.contains("backend east"))
        .collect();
    assert_eq!(
        said,
        [
            "backend east: throttled (429); no requests for 7s",
            "backend east: serves again"
        ]
    );
}

#[test]
fn a_probe_that_is_refused_begins_the_wait_anew() {
    let (host, vm) = fleet(1, json!({}));
    let stream = get(&vm);
    throttle(&stream, "2");
    host.advance(seconds(2));
    let probe = get(&vm);
    throttle(&probe, "5");
    assert_eq!(probe.answer().status, 429);
    assert_eq!(
        refused(&get(&vm)),
        (429, "5000".into(), "all_backends_throttled".into())
    );
    host.advance(seconds(5));
    assert_eq!(served_by(&vm, 1), [EAST]);
}

#[test]
fn a_throttled_backends_probe_that_is_slow_holds_up_no_one_for_long() {
    let (host, vm) = fleet(1, json!({}));
    throttle(&get(&vm), "2");
    host.advance(seconds(2));
    let _slow = get(&vm);
    assert_eq!(get(&vm).answer().status, 429);
    host.advance(seconds(1));
    assert_eq!(served_by(&vm, 2), [EAST, EAST]);
}

#[test]
fn a_probe_that_was_accepted_is_told_before_its_answer() {
    let (host, vm) = fleet(1, json!({}));
    throttle(&get(&vm), "2");
    host.advance(seconds(2));
    let _slow = get(&vm);
    host.advance(seconds(3));
    let said = host.logged(mock_host::LogLevel::Info);
    let back = said.iter().filter(|line| line.contains("serves again"));
    assert_eq!(back.count(), 1);
}

#[test]
fn a_probes_claim_is_given_back_when_its_client_leaves() {
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
    // In the router's attempt.
    let (host, vm) = fleet(1, rules.clone());
    respond(&get(&vm), 500, "x");
    host.advance(seconds(3));
    let probe = get(&vm);
    assert_eq!(refused(&get(&vm)).0, 503, "one is enough");
    probe.disconnect();
    assert_eq!(served_by(&vm, 1), [EAST]);

    // In a call of the filter's own.
    let (host, vm) = fleet(2, rules);
    respond(&get(&vm), 500, "x");
    vm.answer(&vm.call(), 500, [], "x");
    host.advance(seconds(3));
    let stream = get(&vm);
    respond(&stream, 500, "x");
    let call = vm.call();
    stream.disconnect();
    assert_eq!(
        routed_to(&get(&vm)),
        call.cluster,
        "the next request is the probe"
    );
}

#[test]
fn a_probe_that_meets_a_bad_token_decides_with_the_next() {
    let (host, vm) = fleet(
        1,
        json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}}),
    );
    respond(&get(&vm), 500, "x");
    host.advance(seconds(60));
    let probe = get(&vm);
    respond(&probe, 401, &error("401"));
    assert_eq!(refused(&get(&vm)).0, 503, "it is under way");
    host.advance(millis(5));
    give_token(&vm, SECOND_TOKEN);
    host.advance(millis(25));
    let again = vm
        .calls()
        .into_iter()
        .find(|call| call.cluster == EAST)
        .unwrap();
    vm.answer(&again, 200, [], "fine");
    assert_eq!(probe.answer().status, 200);
    assert_eq!(served_by(&vm, 1), [EAST]);
}

#[test]
fn a_probe_that_refuses_the_new_token_too_is_free_for_the_next() {
    let (host, vm) = fleet(
        2,
        json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}}),
    );
    let stream = get(&vm);
    respond(&stream, 500, "x");
    vm.answer(&vm.call(), 200, [], "fine");
    host.advance(seconds(60));
    let probe = loop {
        let stream = get(&vm);
        if routed_to(&stream) == EAST {
            break stream;
        }
        respond(&stream, 200, "fine");
    };
    respond(&probe, 401, &error("401"));
    host.advance(millis(5));
    give_token(&vm, SECOND_TOKEN);
    host.advance(millis(25));
    vm.answer(&vm.call(), 401, [], error("401"));
    assert_eq!(vm.call().cluster, WEST);
    vm.answer(&vm.call(), 200, [], "fine");
    let clusters: Vec<_> = (0..2).map(|_| routed_to(&get(&vm))).collect();
    assert!(clusters.contains(&EAST.to_owned()), "{clusters:?}");
}

#[test]
fn a_probe_whose_token_no_one_renews_is_free_for_the_next() {
    let (host, vm) = fleet(
        1,
        json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}, "retry": {"max_attempts": 1}}),
    );
    respond(&get(&vm), 500, "x");
    host.advance(seconds(3));
    respond(&get(&vm), 401, &error("401"));
    assert_eq!(routed_to(&get(&vm)), EAST);
}

/// A worker whose only backend is due after a failure.
fn due(more: Value) -> (Host, Vm) {
    let mut rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
    for (key, value) in more.as_object().unwrap() {
        rules[key] = value.clone();
    }
    let (host, vm) = fleet(1, rules);
    respond(&get(&vm), 500, "x");
    host.advance(seconds(3));
    (host, vm)
}

/// How many of so many requests at once reach a backend.
fn sent_at_once(vm: &Vm, requests: usize) -> usize {
    let streams: Vec<_> = (0..requests).map(|_| get(vm)).collect();
    let sent = streams.iter().filter(|stream| stream.forwarded().is_some());
    let sent = sent.count();
    for stream in streams {
        stream.disconnect();
    }
    sent
}

#[test]
fn a_probe_that_said_nothing_is_given_back_once() {
    let (_host, vm) = due(json!({"retry": {"max_attempts": 1}}));
    let first = get(&vm);
    first.respond(401, [], false);
    first.response_body(error("401"), true);
    let second = get(&vm);
    assert!(second.forwarded().is_some(), "it is due again");
    // What the first one had to say was said.
    drop(first);
    assert_eq!(sent_at_once(&vm, 3), 0, "the second one is under way");
}

#[test]
fn a_probe_that_was_overtaken_does_not_decide_for_the_next() {
    let (host, vm) = fleet(1, json!({}));
    throttle(&get(&vm), "2");
    host.advance(seconds(2));
    let slow = get(&vm);
    // Accepted, for all one can tell; then another request is refused.
    host.advance(seconds(1));
    throttle(&get(&vm), "2");
    host.advance(seconds(2));
    let probe = get(&vm);
    assert!(probe.forwarded().is_some());
    slow.disconnect();
    assert_eq!(sent_at_once(&vm, 3), 0, "the second probe is under way");
}

#[test]
fn a_probe_that_could_not_be_edited_is_given_back() {
    let (host, vm) = due(json!({}));
    host.inject(
        Fault::of("proxy_replace_header_map_value")
            .on("x-aoai-cluster")
            .times(1),
    );
    let probe = get(&vm);
    assert_eq!(probe.answer().status, 500);
    drop(probe);
    assert_eq!(sent_at_once(&vm, 3), 1);
}

#[test]
fn a_probe_of_a_worker_that_is_torn_down_is_given_back() {
    let (host, vm) = due(json!({}));
    let other = host.vm(&fleet_config(1, json!({})));
    host.advance(millis(50));
    let probe = get(&vm);
    assert!(probe.forwarded().is_some());
    assert_eq!(sent_at_once(&other, 3), 0);
    drop(vm);
    assert_eq!(sent_at_once(&other, 3), 1);
    drop(probe);
}
