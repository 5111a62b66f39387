//! Answers whose body is awaited behind the router.

use mock_host::{Action, Fault};

use super::*;

#[test]
fn what_a_backend_lacks_or_refuses_leads_to_the_next() {
    for (status, body, name, told) in denials() {
        for encoded in [body.as_bytes().to_vec(), gzip(&body)] {
            let gateway = gateway();
            let request = gateway.send();
            let first = request.attempt();
            assert_eq!(first.respond(status, [], false), Action::Pause);
            let (begin, end) = encoded.split_at(20);
            assert_eq!(first.response_body(begin, false), Some(Action::Pause));
            assert_eq!(request.attempts().len(), 1, "the code is not there yet");
            first.response_body(end, true);
            let second = request.attempt();
            assert_eq!(second.cluster(), "aoai_west");
            let token = sent(&second, "authorization");
            assert_eq!(token.as_deref(), Some("Bearer TOKEN-ONE"));
            answer(&second, 200, "hello");
            assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
            drop(request);
            let name = format!("aoai.backend.east.outcome.{name}");
            assert_eq!(gateway.counted(&name), 1, "{status} {body}");
            assert_eq!(gateway.host.statistic("aoai.identity.fetches"), 1);
            let loud = loud(&gateway.host);
            assert!(loud.len() == 1 && loud[0].contains(told), "{loud:?}");
        }
    }
}

#[test]
fn an_error_code_ended_by_trailers_decides() {
    let gateway = gateway();
    let request = gateway.send();
    let first = request.attempt();
    first.respond(404, [], false);
    first.response_body(error("DeploymentNotFound"), false);
    first.response_trailers([("x-trailer", "1")]);
    assert_eq!(request.attempt().cluster(), "aoai_west");
}

#[test]
fn any_other_404_is_delivered_unchanged() {
    for body in [error("404"), "<html>".to_owned(), "x".repeat(100)] {
        let gateway = gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(404, [("content-type", "text/html")], false);
        let (begin, end) = body.split_at(3);
        attempt.response_body(begin, false);
        assert_eq!(request.answered(), None);
        attempt.response_body(end, true);
        assert_eq!(outcome(&request), is(404, "east", "1", &body));
        assert_eq!(
            request.answer().headers.get("content-type"),
            Some("text/html")
        );
        drop(request);
        assert_eq!(gateway.counted("aoai.backend.east.outcome.client_error"), 1);
        assert_quiet(&gateway.host);
    }
}

#[test]
fn a_404_without_a_body_passes_at_once() {
    let gateway = gateway();
    let request = gateway.send();
    assert_eq!(request.attempt().respond(404, [], true), Action::Continue);
    assert_eq!(outcome(&request), is(404, "east", "1", ""));
}

#[test]
fn an_error_larger_than_64_kib_is_delivered_whole() {
    for status in [404, 400] {
        let gateway = gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(status, [], false);
        let frame = "x".repeat(30_000);
        for _ in 0..5 {
            attempt.response_body(&frame, false);
        }
        attempt.response_body("end", true);
        let answer = request.answer();
        assert_eq!((answer.status, answer.body.len()), (status, 150_003));
    }
}

#[test]
fn a_failure_larger_than_64_kib_is_retried_once_that_much_has_come() {
    let gateway = gateway();
    let request = gateway.send();
    let first = request.attempt();
    first.respond(500, [], false);
    first.response_body("x".repeat(64 * 1024), false);
    assert_eq!(request.attempts().len(), 1);
    first.response_body("x", false);
    let second = request.attempt();
    assert_eq!(second.cluster(), "aoai_west");
    // Of the answer there was only a part, and no client gets a part.
    second.fail();
    request.attempt().fail();
    let answer = request.answer();
    assert_eq!(answer.status, 503);
    assert_eq!(code(answer.text()), "backend_unavailable");
}

#[test]
fn the_last_attempts_failure_larger_than_64_kib_is_delivered_whole() {
    let gateway = gateway();
    let request = gateway.send();
    request.attempt().fail();
    request.attempt().fail();
    let last = request.attempt();
    last.respond(500, [], false);
    for _ in 0..3 {
        last.response_body("x".repeat(40_000), false);
    }
    last.response_body("", true);
    let answer = request.answer();
    assert_eq!((answer.status, answer.body.len()), (500, 120_000));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("north"));
}

#[test]
fn an_answer_that_can_be_neither_read_nor_replaced_passes() {
    let gateway = gateway();
    let request = gateway.send();
    let host = &gateway.host;
    host.inject(Fault::of("proxy_get_header_map_value").on(":status"));
    host.inject(Fault::of("proxy_send_local_response"));
    let attempt = request.attempt();
    assert_eq!(attempt.respond(200, [], false), Action::Continue);
    attempt.response_body("hello", true);
    assert_eq!(request.answer().text(), "hello");
}
