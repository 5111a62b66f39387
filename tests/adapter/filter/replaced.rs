//! The answer of a further attempt takes the place of the first answer, by the filter or by an answer of Envoy's.

use mock_host::Fault;

use super::*;

/// Answers that Envoy's own answers cannot reproduce: headers and body.
const BARE: [(&[(&str, &str)], &str); 4] = [
    (&[("x-ms-region", "West US")], "no type"),
    // The answer to a HEAD, or a 304.
    (&[("content-length", "1234")], ""),
    (&[("content-type", "text/html")], ""),
    (
        &[("set-cookie", "b"), ("x-a", "1"), ("set-cookie", "a")],
        "x",
    ),
];

fn names(headers: &mock_host::Headers) -> Vec<(String, Vec<u8>)> {
    let pairs = headers.iter();
    pairs
        .filter(|(name, _)| !name.starts_with("x-aoai-"))
        .map(|(name, value)| (name.to_owned(), value.to_vec()))
        .collect()
}

#[test]
fn a_later_answer_that_envoy_would_change_replaces_the_first() {
    for (headers, body) in BARE {
        for first in ["", "first"] {
            if first.is_empty() && !body.is_empty() {
                continue;
            }
            let (host, vm) = ready();
            let stream = send(&vm);
            let gone = [("content-type", "application/json"), ("retry-after", "7")];
            stream.respond(503, gone, first.is_empty());
            if !first.is_empty() {
                stream.response_body(first, true);
            }
            vm.answer(&vm.call(), 200, headers, body);
            let answer = stream.answer();
            assert_eq!((answer.status, answer.text()), (200, body));
            assert_eq!(answer.details, "via_upstream");
            let mut expected = vec![(":status".to_owned(), b"200".to_vec())];
            expected.extend(
                headers
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())),
            );
            assert_eq!(names(&answer.headers), expected);
            assert_eq!(answer.headers.get("x-aoai-backend"), Some("west"));
            assert_eq!(answer.headers.get("x-aoai-attempts"), Some("2"));
            drop(stream);
            assert_eq!(counted(&host, "aoai.stream_broken"), 0);
            assert_eq!(host.statistic("aoai.client_gone"), 0);
            assert_quiet(&host);
        }
    }
}

#[test]
fn without_room_in_the_first_answer_envoy_answers() {
    let long = "x".repeat(64 * 1024 + 1);
    // The cases: the first answer is incomplete, has no body, ends with trailers, or the body is long.
    for (case, body) in ["no type", "no type", "no type", long.as_str()]
        .into_iter()
        .enumerate()
    {
        let (_host, vm) = ready();
        let stream = send(&vm);
        stream.respond(503, [], case == 1);
        match case {
            0 => drop(stream.response_body("first", false)),
            1 => {}
            2 => {
                stream.response_body("first", false);
                stream.response_trailers([("x-trailer", "1")]);
            }
            _ => drop(stream.response_body("first", true)),
        }
        vm.answer(&vm.call(), 200, [("x-ms-region", "West US")], body);
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (200, body), "case {case}");
        assert_eq!(answer.details, "aoai_reissued", "case {case}");
    }
}

#[test]
fn if_envoy_refuses_the_replacement_envoy_answers() {
    for function in ["proxy_set_buffer_bytes", "proxy_set_header_map_pairs"] {
        let (host, vm) = ready();
        let stream = send(&vm);
        respond(&stream, 503, "first");
        host.inject(Fault::of(function));
        vm.answer(&vm.call(), 200, [("x-ms-region", "West US")], "no type");
        let answer = stream.answer();
        assert_eq!((answer.status, answer.text()), (200, "no type"));
        assert_eq!(answer.details, "aoai_reissued");
    }
}

#[test]
fn envoys_service_time_of_a_call_does_not_reach_the_client() {
    let (_host, vm) = ready();
    let stream = send(&vm);
    respond(&stream, 503, "first");
    let headers = [
        ("content-type", "text/html"),
        ("x-envoy-upstream-service-time", "12"),
    ];
    vm.answer(&vm.call(), 503, headers, "last");
    vm.fail(&vm.call());
    let answer = stream.answer();
    assert_eq!((answer.status, answer.text()), (503, "last"));
    assert_eq!(answer.headers.get("x-envoy-upstream-service-time"), None);
}
