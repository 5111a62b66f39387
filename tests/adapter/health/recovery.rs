//! A backend whose cooldown is over: it gets few requests while another one is free, and all requests if none is.

use mock_host::Fault;
use serde_json::{json, Value};

use super::*;
use crate::adapter::budget::host_calls;

/// A worker whose first of two backends recovers from a failure.
pub(in crate::adapter) fn recovering(engine: Engine, more: Value) -> Gateway {
    let mut rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
    for (key, value) in more.as_object().unwrap() {
        rules[key] = value.clone();
    }
    let gateway = engine.fleet(2, rules);
    let request = gateway.get();
    assert_eq!(request.attempt().cluster(), EAST);
    answer(&request.attempt(), 500, "x");
    if let [_, second] = &request.attempts()[..] {
        answer(second, 200, "fine");
    }
    gateway.host.advance(seconds(3));
    gateway
}

/// A worker whose first of two backends recovers from a 429.
fn recovering_quota(engine: Engine) -> Gateway {
    let gateway = engine.fleet(2, json!({}));
    gateway.throttle_east("2");
    gateway.host.advance(seconds(2));
    gateway
}

/// An attempt that the first backend admits.
fn admitted(gateway: &Gateway) -> Request {
    for _ in 0..2 {
        let request = gateway.get();
        if request.attempt().cluster() == EAST {
            return request;
        }
        answer(&request.attempt(), 200, "fine");
    }
    panic!("the first backend admits nothing");
}

/// The requests, among this many at once, that go to the first backend. The second backend answers the others.
fn to_east(gateway: &Gateway, requests: usize) -> Vec<Request> {
    let requests: Vec<_> = (0..requests).map(|_| gateway.get()).collect();
    let (east, west): (Vec<_>, Vec<_>) = requests
        .into_iter()
        .partition(|request| request.attempt().cluster() == EAST);
    for request in west {
        assert_eq!(request.attempt().cluster(), WEST);
        answer(&request.attempt(), 200, "fine");
    }
    east
}

/// The number of further attempts that the first backend admits now. They end without an outcome.
pub(in crate::adapter) fn admits(gateway: &Gateway) -> usize {
    let requests = to_east(gateway, 20);
    let count = requests.len();
    requests.into_iter().for_each(Request::disconnect);
    count
}

