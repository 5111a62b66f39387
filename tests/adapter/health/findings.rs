//! What answers say about their backends, and what people are told of it.

use serde_json::{json, Value};

use super::*;
use crate::adapter::budget::host_calls;

#[test]
fn successes_count_for_the_share_of_failures() {
    let (host, vm) = fleet(1, json!({"retry": {"max_attempts": 1}}));
    let cooldowns_if_one_fails_in = |n: usize| {
        for index in 0..60 {
            respond(&get(&vm), if index % n == 0 { 500 } else { 200 }, "x");
        }
        counted(&host, "aoai.backend.east.cooldowns.failing")
    };
    assert_eq!(cooldowns_if_one_fails_in(3), 0);
    host.advance(seconds(20));
    assert_eq!(cooldowns_if_one_fails_in(2), 1);
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
    host.advance(seconds(2));
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
fn a_client_that_is_too_slow_is_no_failure_of_the_backend() {
    let (host, vm) = fleet(1, json!({}));
    for _ in 0..5 {
        // Of unknown length, so it goes on at once; then the client stalls, and the listener's own limit ends the stream.
        let stream = vm.request(chat(), false);
        stream.body("the beginning", false);
        stream.respond_locally(408, "stream_idle_timeout");
        assert_eq!(stream.answer().status, 408);
    }
    assert_eq!(served_by(&vm, 1), [EAST]);
    assert_eq!(counted(&host, "aoai.backend.east.outcome.unavailable"), 0);
}
