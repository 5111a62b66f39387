//! Attempts that get no answer: the router goes on by itself.

use serde_json::json;

use super::*;

#[test]
fn after_failed_connections_the_next_backends_are_tried() {
    let gateway = gateway();
    let request = gateway.send();
    for _ in 0..2 {
        request.attempt().fail();
    }
    let third = request.attempt();
    assert_eq!(third.cluster(), "aoai_north");
    assert_eq!(
        sent(&third, ":authority").as_deref(),
        Some("north.openai.azure.com")
    );
    assert_eq!(third.sent().unwrap().body, BODY.as_bytes());
    answer(&third, 200, "hello");
    assert_eq!(outcome(&request), is(200, "north", "3", "hello"));
    drop(request);
    for backend in ["east", "west"] {
        let name = format!("aoai.backend.{backend}.outcome.unavailable");
        assert_eq!(gateway.counted(&name), 1);
    }
    assert_quiet(&gateway.host);
}

fn assert_local(request: &Routed, status: u16, error: &str, attempts: &str) {
    let answer = request.answer();
    assert_eq!(
        (answer.status, code(answer.text()).as_str()),
        (status, error)
    );
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some(attempts));
    assert_eq!(answer.headers.get("x-aoai-backend"), None);
    assert_eq!(answer.headers.get("content-type"), Some("application/json"));
}

#[test]
fn when_no_backend_can_be_reached_the_client_gets_503() {
    // With two backends the router starts a third attempt that has nowhere to go.
    for (backends, attempts) in [(3, "3"), (2, "2"), (1, "1")] {
        let gateway = Gateway::ready(routing_to(backends, json!({"max_attempts": 3})));
        let request = gateway.send();
        for _ in 0..backends {
            request.attempt().fail();
        }
        assert_eq!(
            request.clusters(),
            CLUSTERS[..backends],
            "nothing more leaves"
        );
        assert_local(&request, 503, "backend_unavailable", attempts);
        drop(request);
        let reason = if backends == 3 {
            "attempts"
        } else {
            "backends"
        };
        let name = format!("aoai.no_retry.{reason}_exhausted");
        assert_eq!(gateway.counted(&name), 1, "{name}");
        assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
        assert_quiet(&gateway.host);
    }
}

#[test]
fn when_no_backend_answers_in_time_the_client_gets_504() {
    for (backends, attempts) in [(3, "3"), (2, "2")] {
        let retry = json!({"max_attempts": 3, "per_try_timeout": "10s"});
        let gateway = Gateway::ready(routing_to(backends, retry));
        let request = gateway.send();
        for _ in 0..backends {
            gateway.host.advance(seconds(10));
            request.attempt().time_out();
        }
        assert_local(&request, 504, "backend_timeout", attempts);
    }
}

#[test]
fn when_the_only_backend_does_not_answer_in_time_the_client_gets_504() {
    let retry = json!({"max_attempts": 3, "per_try_timeout": "10s"});
    let gateway = Gateway::ready(routing_to(1, retry));
    let request = gateway.send();
    gateway.host.advance(seconds(10));
    request.attempt().time_out();
    assert_local(&request, 504, "backend_timeout", "1");
}

#[test]
fn a_real_answer_is_kept_over_a_later_failure_to_connect() {
    for backends in [2, 3] {
        let gateway = Gateway::ready(routing_to(backends, json!({"max_attempts": 3})));
        let request = gateway.send();
        let first = request.attempt();
        first.respond(429, [("retry-after", "7"), ("content-length", "4")], false);
        first.response_body("busy", true);
        for _ in 1..backends {
            request.attempt().fail();
        }
        let attempts = backends.to_string();
        assert_eq!(outcome(&request), is(429, "east", &attempts, "busy"));
        assert_eq!(request.answer().headers.get("retry-after"), Some("7"));
        assert_eq!(request.clusters().len(), backends);
    }
}

#[test]
fn a_real_answer_without_a_body_is_kept_too() {
    let gateway = gateway();
    let request = gateway.send();
    answer(&request.attempt(), 429, "");
    request.attempt().fail();
    request.attempt().fail();
    assert_eq!(outcome(&request), is(429, "east", "3", ""));
}

#[test]
fn the_last_of_several_real_answers_is_kept() {
    let gateway = gateway();
    let request = gateway.send();
    answer(&request.attempt(), 429, "first");
    answer(&request.attempt(), 500, "second");
    request.attempt().fail();
    assert_eq!(outcome(&request), is(500, "west", "3", "second"));
}

#[test]
fn an_error_that_breaks_off_within_its_body_is_followed_by_the_next_backend() {
    let gateway = gateway();
    let request = gateway.send();
    let first = request.attempt();
    first.respond(429, [], false);
    first.response_body("bu", false);
    first.fail();
    let second = request.attempt();
    assert_eq!(
        sent(&second, ":authority").as_deref(),
        Some("west.openai.azure.com")
    );
    answer(&second, 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
}

#[test]
fn a_cluster_without_a_host_on_the_way_leaves_the_real_answer_to_the_client() {
    let gateway = gateway();
    let router = gateway.router.clone().without_hosts("aoai_west");
    let request = send_through(&router);
    answer(&request.attempt(), 429, "busy");
    let answer = request.answer();
    assert_eq!((answer.status, answer.text()), (429, "busy"));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
}

#[test]
fn a_first_cluster_without_a_host_is_answered_503() {
    let gateway = gateway();
    let request = send_through(&gateway.router.clone().without_hosts("aoai_east"));
    assert_eq!(request.answer().status, 503);
    assert_eq!(code(request.answer().text()), "backend_unavailable");
    assert_eq!(gateway.counted("aoai.backend.east.outcome.unavailable"), 1);
}

#[test]
fn the_last_real_answer_is_delivered_as_the_backend_sent_it() {
    for (headers, body) in [
        (&[("x-ms-region", "East US")][..], "no type"),
        (&[("content-length", "1234")], ""),
        (&[("content-type", "text/html")], ""),
        (
            &[
                ("set-cookie", "b"),
                ("x-envoy-upstream-service-time", "12"),
                ("set-cookie", "a"),
            ],
            "x",
        ),
    ] {
        let gateway = gateway();
        let request = gateway.send();
        let first = request.attempt();
        first.respond(429, headers, body.is_empty());
        if !body.is_empty() {
            first.response_body(body, true);
        }
        request.attempt().fail();
        request.attempt().fail();
        assert_eq!(outcome(&request), is(429, "east", "3", body));
        let answer = request.answer();
        let mut pairs: Vec<_> = answer.headers.iter().collect();
        pairs.retain(|(name, _)| !name.starts_with("x-aoai-") && *name != ":status");
        let expected: Vec<_> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()))
            .collect();
        assert_eq!(pairs, expected);
    }
}
