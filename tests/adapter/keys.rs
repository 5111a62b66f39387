//! Backends with an API key beside backends that get a token.

use mock_host::Setup;
use serde_json::{json, Value};

use super::engines::*;

const KEY: &str = "EAST-KEY";

/// The configuration of `count` backends, of which the one at `keyed` has a key.
fn setup(engine: Engine, count: usize, keyed: usize, more: Value) -> Setup {
    let mut config: Value = serde_json::from_str(&engine.config(count, more)).unwrap();
    config["backends"][keyed]["api_key_env"] = json!("EAST_KEY");
    Setup::new(config.to_string()).env("EAST_KEY", KEY)
}

/// The credentials of an attempt: a key, a token.
fn shown(attempt: &Attempt) -> [Option<String>; 2] {
    [attempt.header("api-key"), attempt.header("authorization")]
}

fn key() -> [Option<String>; 2] {
    [Some(KEY.to_owned()), None]
}

fn token() -> [Option<String>; 2] {
    [None, Some("Bearer TOKEN-ONE".to_owned())]
}

/// A worker without a token, whose first backend has a key.
fn tokenless(engine: Engine) -> Gateway {
    let gateway = engine.start(setup(engine, 2, 0, json!({})));
    gateway.host.advance(millis(1));
    gateway
}

cases! {
    fn each_backend_gets_its_own_credential_on_every_attempt(engine) {
        for keyed in [0, 1] {
            let gateway = engine.ready(setup(engine, 2, keyed, json!({"cooldown": null})));
            for turn in 0..8 {
                let request = gateway.request(chat(), true);
                let first = shown(&request.attempt());
                // One turn has an answer, and the next has none.
                match turn / 2 % 2 {
                    0 => answer(&request.attempt(), 500, "x"),
                    _ => request.attempt().fail(),
                }
                let again = shown(&request.attempt());
                match (turn + keyed) % 2 {
                    0 => assert_eq!((first, again), (key(), token())),
                    _ => assert_eq!((first, again), (token(), key())),
                }
                answer(&request.attempt(), 200, "fine");
                let backend = if turn % 2 == 0 { "west" } else { "east" };
                assert_eq!(outcome(&request), is(200, backend, "2", "fine"));
            }
            assert!(!format!("{:?}", gateway.host.logs()).contains(KEY));
        }
    }

    fn no_request_waits_for_a_token_while_a_backend_has_a_key(engine) {
        let gateway = tokenless(engine);
        for _ in 0..3 {
            let request = gateway.get();
            assert_eq!(request.attempt().cluster(), EAST);
            answer(&request.attempt(), 200, "fine");
        }
        give_token(&gateway.vm, TOKEN);
        gateway.host.advance(millis(25));
        let clusters = gateway.served_by(2);
        assert!(clusters.contains(&WEST.to_owned()), "{clusters:?}");
    }

    fn no_further_attempt_goes_to_a_backend_without_a_token(engine) {
        let gateway = tokenless(engine);
        let request = gateway.get();
        answer(&request.attempt(), 500, &error("InternalServerError"));
        assert_eq!(request.answer().status, 500);
        assert_eq!(
            (request.attempts().len(), gateway.vm.calls().len()),
            (1, 1),
            "for the token"
        );
    }

    fn while_keyed_backends_are_unavailable_requests_await_a_token(engine) {
        let gateway = tokenless(engine);
        throttle(&gateway.send().attempt(), "60");
        // The requests wait for the token, rather than make a trial of the backend with the key.
        let waiting = gateway.send();
        assert!(waiting.is_held());
        give_token(&gateway.vm, TOKEN);
        gateway.host.advance(millis(25));
        assert_eq!(waiting.attempt().cluster(), WEST);
        assert_eq!(waiting.forwarded().unwrap().body, BODY.as_bytes());

        let gateway = tokenless(engine);
        throttle(&gateway.send().attempt(), "60");
        let waiting = gateway.send();
        gateway.host.advance(seconds(6));
        let answer = waiting.answer();
        assert_eq!(
            (answer.status, code(answer.text()).as_str()),
            (503, "identity_unavailable")
        );
    }

    fn a_refused_key_is_a_misconfiguration(engine) {
        let gateway = engine.ready(setup(engine, 2, 0, json!({})));
        let request = gateway.get();
        assert_eq!(request.attempt().cluster(), EAST);
        answer(&request.attempt(), 401, &error("401"));
        assert_eq!(request.attempt().cluster(), WEST, "no new token would help");
        answer(&request.attempt(), 200, "fine");
        assert_eq!(
            gateway.counted("aoai.backend.east.outcome.permission_denied"),
            1
        );
        assert_eq!(gateway.host.statistic("aoai.backend.east.state"), 3);
        assert!(fetches(&gateway.vm).is_empty());
    }

    fn no_token_is_requested_where_every_backend_has_a_key(engine) {
        let mut config: Value = serde_json::from_str(&engine.config(1, json!({}))).unwrap();
        config["backends"][0]["api_key_env"] = json!("EAST_KEY");
        config.as_object_mut().unwrap().remove("identity");
        let gateway = engine.start(Setup::new(config.to_string()).env("EAST_KEY", KEY));
        let request = gateway.get();
        assert_eq!(shown(&request.attempt()), key());
        answer(&request.attempt(), 401, &error("401"));
        assert_eq!(request.answer().status, 401);
        gateway.host.advance(seconds(10));
        assert!(gateway.vm.calls().is_empty());
        assert_eq!(gateway.host.statistic("aoai.identity.seconds_to_expiry"), 0);
        assert_eq!(gateway.host.statistic("aoai.identity.fetches"), 0);
    }

    fn paths_are_the_backends_own_on_every_attempt(engine) {
        let mut config: Value = serde_json::from_str(&engine.config(3, json!({}))).unwrap();
        config["backends"][0]["deployments"] = json!({"gpt-4o": "eastern"});
        config["backends"][1]["base_path"] = json!("/api/projects/p");
        let gateway = engine.ready(Setup::new(config.to_string()));
        let request = gateway.send();
        let mut paths = Vec::new();
        for status in [500, 500, 200] {
            let attempt = request.attempt();
            paths.push(attempt.header(":path").unwrap());
            answer(&attempt, status, "x");
        }
        assert_eq!(
            paths,
            [
                PATH.replace("gpt-4o", "eastern"),
                format!("/api/projects/p{PATH}"),
                PATH.to_owned(),
            ]
        );
    }

    fn a_key_goes_to_no_other_backend_even_without_a_token(engine) {
        let gateway = engine.start(setup(engine, 2, 0, json!({})));
        gateway.host.advance(millis(1));
        give_token_for(&gateway.vm, TOKEN, seconds(10));
        let request = gateway.send();
        assert_eq!(request.attempt().cluster(), EAST);
        // While the backend with the key is silent, the token expires, and no other one comes.
        gateway.host.skip(seconds(11));
        gateway.vm.tick();
        request.attempt().fail();
        for attempt in request
            .attempts()
            .into_iter()
            .filter(|attempt| attempt.sent().is_some())
        {
            let is_keyed = attempt.cluster() == EAST;
            assert_eq!(attempt.header("api-key").as_deref() == Some(KEY), is_keyed);
        }
        assert_eq!(request.clusters(), [EAST]);
    }
}
