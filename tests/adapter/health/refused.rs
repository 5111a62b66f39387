//! Requests while every backend is unavailable: one trial a second tests whether that is still true, and the others are
//! refused.

use serde_json::json;

use super::*;

/// A worker whose backends answered 429 with these waits, each to a request of its own. Also the last of these
/// requests.
fn all_throttled(engine: Engine, waits: &[&str]) -> (Gateway, Request) {
    let gateway = engine.fleet(waits.len(), json!({"retry": {"max_attempts": 1}}));
    let mut last = None;
    for wait in waits {
        let request = last.insert(gateway.get());
        throttle(&request.attempt(), wait);
    }
    // An attempt that begins in the same millisecond may have begun before the 429.
    gateway.host.advance(millis(10));
    (gateway, last.unwrap())
}

/// Sends this many requests at once. Returns those that were sent on, and the others.
fn sent_of(gateway: &Gateway, requests: usize) -> (Vec<Request>, Vec<Request>) {
    let requests = (0..requests).map(|_| gateway.get());
    requests.partition(|request| request.forwarded().is_some())
}

cases! {
    fn if_all_are_throttled_the_shortest_wait_is_sent(engine) {
        let (gateway, last) = all_throttled(engine, &["60", "20", "90"]);
        let answer = last.answer();
        let header = |name: &str| answer.headers.get(name).map(str::to_owned);
        assert_eq!(header("retry-after").as_deref(), Some("20"), "of all three");
        assert_eq!(header("retry-after-ms").as_deref(), Some("20000"));
        gateway.host.advance(millis(1490));
        let (trials, rest) = sent_of(&gateway, 10);
        assert_eq!(
            trials
                .iter()
                .map(|trial| trial.attempt().cluster())
                .collect::<Vec<_>>(),
            [EAST, WEST, NORTH],
            "one each"
        );
        assert_eq!(rest.len(), 7);
        for request in &rest {
            assert_eq!(
                refused(request),
                (429, "18500".into(), "all_backends_throttled".into())
            );
            assert_eq!(request.answer().headers.get("retry-after"), Some("19"));
        }
        assert!(rest.iter().all(|request| request.attempts().is_empty()));
        drop(rest);
        assert_eq!(gateway.counted("aoai.refused.throttled"), 7);
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
        assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 2);
        assert_eq!(gateway.host.statistic("aoai.backend.east.trials"), 1);
        assert_eq!(gateway.host.statistic("aoai.requests"), 13);
    }

    fn trials_are_made_less_often_while_they_are_refused(engine) {
        let (gateway, _) = all_throttled(engine, &["60"]);
        let mut at = Vec::new();
        for tenth in 0..300 {
            let (trials, rest) = sent_of(&gateway, 3);
            assert_eq!(trials.len() + rest.len(), 3);
            for trial in &trials {
                throttle(&trial.attempt(), "60");
                at.push(tenth);
            }
            for request in &rest {
                assert_eq!(refused(request).0, 429);
            }
            gateway.host.advance(millis(100));
        }
        // A random part of up to half is added to each pause.
        let pauses = at.windows(2).map(|pair| pair[1] - pair[0]);
        for (pause, least) in pauses.zip([10, 10, 10, 20, 40, 80, 80]) {
            assert!((least..=least * 3 / 2 + 1).contains(&pause), "{at:?}");
        }
        assert!((7..=8).contains(&at.len()), "{at:?}");
        assert_eq!(gateway.counted("aoai.backend.east.trials"), at.len() as u64);
        assert_eq!(
            gateway
                .host
                .statistic("aoai.backend.east.cooldowns.throttled"),
            1
        );
    }

    fn all_workers_together_make_one_trial_a_second(engine) {
        let (gateway, _) = all_throttled(engine, &["60"]);
        let once = json!({"retry": {"max_attempts": 1}});
        let others: Vec<_> = (0..3)
            .map(|_| engine.beside(&gateway, 1, once.clone()))
            .collect();
        for _ in 0..2 {
            let trials = others
                .iter()
                .chain([&gateway])
                .flat_map(|worker| sent_of(worker, 3).0);
            let trials: Vec<_> = trials.collect();
            assert_eq!(trials.len(), 1);
            trials
                .iter()
                .for_each(|trial| throttle(&trial.attempt(), "60"));
            gateway.host.advance(millis(1500));
        }
    }

    fn a_trial_that_is_served_opens_the_quota_for_all(engine) {
        let (gateway, _) = all_throttled(engine, &["60"]);
        let other = engine.beside(&gateway, 1, json!({"retry": {"max_attempts": 1}}));
        answer(&gateway.get().attempt(), 200, "fine");
        for worker in [&gateway, &other] {
            let (sent, rest) = sent_of(worker, 10);
            assert!(rest.is_empty());
            for request in sent {
                answer(&request.attempt(), 200, "fine");
            }
        }
        assert_eq!(gateway.counted("aoai.backend.east.state"), 0);
        assert_eq!(gateway.host.statistic("aoai.backend.east.probes"), 0);
        let log = gateway.host.logged(mock_host::LogLevel::Info);
        let open = log.iter().filter(|line| {
            line.contains(
                "backend east: served everything without a deployment during the wait it requested",
            )
        });
        assert_eq!(open.count(), 1, "{log:?}");
    }

    fn for_a_minute_after_a_served_trial_waits_are_advice(engine) {
        let (gateway, _) = all_throttled(engine, &["60"]);
        answer(&gateway.get().attempt(), 200, "fine");
        let throttle_again = || {
            gateway.host.advance(seconds(2));
            throttle(&gateway.get().attempt(), "60");
            sent_of(&gateway, 5).0
        };
        let sent = throttle_again();
        assert_eq!(sent.len(), 5, "it is asked all the same");
        answer(&sent[0].attempt(), 200, "fine");
        assert_eq!(gateway.counted("aoai.backend.east.soft"), 5);
        assert_eq!(
            gateway
                .host
                .statistic("aoai.backend.east.cooldowns.throttled"),
            1
        );
        gateway.host.advance(seconds(61));
        assert_eq!(throttle_again().len(), 1, "the trial");
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.throttled"), 2);
    }

    fn advice_that_is_confirmed_often_is_believed_for_a_second(engine) {
        let (gateway, _) = all_throttled(engine, &["60"]);
        answer(&gateway.get().attempt(), 200, "fine");
        let mut confirmed = 0;
        loop {
            gateway.host.advance(millis(10));
            let request = gateway.get();
            if request.forwarded().is_none() {
                break;
            }
            throttle(&request.attempt(), "60");
            confirmed += 1;
            assert!(confirmed < 20);
        }
        assert!(confirmed >= 5, "{confirmed}");
        // No trial is due either: the last one was less than a second ago.
        let (sent, rest) = sent_of(&gateway, 5);
        assert_eq!((sent.len(), rest.len()), (0, 5));
        assert_eq!(refused(&rest[0]).1, "990");
        gateway.host.advance(seconds(1));
        assert_eq!(sent_of(&gateway, 5).0.len(), 5);
    }

    fn only_attempts_that_began_after_a_429_contradict_it(engine) {
        let gateway = engine.fleet(1, json!({}));
        let (early, late) = (gateway.get(), gateway.get());
        gateway.host.advance(millis(10));
        throttle(&late.attempt(), "60");
        let _trial = gateway.get();
        gateway.host.advance(millis(10));
        answer(&early.attempt(), 200, "fine");
        assert_eq!(refused(&gateway.get()).0, 429);
    }

    fn a_429_binds_no_much_smaller_request(engine) {
        let chat_of_size = |gateway: &Gateway, size: usize| {
            let request = gateway.request(chat_of(size), false);
            request.body("x".repeat(size), true);
            request
        };
        let gateway = engine.fleet(1, json!({}));
        throttle(&chat_of_size(&gateway, 10_000).attempt(), "30");
        gateway.host.advance(millis(10));
        let _trial = chat_of_size(&gateway, 10_000);
        assert_eq!(refused(&chat_of_size(&gateway, 5_000)).0, 429);
        let small = chat_of_size(&gateway, 4_999);
        assert!(small.forwarded().is_some());
        answer(&small.attempt(), 200, "fine");
        assert_eq!(
            refused(&chat_of_size(&gateway, 10_000)).0,
            429,
            "not larger ones"
        );
        assert_eq!(gateway.counted("aoai.backend.east.soft"), 1);
    }

    fn if_all_are_misconfigured_requests_get_503_except_trials(engine) {
        let gateway = engine.fleet(1, json!({}));
        answer(&gateway.get().attempt(), 403, &error("403"));
        for _ in 0..3 {
            let (trials, rest) = sent_of(&gateway, 5);
            assert_eq!((trials.len(), rest.len()), (1, 4));
            let (status, _, code) = refused(&rest[0]);
            assert_eq!((status, code.as_str()), (503, "all_backends_unavailable"));
            answer(&trials[0].attempt(), 403, &error("403"));
            assert_eq!(trials[0].answer().status, 403, "the real answer");
            drop((trials, rest));
            gateway.host.advance(millis(1500));
        }
        assert_eq!(gateway.counted("aoai.refused.unavailable"), 12);
        assert_eq!(gateway.host.statistic("aoai.backend.east.state"), 3);
        // The role is assigned.
        gateway.host.advance(millis(1500));
        answer(&gateway.get().attempt(), 200, "fine");
        assert_eq!(sent_of(&gateway, 5).0.len(), 5, "at once");
    }

    fn a_request_that_all_refuse_gets_the_shortest_wait(engine) {
        let gateway = engine.fleet(2, json!({}));
        let request = gateway.send();
        throttle(&request.attempt(), "20");
        throttle(&request.attempt(), "30");
        let last = request.answer();
        assert_eq!(last.headers.get("retry-after"), Some("20"), "of both");
        gateway.host.advance(millis(10));
        // The second backend's wait was advice until it refused a request of its own.
        let request = gateway.send();
        assert_eq!(request.attempt().cluster(), WEST);
        throttle(&request.attempt(), "30");
        assert_eq!(request.attempt().cluster(), EAST, "a trial");
        throttle(&request.attempt(), "20");
        assert_eq!(request.answer().headers.get("retry-after"), Some("20"));
        let _trial = gateway.send();
        for _ in 0..3 {
            let request = gateway.send();
            let answer = request.answer();
            assert_eq!(
                (answer.status, code(answer.text()).as_str()),
                (429, "all_backends_throttled")
            );
            assert_eq!(answer.headers.get("retry-after-ms"), Some("19990"));
            assert!(request.forwarded().is_none());
        }
        assert_eq!(gateway.counted("aoai.refused.throttled"), 3);
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
        let trials = ["east", "west"].map(|name| {
            let counter = format!("aoai.backend.{name}.trials");
            gateway.host.statistic(&counter)
        });
        assert_eq!(trials, [1, 1]);
    }
}
