//! Failures of backends: which of them count, and what happens when every breaker is open.

use serde_json::json;

use super::*;

/// A worker whose backends' breakers are all open.
fn all_failing(count: usize) -> (Host, Vm) {
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}, "retry": {"max_attempts": 1}});
    let (host, vm) = fleet(count, rules);
    for _ in 0..count {
        respond(&get(&vm), 500, "x");
    }
    (host, vm)
}

#[test]
fn when_all_are_failing_open_breakers_are_ignored() {
    let (host, vm) = all_failing(2);
    for _ in 0..3 {
        let streams: Vec<_> = (0..2).map(|_| get(&vm)).collect();
        let clusters: Vec<_> = streams.iter().map(routed_to).collect();
        assert_eq!(clusters, [EAST, WEST], "in their order");
        for stream in streams {
            respond(&stream, 500, "the real answer");
            assert_eq!(stream.answer().text(), "the real answer");
        }
        host.advance(seconds(1));
    }
    assert_eq!(counted(&host, "aoai.backend.east.panic"), 3);
    assert_eq!(host.statistic("aoai.refused.unavailable"), 0);
    assert_eq!(host.statistic("aoai.backend.east.state"), 2);
    assert_eq!(host.statistic("aoai.backend.east.cooldowns.failing"), 1);
    assert!(host.statistic("aoai.backend.east.cooldown_seconds") > 40);
}

#[test]
fn a_failing_backend_that_answers_recovers_at_once() {
    let (host, vm) = all_failing(1);
    host.advance(millis(10));
    respond(&get(&vm), 200, "fine");
    assert_eq!(counted(&host, "aoai.backend.east.state"), 4);
    let streams: Vec<_> = (0..3).map(|_| get(&vm)).collect();
    for stream in &streams {
        respond(stream, 200, "fine");
    }
    assert_eq!(counted(&host, "aoai.backend.east.state"), 0);
    assert_eq!(host.statistic("aoai.backend.east.panic"), 1);
    assert_eq!(host.statistic("aoai.backend.east.probes"), 3);
}

#[test]
fn a_request_that_fails_everywhere_counts_against_one_backend() {
    let mut backends: Value = serde_json::from_str(CONFIG).unwrap();
    backends["backends"][1]["priority"] = json!(1);
    backends["backends"][2]["priority"] = json!(2);
    let (host, vm) = fleet(3, json!({"backends": backends["backends"]}));
    for _ in 0..5 {
        let stream = get(&vm);
        assert_eq!(routed_to(&stream), EAST);
        respond(&stream, 500, "x");
        for cluster in [WEST, NORTH] {
            let call = vm.call();
            assert_eq!(call.cluster, cluster);
            vm.answer(&call, 500, [], "x");
        }
        assert_eq!(stream.answer().status, 500);
    }
    assert_eq!(served_by(&vm, 4), [WEST; 4]);
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.failing"), 1);
    for other in ["west", "north"] {
        let counter = |name| host.statistic(&format!("aoai.backend.{other}.{name}"));
        assert_eq!(counter("outcome.unavailable"), 5);
        assert_eq!(counter("cooldowns.failing"), 0);
    }
}

#[test]
fn a_request_that_is_refused_everywhere_throttles_one_backend() {
    let (host, vm) = fleet(3, json!({}));
    let stream = get(&vm);
    throttle(&stream, "60");
    vm.answer(&vm.call(), 429, [("retry-after", "60")], "");
    vm.answer(&vm.call(), 429, [("retry-after", "60")], "");
    assert_eq!(stream.answer().status, 429);
    let served = served_by(&vm, 20);
    assert!(!served.contains(&EAST.to_owned()), "{served:?}");
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.throttled"), 1);
    assert_eq!(host.statistic("aoai.backend.west.cooldowns.throttled"), 0);
    assert_eq!(host.statistic("aoai.refused.throttled"), 0);
}

#[test]
fn of_those_that_advise_to_wait_the_first_to_be_free_is_asked() {
    let (host, vm) = fleet(3, json!({}));
    let stream = get(&vm);
    throttle(&stream, "60");
    vm.answer(&vm.call(), 429, [("retry-after", "40")], "");
    vm.answer(&vm.call(), 429, [("retry-after", "20")], "");
    drop(stream);
    for _ in 0..3 {
        let stream = get(&vm);
        assert_eq!(routed_to(&stream), NORTH);
        stream.disconnect();
    }
    assert_eq!(counted(&host, "aoai.backend.north.soft"), 3);
    host.advance(seconds(19));
    assert_eq!(served_by(&vm, 4), [NORTH; 4], "it is free");
    assert_eq!(counted(&host, "aoai.backend.north.soft"), 3);
    host.advance(seconds(20));
    let served = served_by(&vm, 4);
    assert!(served.contains(&WEST.to_owned()), "free too: {served:?}");
}

