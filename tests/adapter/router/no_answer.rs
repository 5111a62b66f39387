//! Attempts without an answer: the router continues by itself.

use super::*;

#[test]
fn an_error_that_breaks_off_leads_to_the_next_backend() {
    let gateway = Engine::Router.gateway();
    let request = gateway.send();
    let first = request.attempt();
    first.respond(429, [], false);
    first.response_body("bu", false);
    first.fail();
    let second = request.attempt();
    assert_eq!(
        second.header(":authority").as_deref(),
        Some("west.openai.azure.com")
    );
    answer(&second, 200, "hello");
    assert_eq!(outcome(&request), is(200, "west", "2", "hello"));
}

#[test]
fn after_a_cluster_without_a_host_the_real_answer_is_delivered() {
    let gateway = Engine::Router.gateway();
    let router = gateway.router().without_hosts("aoai_west");
    let request = send_through(&router);
    answer(&request.attempt(), 429, "busy");
    let answer = request.answer();
    assert_eq!((answer.status, answer.text()), (429, "busy"));
    assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
}

#[test]
fn a_first_cluster_without_a_host_is_answered_503() {
    let gateway = Engine::Router.gateway();
    let request = send_through(&gateway.router().without_hosts("aoai_east"));
    assert_eq!(request.answer().status, 503);
    assert_eq!(code(request.answer().text()), "backend_unavailable");
    assert_eq!(gateway.counted("aoai.backend.east.outcome.unavailable"), 1);
}
