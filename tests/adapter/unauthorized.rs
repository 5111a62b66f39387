//! 401: a refused token is renewed, and a missing role is not.

use serde_json::json;

use super::engines::*;

/// A request whose first attempt was refused for its token.
fn refused(gateway: &Gateway) -> Request {
    let request = gateway.send();
    answer(&request.attempt(), 401, &error("401"));
    request
}

/// The attempt's token.
fn token(attempt: &Attempt) -> Option<String> {
    attempt.header("authorization")
}

fn bearer(token: &str) -> Option<String> {
    Some(format!("Bearer {token}"))
}

cases! {
    fn a_refused_token_is_renewed_and_the_same_backend_tried_again(engine) {
        let gateway = engine.gateway();
        let request = refused(&gateway);
        gateway.host.advance(millis(100));
        assert_eq!((request.answered(), request.attempts().len()), (None, 1));
        give_token(&gateway.vm, SECOND_TOKEN);
        let second = request.attempt();
        assert_eq!(second.cluster(), EAST);
        assert_eq!(token(&second), bearer(SECOND_TOKEN));
        assert_eq!(
            second.header(":authority").as_deref(),
            Some("east.openai.azure.com")
        );
        assert_eq!(second.sent().unwrap().body, BODY.as_bytes());
        answer(&second, 200, "welcome");
        assert_eq!(outcome(&request), is(200, "east", "2", "welcome"));
        drop(request);
        assert_eq!(gateway.counted("aoai.identity.fetches"), 2);
        assert_eq!(gateway.counted("aoai.backend.east.outcome.bad_token"), 1);
        assert_quiet(&gateway.host);
    }

    fn a_newer_token_is_requested_at_once(engine) {
        let gateway = engine.gateway();
        gateway.host.advance(millis(1500));
        let _request = refused(&gateway);
        gateway.host.advance(millis(5));
        assert_eq!(fetches(&gateway.vm).len(), 1);
    }

    fn a_token_that_another_worker_has_renewed_is_used_at_once(engine) {
        let gateway = engine.gateway();
        let other = engine.beside(&gateway, 3, json!({}));
        let _renewing = refused(&other);
        // Time passes for the other worker alone, so this one still has the old token.
        other.vm.tick();
        give_token(&other.vm, SECOND_TOKEN);
        let late = gateway.send();
        let first = late.attempt();
        assert_eq!(token(&first), bearer(TOKEN));
        answer(&first, 401, &error("401"));
        let second = late.attempt();
        assert_eq!(second.cluster(), first.cluster());
        assert_eq!(token(&second), bearer(SECOND_TOKEN));
        gateway.host.advance(seconds(1));
        assert_eq!(fetches(&gateway.vm).len() + fetches(&other.vm).len(), 0);
    }

    fn a_renewal_by_another_worker_reaches_the_one_that_waits(engine) {
        let gateway = engine.gateway();
        let other = engine.beside(&gateway, 3, json!({}));
        let request = refused(&gateway);
        let _elsewhere = refused(&other);
        for vm in [&other.vm, &gateway.vm] {
            vm.tick();
            for fetch in fetches(vm) {
                let body = token_answer(&gateway.host, SECOND_TOKEN, seconds(3600));
                vm.answer(&fetch, 200, [], body);
            }
        }
        let second = request.attempt();
        assert_eq!(
            (request.attempts().len(), second.cluster().as_str()),
            (2, EAST)
        );
        assert_eq!(token(&second), bearer(SECOND_TOKEN));
    }

    fn without_a_newer_token_the_next_backend_is_tried(engine) {
        let gateway = engine.gateway();
        let request = refused(&gateway);
        gateway.renew_in_vain();
        let second = request.attempt();
        assert_eq!(second.cluster(), WEST);
        assert_eq!(token(&second), bearer(TOKEN));
        assert_eq!(
            second.header(":authority").as_deref(),
            Some("west.openai.azure.com")
        );
        answer(&second, 200, "hello");
        assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
    }

    fn a_token_revoked_before_a_backend_got_it_is_renewed_too(engine) {
        let gateway = engine.gateway();
        for (cluster, renewed) in CLUSTERS.into_iter().zip(["TOKEN-TWO", "TOKEN-THREE", "TOKEN-FOUR"]) {
            let request = refused(&gateway);
            // A second passes between forced fetches.
            gateway.host.advance(seconds(1));
            gateway.renew(renewed);
            let second = request.attempt();
            assert_eq!(second.cluster(), cluster);
            assert_eq!(token(&second), bearer(renewed));
            answer(&second, 200, "ok");
            assert_eq!(request.answer().status, 200);
        }
        for backend in ["east", "west", "north"] {
            assert_eq!(gateway.counted(&format!("aoai.backend.{backend}.cooldowns.misconfigured")), 0);
        }
    }

    fn a_backend_that_refuses_every_token_forces_one_fetch(engine) {
        let gateway = engine.fleet(1, json!({}));
        let request = refused(&gateway);
        gateway.renew(SECOND_TOKEN);
        answer(&request.attempt(), 401, &error("401"));
        assert_eq!(request.answer().status, 401);
        drop(request);
        for _ in 0..5 {
            gateway.host.advance(seconds(2));
            let request = gateway.send();
            if let Some(attempt) = request.attempts().first() {
                answer(attempt, 401, &error("401"));
            }
        }
        assert_eq!(gateway.counted("aoai.identity.fetches"), 2, "the first token and its renewal");
    }

    fn an_outdated_token_that_is_refused_costs_no_later_renewal(engine) {
        let gateway = engine.gateway();
        let (east, west) = (gateway.send(), gateway.send());
        answer(&west.attempt(), 401, &error("401"));
        gateway.renew(SECOND_TOKEN);
        answer(&west.attempt(), 200, "ok");
        // The newer token is there, so this refusal says nothing about it.
        answer(&east.attempt(), 401, &error("401"));
        answer(&east.attempt(), 500, "busy");
        answer(&east.attempt(), 200, "ok");
        gateway.host.advance(seconds(1));
        let revoked = std::iter::repeat_with(|| gateway.send()).find(|request| {
            let attempt = request.attempt();
            let is_east = attempt.cluster() == EAST;
            answer(&attempt, if is_east { 401 } else { 200 }, &error("401"));
            is_east
        });
        let revoked = revoked.unwrap();
        gateway.renew("TOKEN-THREE");
        assert_eq!(revoked.attempt().cluster(), EAST);
        assert_eq!(token(&revoked.attempt()), bearer("TOKEN-THREE"));
    }

    fn a_failed_renewal_leads_to_the_next_backend_at_once(engine) {
        let gateway = engine.gateway();
        let request = refused(&gateway);
        gateway.renew_in_vain();
        assert_eq!(request.attempt().cluster(), WEST);
        let second = refused(&gateway);
        let clusters = second.clusters();
        assert_eq!(clusters.len(), 2, "{clusters:?}");
    }

    fn a_renewal_that_takes_too_long_leads_to_the_next_backend(engine) {
        let gateway = engine.gateway();
        let request = refused(&gateway);
        gateway.host.advance(millis(4900));
        assert_eq!(request.attempts().len(), 1);
        gateway.host.advance(millis(200));
        assert_eq!(fetches(&gateway.vm).len(), 1);
        assert_eq!(request.attempt().cluster(), WEST);
        answer(&request.attempt(), 200, "from west");
        assert_eq!(outcome(&request), is(200, "west", "2", "from west"));
    }

    fn a_renewed_token_refused_too_leads_to_the_next_backend(engine) {
        let gateway = engine.gateway();
        let request = refused(&gateway);
        gateway.renew(SECOND_TOKEN);
        answer(&request.attempt(), 401, &error("401"));
        let third = request.attempt();
        assert_eq!(third.cluster(), WEST);
        assert_eq!(token(&third), bearer(SECOND_TOKEN));
        gateway.host.advance(seconds(1));
        assert_eq!(fetches(&gateway.vm), [], "one renewal for a request");
    }

    fn a_refusal_of_the_last_attempt_is_passed_on(engine) {
        let gateway = engine.fleet(3, json!({"retry": {"max_attempts": 1}}));
        let request = refused(&gateway);
        assert_eq!(outcome(&request), is(401, "east", "1", &error("401")));
    }

    fn a_backend_that_fails_after_the_renewal_leads_to_the_next(engine) {
        let gateway = engine.gateway();
        let request = refused(&gateway);
        gateway.renew(SECOND_TOKEN);
        request.attempt().fail();
        let third = request.attempt();
        assert_eq!(third.cluster(), WEST);
        assert_eq!(
            third.header(":authority").as_deref(),
            Some("west.openai.azure.com")
        );
        third.fail();
        assert_eq!(outcome(&request), is(401, "east", "3", &error("401")));
    }

    fn a_missing_role_leads_to_the_next_backend_and_the_token_stays(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 401, &error("PermissionDenied"));
        let second = request.attempt();
        assert_eq!(second.cluster(), WEST);
        assert_eq!(token(&second), bearer(TOKEN));
        answer(&second, 200, "from west");
        assert_eq!(outcome(&request), is(200, "west", "2", "from west"));
        drop(request);
        gateway.host.advance(seconds(2));
        assert_eq!(fetches(&gateway.vm), []);
        assert_eq!(
            gateway.counted("aoai.backend.east.outcome.permission_denied"),
            1
        );
    }

    fn many_refusals_at_once_fetch_one_token(engine) {
        let gateway = engine.gateway();
        let requests: Vec<_> = (0..20).map(|_| refused(&gateway)).collect();
        gateway.renew(SECOND_TOKEN);
        for (index, request) in requests.iter().enumerate() {
            let attempt = request.attempt();
            assert_eq!(request.attempts().len(), 2);
            assert_eq!(attempt.cluster(), CLUSTERS[index % 3]);
            assert_eq!(token(&attempt), bearer(SECOND_TOKEN));
            answer(&attempt, 200, "ok");
            assert_eq!(request.answer().status, 200);
        }
        gateway.host.advance(seconds(1));
        assert_eq!(fetches(&gateway.vm), []);
        assert_eq!(gateway.counted("aoai.identity.fetches"), 2);
    }

    fn it_is_the_token_of_the_last_attempt_that_was_refused(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        gateway.host.advance(seconds(3301));
        give_token(&gateway.vm, SECOND_TOKEN);
        answer(&request.attempt(), 500, "busy");
        let second = request.attempt();
        assert_eq!(token(&second), bearer(SECOND_TOKEN));
        answer(&second, 401, &error("401"));
        let made = request.attempts().len();
        assert_eq!(
            (made, request.answered()),
            (2, None),
            "a third token is awaited"
        );
        gateway.renew("TOKEN-THREE");
        let third = request.attempt();
        assert_eq!(third.cluster(), WEST);
        assert_eq!(token(&third), bearer("TOKEN-THREE"));
    }

    fn other_requests_do_not_prolong_the_wait_for_a_newer_token(engine) {
        let gateway = engine.gateway();
        let first = refused(&gateway);
        gateway.host.advance(millis(400));
        let second = refused(&gateway);
        gateway.host.advance(millis(4650));
        let made = [&first, &second].map(|request| request.attempts().len());
        assert_eq!(made, [2, 1], "the first one's five seconds are over");
    }

    fn requests_that_await_a_token_cost_one_read_a_tick(engine) {
        let reads = |waiting: usize| {
            let gateway = engine.gateway();
            let _requests: Vec<_> = (0..waiting).map(|_| refused(&gateway)).collect();
            gateway.host.advance(millis(100));
            gateway.host.clear_counts();
            gateway.host.advance(millis(400));
            gateway.host.counts()["proxy_get_shared_data"].calls
        };
        assert_eq!(reads(1), reads(200));
    }
}
