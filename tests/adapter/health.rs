//! What a worker remembers of its backends, and what it does with that. With the filter engine; most of it is common to both.

use mock_host::{status, Fault, Host, Setup, Stream, Vm};
use serde_json::{json, Value};

use super::budget::host_calls;
use super::support::*;

const EAST: &str = "aoai_east";
const WEST: &str = "aoai_west";
const NORTH: &str = "aoai_north";

/// A worker with a token, `count` backends, and this in its configuration.
fn fleet(count: usize, more: Value) -> (Host, Vm) {
    ready_with(Setup::new(fleet_config(count, more)))
}

fn fleet_config(count: usize, more: Value) -> String {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(count);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config.to_string()
}

fn throttle(stream: &Stream, retry_after: &str) {
    stream.respond(429, [("retry-after", retry_after)], true);
}

/// Where the next requests go, each answered.
fn served_by(vm: &Vm, requests: usize) -> Vec<String> {
    let served = (0..requests).map(|_| {
        let stream = get(vm);
        let cluster = routed_to(&stream);
        respond(&stream, 200, "fine");
        cluster
    });
    served.collect()
}

/// The first backend answers 429 to a request that another one then serves.
fn throttle_east(vm: &Vm, retry_after: &str) {
    let stream = get(vm);
    assert_eq!(routed_to(&stream), EAST);
    throttle(&stream, retry_after);
    vm.answer(&vm.call(), 200, [], "from another");
    assert_eq!(stream.answer().status, 200);
}

fn refused(stream: &Stream) -> (u16, String, String) {
    let answer = stream.answer();
    let header = |name| answer.headers.get(name).unwrap_or("none").to_owned();
    assert_eq!(header("x-aoai-attempts"), "0");
    (answer.status, header("retry-after-ms"), code(answer.text()))
}

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
fn what_one_worker_finds_hides_nothing_that_another_found() {
    let (host, first) = fleet(3, json!({}));
    let second = host.vm(&fleet_config(3, json!({})));
    host.advance(millis(50));
    let under_way = get(&first);
    assert_eq!(routed_to(&under_way), EAST);
    let stream = get(&second);
    assert_eq!(routed_to(&stream), WEST);
    throttle(&stream, "30");
    second.answer(&second.call(), 200, [], "fine");
    // The first worker writes something itself before it has looked.
    throttle(&under_way, "30");
    first.answer(&first.call(), 200, [], "fine");
    assert_eq!(served_by(&first, 3), [NORTH; 3]);
}

#[test]
fn other_workers_know_with_their_next_request() {
    let (host, first) = fleet(2, json!({}));
    let others: Vec<Vm> = (0..3)
        .map(|_| host.vm(&fleet_config(2, json!({}))))
        .collect();
    host.advance(millis(50));
    for other in &others {
        assert_eq!(served_by(other, 2), [EAST, WEST]);
    }
    throttle_east(&first, "7");
    for other in &others {
        assert_eq!(served_by(other, 2), [WEST, WEST]);
    }
    host.advance(seconds(7));
    let workers = || others.iter().chain([&first]);
    let streams: Vec<_> = workers().chain(workers()).map(get).collect();
    let to_east = streams.iter().filter(|stream| routed_to(stream) == EAST);
    assert_eq!(to_east.count(), 1, "one probe for all");
    for stream in &streams {
        respond(stream, 200, "fine");
    }
    for worker in workers() {
        let served = served_by(worker, 2);
        assert_eq!(served.iter().filter(|cluster| *cluster == EAST).count(), 1);
    }
    drop(streams);
    assert_eq!(counted(&host, "aoai.backend.east.probes"), 1);
}

