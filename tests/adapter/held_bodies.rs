//! Errors whose body is awaited. After two seconds the status alone decides.

use super::engines::*;

/// Answers with the headers of an error and the start of its body, then waits until the filter decides.
fn stall(gateway: &Gateway, attempt: &Attempt, status: u16) {
    let headers = [
        ("content-type", "text/plain"),
        ("content-encoding", "br"),
        ("content-length", "100"),
        ("retry-after", "7"),
    ];
    attempt.respond(status, headers, false);
    attempt.response_body("{\"error\":", false);
    gateway.host.advance(millis(2100));
}

cases! {
    fn an_errors_body_that_comes_within_two_seconds_decides(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        attempt.respond(404, [], false);
        let body = error("DeploymentNotFound");
        let (begin, end) = body.split_at(10);
        attempt.response_body(begin, false);
        gateway.host.advance(millis(1900));
        assert_eq!((request.answered(), request.attempts().len()), (None, 1));
        attempt.response_body(end, true);
        assert_eq!(request.attempt().cluster(), WEST);
    }

    fn a_stalled_error_is_delivered_with_its_status_and_headers(engine) {
        for status in [403, 404] {
            let gateway = engine.gateway();
            let request = gateway.send();
            stall(&gateway, &request.attempt(), status);
            let answer = request.answer();
            assert_eq!(answer.status, status);
            assert_eq!(answer.headers.get("retry-after"), Some("7"));
            assert_eq!(answer.headers.get("content-type"), Some("application/json"));
            assert_eq!(answer.headers.get("content-encoding"), None);
            assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
            assert_eq!(code(answer.text()), "incomplete_error");
        }
    }

    fn a_stalled_failure_leads_to_the_next_backend(engine) {
        for status in [429, 500, 503] {
            let gateway = engine.gateway();
            let request = gateway.send();
            stall(&gateway, &request.attempt(), status);
            let second = request.attempt();
            assert_eq!(second.cluster(), WEST, "{status}");
            answer(&second, 200, "hello");
            assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
        }
    }

    fn a_stalled_401_leads_to_a_new_token(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        stall(&gateway, &request.attempt(), 401);
        give_token(&gateway.vm, SECOND_TOKEN);
        let second = request.attempt();
        assert_eq!(
            (request.attempts().len(), second.cluster().as_str()),
            (2, EAST)
        );
        answer(&second, 200, "hello");
        assert_eq!(outcome(&request), is(200, "east", "2", "hello"));
    }
}
