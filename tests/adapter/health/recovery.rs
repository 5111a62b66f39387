//! A backend whose cooldown is over: it is used gently while another one is free, and gets all that comes where none is.

use mock_host::Fault;
use serde_json::{json, Value};

use super::*;
use crate::adapter::budget::host_calls;

/// A worker whose first of two backends recovers from a failure.
fn recovering(more: Value) -> (Host, Vm) {
    let mut rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
    for (key, value) in more.as_object().unwrap() {
        rules[key] = value.clone();
    }
    let (host, vm) = fleet(2, rules);
    let stream = get(&vm);
    assert_eq!(routed_to(&stream), EAST);
    respond(&stream, 500, "x");
    for call in vm.calls() {
        vm.answer(&call, 200, [], "fine");
    }
    host.advance(seconds(3));
    (host, vm)
}

/// The same after a 429.
fn recovering_quota() -> (Host, Vm) {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "2");
    host.advance(seconds(2));
    (host, vm)
}

/// An attempt that the first backend admits.
fn admitted(vm: &Vm) -> Stream {
    for _ in 0..2 {
        let stream = get(vm);
        if routed_to(&stream) == EAST {
            return stream;
        }
        respond(&stream, 200, "fine");
    }
    panic!("the first backend admits nothing");
}

/// Those of so many requests at once that go to the first backend. The second one has the others, and answers them.
fn to_east(vm: &Vm, requests: usize) -> Vec<Stream> {
    let streams: Vec<_> = (0..requests).map(|_| get(vm)).collect();
    let (east, west): (Vec<_>, Vec<_>) = streams
        .into_iter()
        .partition(|stream| routed_to(stream) == EAST);
    for stream in west {
        assert_eq!(routed_to(&stream), WEST);
        respond(&stream, 200, "fine");
    }
    east
}

/// How many more attempts the first backend admits now. They end without an outcome.
fn admits(vm: &Vm) -> usize {
    let streams = to_east(vm, 20);
    let count = streams.len();
    streams.into_iter().for_each(Stream::disconnect);
    count
}

#[test]
fn a_recovering_backend_gets_one_two_four_eight_at_a_time() {
    for (host, vm) in [recovering_quota(), recovering(json!({}))] {
        for limit in [1, 2, 4, 8] {
            let mut streams = to_east(&vm, 20);
            assert_eq!(streams.len(), limit);
            assert_eq!(admits(&vm), 0, "while they are under way");
            // One success doubles; attempts without an outcome only make room.
            let last = streams.pop().unwrap();
            streams.into_iter().for_each(Stream::disconnect);
            respond(&last, 200, "fine");
        }
        assert_eq!(to_east(&vm, 20).len(), 10, "its share");
        assert_eq!(counted(&host, "aoai.backend.east.probes"), 15);
        let said = host.logged(mock_host::LogLevel::Info);
        let back = said
            .iter()
            .filter(|line| line.starts_with("backend east: serves ") && line.contains(" again"));
        assert_eq!(back.count(), 1, "{said:?}");
    }
}

#[test]
fn a_throttled_backend_gets_nothing_until_its_wait_is_over() {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "7");
    host.advance(millis(6900));
    assert_eq!(served_by(&vm, 10), [WEST; 10]);
    host.advance(millis(100));
    assert_eq!(admits(&vm), 1);
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.throttled"), 1);
    let said = host.logged(mock_host::LogLevel::Info);
    let said: Vec<_> = said
        .iter()
        .filter(|line| line.contains("backend east"))
        .collect();
    assert_eq!(
        said,
        ["backend east: everything without a deployment is throttled (429); no requests for it for 7s"]
    );
}

#[test]
fn with_no_other_free_a_recovering_backend_gets_all() {
    let single = |cause: &dyn Fn(&Vm)| {
        let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s", "misconfigured": "2s"}});
        let (host, vm) = fleet(1, rules);
        cause(&vm);
        host.advance(seconds(3));
        let streams: Vec<_> = (0..16).map(|_| get(&vm)).collect();
        let sent = streams.iter().filter(|stream| stream.forwarded().is_some());
        assert_eq!(sent.count(), 16);
        for stream in &streams {
            respond(stream, 200, "fine");
        }
        drop(streams);
        assert_eq!(counted(&host, "aoai.backend.east.state"), 0);
        assert_eq!(host.statistic("aoai.backend.east.probes"), 16);
    };
    single(&|vm| throttle(&get(vm), "2"));
    single(&|vm| respond(&get(vm), 500, "x"));
    single(&|vm| respond(&get(vm), 403, &error("403")));
}

#[test]
fn a_recovering_backend_that_refuses_again_waits_again() {
    let (host, vm) = recovering_quota();
    let stream = admitted(&vm);
    throttle(&stream, "5");
    vm.answer(&vm.call(), 200, [], "fine");
    host.advance(millis(4900));
    assert_eq!(served_by(&vm, 10), [WEST; 10]);
    host.advance(millis(100));
    assert_eq!(admits(&vm), 1);
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.throttled"), 2);
}

#[test]
fn a_recovering_backend_that_fails_again_waits_twice_as_long() {
    let (host, vm) = recovering(json!({}));
    let stream = admitted(&vm);
    respond(&stream, 500, "x");
    vm.answer(&vm.call(), 200, [], "fine");
    host.advance(millis(3900));
    assert_eq!(served_by(&vm, 10), [WEST; 10]);
    host.advance(millis(1200));
    assert_eq!(admits(&vm), 1);
}