#[test]
fn when_all_are_out_no_one_is_asked_and_the_smallest_wait_is_said() {
    let (host, vm) = fleet(3, json!({}));
    let stream = get(&vm);
    throttle(&stream, "60");
    vm.answer(&vm.call(), 429, [("retry-after", "20")], "");
    vm.answer(&vm.call(), 429, [("retry-after-ms", "90500")], "");
    let answer = stream.answer();
    assert_eq!(
        answer.headers.get("retry-after"),
        Some("20"),
        "of all three"
    );
    assert_eq!(answer.headers.get("retry-after-ms"), Some("20000"));
    host.advance(millis(1500));
    let stream = get(&vm);
    assert_eq!(
        refused(&stream),
        (429, "18500".into(), "all_backends_throttled".into())
    );
    assert_eq!(stream.answer().headers.get("retry-after"), Some("19"));
    assert!(vm.calls().is_empty());
    drop(stream);
    assert_eq!(counted(&host, "aoai.refused.throttled"), 1);
    assert_eq!(host.statistic("aoai.client_gone"), 0);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 1);
    assert_eq!(host.statistic("aoai.requests"), 2);
}

#[test]
fn when_all_are_broken_it_is_503() {
    let (host, vm) = fleet(
        1,
        json!({"cooldown": {"consecutive_failures": 2, "failing": "8s"}}),
    );
    for _ in 0..2 {
        respond(&get(&vm), 500, &error("InternalServerError"));
    }
    let (status, wait, code) = refused(&get(&vm));
    assert_eq!((status, code.as_str()), (503, "all_backends_unavailable"));
    assert!((8000..=10_000).contains(&wait.parse().unwrap()), "{wait}");
    assert_eq!(counted(&host, "aoai.refused.unavailable"), 1);
    assert_eq!(host.statistic("aoai.backend.east.state"), 2);
    assert!(host.statistic("aoai.backend.east.cooldown_seconds") > 4);
    host.advance(seconds(10));
    assert_eq!(served_by(&vm, 1), [EAST]);
    assert_eq!(counted(&host, "aoai.backend.east.state"), 0);
    assert_eq!(host.statistic("aoai.backend.east.cooldown_seconds"), 0);
}

#[test]
fn successes_count_for_the_share_of_failures() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    let fail_every = |n: usize, requests: usize| {
        for index in 0..requests {
            let stream = get(&vm);
            if stream.answered().is_some() {
                return Some(index);
            }
            respond(&stream, if index % n == 0 { 500 } else { 200 }, "x");
        }
        None
    };
    assert_eq!(fail_every(3, 200), None, "a third");
    host.advance(seconds(20));
    assert!(fail_every(2, 60).is_some(), "a half");
}

#[test]
fn the_tick_tells_of_successes_where_they_matter() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    let key = host_key(&host, "aoai.health.");
    respond(&get(&vm), 500, "x");
    // The first one ends the row of failures, which is news.
    served_by(&vm, 30);
    let before = host.shared(&key).unwrap();
    host.advance(seconds(2));
    assert_ne!(host.shared(&key).unwrap(), before);
    host.advance(seconds(10));
    let before = host.shared(&key).unwrap();
    served_by(&vm, 30);
    host.advance(seconds(2));
    assert_eq!(
        host.shared(&key).unwrap(),
        before,
        "nothing is written while all is well"
    );
}

/// The shared key that begins with this.
fn host_key(host: &Host, prefix: &str) -> String {
    let keys = host.shared_keys();
    let mut keys = keys.into_iter().filter(|key| key.starts_with(prefix));
    keys.next().expect("there is one")
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
    let slow = get(&vm);
    let other = get(&vm);
    assert_eq!(routed_to(&other), WEST);
    throttle(&other, "30");
    vm.answer(&vm.call(), 200, [], "fine");
    respond(&slow, 500, &error("InternalServerError"));
    assert_eq!(slow.answer().status, 500);
    drop(slow);
    assert_eq!(counted(&host, "aoai.no_retry.backends_cooling_down"), 1);
}

