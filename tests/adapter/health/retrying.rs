//! Where another attempt goes, and whether the budget allows it.

use serde_json::json;

use super::*;

#[test]
fn a_retry_goes_by_what_is_known_then() {
    let (_host, vm) = fleet(3, json!({}));
    let slow = get(&vm);
    assert_eq!(routed_to(&slow), EAST);
    // Meanwhile the next one is throttled.
    let other = get(&vm);
    assert_eq!(routed_to(&other), WEST);
    throttle(&other, "30");
    vm.answer(&vm.call(), 200, [], "fine");
    respond(&slow, 500, "x");
    assert_eq!(vm.call().cluster, NORTH);
}

#[test]
fn with_no_one_left_to_retry_on_the_answer_is_the_clients() {
    let (host, vm) = fleet(2, json!({}));
    let slow: Vec<_> = (0..6).map(|_| get(&vm)).collect();
    let (east, west): (Vec<_>, Vec<_>) = slow.iter().partition(|slow| routed_to(slow) == EAST);
    throttle(west[0], "30");
    vm.answer(&vm.call(), 200, [], "fine");
    host.advance(millis(10));
    // One retry finds out whether that is still true.
    respond(east[0], 500, &error("InternalServerError"));
    assert_eq!(vm.call().cluster, WEST);
    respond(east[1], 500, &error("InternalServerError"));
    assert_eq!(east[1].answer().status, 500);
    vm.answer(&vm.call(), 429, [("retry-after", "30")], "");
    assert_eq!(east[0].answer().status, 429);
    drop(slow);
    assert_eq!(counted(&host, "aoai.no_retry.backends_cooling_down"), 1);
    assert_eq!(host.statistic("aoai.backend.west.trials"), 1);
}

#[test]
fn failures_spend_the_budget_and_refusals_do_not() {
    let more = json!({"cooldown": null, "retry": {"budget": {"percent": 0, "min_per_second": 0}}});
    let (host, vm) = fleet(2, more.clone());
    let other = host.vm(&fleet_config(2, more));
    host.advance(millis(50));
    for _ in 0..30 {
        let stream = get(&vm);
        throttle(&stream, "1");
        vm.answer(&vm.call(), 200, [], "fine");
    }
    let retried = (0..14).filter(|index| {
        let worker = if index % 2 == 0 { &vm } else { &other };
        let stream = get(worker);
        respond(&stream, 500, &error("InternalServerError"));
        let call = worker
            .calls()
            .into_iter()
            .find(|call| call.cluster != "imds");
        match call {
            Some(call) => {
                worker.answer(&call, 200, [], "fine");
                true
            }
            None => {
                assert_eq!(stream.answer().status, 500, "the real answer");
                false
            }
        }
    });
    assert_eq!(retried.count(), 10, "of both workers together");
    assert_eq!(counted(&host, "aoai.no_retry.budget_spent"), 4);
}

#[test]
fn what_cannot_be_retried_anyway_spends_nothing() {
    let more = json!({"cooldown": null, "retry": {"budget": {"percent": 0, "min_per_second": 0}}});
    let (host, vm) = fleet(1, more);
    for _ in 0..20 {
        respond(&get(&vm), 500, "x");
    }
    assert_eq!(counted(&host, "aoai.no_retry.backends_exhausted"), 20);
}
