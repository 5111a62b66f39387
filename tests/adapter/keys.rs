//! Backends that have an API key, beside others that are shown a token.

use mock_host::{Host, Setup, Vm};
use serde_json::{json, Value};

use super::support::*;

const KEY: &str = "EAST-KEY";

fn setup(more: Value) -> Setup {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(2);
    config["backends"][0]["api_key_env"] = json!("EAST_KEY");
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Setup::new(config.to_string()).env("EAST_KEY", KEY)
}

/// A worker of which the first backend has a key, without a token.
fn tokenless(more: Value) -> (Host, Vm) {
    let host = Host::new();
    let vm = host.start(setup(more)).unwrap();
    host.advance(millis(1));
    (host, vm)
}

#[test]
fn each_backend_is_shown_its_own_on_every_attempt() {
    let (host, vm) = ready_with(setup(json!({"cooldown": null})));
    for turn in 0..4 {
        let stream = vm.request(chat(), true);
        let forwarded = stream.forwarded().unwrap().headers;
        let shown = [forwarded.get("api-key"), forwarded.get("authorization")];
        respond(&stream, 500, "x");
        let call = vm.call();
        let again = [
            call.headers.get("api-key"),
            call.headers.get("authorization"),
        ];
        let (key, token) = ([Some(KEY), None], [None, Some("Bearer TOKEN-ONE")]);
        match turn % 2 {
            0 => assert_eq!((shown, again), (key, token)),
            _ => assert_eq!((shown, again), (token, key)),
        }
        vm.answer(&call, 200, [], "fine");
    }
    assert!(!format!("{:?}", host.logs()).contains(KEY));
}

#[test]
fn without_a_token_no_one_waits_while_a_backend_with_a_key_is_there() {
    let (host, vm) = tokenless(json!({}));
    for _ in 0..3 {
        let stream = get(&vm);
        assert_eq!(routed_to(&stream), "aoai_east");
        respond(&stream, 200, "fine");
    }
    give_token(&vm, TOKEN);
    host.advance(millis(25));
    let clusters: Vec<_> = (0..2).map(|_| routed_to(&get(&vm))).collect();
    assert!(clusters.contains(&"aoai_west".to_owned()), "{clusters:?}");
}

#[test]
fn a_failed_attempt_goes_to_no_backend_for_which_there_is_no_token() {
    let (_host, vm) = tokenless(json!({}));
    let stream = get(&vm);
    respond(&stream, 500, &error("InternalServerError"));
    assert_eq!(stream.answer().status, 500);
    assert_eq!(vm.calls().len(), 1, "for the token");
}

#[test]
fn when_those_with_a_key_are_out_a_request_waits_for_the_token() {
    let (host, vm) = tokenless(json!({}));
    send(&vm).respond(429, [("retry-after", "60")], true);
    // Rather than to doubt the wait.
    let waiting = send(&vm);
    assert!(waiting.forwarded().is_none() && waiting.answered().is_none());
    give_token(&vm, TOKEN);
    host.advance(millis(25));
    assert_eq!(routed_to(&waiting), "aoai_west");
    assert_eq!(waiting.forwarded().unwrap().body, BODY.as_bytes());

    let (host, vm) = tokenless(json!({}));
    send(&vm).respond(429, [("retry-after", "60")], true);
    let waiting = send(&vm);
    host.advance(seconds(6));
    let answer = waiting.answer();
    assert_eq!(
        (answer.status, code(answer.text()).as_str()),
        (503, "identity_unavailable")
    );
}

#[test]
fn a_key_that_is_refused_is_for_people_to_mend() {
    let (host, vm) = ready_with(setup(json!({})));
    let stream = get(&vm);
    assert_eq!(routed_to(&stream), "aoai_east");
    respond(&stream, 401, &error("401"));
    assert_eq!(vm.call().cluster, "aoai_west", "no new token would help");
    vm.answer(&vm.call(), 200, [], "fine");
    assert_eq!(
        counted(&host, "aoai.backend.east.outcome.permission_denied"),
        1
    );
    assert_eq!(host.statistic("aoai.backend.east.state"), 3);
    assert!(fetches(&vm).is_empty());
}

#[test]
fn where_every_backend_has_a_key_no_one_is_asked_for_tokens() {
    let mut config: Value = serde_json::from_str(CONFIG).unwrap();
    config["backends"].as_array_mut().unwrap().truncate(1);
    config["backends"][0]["api_key_env"] = json!("EAST_KEY");
    config.as_object_mut().unwrap().remove("identity");
    let host = Host::new();
    let vm = host
        .start(Setup::new(config.to_string()).env("EAST_KEY", KEY))
        .unwrap();
    let stream = get(&vm);
    assert_eq!(
        stream.forwarded().unwrap().headers.get("api-key"),
        Some(KEY)
    );
    respond(&stream, 401, &error("401"));
    assert_eq!(stream.answer().status, 401);
    host.advance(seconds(10));
    assert!(vm.calls().is_empty());
    assert_eq!(host.statistic("aoai.identity.seconds_to_expiry"), 0);
    assert_eq!(host.statistic("aoai.identity.fetches"), 0);
}