#[test]
fn a_request_waits_for_a_backend_and_loses_nothing() {
    for (pieces, complete) in [(1, true), (3, true), (3, false)] {
        let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
        throttle(&get(&vm), "2");
        let text = "0123456789".repeat(30);
        let stream = vm.request(chat_of(text.len()), false);
        let frames: Vec<_> = text.as_bytes().chunks(text.len() / pieces).collect();
        let held = if complete {
            frames.len()
        } else {
            frames.len() - 1
        };
        for (index, frame) in frames.iter().enumerate().take(held) {
            stream.body(frame, index + 1 == frames.len());
        }
        host.advance(millis(1900));
        assert!(stream.forwarded().is_none() && stream.answered().is_none());
        host.advance(millis(200));
        for frame in frames.iter().skip(held) {
            stream.body(frame, true);
        }
        let forwarded = stream.forwarded().expect("the wait is over");
        assert_eq!(forwarded.body, text.as_bytes(), "{pieces} {complete}");
        respond(&stream, 200, "fine");
        assert_eq!(stream.answer().status, 200);
    }
}

#[test]
fn a_body_that_comes_while_its_request_waits_stays_with_it() {
    let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "2");
    // Of unknown length, so it is not held for its own sake.
    let stream = vm.request(chat(), false);
    for frame in ["one ", "two ", "three "] {
        stream.body(frame, false);
        assert!(stream.forwarded().is_none());
    }
    host.advance(millis(2100));
    stream.body("four", true);
    assert_eq!(stream.forwarded().unwrap().body, b"one two three four");
    respond(&stream, 200, "fine");
    assert_eq!(stream.answer().status, 200);
}

#[test]
fn a_wait_that_is_too_long_or_an_upgrade_is_refused_at_once() {
    let (_host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "6");
    assert_eq!(refused(&get(&vm)).0, 429);
    let (_host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "2");
    let headers = [
        (":method", "GET"),
        (":authority", "gateway.internal"),
        (":path", "/openai/realtime"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    assert_eq!(refused(&vm.request(headers, true)).0, 429);
}

#[test]
fn those_that_wait_are_not_all_sent_at_once_and_not_kept_beyond_their_time() {
    let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "3s"}}));
    throttle(&get(&vm), "2");
    let waiting: Vec<_> = (0..5).map(|_| get(&vm)).collect();
    host.advance(millis(2100));
    let sent: Vec<_> = waiting
        .iter()
        .filter(|stream| stream.forwarded().is_some())
        .collect();
    assert_eq!(sent.len(), 1, "the probe");
    throttle(sent[0], "2");
    host.advance(millis(1500));
    for stream in &waiting {
        assert_eq!(stream.answer().status, 429);
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten() {
    let (host, vm) = fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
    throttle(&get(&vm), "2");
    get(&vm).disconnect();
    host.advance(seconds(3));
    assert_eq!(host.statistic("aoai.client_gone"), 1);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 1);
    assert_eq!(served_by(&vm, 1), [EAST]);
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

#[test]
fn a_failure_among_others_is_written_down_once() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    let writes = || {
        host.clear_counts();
        respond(&get(&vm), 500, "x");
        host_calls(&host).remove("proxy_set_shared_data")
    };
    assert_eq!(
        writes(),
        Some(3),
        "turn, health, and the edition: a success would be news now"
    );
    assert_eq!(writes(), Some(2));
}

