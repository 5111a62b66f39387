//! Each behaviour of a backend, from a client's view.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{chat, eventually, request, send, simulator, End, CHAT, KEY, STREAM};
use simulator::{Answer, Behaviour, Break, Encoding, Failure, Simulator, SlowBody, Stream};

#[test]
fn a_throttled_backend_recovers_after_some_requests() {
    let simulator = simulator();
    simulator
        .backend("east")
        .set(Behaviour::throttled(7).times(2));
    let answers: Vec<_> = (0..3).map(|_| chat(&simulator, "east", "{}")).collect();
    assert_eq!(
        [429, 429, 200],
        [0, 1, 2].map(|index: usize| answers[index].status)
    );
    assert_eq!(answers[0].header("retry-after"), Some("7"));
    assert_eq!(answers[0].header("x-sim-backend"), Some("east"));
    assert_eq!(answers[0].error_code(), "429");
}

#[test]
fn the_usual_errors_have_their_codes() {
    let simulator = simulator();
    let cases = [
        (Behaviour::unauthorized_token(), 401, "401"),
        (Behaviour::permission_denied(), 401, "PermissionDenied"),
        (Behaviour::deployment_not_found(), 404, "DeploymentNotFound"),
        (Behaviour::not_enabled_in_region(), 404, "NotFound"),
        (Behaviour::content_filter(), 400, "content_filter"),
        (Behaviour::context_length(), 400, "context_length_exceeded"),
        (Behaviour::internal_error(), 500, "InternalServerError"),
        (Behaviour::status(503), 503, "503"),
    ];
    for (behaviour, status, code) in cases {
        simulator.backend("east").set(behaviour);
        let answer = chat(&simulator, "east", "{}");
        assert_eq!(
            (answer.status, answer.error_code().as_str()),
            (status, code)
        );
    }
}

#[test]
fn an_error_can_be_given_byte_for_byte() {
    let simulator = simulator();
    let failure = Failure {
        body: Some("<html>".to_owned()),
        headers: vec![("content-type".to_owned(), "text/html".to_owned())],
        ..Failure::new(502)
    };
    simulator.backend("east").set(Behaviour::error(failure));
    let answer = chat(&simulator, "east", "{}");
    assert_eq!((answer.status, answer.text().as_str()), (502, "<html>"));
    assert_eq!(answer.header("content-type"), Some("text/html"));
}

#[test]
fn an_error_is_encoded_where_the_request_accepts_it() {
    let simulator = simulator();
    let failure = Failure::coded(404, "DeploymentNotFound", "...");
    let plain = {
        let backend = simulator.backend("east");
        backend.set(Behaviour::error(failure.clone()));
        chat(&simulator, "east", "{}").body
    };
    for (encoding, accepted, is_encoded) in [
        (Encoding::Gzip, "gzip, deflate", true),
        (Encoding::Gzip, "br;q=1.0, gzip;q=0.8", true),
        (Encoding::Deflate, "gzip, deflate", true),
        (Encoding::Gzip, "deflate", false),
        (Encoding::Gzip, "identity", false),
    ] {
        let backend = simulator.backend("east");
        backend.set(Behaviour::error(failure.clone().encoded(encoding)));
        let headers = [("accept-encoding", accepted), ("api-key", KEY)];
        let answer = send(backend.addr(), "POST", CHAT, &headers, b"{}");
        let name = answer.header("content-encoding");
        assert_eq!(name, is_encoded.then_some(encoding.name()), "{accepted}");
        assert_eq!(answer.body != plain, is_encoded, "{accepted}");
    }
}

#[test]
fn an_answer_can_be_given_header_by_header() {
    let simulator = simulator();
    let headers = [("x-one", "1"), ("set-cookie", "a"), ("set-cookie", "b")];
    let backend = simulator.backend("east");
    backend.set(Behaviour::exact(200, &headers, "body"));
    let answer = chat(&simulator, "east", "{}");
    assert_eq!((answer.status, answer.text().as_str()), (200, "body"));
    let lines = answer.head.lines().skip(1);
    let lines: Vec<_> = lines
        .filter(|line| !line.starts_with("date") && !line.starts_with("connection"))
        .collect();
    assert_eq!(
        lines,
        [
            "x-one: 1",
            "set-cookie: a",
            "set-cookie: b",
            "content-length: 4"
        ]
    );
}

#[test]
fn a_delay_comes_before_the_answer() {
    let simulator = simulator();
    simulator
        .backend("east")
        .set(Behaviour::normal().after_ms(60));
    let begun = Instant::now();
    assert_eq!(chat(&simulator, "east", "{}").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(60));
}

