//! Answers whose outcome depends on the error code.

use mock_host::Action;

use super::budget::host_calls;
use super::engines::*;

cases! {
    fn a_backends_own_errors_lead_to_the_next_backend(engine) {
        for (status, body, name, logged) in denials() {
            for encoded in [body.as_bytes().to_vec(), gzip(&body)] {
                let gateway = engine.gateway();
                let request = gateway.send();
                assert_eq!(
                    request.attempt().respond(status, [], false),
                    Some(Action::Pause)
                );
                let (first, second) = encoded.split_at(20);
                assert_eq!(
                    request.attempt().response_body(first, false),
                    Some(Action::Pause)
                );
                assert_eq!(request.attempts().len(), 1, "the code is not there yet");
                request.attempt().response_body(second, true);
                let next = request.attempt();
                assert_eq!(next.cluster(), WEST);
                assert_eq!(
                    next.header("authorization").as_deref(),
                    Some("Bearer TOKEN-ONE")
                );
                answer(&next, 200, "from west");
                assert_eq!(outcome(&request), is(200, "west", "2", "from west"));
                drop(request);
                let outcome = format!("aoai.backend.east.outcome.{name}");
                assert_eq!(gateway.counted(&outcome), 1, "{status} {body}");
                assert_eq!(gateway.host.statistic("aoai.identity.fetches"), 1);
                let loud = loud(&gateway.host);
                assert!(loud.len() == 1 && loud[0].contains(logged), "{loud:?}");
            }
        }
    }

    fn the_answer_to_a_further_attempt_is_read_as_well(engine) {
        for (status, body, name, _) in denials() {
            let gateway = engine.gateway();
            let request = gateway.send();
            answer(&request.attempt(), 500, "");
            request.attempt().respond(status, [], false);
            request.attempt().response_body(gzip(&body), true);
            answer(&request.attempt(), 200, "from north");
            assert_eq!(request.answer().text(), "from north");
            drop(request);
            let outcome = format!("aoai.backend.west.outcome.{name}");
            assert_eq!(gateway.counted(&outcome), 1, "{status} {body}");
        }
    }

    fn any_other_400_passes_unchanged_and_is_made_once(engine) {
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
            let gateway = engine.gateway();
            let request = gateway.send();
            let headers = [
                ("content-type", "text/event-stream"),
                ("content-encoding", "gzip"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
            ];
            request.attempt().respond(400, headers, false);
            let [begin, end] = frames(body.clone());
            request.attempt().response_body(begin, false);
            request.attempt().response_body(end, true);
            assert_eq!(request.attempts().len(), 1);
            let answer = request.answer();
            assert_eq!((answer.status, &answer.body), (400, &body));
            let names = answer.headers.names();
            // Envoy sets this header.
            let names = names.filter(|name| *name != "x-envoy-upstream-service-time");
            assert_eq!(
                names.collect::<Vec<_>>(),
                [
                    ":status",
                    "content-type",
                    "content-encoding",
                    "set-cookie",
                    "set-cookie",
                    "x-aoai-backend",
                    "x-aoai-attempts"
                ]
            );
            drop(request);
            assert_eq!(gateway.counted("aoai.backend.east.outcome.client_error"), 1);
            assert_quiet(&gateway.host);
        }
    }

    fn a_400_costs_no_more_host_calls_than_a_404(engine) {
        let calls = |status| {
            let gateway = engine.gateway();
            for _ in 0..9 {
                answer(&gateway.send().attempt(), status, &error("content_filter"));
            }
            gateway.host.clear_counts();
            answer(&gateway.send().attempt(), status, &error("content_filter"));
            host_calls(&gateway.host)
        };
        let of_404 = calls(404);
        assert_eq!(of_404["proxy_get_header_map_pairs"], 2, "request and answer");
        assert!(!of_404.contains_key("proxy_get_header_map_value"));
        assert_eq!(calls(400), of_404);
    }

    fn any_other_404_passes_with_its_body_unchanged(engine) {
        for body in [error("404"), "<html>".to_owned(), "x".repeat(100)] {
            let gateway = engine.gateway();
            let request = gateway.send();
            request
                .attempt()
                .respond(404, [("content-type", "text/html")], false);
            let (first, second) = body.split_at(3);
            request.attempt().response_body(first, false);
            assert_eq!(request.answered(), None);
            request.attempt().response_body(second, true);
            assert_eq!(request.attempts().len(), 1);
            assert_eq!(outcome(&request), is(404, "east", "1", &body));
            let headers = request.answer().headers;
            assert_eq!(headers.get("content-type"), Some("text/html"));
            drop(request);
            assert_eq!(gateway.counted("aoai.backend.east.outcome.client_error"), 1);
            assert_quiet(&gateway.host);
        }
    }

    fn an_error_without_a_body_passes_at_once(engine) {
        for status in [400, 404, 410] {
            let gateway = engine.gateway();
            let request = gateway.send();
            assert_eq!(
                request.attempt().respond(status, [], true),
                Some(Action::Continue)
            );
            assert_eq!(outcome(&request), is(status, "east", "1", ""));
        }
    }

    fn a_404_ended_by_trailers_is_read_too(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        request.attempt().respond(404, [], false);
        request
            .attempt()
            .response_body(error("DeploymentNotFound"), false);
        request.attempt().response_trailers([("x-trailer", "1")]);
        assert_eq!(request.attempt().cluster(), WEST);
    }

    fn the_client_gets_a_404_that_every_backend_answers(engine) {
        let gateway = engine.gateway();
        let request = gateway.send();
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        answer(&request.attempt(), 404, &error("DeploymentNotFound"));
        let answer = request.answer();
        assert_eq!(answer.status, 404);
        assert_eq!(code(answer.text()), "DeploymentNotFound");
        assert_eq!(answer.headers.get("x-aoai-attempts"), Some("3"));
    }

    fn an_error_larger_than_64_kib_is_delivered_whole(engine) {
        for status in [404, 400] {
            let gateway = engine.gateway();
            let request = gateway.send();
            let attempt = request.attempt();
            attempt.respond(status, [], false);
            let part = "x".repeat(40 * 1024);
            assert_eq!(attempt.response_body(&part, false), Some(Action::Pause));
            assert_eq!(attempt.response_body(&part, false), Some(Action::Continue));
            attempt.response_body(&part, false);
            attempt.response_body("end", true);
            let answer = request.answer();
            assert_eq!((answer.status, answer.body.len()), (status, 120 * 1024 + 3));
        }
    }
}