#[test]
fn a_missing_deployment_is_not_asked_for_again() {
    let (host, vm) = fleet(2, json!({}));
    let stream = send(&vm);
    respond(&stream, 404, &error("DeploymentNotFound"));
    vm.answer(&vm.call(), 200, [], "fine");
    for _ in 0..4 {
        let stream = send(&vm);
        assert_eq!(routed_to(&stream), WEST);
        respond(&stream, 200, "fine");
    }
    assert_eq!(
        served_by(&vm, 2)
            .iter()
            .filter(|cluster| *cluster == EAST)
            .count(),
        1
    );
    assert_eq!(counted(&host, "aoai.backend.east.missing_deployments"), 1);
    let loud = loud(&host);
    assert_eq!(loud.len(), 1);
    assert!(
        loud[0].contains(r#"backend east: has no deployment "gpt-4o""#),
        "{loud:?}"
    );
    host.advance(seconds(300));
    let to_east = (0..2).filter(|_| routed_to(&send(&vm)) == EAST);
    assert_eq!(to_east.count(), 1, "it may be there by now");
}

#[test]
fn what_a_client_calls_its_deployment_cannot_forge_a_log_line() {
    let (host, vm) = fleet(2, json!({}));
    let path = format!(
        "/openai/deployments/a\nbackend west: \"\u{1b}[31m{}/chat",
        "x".repeat(500)
    );
    let headers = [
        (":method", "GET"),
        (":authority", "a"),
        (":path", path.as_str()),
    ];
    let stream = vm.request(headers, true);
    respond(&stream, 404, &error("DeploymentNotFound"));
    let loud = loud(&host);
    assert_eq!(loud.len(), 1);
    assert!(
        loud[0].len() < 300 && !loud[0].contains(['\n', '\u{1b}']),
        "{loud:?}"
    );
}

#[test]
fn a_backend_that_refuses_the_identity_is_left_alone() {
    for (status, error_code) in [(401, "PermissionDenied"), (403, "403")] {
        let (host, vm) = fleet(2, json!({}));
        let stream = get(&vm);
        respond(&stream, status, &error(error_code));
        vm.answer(&vm.call(), 200, [], "fine");
        assert_eq!(served_by(&vm, 4), [WEST; 4]);
        assert_eq!(counted(&host, "aoai.backend.east.state"), 3);
        assert_eq!(
            host.statistic("aoai.backend.east.cooldowns.misconfigured"),
            1
        );
        let loud = loud(&host);
        assert!(
            loud.len() == 1 && loud[0].contains("Cognitive Services OpenAI User"),
            "{loud:?}"
        );
    }
}

#[test]
fn one_that_serves_is_not_taken_out_by_what_the_role_does_not_include() {
    let (host, vm) = fleet(2, json!({}));
    let idle = host.vm(&fleet_config(2, json!({})));
    host.advance(millis(50));
    let ask_for_too_much = |vm: &Vm| {
        let stream = get(vm);
        respond(&stream, 401, &error("PermissionDenied"));
        vm.answer(&vm.call(), 401, [], error("PermissionDenied"));
        assert_eq!(stream.answer().status, 401);
    };
    served_by(&vm, 2);
    ask_for_too_much(&vm);
    assert_eq!(served_by(&vm, 2).len(), 2, "at once");
    // A worker that has served no one knows it too.
    ask_for_too_much(&idle);
    host.advance(seconds(30));
    ask_for_too_much(&idle);
    assert_eq!(
        counted(&host, "aoai.backend.east.cooldowns.misconfigured"),
        0
    );
    assert_quiet(&host);
    // But one that has not served for a while is taken at its word.
    host.advance(seconds(61));
    ask_for_too_much(&idle);
    assert_eq!(
        counted(&host, "aoai.backend.east.cooldowns.misconfigured"),
        1
    );
}

#[test]
fn cooldowns_stay_with_their_cluster_and_host() {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "60");
    let backend =
        |name, cluster, host| json!({"name": name, "cluster": cluster, "host": host, "weight": 3});
    let start = |backends: Value| {
        let vm = host.vm(&fleet_config(2, json!({"backends": backends})));
        host.advance(millis(50));
        vm
    };
    let same = start(json!([
        backend("renamed", EAST, "east.openai.azure.com"),
        backend("other", "aoai_other", "other.openai.azure.com"),
    ]));
    assert_eq!(served_by(&same, 3), ["aoai_other"; 3]);
    let moved = start(json!([backend("east", EAST, "east2.openai.azure.com")]));
    assert_eq!(served_by(&moved, 1), [EAST]);
}

