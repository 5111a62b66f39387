//! Attacks of a client with a key on Envoy, the backends and other clients. `docs/security.md` lists them.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use e2e::{cases, chat_request, east_and_west, simulate, Client, Gateway};
use serde_json::{json, Value};
use simulator::{Behaviour, Simulator, Stream};

const SECOND: Duration = Duration::from_secs(1);

/// A request that must reach no backend.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";

/// Sends raw bytes. Returns the answer until the connection ends or falls silent.
fn raw(client: &Client, bytes: &[u8]) -> String {
    let mut socket = client.socket().unwrap();
    // Envoy may close the connection before it has read everything.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = socket.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Everything still works, and backends got nothing but chats with good tokens.
fn assert_harmless(gateway: &Gateway, azure: &Simulator) {
    for _ in 0..4 {
        assert_eq!(gateway.chat(&chat_request()).status, 200);
    }
    gateway.assert_unharmed();
    let backends = azure.backends().iter();
    for request in backends.flat_map(|backend| backend.requests()) {
        assert!(request.path.starts_with("/openai/"), "{request:?}");
        assert!(request.token.passes(), "{request:?}");
        assert_eq!(
            request.authority,
            format!("contoso-{}.openai.azure.com", request.service)
        );
    }
    assert_eq!(azure.imds().count(), 1, "nobody else asks for tokens");
}

/// A chat with these further headers, and a body.
fn head(headers: &str) -> String {
    format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{headers}\r\n",
        chat_request().path
    )
}

