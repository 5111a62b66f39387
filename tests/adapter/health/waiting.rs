//! Requests that wait for a backend while all are unavailable.

use serde_json::json;

use super::*;

fn config(longest: &str) -> Value {
    json!({"cooldown": {"wait_timeout": longest}})
}

/// A worker whose only backend is throttled for two seconds and refused a trial. Requests may wait for `longest`.
fn throttled(engine: Engine, longest: &str) -> Gateway {
    let (gateway, trial) = with_trial(engine, longest);
    throttle(&trial.attempt(), "2");
    gateway
}

/// A worker whose only backend is throttled for two seconds, with a trial in progress.
fn with_trial(engine: Engine, longest: &str) -> (Gateway, Request) {
    let gateway = engine.fleet(1, config(longest));
    // The trial is as large as any request here.
    let request = gateway.request(chat_of(10), false);
    request.body("0123456789", true);
    throttle(&request.attempt(), "2");
    gateway.host.advance(millis(10));
    let trial = gateway.request(chat_of(10), false);
    trial.body("0123456789", true);
    assert!(trial.forwarded().is_some());
    (gateway, trial)
}

cases! {
    fn a_request_waits_for_a_backend_and_loses_nothing(engine) {
        for (pieces, complete) in [(1, true), (3, true), (3, false)] {
            let gateway = throttled(engine, "5s");
            let text = "0123456789".repeat(30);
            let request = gateway.request(chat_of(text.len()), false);
            let frames: Vec<_> = text.as_bytes().chunks(text.len() / pieces).collect();
            let held = if complete {
                frames.len()
            } else {
                frames.len() - 1
            };
            for (index, frame) in frames.iter().enumerate().take(held) {
                request.body(frame, index + 1 == frames.len());
            }
            gateway.host.advance(millis(1900));
            assert!(request.forwarded().is_none() && request.answered().is_none());
            gateway.host.advance(millis(200));
            for frame in frames.iter().skip(held) {
                request.body(frame, true);
            }
            let forwarded = request.forwarded().expect("the wait is over");
            assert_eq!(forwarded.body, text.as_bytes(), "{pieces} {complete}");
            answer(&request.attempt(), 200, "fine");
            assert_eq!(request.answer().status, 200);
        }
    }

    fn a_body_that_arrives_during_the_wait_is_kept(engine) {
        let gateway = throttled(engine, "5s");
        // The request has an unknown length, so it is not held until it is complete.
        let request = gateway.request(chat(), false);
        for frame in ["one ", "two ", "three "] {
            request.body(frame, false);
            assert!(request.forwarded().is_none());
        }
        gateway.host.advance(millis(2100));
        request.body("four", true);
        assert_eq!(request.forwarded().unwrap().body, b"one two three four");
        answer(&request.attempt(), 200, "fine");
        assert_eq!(request.answer().status, 200);
    }

    fn a_wait_that_is_too_long_or_an_upgrade_is_refused_at_once(engine) {
        let gateway = throttled(engine, "1s");
        assert_eq!(refused(&gateway.send()).0, 429);

        let gateway = engine.fleet(1, json!({"cooldown": {"wait_timeout": "5s"}}));
        let realtime = || {
            let headers = [
                (":method", "GET"),
                (":authority", "gateway.internal"),
                (":path", "/openai/realtime?deployment=gpt-4o"),
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
            ];
            gateway.request(headers, true)
        };
        throttle(&realtime().attempt(), "2");
        let _trial = realtime();
        assert_eq!(refused(&realtime()).0, 429);
    }

    fn waiting_requests_are_sent_when_the_wait_is_over(engine) {
        let gateway = throttled(engine, "3s");
        let waiting: Vec<_> = (0..5).map(|_| gateway.send()).collect();
        gateway.host.advance(millis(1900));
        assert!(waiting.iter().all(|request| request.forwarded().is_none()));
        gateway.host.advance(millis(200));
        for request in &waiting {
            assert!(request.forwarded().is_some(), "nobody else is free");
            answer(&request.attempt(), 200, "fine");
        }
    }

    fn no_request_waits_beyond_the_configured_time(engine) {
        let gateway = throttled(engine, "3s");
        let waiting: Vec<_> = (0..5).map(|_| gateway.send()).collect();
        gateway.host.advance(millis(1500));
        let trial = gateway.send();
        throttle(&trial.attempt(), "2");
        assert_eq!(trial.answer().status, 429);
        // Two more seconds would be too long.
        gateway.host.advance(millis(600));
        for request in &waiting {
            assert_eq!(refused(request).0, 429);
        }
    }

    fn a_served_trial_resumes_waiting_requests_on_all_workers(engine) {
        let (gateway, trial) = with_trial(engine, "5s");
        let other = engine.beside(&gateway, 1, config("5s"));
        let waiting: Vec<_> = [&gateway, &other]
            .map(|worker| (0..3).map(|_| worker.send()))
            .into_iter()
            .flatten()
            .collect();
        gateway.host.advance(millis(30));
        assert!(waiting.iter().all(|request| request.forwarded().is_none()));
        answer(&trial.attempt(), 200, "fine");
        gateway.host.advance(millis(20));
        for request in &waiting {
            assert!(
                request.forwarded().is_some(),
                "long before the wait is over"
            );
            answer(&request.attempt(), 200, "fine");
        }
    }

    fn a_trial_that_is_not_refused_resumes_waiting_requests(engine) {
        let (gateway, _trial) = with_trial(engine, "5s");
        let waiting = gateway.send();
        gateway.host.advance(millis(450));
        assert!(waiting.forwarded().is_none());
        gateway.host.advance(millis(100));
        assert!(waiting.forwarded().is_some());
    }

    fn waiting_requests_make_no_trial(engine) {
        let gateway = throttled(engine, "5s");
        let waiting: Vec<_> = (0..5).map(|_| gateway.send()).collect();
        gateway.host.advance(millis(1900));
        assert!(waiting.iter().all(|request| request.forwarded().is_none()));
        assert_eq!(gateway.counted("aoai.backend.east.trials"), 1);
    }

    fn a_client_that_leaves_while_it_waits_is_forgotten(engine) {
        let gateway = throttled(engine, "5s");
        gateway.send().disconnect();
        gateway.host.advance(seconds(3));
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 1);
        assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 2);
        assert_eq!(gateway.served_by(1), [EAST]);
    }
}
