//! A request for which every backend is unavailable: a trial a second finds out whether that is still true, the others are refused.

use serde_json::json;

use super::*;

/// A worker whose backends answered 429 with these waits, each to a request of its own, and the last answer.
fn all_throttled(waits: &[&str]) -> (Host, Vm, Stream) {
    let (host, vm) = fleet(waits.len(), json!({"retry": {"max_attempts": 1}}));
    let mut last = None;
    for wait in waits {
        let stream = last.insert(get(&vm));
        throttle(stream, wait);
    }
    // What begins in the same millisecond may have begun before.
    host.advance(millis(10));
    (host, vm, last.unwrap())
}

/// Which of so many requests at once go out.
fn sent_of(vm: &Vm, requests: usize) -> (Vec<Stream>, Vec<Stream>) {
    let streams = (0..requests).map(|_| get(vm));
    streams.partition(|stream| stream.forwarded().is_some())
}

#[test]
fn when_all_are_throttled_the_smallest_wait_is_sent() {
    let (host, vm, last) = all_throttled(&["60", "20", "90"]);
    let answer = last.answer();
    let header = |name: &str| answer.headers.get(name).map(str::to_owned);
    assert_eq!(header("retry-after").as_deref(), Some("20"), "of all three");
    assert_eq!(header("retry-after-ms").as_deref(), Some("20000"));
    host.advance(millis(1490));
    let (trials, rest) = sent_of(&vm, 10);
    assert_eq!(
        trials.iter().map(routed_to).collect::<Vec<_>>(),
        [EAST, WEST, NORTH],
        "one each"
    );
    assert_eq!(rest.len(), 7);
    for stream in &rest {
        assert_eq!(
            refused(stream),
            (429, "18500".into(), "all_backends_throttled".into())
        );
        assert_eq!(stream.answer().headers.get("retry-after"), Some("19"));
    }
    assert!(vm.calls().is_empty());
    drop(rest);
    assert_eq!(counted(&host, "aoai.refused.throttled"), 7);
    assert_eq!(host.statistic("aoai.client_gone"), 0);
    assert_eq!(host.statistic("aoai.backend.east.attempts"), 2);
    assert_eq!(host.statistic("aoai.backend.east.trials"), 1);
    assert_eq!(host.statistic("aoai.requests"), 13);
}

#[test]
fn trials_are_made_less_often_while_they_are_refused() {
    let (host, vm, _) = all_throttled(&["60"]);
    let mut at = Vec::new();
    for tenth in 0..300 {
        let (trials, rest) = sent_of(&vm, 3);
        assert_eq!(trials.len() + rest.len(), 3);
        for trial in &trials {
            throttle(trial, "60");
            at.push(tenth);
        }
        for stream in &rest {
            assert_eq!(refused(stream).0, 429);
        }
        host.advance(millis(100));
    }
    // Each pause is up to half as long again, at random.
    let pauses = at.windows(2).map(|pair| pair[1] - pair[0]);
    for (pause, least) in pauses.zip([10, 10, 10, 20, 40, 80, 80]) {
        assert!((least..=least * 3 / 2 + 1).contains(&pause), "{at:?}");
    }
    assert!((7..=8).contains(&at.len()), "{at:?}");
    assert_eq!(counted(&host, "aoai.backend.east.trials"), at.len() as u64);
    assert_eq!(host.statistic("aoai.backend.east.cooldowns.throttled"), 1);
}

#[test]
fn all_workers_together_make_one_trial_a_second() {
    let (host, vm, _) = all_throttled(&["60"]);
    let config = fleet_config(1, json!({"retry": {"max_attempts": 1}}));
    let others: Vec<Vm> = (0..3).map(|_| host.vm(&config)).collect();
    host.advance(millis(50));
    for _ in 0..2 {
        let trials = others.iter().chain([&vm]).flat_map(|vm| sent_of(vm, 3).0);
        let trials: Vec<_> = trials.collect();
        assert_eq!(trials.len(), 1);
        trials.iter().for_each(|trial| throttle(trial, "60"));
        host.advance(millis(1500));
    }
}