#[test]
fn a_200_can_carry_other_headers() {
    let simulator = simulator();
    let behaviour = Behaviour::normal_with(&[("x-ratelimit-remaining-tokens", "0")]);
    simulator.backend("east").set(behaviour);
    let answer = chat(&simulator, "east", "{}");
    assert_eq!(answer.header("x-ratelimit-remaining-tokens"), Some("0"));
}

#[test]
fn an_early_error_does_not_wait_for_the_body() {
    let simulator = simulator();
    let east = simulator.backend("east");
    east.queue(vec![Behaviour::early(429)]);
    let mut stream = TcpStream::connect(east.addr()).unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: t\r\napi-key: {KEY}\r\ncontent-length: 300000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 429");
    // The body is still accepted, and the connection serves another request.
    stream.write_all(&vec![b'x'; 300_000]).unwrap();
    stream
        .write_all(&request("GET", "/sim/bytes?n=3", &[], b""))
        .unwrap();
    let rest = common::received(&mut stream);
    assert!(rest.text().ends_with("\r\n\r\n..."), "{}", rest.text());
    eventually("the body is recorded", || east.requests()[0].body_complete);
    let records = east.requests();
    assert_eq!(records[0].body_len, 300_000);
    assert_eq!(records[0].connection, records[1].connection);
}

