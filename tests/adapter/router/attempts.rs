//! The address of each attempt, and the number of attempts.

use mock_host::Fault;
use serde_json::json;

use super::*;

#[test]
fn the_first_attempt_is_not_edited_behind_the_router() {
    let gateway = Engine::Router.gateway();
    // The header is set before the router, and never again.
    let again = Fault::of("proxy_replace_header_map_value").on(":authority");
    gateway.host.inject(again.after(1));
    let request = gateway.send();
    let forwarded = request.forwarded().expect("it is complete").headers;
    for (name, value) in [
        (":authority", "east.openai.azure.com"),
        ("authorization", "Bearer TOKEN-ONE"),
        ("x-stainless-lang", "python"),
        (":path", PATH),
    ] {
        assert_eq!(forwarded.get(name), Some(value), "{name}");
    }
    assert_eq!(forwarded.get("api-key"), None);
    let attempt = request.attempt();
    assert_eq!(attempt.cluster(), "aoai_east");
    let left = attempt.sent().unwrap().headers;
    let instructions = |name: &str| name.starts_with("x-envoy-");
    let expected: Vec<_> = forwarded
        .iter()
        .filter(|(name, _)| !instructions(name))
        .collect();
    let left: Vec<_> = left.iter().collect();
    assert_eq!(left, expected);
    assert_eq!(attempt.sent().unwrap().body, BODY.as_bytes());
    assert_quiet(&gateway.host);
}

#[test]
fn a_clients_headers_about_retries_are_ignored() {
    let gateway = Engine::Router.gateway();
    let headers = chat()
        .with("x-envoy-max-retries", "99")
        .with("x-envoy-max-retries", "98");
    let request = gateway.request(headers, true);
    let forwarded = request.forwarded().unwrap().headers;
    let sent: Vec<_> = forwarded
        .iter()
        .filter(|(name, _)| *name == "x-envoy-max-retries")
        .collect();
    assert_eq!(sent, [("x-envoy-max-retries", &b"2"[..])]);
}

#[test]
fn a_retry_sets_the_authorization_only_for_another_token() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    gateway.host.clear_counts();
    let sets = || {
        let counts = gateway.host.counts();
        counts
            .get("proxy_replace_header_map_value")
            .map_or(0, |count| count.calls)
    };
    answer(&request.attempt(), 429, "");
    assert_eq!(sets(), 2, "the mark and the authority");
    // The next token arrives during the second attempt.
    gateway.host.advance(seconds(3301));
    give_token(&gateway.vm, SECOND_TOKEN);
    gateway.host.clear_counts();
    answer(&request.attempt(), 429, "");
    assert_eq!(sets(), 3, "and the authorization");
    let third = request.attempt();
    assert_eq!(
        third.header("authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    assert_eq!(
        third.header(":authority").as_deref(),
        Some("north.openai.azure.com")
    );
}

#[test]
fn the_router_sends_an_upgrade_once() {
    let gateway = Engine::Router.gateway();
    let headers = [
        (":method", "GET"),
        (":authority", "gateway.internal"),
        (":path", "/openai/realtime"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    let request = gateway.request(headers, true);
    assert_eq!(
        request
            .forwarded()
            .unwrap()
            .headers
            .get("x-envoy-max-retries"),
        Some("0")
    );
    answer(&request.attempt(), 429, "slower");
    assert_eq!(outcome(&request), is(429, "east", "1", "slower"));
    drop(request);
    assert_eq!(gateway.counted("aoai.no_retry.upgrade"), 1);
}

#[test]
fn a_body_over_the_replay_limit_is_sent_once() {
    let gateway = Engine::Router.fleet(3, json!({"retry": {"replay_limit": "8B"}}));
    for (length, retries) in [(8, None), (9, Some("0"))] {
        let request = gateway.request(chat_of(length), false);
        request.body(vec![b'x'; length], true);
        let forwarded = request.forwarded().unwrap().headers;
        assert_eq!(forwarded.get("x-envoy-max-retries"), retries);
        answer(&request.attempt(), 200, "fine");
    }
    assert_eq!(
        gateway.counted("aoai.no_retry.body_too_large"),
        0,
        "nothing called for it"
    );
    let request = gateway.request(chat_of(9), false);
    request.body("123456789", true);
    answer(&request.attempt(), 429, "slower");
    assert_eq!(outcome(&request), is(429, "north", "1", "slower"));
    let request = gateway.request(chat_of(9), false);
    request.body("123456789", true);
    request.attempt().fail();
    assert_eq!(request.answer().status, 503);
    assert_eq!(gateway.counted("aoai.no_retry.body_too_large"), 2);
}
