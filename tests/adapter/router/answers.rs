//! Answers on their way to the client.

use mock_host::Action;

use super::*;

#[test]
fn a_stream_passes_chunk_by_chunk_with_no_host_call_for_any() {
    let gateway = Engine::Router.fleet(3, json!({"usage": false}));
    let request = gateway.send();
    answer(&request.attempt(), 429, &error("429"));
    let attempt = request.attempt();
    let action = attempt.respond(200, [("content-type", "text/event-stream")], false);
    assert_eq!(action, Some(Action::Pause), "until its first content");
    attempt.response_body("data: {}\n\n", false);
    gateway.host.clear_counts();
    for index in 2..=51 {
        let action = attempt.response_body("data: {}\n\n", false);
        assert_eq!(action, Some(Action::Continue));
        assert_eq!(
            request.answered().unwrap().body.len(),
            index * 10,
            "at once"
        );
    }
    let counts = gateway.host.counts();
    let names: Vec<_> = counts.keys().copied().collect();
    assert_eq!(names, ["proxy_on_response_body"], "{counts:?}");
    assert_eq!(counts["proxy_on_response_body"].calls, 100, "two filters");
    attempt.response_body("data: [DONE]\n\n", true);
    assert_eq!(request.answer().headers.get("x-aoai-backend"), Some("west"));
    assert_quiet(&gateway.host);
}

#[test]
fn a_request_passes_frame_by_frame_with_no_host_call_for_any() {
    let gateway = Engine::Router.gateway();
    // The request is too large to be retried.
    let request = gateway.request(chat_of(5_000_000), false);
    gateway.host.clear_counts();
    for index in 1..=50 {
        request.body("0123456789", false);
        let sent = request.attempt().sent().unwrap();
        assert_eq!(sent.body.len(), index * 10, "at once");
    }
    let counts = gateway.host.counts();
    let names: Vec<_> = counts.keys().copied().collect();
    assert_eq!(names, ["proxy_on_request_body"], "{counts:?}");
}

#[test]
fn a_first_answer_of_success_is_signed_and_otherwise_unchanged() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let attempt = request.attempt();
    attempt.respond(200, [("x-ms-region", "East US")], false);
    attempt.response_body("hello", false);
    attempt.response_trailers([("x-trailer", "1")]);
    let answer = request.answer();
    let headers: Vec<_> = answer.headers.names().collect();
    assert_eq!(
        headers,
        [
            ":status",
            "x-ms-region",
            "x-aoai-backend",
            "x-aoai-attempts"
        ]
    );
    assert_eq!(outcome(&request), is(200, "east", "1", "hello"));
    drop(request);
    assert_eq!(gateway.counted("aoai.backend.east.outcome.success"), 1);
    assert_eq!(gateway.host.statistic("aoai.client_gone"), 0);
    assert_eq!(gateway.host.statistic("aoai.stream_broken"), 0);
}

#[test]
fn a_clients_own_error_is_signed_and_otherwise_unchanged() {
    for (status, action) in [(422, Action::Continue), (400, Action::Pause)] {
        let gateway = Engine::Router.gateway();
        let request = gateway.send();
        let attempt = request.attempt();
        let headers = [("content-encoding", "none"), ("x-ms-region", "East US")];
        assert_eq!(
            attempt.respond(status, headers, false),
            Some(action),
            "{status}"
        );
        let body = error("content_filter");
        let (begin, end) = body.split_at(9);
        attempt.response_body(begin, false);
        attempt.response_body(end, true);
        assert_eq!(outcome(&request), is(status, "east", "1", &body));
        let headers = request.answer().headers;
        let names: Vec<_> = headers.names().collect();
        assert_eq!(
            names,
            [
                ":status",
                "content-encoding",
                "x-ms-region",
                "x-aoai-backend",
                "x-aoai-attempts"
            ]
        );
        drop(request);
        assert_eq!(gateway.counted("aoai.backend.east.outcome.client_error"), 1);
    }
}