cases! {
    fn a_recovering_backend_gets_one_two_four_eight_at_a_time(engine) {
        for gateway in [recovering_quota(engine), recovering(engine, json!({}))] {
            for limit in [1, 2, 4, 8] {
                let mut requests = to_east(&gateway, 20);
                assert_eq!(requests.len(), limit);
                assert_eq!(admits(&gateway), 0, "while they are under way");
                // One success doubles the number. Attempts without an outcome only free their places.
                let last = requests.pop().unwrap();
                requests.into_iter().for_each(Request::disconnect);
                answer(&last.attempt(), 200, "fine");
            }
            assert_eq!(to_east(&gateway, 20).len(), 10, "its share");
            assert_eq!(gateway.counted("aoai.backend.east.probes"), 15);
            let log = gateway.host.logged(mock_host::LogLevel::Info);
            let back = log.iter().filter(|line| {
                line.starts_with("backend east: serves ") && line.contains(" again")
            });
            assert_eq!(back.count(), 1, "{log:?}");
        }
    }

    fn a_throttled_backend_gets_nothing_until_its_wait_is_over(engine) {
        let gateway = engine.fleet(2, json!({}));
        gateway.throttle_east("7");
        gateway.host.advance(millis(6900));
        assert_eq!(gateway.served_by(10), [WEST; 10]);
        gateway.host.advance(millis(100));
        assert_eq!(admits(&gateway), 1);
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.throttled"), 1);
        let log = gateway.host.logged(mock_host::LogLevel::Info);
        let log: Vec<_> = log
            .iter()
            .filter(|line| line.contains("backend east"))
            .collect();
        assert_eq!(
            log,
            ["backend east: everything without a deployment is throttled (429); no requests for it for 7s"]
        );
    }

    fn with_no_other_free_a_recovering_backend_gets_all(engine) {
        let single = |cause: &dyn Fn(&Gateway)| {
            let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s", "misconfigured": "2s"}});
            let gateway = engine.fleet(1, rules);
            cause(&gateway);
            gateway.host.advance(seconds(3));
            let requests: Vec<_> = (0..16).map(|_| gateway.get()).collect();
            let sent = requests
                .iter()
                .filter(|request| request.forwarded().is_some());
            assert_eq!(sent.count(), 16);
            for request in &requests {
                answer(&request.attempt(), 200, "fine");
            }
            drop(requests);
            assert_eq!(gateway.counted("aoai.backend.east.state"), 0);
            assert_eq!(gateway.host.statistic("aoai.backend.east.probes"), 16);
        };
        single(&|gateway| throttle(&gateway.get().attempt(), "2"));
        single(&|gateway| answer(&gateway.get().attempt(), 500, "x"));
        single(&|gateway| answer(&gateway.get().attempt(), 403, &error("403")));
    }

    fn a_recovering_backend_that_refuses_again_waits_again(engine) {
        let gateway = recovering_quota(engine);
        let request = admitted(&gateway);
        throttle(&request.attempt(), "5");
        answer(&request.attempt(), 200, "fine");
        gateway.host.advance(millis(4900));
        assert_eq!(gateway.served_by(10), [WEST; 10]);
        gateway.host.advance(millis(100));
        assert_eq!(admits(&gateway), 1);
        assert_eq!(gateway.counted("aoai.backend.east.cooldowns.throttled"), 2);
    }

    fn a_recovering_backend_that_fails_again_waits_twice_as_long(engine) {
        let gateway = recovering(engine, json!({}));
        let request = admitted(&gateway);
        answer(&request.attempt(), 500, "x");
        answer(&request.attempt(), 200, "fine");
        gateway.host.advance(millis(3900));
        assert_eq!(gateway.served_by(10), [WEST; 10]);
        gateway.host.advance(millis(1200));
        assert_eq!(admits(&gateway), 1);
    }

    fn a_slow_answer_holds_up_a_recovery_for_seconds_at_most(engine) {
        let gateway = recovering_quota(engine);
        let _slow = admitted(&gateway);
        gateway.host.advance(millis(900));
        assert_eq!(admits(&gateway), 0);
        gateway.host.advance(millis(100));
        let _accepted = to_east(&gateway, 20);
        assert_eq!(_accepted.len(), 2, "a throttled backend refuses at once");
        gateway.host.advance(seconds(9));
        assert_eq!(to_east(&gateway, 20).len(), 10, "by itself");

        let gateway = recovering(engine, json!({}));
        let _slow = admitted(&gateway);
        gateway.host.advance(millis(9900));
        assert_eq!(admits(&gateway), 0);
        gateway.host.advance(millis(100));
        let _another = to_east(&gateway, 20);
        assert_eq!(_another.len(), 1, "the slow one may be lost");
        gateway.host.advance(seconds(60));
        assert_eq!(to_east(&gateway, 20).len(), 10, "by itself");
    }

    fn a_place_is_given_back_when_the_client_leaves(engine) {
        for gateway in [recovering_quota(engine), recovering(engine, json!({}))] {
            let request = admitted(&gateway);
            assert_eq!(admits(&gateway), 0);
            request.disconnect();
            assert_eq!(admits(&gateway), 1);
        }
    }

    fn a_place_of_a_reissued_attempt_is_given_back_too(engine) {
        let gateway = recovering(engine, json!({}));
        let request = loop {
            let request = gateway.get();
            if request.attempt().cluster() == WEST {
                break request;
            }
            request.disconnect();
        };
        // The answer is not a failure, so the second backend stays free for the others.
        answer(&request.attempt(), 401, &error("PermissionDenied"));
        assert_eq!(request.attempt().cluster(), EAST);
        assert_eq!(admits(&gateway), 0);
        request.disconnect();
        assert_eq!(admits(&gateway), 1);
    }

    fn an_attempt_with_a_bad_token_keeps_its_place_for_the_next(engine) {
        let gateway = recovering(engine, json!({}));
        let request = admitted(&gateway);
        answer(&request.attempt(), 401, &error("401"));
        assert_eq!(admits(&gateway), 0, "it is under way");
        gateway.renew(SECOND_TOKEN);
        gateway.host.advance(millis(25));
        let again = request.attempt();
        assert_eq!(
            (request.attempts().len(), again.cluster().as_str()),
            (2, EAST)
        );
        assert_eq!(admits(&gateway), 0, "still");
        answer(&again, 200, "fine");
        assert_eq!(request.answer().status, 200);
        assert_eq!(admits(&gateway), 2);
    }

    fn a_place_is_given_back_when_the_new_token_is_refused_too(engine) {
        let gateway = recovering(engine, json!({}));
        let request = admitted(&gateway);
        answer(&request.attempt(), 401, &error("401"));
        gateway.renew(SECOND_TOKEN);
        gateway.host.advance(millis(25));
        answer(&request.attempt(), 401, &error("401"));
        assert_eq!(request.attempt().cluster(), WEST);
        answer(&request.attempt(), 200, "fine");
        assert_eq!(admits(&gateway), 1);
    }

    fn a_place_whose_token_no_one_renews_is_given_back_once(engine) {
        let gateway = recovering(engine, json!({"retry": {"max_attempts": 1}}));
        let first = admitted(&gateway);
        first.attempt().respond(401, [], false);
        first.attempt().response_body(error("401"), true);
        let _second = admitted(&gateway);
        // The end of the first attempt changes nothing more.
        drop(first);
        assert_eq!(admits(&gateway), 0, "the second one is under way");
    }

    fn a_place_of_one_recovery_does_not_count_in_the_next(engine) {
        let gateway = recovering_quota(engine);
        let slow = admitted(&gateway);
        gateway.host.advance(seconds(1));
        let again = admitted(&gateway);
        throttle(&again.attempt(), "2");
        answer(&again.attempt(), 200, "fine");
        gateway.host.advance(seconds(2));
        let _next = admitted(&gateway);
        slow.disconnect();
        assert_eq!(admits(&gateway), 0, "the next one is under way");

        let gateway = recovering(engine, json!({}));
        let slow = admitted(&gateway);
        gateway.host.advance(seconds(10));
        let again = admitted(&gateway);
        answer(&again.attempt(), 500, "x");
        answer(&again.attempt(), 200, "fine");
        gateway.host.advance(millis(5100));
        let _next = admitted(&gateway);
        slow.disconnect();
        assert_eq!(admits(&gateway), 0, "the next one is under way");
    }

    fn a_place_of_a_request_that_could_not_be_edited_is_given_back(engine) {
        let gateway = recovering(engine, json!({}));
        gateway.host.inject(
            Fault::of("proxy_replace_header_map_value")
                .on(":authority")
                .times(2),
        );
        for _ in 0..2 {
            assert_eq!(gateway.get().answer().status, 500);
        }
        assert_eq!(admits(&gateway), 1);
    }

    fn a_place_of_a_worker_that_is_torn_down_is_given_back(engine) {
        let gateway = recovering(engine, json!({}));
        let rules = json!({"cooldown": {"consecutive_failures": 1, "failing": "2s"}});
        let other = engine.beside(&gateway, 2, rules);
        let request = admitted(&gateway);
        assert_eq!(admits(&other), 0);
        drop(gateway);
        assert_eq!(admits(&other), 1);
        drop(request);
    }

    fn a_recovery_that_is_complete_costs_nothing_more(engine) {
        let gateway = recovering(engine, json!({}));
        for _ in 0..4 {
            answer(&admitted(&gateway).attempt(), 200, "fine");
        }
        gateway.host.advance(seconds(11));
        gateway.served_by(4);
        gateway.host.clear_counts();
        gateway.served_by(10);
        let writes = host_calls(&gateway.host).remove("proxy_set_shared_data");
        assert_eq!(writes, Some(10), "the turns");
    }

    fn a_place_whose_token_was_refused_is_given_back_too(engine) {
        let gateway = recovering(engine, json!({}));
        let request = admitted(&gateway);
        answer(&request.attempt(), 401, &error("401"));
        assert_eq!(admits(&gateway), 0);
        request.disconnect();
        assert_eq!(admits(&gateway), 1);
    }
}