#[test]
fn a_slow_answer_holds_up_a_recovery_for_seconds_at_most() {
    let (host, vm) = recovering_quota();
    let _slow = admitted(&vm);
    host.advance(millis(900));
    assert_eq!(admits(&vm), 0);
    host.advance(millis(100));
    let _accepted = to_east(&vm, 20);
    assert_eq!(_accepted.len(), 2, "a throttled backend refuses at once");
    host.advance(seconds(9));
    assert_eq!(to_east(&vm, 20).len(), 10, "by itself");

    let (host, vm) = recovering(json!({}));
    let _slow = admitted(&vm);
    host.advance(millis(9900));
    assert_eq!(admits(&vm), 0);
    host.advance(millis(100));
    let _another = to_east(&vm, 20);
    assert_eq!(_another.len(), 1, "the slow one may be lost");
    host.advance(seconds(60));
    assert_eq!(to_east(&vm, 20).len(), 10, "by itself");
}

#[test]
fn a_place_is_given_back_when_the_client_leaves() {
    for (_host, vm) in [recovering_quota(), recovering(json!({}))] {
        let stream = admitted(&vm);
        assert_eq!(admits(&vm), 0);
        stream.disconnect();
        assert_eq!(admits(&vm), 1);
    }
}

#[test]
fn a_place_of_a_reissued_attempt_is_given_back_too() {
    let (_host, vm) = recovering(json!({}));
    let stream = loop {
        let stream = get(&vm);
        if routed_to(&stream) == WEST {
            break stream;
        }
        stream.disconnect();
    };
    // Not a failure, so the second backend is free for the others.
    respond(&stream, 401, &error("PermissionDenied"));
    assert_eq!(vm.call().cluster, EAST);
    assert_eq!(admits(&vm), 0);
    stream.disconnect();
    assert_eq!(admits(&vm), 1);
}

#[test]
fn an_attempt_with_a_bad_token_keeps_its_place_for_the_next() {
    let (host, vm) = recovering(json!({}));
    let stream = admitted(&vm);
    respond(&stream, 401, &error("401"));
    assert_eq!(admits(&vm), 0, "it is under way");
    host.advance(millis(5));
    give_token(&vm, SECOND_TOKEN);
    host.advance(millis(25));
    let again = vm.call();
    assert_eq!(again.cluster, EAST);
    assert_eq!(admits(&vm), 0, "still");
    vm.answer(&again, 200, [], "fine");
    assert_eq!(stream.answer().status, 200);
    assert_eq!(admits(&vm), 2);
}

#[test]
fn a_place_is_given_back_when_the_new_token_is_refused_too() {
    let (host, vm) = recovering(json!({}));
    let stream = admitted(&vm);
    respond(&stream, 401, &error("401"));
    host.advance(millis(5));
    give_token(&vm, SECOND_TOKEN);
    host.advance(millis(25));
    vm.answer(&vm.call(), 401, [], error("401"));
    assert_eq!(vm.call().cluster, WEST);
    vm.answer(&vm.call(), 200, [], "fine");
    assert_eq!(admits(&vm), 1);
}

#[test]
fn a_place_whose_token_no_one_renews_is_given_back_once() {
    let (_host, vm) = recovering(json!({"retry": {"max_attempts": 1}}));
    let first = admitted(&vm);
    first.respond(401, [], false);
    first.response_body(error("401"), true);
    let _second = admitted(&vm);
    // The first one's end says nothing more.
    drop(first);
    assert_eq!(admits(&vm), 0, "the second one is under way");
}

#[test]
fn a_place_of_an_earlier_recovery_is_none_in_the_next() {
    let (host, vm) = recovering_quota();
    let slow = admitted(&vm);
    host.advance(seconds(1));
    throttle(&admitted(&vm), "2");
    vm.answer(&vm.call(), 200, [], "fine");
    host.advance(seconds(2));
    let _next = admitted(&vm);
    slow.disconnect();
    assert_eq!(admits(&vm), 0, "the next one is under way");

    let (host, vm) = recovering(json!({}));
    let slow = admitted(&vm);
    host.advance(seconds(10));
    respond(&admitted(&vm), 500, "x");
    vm.answer(&vm.call(), 200, [], "fine");
    host.advance(millis(5100));
    let _next = admitted(&vm);
    slow.disconnect();
    assert_eq!(admits(&vm), 0, "the next one is under way");
}

#[test]
fn a_place_of_a_request_that_could_not_be_edited_is_given_back() {
    let (host, vm) = recovering(json!({}));
    host.inject(
        Fault::of("proxy_replace_header_map_value")
            .on("x-aoai-cluster")
            .times(2),
    );
    for _ in 0..2 {
        assert_eq!(get(&vm).answer().status, 500);
    }
    assert_eq!(admits(&vm), 1);
}

#[test]
fn a_place_of_a_worker_that_is_torn_down_is_given_back() {
    let (host, vm) = recovering(json!({}));
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
    let other = host.vm(&fleet_config(2, rules));
    host.advance(millis(50));
    let stream = admitted(&vm);
    assert_eq!(admits(&other), 0);
    drop(vm);
    assert_eq!(admits(&other), 1);
    drop(stream);
}

#[test]
fn a_recovery_that_is_complete_costs_nothing_more() {
    let (host, vm) = recovering(json!({}));
    for _ in 0..4 {
        respond(&admitted(&vm), 200, "fine");
    }
    host.advance(seconds(11));
    served_by(&vm, 4);
    host.clear_counts();
    served_by(&vm, 10);
    let writes = host_calls(&host).remove("proxy_set_shared_data");
    assert_eq!(writes, Some(10), "the turns");
}
