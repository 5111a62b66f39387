//! How each attempt is addressed, and which attempts there are.

use mock_host::Fault;
use serde_json::json;

use super::*;

#[test]
fn the_first_attempt_is_addressed_before_the_router_and_left_alone_behind_it() {
    let gateway = gateway();
    // Set before the router, and never again.
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
fn what_a_client_says_of_retries_does_not_count() {
    let gateway = gateway();
    let headers = chat()
        .with("x-envoy-max-retries", "99")
        .with("x-envoy-max-retries", "98");
    let request = gateway.router.request(headers, true);
    let forwarded = request.forwarded().unwrap().headers;
    let said: Vec<_> = forwarded
        .iter()
        .filter(|(name, _)| *name == "x-envoy-max-retries")
        .collect();
    assert_eq!(said, [("x-envoy-max-retries", &b"2"[..])]);
}

#[test]
fn a_throttled_request_is_readdressed_and_its_answer_signed() {
    let gateway = gateway();
    let request = gateway.send();
    let first = request.attempt();
    answer(&first, 429, &error("429"));
    assert!(first.ended());
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_west");
    let message = second.sent().unwrap();
    assert_eq!(
        message.headers.get(":authority"),
        Some("west.openai.azure.com")
    );
    assert_eq!(
        message.headers.get("authorization"),
        Some("Bearer TOKEN-ONE")
    );
    assert_eq!(message.headers.get(":path"), Some(PATH));
    assert_eq!(
        (message.body.as_slice(), message.complete),
        (BODY.as_bytes(), true)
    );
    assert_eq!(request.answered(), None, "the client sees nothing of it");
    answer(&second, 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
    drop(request);
    assert_eq!(gateway.counted("aoai.backend.east.outcome.throttled"), 1);
    for name in ["attempts", "retries", "outcome.success"] {
        let name = format!("aoai.backend.west.{name}");
        assert_eq!(gateway.host.statistic(&name), 1, "{name}");
    }
    assert_eq!(gateway.host.statistic("aoai.backend.east.retries"), 0);
    assert_quiet(&gateway.host);
}

#[test]
fn a_retry_sets_the_authorization_only_if_the_token_is_another_one() {
    let gateway = gateway();
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
    // The next token comes while the second attempt is out.
    gateway.host.advance(seconds(3301));
    give_token(&gateway.vm, SECOND_TOKEN);
    gateway.host.clear_counts();
    answer(&request.attempt(), 429, "");
    assert_eq!(sets(), 3, "and the authorization");
    let third = request.attempt();
    assert_eq!(
        sent(&third, "authorization").as_deref(),
        Some("Bearer TOKEN-TWO")
    );
    assert_eq!(
        sent(&third, ":authority").as_deref(),
        Some("north.openai.azure.com")
    );
}

#[test]
fn three_failing_backends_are_tried_once_each_and_the_last_answer_is_the_clients() {
    let gateway = gateway();
    let request = gateway.send();
    for (status, cluster) in [(429, "aoai_east"), (500, "aoai_west"), (503, "aoai_north")] {
        let attempt = request.attempt();
        assert_eq!(attempt.cluster(), cluster);
        answer(&attempt, status, &error(cluster));
    }
    assert_eq!(
        outcome(&request),
        is(503, "north", "3", &error("aoai_north"))
    );
    assert_eq!(request.clusters(), CLUSTERS);
    drop(request);
    assert_eq!(gateway.counted("aoai.no_retry.attempts_exhausted"), 1);
    assert_eq!(gateway.host.statistic("aoai.no_retry.router_declined"), 0);
    assert_quiet(&gateway.host);
}

#[test]
fn two_backends_that_fail_are_tried_once_each_whatever_the_maximum() {
    let gateway = Gateway::ready(routing_to(2, json!({"max_attempts": 3})));
    let request = gateway.send();
    answer(&request.attempt(), 429, &error("first"));
    answer(&request.attempt(), 429, &error("second"));
    assert_eq!(outcome(&request), is(429, "west", "2", &error("second")));
    assert_eq!(request.clusters(), ["aoai_east", "aoai_west"]);
    drop(request);
    assert_eq!(gateway.counted("aoai.no_retry.backends_exhausted"), 1);
}

#[test]
fn one_attempt_means_no_retry() {
    let gateway = Gateway::ready(routing_to(3, json!({"max_attempts": 1})));
    let request = gateway.send();
    answer(&request.attempt(), 429, "slower");
    assert_eq!(outcome(&request), is(429, "east", "1", "slower"));
}

#[test]
fn an_upgrade_is_sent_once() {
    let gateway = gateway();
    let headers = [
        (":method", "GET"),
        (":authority", "gateway.internal"),
        (":path", "/openai/realtime"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
    ];
    let request = gateway.router.request(headers, true);
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
fn trailers_reach_every_attempt_without_the_clients_credentials() {
    let gateway = Gateway::ready(routing_to(2, json!({})));
    let request = gateway.router.request(chat(), false);
    request.body("body", false);
    request.trailers([("x-checksum", "1234"), ("api-key", "CLIENT-KEY")]);
    let assert_sent = || {
        let attempt = request.attempt();
        let sent = attempt.sent().unwrap();
        let trailers = sent.trailers.unwrap();
        assert_eq!(
            (sent.body, trailers.get("x-checksum")),
            (b"body".to_vec(), Some("1234"))
        );
        assert_eq!(trailers.get("api-key"), None);
        attempt
    };
    answer(&assert_sent(), 429, "slower");
    answer(&assert_sent(), 200, "fine");
    assert_eq!(outcome(&request), is(200, "west", "2", "fine"));
}

#[test]
fn a_body_over_the_replay_limit_is_sent_once_and_the_reason_counted_if_it_fails() {
    let gateway = Gateway::ready(routing_to(3, json!({"replay_limit": "8B"})));
    for (length, retries) in [(8, None), (9, Some("0"))] {
        let request = gateway.router.request(chat_of(length), false);
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
    let request = gateway.router.request(chat_of(9), false);
    request.body("123456789", true);
    answer(&request.attempt(), 429, "slower");
    assert_eq!(outcome(&request), is(429, "north", "1", "slower"));
    let request = gateway.router.request(chat_of(9), false);
    request.body("123456789", true);
    request.attempt().fail();
    assert_eq!(request.answer().status, 503);
    assert_eq!(gateway.counted("aoai.no_retry.body_too_large"), 2);
}

#[test]
fn interleaved_requests_do_not_mix() {
    let mut config = routing(json!({}));
    config["cooldown"] = json!(null);
    let gateway = Gateway::ready(Setup::new(config.to_string()));
    let requests: Vec<_> = (0..6).map(|_| gateway.send()).collect();
    for request in &requests {
        request.attempt().respond(429, [], false);
    }
    for request in requests.iter().rev() {
        request.attempt().response_body("busy", true);
    }
    let seconds: Vec<_> = requests.iter().map(|request| request.attempt()).collect();
    for (index, attempt) in seconds.iter().enumerate() {
        let host = attempt.cluster().replace("aoai_", "") + ".openai.azure.com";
        assert_eq!(sent(attempt, ":authority"), Some(host));
        match index % 2 {
            0 => answer(attempt, 200, &format!("answer {index}")),
            _ => attempt.fail(),
        }
    }
    for (index, request) in requests.iter().enumerate() {
        let clusters = request.clusters();
        if index % 2 == 1 {
            assert_eq!(clusters.len(), 3);
            answer(&request.attempt(), 200, &format!("answer {index}"));
        }
        let backend = clusters.last().unwrap().replace("aoai_", "");
        let attempts = clusters.len().to_string();
        let expected = is(200, &backend, &attempts, &format!("answer {index}"));
        assert_eq!(outcome(request), expected);
    }
    assert_quiet(&gateway.host);
}
