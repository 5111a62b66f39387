//! Streams that end early, and leave nothing behind.

use serde_json::json;

use super::engines::*;

/// Nothing is left of the request: no context knows it, no call or wait belongs to it, and `gone` clients were counted.
pub(crate) fn assert_forgotten(gateway: &Gateway, id: u32, gone: u64) {
    // If a newer token was requested, it arrives.
    for _ in 0..2 {
        for fetch in fetches(&gateway.vm) {
            let body = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
            gateway.vm.answer(&fetch, 200, [], body);
        }
        gateway.host.advance(seconds(2));
    }
    gateway.host.clear_counts();
    gateway.host.advance(seconds(10));
    let counts = gateway.host.counts();
    for name in [
        "proxy_continue_stream",
        "proxy_send_local_response",
        "proxy_set_effective_context",
        "proxy_replace_header_map_value",
        "proxy_http_call",
    ] {
        assert!(!counts.contains_key(name), "{name}: {counts:?}");
    }
    assert_eq!(gateway.vm.calls(), []);
    assert_eq!(gateway.vm.tick_period(), Some(seconds(1)));
    assert_quiet(&gateway.host);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), gone);
    assert!(!gateway.knows(id), "the request is still registered");
}

cases! {
    fn a_client_that_leaves_while_waiting_for_a_token_is_forgotten(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let (gone, stays) = (gateway.get(), gateway.get());
        let id = gone.id();
        gateway.host.advance(millis(1));
        gone.disconnect();
        give_token(&gateway.vm, TOKEN);
        answer(&stays.attempt(), 200, "fine");
        drop(stays);
        assert_forgotten(&gateway, id, 1);
        // The client that disconnected took no turn.
        assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 1);
        assert_eq!(gateway.host.statistic("aoai.backend.west.attempts"), 0);
    }

    fn a_client_that_leaves_before_its_wait_is_over_is_not_answered(engine) {
        let gateway = engine.tokenless(3, json!({}));
        gateway.get().disconnect();
        gateway.host.advance(seconds(6));
        assert_eq!(gateway.host.statistic("aoai.identity.unavailable"), 0);
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 1);
    }

    fn a_client_that_leaves_within_its_request_is_forgotten(engine) {
        for headers in [chat(), chat_of(1000)] {
            let gateway = engine.gateway();
            let request = gateway.request(headers, false);
            request.body("only the beginning", false);
            let id = request.id();
            request.disconnect();
            assert_forgotten(&gateway, id, 1);
        }
    }

    fn a_client_that_leaves_before_there_is_an_answer_is_forgotten(engine) {
        for failures in 0..=2 {
            let gateway = engine.gateway();
            let request = gateway.send();
            for _ in 0..failures {
                answer(&request.attempt(), 429, "busy");
            }
            let (id, calls) = (request.id(), gateway.vm.calls());
            request.disconnect();
            // Envoy does not cancel a call of the filter engine, because it belongs to the root context.
            for call in &calls {
                gateway.vm.answer(call, 500, [], "too late");
            }
            assert_forgotten(&gateway, id, 1);
            let unavailable = gateway.host.statistics().into_iter();
            let unavailable = unavailable.filter(|(name, _)| name.ends_with("outcome.unavailable"));
            assert_eq!(
                unavailable.count(),
                0,
                "its leaving is no failure of a backend's"
            );
            let attempts = CLUSTERS.map(|cluster| {
                let name = cluster.replace("aoai_", "");
                gateway
                    .host
                    .statistic(&format!("aoai.backend.{name}.attempts"))
            });
            assert_eq!(
                attempts.iter().sum::<u64>(),
                failures + 1,
                "no further attempt"
            );
        }
    }

    fn a_client_that_leaves_after_a_renewal_is_forgotten(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 401, &error("401"));
        gateway.renew(SECOND_TOKEN);
        assert_eq!(request.attempts().len(), 2);
        let (id, calls) = (request.id(), gateway.vm.calls());
        request.disconnect();
        for call in &calls {
            gateway.vm.answer(call, 200, [], "too late");
        }
        assert_forgotten(&gateway, id, 1);
    }

    fn a_client_that_leaves_while_its_token_is_renewed_is_forgotten(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 401, &error("401"));
        let id = request.id();
        request.disconnect();
        gateway.host.advance(millis(1));
        assert_forgotten(&gateway, id, 1);
        assert_eq!(gateway.host.statistic("aoai.backend.east.attempts"), 1);
    }

    fn a_client_that_leaves_while_an_error_is_read_is_forgotten(engine) {
        for frame in [None, Some("begin")] {
            let gateway = engine.gateway();
            let request = gateway.send();
            let attempt = request.attempt();
            attempt.respond(404, [], false);
            if let Some(frame) = frame {
                attempt.response_body(frame, false);
            }
            let id = request.id();
            request.disconnect();
            assert_forgotten(&gateway, id, 1);
        }
    }

    fn a_client_that_leaves_within_its_answer_is_forgotten(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(200, [], false);
        attempt.response_body("data: 1\n\n", false);
        let id = request.id();
        request.disconnect();
        assert_forgotten(&gateway, id, 1);
        assert_eq!(gateway.host.statistic("aoai.stream_broken"), 0);
    }

    fn an_answer_that_the_backend_breaks_off_is_not_retried(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let (id, attempt) = (request.id(), request.attempt());
        attempt.respond(200, [], false);
        attempt.response_body("data: 1\n\n", false);
        assert_eq!(request.answered().unwrap().text(), "data: 1\n\n");
        assert!(!request.answered().unwrap().complete);
        request.break_off();
        assert_forgotten(&gateway, id, 0);
        assert_eq!(gateway.host.statistic("aoai.stream_broken"), 1);
        assert_eq!(gateway.host.statistic("aoai.backend.west.attempts"), 0);
    }

    fn a_complete_answer_ends_without_a_trace(engine) {
        for trailers in [false, true] {
            let gateway = engine.gateway();
            let request = gateway.send();
            let (id, attempt) = (request.id(), request.attempt());
            attempt.respond(200, [], false);
            attempt.response_body("ok", !trailers);
            if trailers {
                attempt.response_trailers([("x-trailer", "1")]);
            }
            drop(request);
            assert_forgotten(&gateway, id, 0);
            assert_eq!(gateway.host.statistic("aoai.stream_broken"), 0);
        }
    }

    fn the_gateways_own_answers_leave_nothing_behind(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let id = request.id();
        for _ in 0..3 {
            request.attempt().fail();
        }
        assert_eq!(request.answer().status, 503);
        drop(request);
        assert_forgotten(&gateway, id, 0);
    }

    fn the_gateways_own_answer_counts_no_client_as_gone(engine) {
        let gateway = engine.tokenless(3, json!({}));
        let request = gateway.get();
        gateway.host.advance(seconds(6));
        assert_eq!(request.answer().status, 503);
        drop(request);
        gateway.host.advance(seconds(2));
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
    }
}

#[test]
fn an_answer_that_breaks_off_while_it_is_held_is_a_failure() {
    let events = [("content-type", "text/event-stream")];
    for (status, headers) in [(200, &events[..]), (404, &[][..])] {
        // With the router engine, Envoy tries the next backend.
        let gateway = Engine::Filter.gateway();
        let request = gateway.send();
        let (id, attempt) = (request.id(), request.attempt());
        attempt.respond(status, headers, false);
        assert!(request.answered().is_none(), "{status}: it is held");
        request.break_off();
        assert_forgotten(&gateway, id, 0);
        assert_eq!(gateway.host.statistic("aoai.stream_broken"), 1);
        let failures = gateway
            .host
            .statistic("aoai.backend.east.outcome.unavailable");
        assert_eq!(failures, 1, "{status}");
    }
}