#[test]
fn another_configuration_that_shares_a_backend_knows_within_a_tick() {
    let (host, vm) = fleet(3, json!({}));
    let other = host.vm(&fleet_config(2, json!({})));
    host.advance(millis(50));
    served_by(&other, 2);
    throttle_east(&vm, "60");
    host.advance(seconds(1));
    assert_eq!(served_by(&other, 3), [WEST; 3]);
}

#[test]
fn weights_priorities_and_quotas_count() {
    let backends = |fields: [Value; 3]| {
        let mut config: Value = serde_json::from_str(CONFIG).unwrap();
        for (backend, fields) in config["backends"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .zip(fields)
        {
            for (key, value) in fields.as_object().unwrap() {
                backend[key] = value.clone();
            }
        }
        config["backends"].clone()
    };
    let weights = backends([
        json!({"weight": 2}),
        json!({"weight": 1}),
        json!({"priority": 1}),
    ]);
    let (_host, vm) = fleet(3, json!({ "backends": weights }));
    assert_eq!(served_by(&vm, 6), [EAST, WEST, EAST, EAST, WEST, EAST]);

    let (_host, vm) = fleet(2, json!({"policy": "least_throttled"}));
    let answer_all = |requests: usize| {
        let to_east = (0..requests).filter(|_| {
            let stream = get(&vm);
            let east = routed_to(&stream) == EAST;
            let left = if east { "7000" } else { "1000" };
            stream.respond(200, [("x-ratelimit-remaining-tokens", left)], true);
            east
        });
        to_east.count()
    };
    answer_all(20);
    let to_east = answer_all(800);
    assert!(to_east.abs_diff(700) < 10, "{to_east}");
    let stream = get(&vm);
    stream.respond(200, [("x-ratelimit-remaining-tokens", "junk")], true);
    assert!(answer_all(80).abs_diff(70) < 5);
}

#[test]
fn junk_in_shared_data_is_overwritten() {
    let (host, vm) = fleet(2, json!({}));
    // The last one is a cooldown until the year 2 million.
    for junk in [&b""[..], b"\x01", b"\x02\x07\x07", &[0xff; 80], &[1; 43]] {
        for key in host.shared_keys() {
            if !key.contains(".token.") {
                host.set_shared(&key, junk);
            }
        }
        host.advance(seconds(400));
        assert_eq!(served_by(&vm, 4).len(), 4);
        throttle_next(&vm);
        assert_eq!(served_by(&vm, 4).len(), 4);
    }
}

/// A backend throttles, and the other one serves.
fn throttle_next(vm: &Vm) {
    let stream = get(vm);
    throttle(&stream, "1");
    vm.answer(&vm.call(), 200, [], "from another");
    assert_eq!(stream.answer().status, 200);
}

#[test]
fn without_shared_data_requests_are_served_all_the_same() {
    let (host, vm) = fleet(2, json!({}));
    throttle_east(&vm, "1");
    host.advance(seconds(1));
    host.inject(Fault::of("proxy_set_shared_data").status(status::CAS_MISMATCH));
    host.inject(Fault::of("proxy_get_shared_data"));
    for _ in 0..4 {
        let stream = get(&vm);
        respond(&stream, 500, "x");
        vm.answer(&vm.call(), 200, [], "fine");
        assert_eq!(stream.answer().status, 200);
    }
}

#[test]
fn a_cooldown_costs_a_request_one_host_call() {
    let (host, vm) = fleet(3, json!({}));
    // Their first answers write down that they serve.
    served_by(&vm, 3);
    let calls = || {
        host.clear_counts();
        served_by(&vm, 2);
        host_calls(&host)
    };
    let plain = calls();
    served_by(&vm, 1);
    throttle_east(&vm, "60");
    let mut cooling = calls();
    assert_eq!(
        cooling.remove("proxy_get_current_time_nanoseconds"),
        Some(2)
    );
    assert_eq!(cooling, plain);
}