/// A connection with a request whose body of 300,000 bytes has begun, and the first 12 bytes of its answer.
fn begun_upload(simulator: &Simulator, key: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(simulator.backend("east").addr()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: t\r\napi-key: {key}\r\ncontent-length: 300000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn an_unread_error_ends_the_connection() {
    let simulator = simulator();
    simulator.backend("east").set(Behaviour::unread(403));
    let (mut stream, answer) = begun_upload(&simulator, KEY);
    assert_eq!(answer, "HTTP/1.1 403");
    assert_eq!(common::received(&mut stream).end, End::Closed);
    assert_eq!(simulator.backend("east").requests()[0].status, Some(403));
}

#[test]
fn an_unread_error_can_leave_the_connection_open() {
    let simulator = simulator();
    simulator.backend("east").set(Behaviour::unread_kept(403));
    let (mut stream, answer) = begun_upload(&simulator, KEY);
    assert_eq!(answer, "HTTP/1.1 403");
    stream.write_all(&[b'x'; 1000]).unwrap();
    assert_eq!(common::received(&mut stream).end, End::TimedOut);
    assert!(!simulator.backend("east").requests()[0].body_complete);
}

#[test]
fn a_bad_credential_is_refused_before_the_body_is_read() {
    let simulator = simulator();
    for behaviour in [
        Behaviour::normal(),
        Behaviour::stream(Stream::default()),
        Behaviour::slow_body(SlowBody::default()),
    ] {
        simulator.backend("east").set(behaviour);
        let (mut stream, answer) = begun_upload(&simulator, "wrong");
        assert_eq!(answer, "HTTP/1.1 401");
        // The body is still accepted, and the connection serves another request.
        stream.write_all(&vec![b'x'; 300_000]).unwrap();
        stream
            .write_all(&request("GET", "/sim/bytes?n=3", &[], b""))
            .unwrap();
        assert!(common::received(&mut stream)
            .text()
            .ends_with("\r\n\r\n..."));
    }
}

/// The answer to a chat completion, as far as it arrives before a silence of 300 ms.
fn impatient_chat(simulator: &Simulator) -> common::Answer {
    let mut stream = TcpStream::connect(simulator.backend("east").addr()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let chat = request("POST", CHAT, &[("api-key", KEY)], b"{}");
    stream.write_all(&chat).unwrap();
    common::received(&mut stream)
}

#[test]
fn an_errors_body_stalls_or_is_cut_off() {
    let simulator = simulator();
    let east = simulator.backend("east");
    east.set(Behaviour::stalled(429).with_header("retry-after", "7"));
    let answer = impatient_chat(&simulator);
    assert_eq!((answer.status, answer.body.len()), (429, 9));
    assert_eq!(answer.header("retry-after"), Some("7"));
    assert_eq!(answer.header("content-length"), Some("100"));
    assert_eq!(answer.end, End::TimedOut);
    for (how, end) in [(Break::Reset, End::Reset), (Break::Close, End::Closed)] {
        let pace = SlowBody {
            break_after: Some(50),
            how,
            ..SlowBody::default()
        };
        east.set(Behaviour::error(Failure::paced(404, pace)));
        let answer = impatient_chat(&simulator);
        assert_eq!(
            (answer.status, answer.body.len(), answer.end),
            (404, 50, end)
        );
    }
}

#[test]
fn an_errors_head_stalls_or_is_cut_off() {
    let simulator = simulator();
    let ends = [
        (Break::Silence, End::TimedOut),
        (Break::Reset, End::Reset),
        (Break::Close, End::Closed),
    ];
    for (how, end) in ends {
        simulator
            .backend("east")
            .set(Behaviour::half_head(404, how));
        let answer = impatient_chat(&simulator);
        assert!(answer.head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert_eq!((answer.head.len(), answer.end), (30, end));
    }
}

#[test]
fn an_errors_body_comes_in_pieces_or_never_ends() {
    let simulator = simulator();
    let east = simulator.backend("east");
    let pace = SlowBody {
        piece: 10,
        interval_ms: 10,
        chunked: true,
        ..SlowBody::default()
    };
    east.set(Behaviour::error(Failure::paced(500, pace.clone())));
    let begun = Instant::now();
    let answer = impatient_chat(&simulator);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    assert_eq!((answer.status, answer.body.len()), (500, 100));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    let endless = SlowBody {
        endless: true,
        interval_ms: 1,
        ..pace
    };
    east.set(Behaviour::error(Failure::paced(500, endless)));
    let mut stream = TcpStream::connect(east.addr()).unwrap();
    let chat = request("POST", CHAT, &[("api-key", KEY)], b"{}");
    stream.write_all(&chat).unwrap();
    let mut some = [0; 4000];
    stream.read_exact(&mut some).unwrap();
    // More than one repetition of the body, in pieces of which none is empty: an empty piece would be the end.
    let whole = String::from_utf8_lossy(&some);
    assert!(whole.matches("\r\nA\r\n").count() > 200, "{whole}");
    drop(stream);
    eventually("the answer is given up", || east.open_streams() == 0);
}

#[test]
fn a_hanging_backend_notices_that_the_client_left() {
    let simulator = simulator();
    let east = simulator.backend("east");
    east.set(Behaviour::hang());
    let mut stream = TcpStream::connect(east.addr()).unwrap();
    stream
        .write_all(&request("POST", CHAT, &[], b"{}"))
        .unwrap();
    eventually("the answer is in progress", || east.open_streams() == 1);
    eventually("the body is recorded", || east.requests()[0].body_complete);
    drop(stream);
    eventually("the answer is given up", || east.open_streams() == 0);
    assert_eq!(east.requests()[0].status, None);
}

#[test]
fn a_reset_comes_before_any_byte() {
    let simulator = simulator();
    simulator.backend("east").set(Behaviour::reset());
    let answer = chat(&simulator, "east", "{}");
    assert_eq!((answer.end, answer.head.as_str()), (End::Reset, ""));
}

#[test]
fn a_close_is_in_order() {
    let simulator = simulator();
    simulator.backend("east").set(Behaviour::close());
    let answer = chat(&simulator, "east", "{}");
    assert_eq!((answer.end, answer.head.as_str()), (End::Closed, ""));
}

#[test]
fn a_stream_breaks_after_some_frames() {
    let simulator = simulator();
    for (how, end) in [(Break::Reset, End::Reset), (Break::Close, End::Closed)] {
        simulator.backend("east").set(Behaviour::stream(Stream {
            break_after: Some(4),
            how,
            ..Stream::default()
        }));
        let answer = chat(&simulator, "east", STREAM);
        assert_eq!((answer.status, answer.end), (200, end));
        assert_eq!(answer.text().matches("data: ").count(), 4);
    }
}

#[test]
fn a_stream_keeps_its_pace() {
    let simulator = simulator();
    simulator.backend("east").set(Behaviour::stream(Stream {
        events: 3,
        interval_ms: 10,
        first_event_delay_ms: 30,
        ..Stream::default()
    }));
    let begun = Instant::now();
    let answer = chat(&simulator, "east", STREAM);
    // Seven frames: filter results, role, three pieces, finish, DONE.
    assert!(begun.elapsed() >= Duration::from_millis(90));
    assert_eq!(answer.text().matches("data: ").count(), 7);
}

#[test]
fn a_stream_can_have_flaws() {
    let simulator = simulator();
    let flawed = |stream: Stream| {
        simulator.backend("east").set(Behaviour::stream(stream));
        chat(&simulator, "east", STREAM)
    };
    let base = || Stream {
        events: 2,
        interval_ms: 0,
        ..Stream::default()
    };
    let plain = flawed(base()).text();
    let crlf = flawed(Stream {
        crlf: true,
        ..base()
    })
    .text();
    assert_eq!(
        crlf.matches("\r\n\r\n").count(),
        plain.matches("\n\n").count()
    );
    let split = flawed(Stream {
        split_frames: true,
        ..base()
    });
    assert_eq!(split.text().len(), plain.len());
    let bare = flawed(Stream {
        bare: true,
        ..base()
    });
    assert_eq!(bare.header("content-type"), None);
    assert!(bare.text().ends_with("\n\n[DONE]"));
}

#[test]
fn trailers_follow_a_stream() {
    let simulator = simulator();
    let east = simulator.backend("east");
    east.set(Behaviour::stream(Stream {
        trailers: Some(vec![("x-end".to_owned(), "yes".to_owned())]),
        ..Stream::default()
    }));
    let mut stream = TcpStream::connect(east.addr()).unwrap();
    let headers = [("api-key", KEY), ("te", "trailers")];
    stream
        .write_all(&request("POST", CHAT, &headers, STREAM.as_bytes()))
        .unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert!(all.ends_with("0\r\nx-end: yes\r\n\r\n"), "{all}");
}

#[test]
fn a_plain_body_breaks_in_the_middle() {
    let simulator = simulator();
    simulator
        .backend("east")
        .set(Behaviour::slow_body(SlowBody {
            break_after: Some(100),
            ..SlowBody::default()
        }));
    let answer = chat(&simulator, "east", "{}");
    assert_eq!(
        (answer.status, answer.end, answer.body.len()),
        (200, End::Reset, 100)
    );
    let promised: usize = answer.header("content-length").unwrap().parse().unwrap();
    assert!(promised > 100);
}

#[test]
fn a_slow_body_arrives_whole() {
    let simulator = simulator();
    let slow = SlowBody {
        interval_ms: 1,
        ..SlowBody::default()
    };
    simulator.backend("east").set(Behaviour::slow_body(slow));
    let answer = chat(&simulator, "east", "{}");
    assert_eq!(answer.json()["object"], "chat.completion");
}

#[test]
fn a_stopped_backend_refuses_and_comes_back() {
    let simulator = simulator();
    let east = simulator.backend("east");
    let mut idle = TcpStream::connect(east.addr()).unwrap();
    eventually("the connection is accepted", || east.connections() == 1);
    east.stop();
    assert_eq!(common::received(&mut idle).head, "");
    assert_eq!(chat(&simulator, "east", "{}").end, End::Refused);
    east.restart().unwrap();
    assert_eq!(chat(&simulator, "east", "{}").status, 200);
}

#[test]
fn a_dropped_simulator_leaves_nothing_behind() {
    let simulator = simulator();
    let addr = simulator.backend("east").addr();
    let ca = simulator.ca_path().to_owned();
    assert!(ca.exists());
    drop(simulator);
    assert!(!ca.exists());
    assert_eq!(send(addr, "GET", "/", &[], b"").end, End::Refused);
}

#[test]
fn a_behaviour_survives_a_round_trip_through_json() {
    let behaviours = [
        Behaviour::normal(),
        Behaviour::throttled(7)
            .times(2)
            .on_path("/chat")
            .after_ms(5),
        Behaviour::early(503),
        Behaviour::stream(Stream::default()),
        Behaviour::slow_body(SlowBody::default()),
        Behaviour::unread(401),
        Behaviour::stalled(404),
        Behaviour::half_head(500, Break::Silence),
        Answer::Hang.into(),
    ];
    for behaviour in behaviours {
        let text = serde_json::to_string(&behaviour).unwrap();
        assert_eq!(
            serde_json::from_str::<Behaviour>(&text).unwrap(),
            behaviour,
            "{text}"
        );
    }
}

#[test]
fn the_audit_orders_requests_across_backends() {
    let simulator = common::started(["a", "b"].map(simulator::BackendSettings::new).to_vec());
    for backend in ["a", "b", "a"] {
        send(
            simulator.backend(backend).addr(),
            "POST",
            "/sim/echo?x=1",
            &[("X-One", "1")],
            b"body",
        );
    }
    let order: Vec<_> = simulator
        .requests()
        .into_iter()
        .map(|request| request.service)
        .collect();
    assert_eq!(order, ["a", "b", "a"]);
    let record = simulator.backend("b").requests().remove(0);
    assert_eq!(
        (record.method.as_str(), record.path.as_str()),
        ("POST", "/sim/echo?x=1")
    );
    assert_eq!(
        (record.header("x-one"), record.authority.as_str()),
        (Some("1"), "test")
    );
    assert_eq!((&record.body[..], record.status), (&b"body"[..], Some(200)));
    assert_eq!(
        record.body_sha256,
        "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"
    );
    simulator.backend("a").clear_requests();
    assert_eq!(
        (simulator.backend("a").count(), simulator.requests().len()),
        (0, 1)
    );
}
