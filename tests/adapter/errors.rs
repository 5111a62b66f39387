//! Answers whose error code decides.

use mock_host::Action;

use super::budget::host_calls;
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
fn what_a_backend_lacks_or_refuses_leads_to_the_next() {
    for (status, body, name, told) in denials() {
        for encoded in [body.as_bytes().to_vec(), gzip(&body)] {
            let (host, vm) = ready();
            let stream = send(&vm);
            assert_eq!(stream.respond(status, [], false), Action::Pause);
            let (first, second) = encoded.split_at(20);
            assert_eq!(stream.response_body(first, false), Some(Action::Pause));
            assert_eq!(vm.calls(), [], "the code is not there yet");
            stream.response_body(second, true);
            vm.answer(&vm.call(), 200, [], "from west");
            assert_eq!(stream.answer().text(), "from west");
            drop(stream);
            let outcome = format!("aoai.backend.east.outcome.{name}");
            assert_eq!(counted(&host, &outcome), 1, "{status} {body}");
            assert_eq!(host.statistic("aoai.identity.fetches"), 1);
            let loud = loud(&host);
            assert!(loud.len() == 1 && loud[0].contains(told), "{loud:?}");
        }
    }
}

#[test]
fn the_answer_to_a_further_attempt_is_read_as_well() {
    for (status, body, name, _) in denials() {
        let (host, vm) = ready();
        let stream = send(&vm);
        respond(&stream, 500, "");
        vm.answer(&vm.call(), status, [], gzip(&body));
        vm.answer(&vm.call(), 200, [], "from north");
        assert_eq!(stream.answer().text(), "from north");
        drop(stream);
        let outcome = format!("aoai.backend.west.outcome.{name}");
        assert_eq!(counted(&host, &outcome), 1, "{status} {body}");
    }
}

#[test]
fn any_other_400_passes_unchanged_and_is_made_once() {
    let policy = worded(
        "content_filter",
        "unknown_model: Token tenant DeploymentNotFound",
    );
    let frames = |body: Vec<u8>| {
        let (begin, end) = body.split_at(body.len() / 2);
        [begin.to_vec(), end.to_vec()]
    };
    for body in [
        policy.clone().into_bytes(),
        gzip(&policy),
        b"unknown_model".to_vec(),
        b"data: {}\n\n".to_vec(),
        b"\x1f\x8b\x08damaged".to_vec(),
    ] {
        let (host, vm) = ready();
        let stream = send(&vm);
        let headers = [
            ("content-type", "text/event-stream"),
            ("content-encoding", "gzip"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ];
        stream.respond(400, headers, false);
        let [begin, end] = frames(body.clone());
        stream.response_body(begin, false);
        stream.response_body(end, true);
        assert_eq!(vm.calls(), []);
        let answer = stream.answer();
        assert_eq!((answer.status, &answer.body), (400, &body));
        let names: Vec<_> = answer.headers.names().collect();
        assert_eq!(
            names,
            [
                ":status",
                "content-type",
                "content-encoding",
                "set-cookie",
                "set-cookie",
                // Envoy's own.
                "x-envoy-upstream-service-time",
                "x-aoai-backend",
                "x-aoai-attempts"
            ]
        );
        drop(stream);
        assert_eq!(counted(&host, "aoai.backend.east.outcome.client_error"), 1);
        assert_quiet(&host);
    }
}

#[test]
fn a_400_costs_no_more_host_calls_than_a_404() {
    let calls = |status| {
        let (host, vm) = ready();
        for _ in 0..9 {
            respond(&send(&vm), status, &error("content_filter"));
        }
        host.clear_counts();
        respond(&send(&vm), status, &error("content_filter"));
        host_calls(&host)
    };
    let of_404 = calls(404);
    assert_eq!(of_404["proxy_get_header_map_value"], 1, "the status alone");
    assert_eq!(calls(400), of_404);
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
fn an_error_without_a_body_passes_at_once() {
    for status in [400, 404, 410] {
        let (_host, vm) = ready();
        let stream = send(&vm);
        assert_eq!(stream.respond(status, [], true), Action::Continue);
        assert_eq!(stream.answer().status, status);
    }
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