#[test]
fn a_trial_that_is_served_opens_the_quota_for_all() {
    let (host, vm, _) = all_throttled(&["60"]);
    let other = host.vm(&fleet_config(1, json!({"retry": {"max_attempts": 1}})));
    host.advance(millis(50));
    respond(&get(&vm), 200, "fine");
    for vm in [&vm, &other] {
        let (sent, rest) = sent_of(vm, 10);
        assert!(rest.is_empty());
        for stream in sent {
            respond(&stream, 200, "fine");
        }
    }
    assert_eq!(counted(&host, "aoai.backend.east.state"), 0);
    assert_eq!(host.statistic("aoai.backend.east.probes"), 0);
    let said = host.logged(mock_host::LogLevel::Info);
    let open = said.iter().filter(|line| {
        line.contains(
            "backend east: serves everything without a deployment although it had asked to wait",
        )
    });
    assert_eq!(open.count(), 1, "{said:?}");
}

#[test]
fn for_a_minute_after_a_served_trial_waits_are_advice() {
    let (host, vm, _) = all_throttled(&["60"]);
    respond(&get(&vm), 200, "fine");
    let throttle_again = || {
        host.advance(seconds(2));
        throttle(&get(&vm), "60");
        sent_of(&vm, 5).0
    };
    let sent = throttle_again();
    assert_eq!(sent.len(), 5, "it is asked all the same");
    respond(&sent[0], 200, "fine");
    assert_eq!(counted(&host, "aoai.backend.east.soft"), 5);
    assert_eq!(host.statistic("aoai.backend.east.cooldowns.throttled"), 1);
    host.advance(seconds(61));
    assert_eq!(throttle_again().len(), 1, "the trial");
    assert_eq!(counted(&host, "aoai.backend.east.cooldowns.throttled"), 2);
}

#[test]
fn advice_that_is_confirmed_often_is_believed_for_a_second() {
    let (host, vm, _) = all_throttled(&["60"]);
    respond(&get(&vm), 200, "fine");
    let mut confirmed = 0;
    loop {
        host.advance(millis(10));
        let stream = get(&vm);
        if stream.forwarded().is_none() {
            break;
        }
        throttle(&stream, "60");
        confirmed += 1;
        assert!(confirmed < 20);
    }
    assert!(confirmed >= 5, "{confirmed}");
    // Nor is a trial due: the last one was less than a second ago.
    let (sent, rest) = sent_of(&vm, 5);
    assert_eq!((sent.len(), rest.len()), (0, 5));
    assert_eq!(refused(&rest[0]).1, "990");
    host.advance(seconds(1));
    assert_eq!(sent_of(&vm, 5).0.len(), 5);
}

#[test]
fn only_attempts_that_began_after_a_429_contradict_it() {
    let (host, vm) = fleet(1, json!({}));
    let (early, late) = (get(&vm), get(&vm));
    host.advance(millis(10));
    throttle(&late, "60");
    let _trial = get(&vm);
    host.advance(millis(10));
    respond(&early, 200, "fine");
    assert_eq!(refused(&get(&vm)).0, 429);
}

#[test]
fn a_429_binds_no_much_smaller_request() {
    let chat_of_size = |vm: &Vm, size: usize| {
        let stream = vm.request(chat_of(size), false);
        stream.body("x".repeat(size), true);
        stream
    };
    let (host, vm) = fleet(1, json!({}));
    throttle(&chat_of_size(&vm, 10_000), "30");
    host.advance(millis(10));
    let _trial = chat_of_size(&vm, 10_000);
    assert_eq!(refused(&chat_of_size(&vm, 5_000)).0, 429);
    let small = chat_of_size(&vm, 4_999);
    assert!(small.forwarded().is_some());
    respond(&small, 200, "fine");
    assert_eq!(
        refused(&chat_of_size(&vm, 10_000)).0,
        429,
        "not larger ones"
    );
    assert_eq!(counted(&host, "aoai.backend.east.soft"), 1);
}

#[test]
fn when_all_are_misconfigured_it_is_503_but_for_trials() {
    let (host, vm) = fleet(1, json!({}));
    respond(&get(&vm), 403, &error("403"));
    for _ in 0..3 {
        let (trials, rest) = sent_of(&vm, 5);
        assert_eq!((trials.len(), rest.len()), (1, 4));
        let (status, _, code) = refused(&rest[0]);
        assert_eq!((status, code.as_str()), (503, "all_backends_unavailable"));
        respond(&trials[0], 403, &error("403"));
        assert_eq!(trials[0].answer().status, 403, "the real answer");
        drop((trials, rest));
        host.advance(millis(1500));
    }
    assert_eq!(counted(&host, "aoai.refused.unavailable"), 12);
    assert_eq!(host.statistic("aoai.backend.east.state"), 3);
    // The role is given.
    host.advance(millis(1500));
    respond(&get(&vm), 200, "fine");
    assert_eq!(sent_of(&vm, 5).0.len(), 5, "at once");
}