#[test]
fn advice_to_wait_goes_before_a_failing_backend() {
    // Of one request a failure and a 429 count in full, so the second 429 is advice.
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}});
    let (host, vm) = fleet(3, rules);
    let stream = get(&vm);
    respond(&stream, 500, "x");
    vm.answer(&vm.call(), 429, [("retry-after", "60")], "");
    vm.answer(&vm.call(), 429, [("retry-after", "60")], "");
    drop(stream);
    assert_eq!(routed_to(&get(&vm)), NORTH);
    // A failing one goes before a trial.
    let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "60s"}});
    let (other, vm) = fleet(2, rules);
    let stream = get(&vm);
    respond(&stream, 500, "x");
    vm.answer(&vm.call(), 429, [("retry-after", "60")], "");
    drop(stream);
    for _ in 0..3 {
        let stream = get(&vm);
        assert_eq!(routed_to(&stream), EAST);
        stream.disconnect();
    }
    assert_eq!(counted(&other, "aoai.backend.east.panic"), 3);
    assert_eq!(other.statistic("aoai.backend.west.trials"), 0);
    assert_eq!(counted(&host, "aoai.backend.north.soft"), 1);
}

#[test]
fn a_backend_that_refuses_two_new_tokens_is_misconfigured() {
    let (host, vm) = fleet(2, json!({}));
    let first = get(&vm);
    respond(&first, 401, &error("401"));
    host.advance(millis(5));
    give_token(&vm, SECOND_TOKEN);
    vm.answer(&vm.call(), 401, [], error("401"));
    vm.answer(&vm.call(), 200, [], "fine");
    assert_eq!(first.answer().status, 200);
    // The token of the next request is new already, and no newer one is fetched.
    let second = loop {
        let stream = get(&vm);
        if routed_to(&stream) == EAST {
            break stream;
        }
        respond(&stream, 200, "fine");
    };
    respond(&second, 401, &error("401"));
    vm.answer(&vm.call(), 200, [], "fine");
    assert_eq!(second.answer().status, 200);
    assert_eq!(served_by(&vm, 10), [WEST; 10]);
    assert_eq!(counted(&host, "aoai.backend.east.state"), 3);
    assert_eq!(
        host.statistic("aoai.backend.east.cooldowns.misconfigured"),
        1
    );
    assert_eq!(host.statistic("aoai.identity.fetches"), 2);
    assert_eq!(loud(&host).len(), 1);
}

#[test]
fn the_log_tells_a_refused_new_token_from_a_missing_role() {
    let (host, vm) = fleet(1, json!({}));
    for token in [SECOND_TOKEN, TOKEN] {
        let stream = get(&vm);
        respond(&stream, 401, &error("401"));
        host.advance(millis(5));
        give_token(&vm, token);
        vm.answer(&vm.call(), 401, [], error("401"));
        assert_eq!(stream.answer().status, 401);
        // Then a token is renewed for a refusal again.
        host.advance(seconds(40));
    }
    let lines = host.logged(mock_host::LogLevel::Error);
    assert!(
        matches!(&lines[..], [line] if line.starts_with("backend east: refuses a token that was just renewed (401)")),
        "{lines:?}"
    );
}

#[test]
fn an_old_token_that_is_not_renewed_says_nothing_of_a_backend() {
    let (host, vm) = fleet(2, json!({}));
    for _ in 0..4 {
        let stream = get(&vm);
        if routed_to(&stream) == WEST {
            respond(&stream, 200, "fine");
            continue;
        }
        respond(&stream, 401, &error("401"));
        host.advance(millis(5));
        // The token service is down.
        for fetch in fetches(&vm) {
            vm.answer(&fetch, 500, [], "");
        }
        host.advance(millis(25));
        vm.answer(&vm.call(), 200, [], "fine");
        assert_eq!(stream.answer().status, 200);
    }
    assert_eq!(
        counted(&host, "aoai.backend.east.cooldowns.misconfigured"),
        0
    );
}

#[test]
fn during_a_token_outage_the_log_claims_no_new_token() {
    let (host, vm) = fleet(2, json!({}));
    for _ in 0..4 {
        let stream = get(&vm);
        respond(&stream, 401, &error("401"));
        host.advance(millis(5));
        // The token service is down.
        for fetch in fetches(&vm) {
            vm.answer(&fetch, 500, [], "");
        }
        host.advance(millis(25));
        let second = vm.calls().into_iter().find(|call| call.cluster != "imds");
        if let Some(second) = second {
            vm.answer(&second, 401, [], error("401"));
        }
        assert_eq!(stream.answer().status, 401);
        host.advance(seconds(2));
    }
    let lines = host.logged(mock_host::LogLevel::Error);
    let of_tokens = lines.iter().filter(|line| line.contains("(401)"));
    let of_tokens: Vec<_> = of_tokens.collect();
    assert!(!of_tokens.is_empty(), "{lines:?}");
    for line in of_tokens {
        assert!(line.contains("there is no newer one yet"), "{line}");
    }
}