cases! {
    fn a_smuggled_request_reaches_no_backend(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let client = gateway.client().give_up_after(SECOND / 2);
        let whole = SMUGGLED.len();
        for (headers, body) in [
            ("content-length: 6\r\ntransfer-encoding: chunked\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            (format!("content-length: 2\r\ncontent-length: {}\r\n", whole + 2), format!("{{}}{SMUGGLED}")),
            (format!("content-length: 2, {}\r\n", whole + 2), format!("{{}}{SMUGGLED}")),
            ("content-length: +2\r\n".to_owned(), format!("{{}}{SMUGGLED}")),
            ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            ("transfer-encoding : chunked\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            ("transfer-encoding: xchunked\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            ("transfer-encoding:\x0bchunked\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            ("x-a: b\r\n transfer-encoding: chunked\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            ("x-a: b\rtransfer-encoding: chunked\r\n".to_owned(), format!("0\r\n\r\n{SMUGGLED}")),
            ("x-a: b\0\r\ncontent-length: 2\r\n".to_owned(), format!("{{}}{SMUGGLED}")),
            ("transfer-encoding: chunked\r\n".to_owned(), format!("2;\n{{}}\r\n0\r\n\r\n{SMUGGLED}")),
            ("transfer-encoding: chunked\r\n".to_owned(), format!("fffffffffffffffff2\r\n{{}}\r\n0\r\n\r\n{SMUGGLED}")),
            ("transfer-encoding: chunked\r\n".to_owned(), format!("0\r\ncontent-length: 99\r\n\r\n{SMUGGLED}")),
        ] {
            raw(&client, (head(&headers) + &body).as_bytes());
        }
        assert_harmless(&gateway, &azure);
        // The filter has sent every request that a backend got.
        gateway.settled_stat(&azure, "requests");
    }

    fn no_path_leads_out_of_a_backends_api(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway.plugin(|p| p["backends"][0]["base_path"] = json!("/api/projects/contoso")).start();
        gateway.wait_for(|_| azure.imds().count() == 1, 10 * SECOND, "the token");
        let client = gateway.client().give_up_after(2 * SECOND);
        for target in [
            "GET /openai/../sim/echo",
            "GET /openai/v1/../../../other/openai/v1/models",
            "GET /openai/%2e%2e/sim/echo",
            "GET /openai/.%2E/sim/echo",
            "GET /openai/..%2fsim/echo",
            "GET /openai/x%2F..%2F..%2Fsim/echo",
            "GET /openai/..\\sim\\echo",
            "GET /openai/.",
            "GET //openai/v1/models",
            "GET /anthropic/../sim/echo",
            "GET http://169.254.169.254/metadata/identity/oauth2/token?resource=x",
            "GET *",
            "OPTIONS *",
            "CONNECT 169.254.169.254:80",
            "GET @169.254.169.254/metadata",
        ] {
            let answer = raw(&client, format!("{target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes());
            assert!(answer.starts_with("HTTP/1.1 40"), "{target}: {answer}");
            assert_eq!(azure.upstream_calls(), 0, "{target}");
        }
        assert_eq!(azure.imds().count(), 1, "nobody else asks for tokens");
        gateway.assert_unharmed();
    }

    fn headers_that_steer_envoy_change_nothing(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for backend in azure.backends() {
            backend.set(Behaviour::normal().after_ms(100));
        }
        let chat = chat_request();
        let steering = [
            ("host", "169.254.169.254"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
            ("x-envoy-hedge-on-per-try-timeout", "true"),
            ("x-envoy-max-retries", "9"),
            ("x-envoy-retry-on", "retriable-status-codes"),
            ("x-envoy-retriable-status-codes", "200"),
            ("x-envoy-internal", "true"),
            ("x-envoy-original-path", "/smuggled"),
            ("x-envoy-original-host", "elsewhere.example"),
            ("x-envoy-decorator-operation", "x"),
            ("x-envoy-attempt-count", "3"),
            ("x-envoy-expected-rq-timeout-ms", "1"),
            ("x-envoy-force-trace", "true"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "elsewhere.example"),
            ("x-forwarded-proto", "https"),
            ("x-original-url", "/smuggled"),
            ("x-rewrite-url", "/smuggled"),
            ("x-http-method-override", "DELETE"),
            ("x-aoai-cluster", "imds"),
            ("x-aoai-backend", "west"),
            ("x-aoai-attempts", "7"),
            ("x-aoai-client", "someone-else"),
            ("te", "trailers"),
            ("expect", "100-continue"),
        ];
        for turn in ["east", "west", "east", "west"] {
            let answer = gateway.client().send("POST", &chat.path, &steering, &chat.bytes()).unwrap();
            assert_eq!((answer.status, answer.header("x-sim-backend")), (200, Some(turn)), "{}", answer.text());
            assert_eq!(answer.headers.all("x-aoai-attempts"), ["1"]);
        }
        assert_eq!(azure.upstream_calls(), 4);
        assert_harmless(&gateway, &azure);
    }

    fn slow_clients_delay_no_other_client(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(2).start();
        let client = gateway.client();
        let chat = chat_request();
        let heads: Vec<_> = (0..100)
            .map(|_| {
                let mut socket = client.socket().unwrap();
                socket.write_all(b"POST /openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-a").unwrap();
                socket
            })
            .collect();
        let json = [("content-type", "application/json")];
        let bodies: Vec<_> = (0..100)
            .map(|number| {
                let mut upload = match number % 2 {
                    0 => client.upload_of(300_000, "POST", &chat.path, &json).unwrap(),
                    _ => client.upload("POST", &chat.path, &json).unwrap(),
                };
                upload.chunk(br#"{"model":"#).unwrap();
                upload
            })
            .collect();
        // These clients read nothing of the answer.
        azure.backend("east").set(Behaviour::stream(Stream { events: 20_000, interval_ms: 0, ..Stream::default() }).times(50));
        let streaming = chat.clone().streaming();
        let deaf: Vec<_> = (0..50)
            .map(|_| client.stream("POST", &streaming.path, &json, &streaming.bytes()).unwrap())
            .collect();
        for number in 0..30 {
            let began = Instant::now();
            let answer = gateway.chat(&chat);
            assert_eq!(answer.status, 200);
            assert!(began.elapsed() < 5 * SECOND, "chat {number}: {:?}", began.elapsed());
        }
        drop((heads, bodies, deaf));
        gateway.assert_quiet_within(20 * SECOND);
        gateway.assert_unharmed();
    }

    fn oversized_requests_are_refused_without_harm(engine) {
        let (azure, gateway) = east_and_west(engine);
        let gateway = gateway
            .plugin(|p| p["backends"][0]["deployments"] = json!({"gpt-4o": "gpt4o-east"}))
            .start();
        let client = gateway.client();
        let chat = chat_request();
        let long = "x".repeat(100_000);
        let refused = |answer: String, what: &str| assert!(answer.starts_with("HTTP/1.1 4"), "{what}: {answer:.200}");
        refused(raw(&client, head(&format!("x-long: {long}\r\n")).as_bytes()), "a long header");
        refused(raw(&client, head(&"x-many: 1\r\n".repeat(300)).as_bytes()), "many headers");
        refused(raw(&client, format!("GET /openai/v1/models?{long} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()), "a long path");
        assert_eq!(azure.upstream_calls(), 0);
        // The filter must read the model, so it holds the body, which does not fit.
        let large = client.send("POST", &chat.clone().v1().path, &[], &chat.clone().padded(34 << 20).bytes());
        assert!(!matches!(&large, Ok(answer) if answer.status != 413), "{large:?}");
        for body in [
            "[".repeat(1_000_000),
            "{\"a\":".repeat(300_000),
            format!("{{\"input\":[{}]}}", "{\"id\":\"rs_1.aaaaaaa\"},".repeat(70_000)),
            format!("{{\"model\":\"{}\"}}", "m".repeat(2_000_000)),
            format!("\"{}", "\\u0000".repeat(300_000)),
        ] {
            for path in ["/openai/v1/chat/completions", "/openai/v1/responses"] {
                let answer = client.send("POST", path, &[("content-type", "application/json")], body.as_bytes()).unwrap();
                assert!(answer.status < 500, "{path}: {} {:.200}", answer.status, answer.text());
            }
        }
        assert_harmless(&gateway, &azure);
    }

    fn malformed_frames_of_a_websocket_do_no_harm(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        // A handshake does not wait for the first token.
        assert_eq!(gateway.chat(&chat_request()).status, 200);
        let client = gateway.client().give_up_after(2 * SECOND);
        let path = "/openai/realtime?api-version=2024-10-01-preview&deployment=gpt-4o";
        let frames: [&[u8]; 5] = [
            // No mask; reserved bits and operations; a length of 2^63; a fragment of a control frame; plain HTTP.
            b"\x81\x02hi",
            b"\xff\xff\xff\xff",
            b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
            b"\x09\x80\0\0\0\0",
            SMUGGLED.as_bytes(),
        ];
        for frame in frames {
            let session = client.upgrade(path, &[]).unwrap();
            assert_eq!(session.status, 101);
            let (mut socket, _) = session.into_socket();
            for _ in 0..100 {
                let _ = socket.write_all(frame);
            }
        }
        // An upgrade on a path without WebSockets.
        let chat = chat_request();
        let answer = client.upgrade(&chat.path, &[]).unwrap();
        assert_ne!(answer.status, 101);
        drop(answer);
        gateway.assert_quiet_within(5 * SECOND);
        assert_harmless(&gateway, &azure);
    }

    fn a_forged_tag_leads_to_a_listed_backend_only(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        for tag in [".aaaaaaa", ".zzzzzzz", ".AAAAAAA", ".2345678", "..", ".", ".%00%00%00", ".imds", ".aaaaaaa.aaaaaaa"] {
            let id = format!("resp_123{tag}");
            let answer = gateway.call("GET", &format!("/openai/v1/responses/{id}"), &Value::Null);
            assert_eq!(answer.status, 404, "{id}: {}", answer.text());
            let body = json!({"model": "gpt-4o", "input": "hi", "previous_response_id": id});
            let answer = gateway.call("POST", "/openai/v1/responses", &body);
            assert!(matches!(answer.status, 400 | 404), "{id}: {}", answer.text());
        }
        assert_harmless(&gateway, &azure);
    }
}
