//! Answers whose error code decides: 404.

use mock_host::Action;

use super::support::*;

#[test]
fn a_missing_deployment_leads_to_the_next_backend() {
    let (host, vm) = ready();
    let stream = send(&vm);
    assert_eq!(stream.respond(404, [], false), Action::Pause);
    let body = error("DeploymentNotFound");
    let (first, second) = body.split_at(20);
    assert_eq!(stream.response_body(first, false), Some(Action::Pause));
    assert_eq!(vm.calls(), [], "the code is not there yet");
    stream.response_body(second, true);
    vm.answer(&vm.call(), 200, [], "from west");
    assert_eq!(stream.answer().text(), "from west");
    drop(stream);
    assert_eq!(
        counted(&host, "aoai.backend.east.outcome.deployment_not_found"),
        1
    );
}

#[test]
fn any_other_404_passes_with_its_body_unchanged() {
    for body in [error("404"), "<html>".to_owned(), "x".repeat(100)] {
        let (host, vm) = ready();
        let stream = send(&vm);
        stream.respond(404, [("content-type", "text/html")], false);
        let (first, second) = body.split_at(3);
        stream.response_body(first, false);
        stream.response_body(second, true);
        assert_eq!(vm.calls(), []);
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (404, body.as_str()));
        assert_eq!(answer.headers.get("content-type"), Some("text/html"));
        assert_eq!(answer.headers.get("x-aoai-backend"), Some("east"));
        drop(stream);
        assert_eq!(counted(&host, "aoai.backend.east.outcome.client_error"), 1);
        assert_quiet(&host);
    }
}

#[test]
fn a_404_without_a_body_passes_at_once() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    assert_eq!(stream.respond(404, [], true), Action::Continue);
    assert_eq!(stream.answer().status, 404);
}

#[test]
fn a_404_ended_by_trailers_is_read_too() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    stream.respond(404, [], false);
    stream.response_body(error("DeploymentNotFound"), false);
    stream.response_trailers([("x-trailer", "1")]);
    assert_eq!(vm.call().cluster, "aoai_west");
}

#[test]
fn a_404_from_another_backend_is_the_clients_if_all_say_so() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 404, &error("DeploymentNotFound"));
    vm.answer(&vm.call(), 404, [], error("DeploymentNotFound"));
    vm.answer(&vm.call(), 404, [], error("DeploymentNotFound"));
    let answer = stream.answer();
    assert_eq!(answer.status, 404);
    assert_eq!(code(answer.text()), "DeploymentNotFound");
    assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
}

#[test]
fn a_huge_404_is_not_held_for_its_end() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    stream.respond(404, [], false);
    let part = "x".repeat(40 * 1024);
    assert_eq!(stream.response_body(&part, false), Some(Action::Pause));
    assert_eq!(stream.response_body(&part, false), Some(Action::Continue));
    stream.response_body(&part, true);
    assert_eq!(stream.answer().body.len(), 120 * 1024);
}
