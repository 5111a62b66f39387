//! Connections of the rendered configuration: silent ones stay open, broken ones end at once, and closing ones lose
//! nothing.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{cases, chat_request, simulate, simulate_with, Chat, Ending, Gateway};
use render::{Clients, Key};
use simulator::{Answer, Auth, Behaviour, Break, Failure, Simulator, Stream};

/// An established connection, as Linux lists it.
#[derive(Debug)]
struct Socket {
    local: u16,
    remote: u16,
    /// 2 if a keepalive timer is running.
    timer: u8,
    /// The time until the timer fires.
    left: Duration,
}

/// The established TCP connections over IPv4, as `ss --tcp --options` shows them.
fn sockets() -> Vec<Socket> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let read = |line: &str| {
        let mut fields = line.split_whitespace();
        let port = |address: &str| u16::from_str_radix(address.split_once(':')?.1, 16).ok();
        let (local, remote) = (port(fields.nth(1)?)?, port(fields.next()?)?);
        let is_established = fields.next()? == "01";
        let (timer, left) = fields.nth(1)?.split_once(':')?;
        let hundredths = u64::from_str_radix(left, 16).ok()?;
        let socket = Socket {
            local,
            remote,
            timer: timer.parse().ok()?,
            left: Duration::from_millis(hundredths * 10),
        };
        is_established.then_some(socket)
    };
    table.lines().skip(1).filter_map(read).collect()
}

/// Sends a request on a connection that stays open.
fn ask(address: SocketAddr, chat: &Chat, headers: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).expect("a connection");
    let body = chat.bytes();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n{headers}\r\n",
        chat.path,
        body.len()
    );
    socket
        .write_all(&[head.as_bytes(), &body].concat())
        .expect("it is sent");
    socket
}

/// All bytes until the connection ends.
fn rest(mut socket: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match socket.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    bytes
}

/// A backend with a complete answer of this size.
fn large(size: usize) -> (Simulator, Behaviour) {
    let azure = simulate_with(&["east"], |settings| settings.auth = Auth::Off);
    let failure = Failure {
        body: Some("x".repeat(size)),
        ..Failure::new(200)
    };
    (azure, Behaviour::from(Answer::Error(failure)))
}

cases! {
    fn a_connection_that_waits_for_an_answer_is_kept_alive(engine) {
        let azure = simulate(&["east"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let backend = azure.backend("east");
        backend.set(Behaviour::hang());
        let client = ask(gateway.address(), &chat_request(), "");
        let minute = Duration::from_secs(60);
        let is_kept_alive = |socket: &Socket| socket.timer == 2 && socket.left <= minute;
        gateway.wait_for(
            |_| {
                let sockets = sockets();
                let to_backend = sockets.iter().filter(|socket| socket.remote == backend.addr().port());
                let to_client = sockets.iter().filter(|socket| socket.local == gateway.address().port());
                backend.open_streams() == 1
                    && to_backend.clone().count() == 1
                    && to_backend.chain(to_client).all(is_kept_alive)
            },
            Duration::from_secs(5),
            "keepalive timers on both sides of Envoy",
        );
        let port = client.local_addr().expect("an address").port();
        let to_client = sockets().into_iter().filter(|socket| socket.remote == port);
        assert_eq!(to_client.count(), 1, "the client's connection is among those that were looked at");
    }

    fn case_63_a_broken_stream_breaks_within_100_ms(engine) {
        for how in [Break::Reset, Break::Close] {
            let azure = simulate(&["east", "west"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).log_level("info").start();
            let broken = Stream { events: 20, interval_ms: 20, break_after: Some(5), how, ..Stream::default() };
            for backend in azure.backends() {
                backend.set(Behaviour::stream(broken.clone()));
            }
            // The best of several runs, because this measures Envoy and not the machine.
            let shortest = (0..3).map(|_| {
                let mut socket = ask(gateway.address(), &chat_request().streaming(), "");
                let (mut bytes, mut chunk) = (Vec::new(), [0; 4096]);
                let mut last = Instant::now();
                while let Ok(length @ 1..) = socket.read(&mut chunk) {
                    bytes.extend_from_slice(&chunk[..length]);
                    last = Instant::now();
                }
                let waited = last.elapsed();
                let text = String::from_utf8_lossy(&bytes);
                assert_eq!(text.matches("data: ").count(), 5, "{how:?}: {text}");
                assert!(!text.contains("connection: close"), "the connection would have been used again: {text}");
                waited
            });
            let shortest = shortest.min().expect("some");
            assert!(shortest < Duration::from_millis(100), "{how:?}: {shortest:?}");
        }
    }

    fn an_answer_is_whole_for_a_client_that_pauses(engine) {
        const SIZE: usize = 24 << 20;
        let (azure, answer) = large(SIZE);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).log_level("info").start();
        azure.backend("east").set(answer);
        for version in ["1.1", "1.0"] {
            let logged = gateway.access_log().len();
            let mut socket = gateway.client().socket().expect("a connection");
            let chat = chat_request();
            let request = format!("GET {} HTTP/{version}\r\nhost: x\r\nconnection: close\r\n\r\n", chat.path);
            socket.write_all(request.as_bytes()).expect("it is sent");
            gateway.wait_for(
                |g| g.access_log().len() > logged,
                Duration::from_secs(10),
                "Envoy to have all of the answer",
            );
            // Longer than Envoy would wait by default for a client that does not read.
            thread::sleep(Duration::from_millis(1500));
            let bytes = rest(socket);
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
            assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n") || bytes.starts_with(b"HTTP/1.0 200 OK\r\n"));
            assert_eq!(bytes.len() - head, SIZE, "HTTP/{version}");
        }
    }

    fn a_client_that_does_not_read_loses_its_connection(engine) {
        let (azure, answer) = large(24 << 20);
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .log_level("info")
            // Five minutes are too long for a test.
            .rewrite("name: 18, int_value: 300000", "name: 18, int_value: 1000")
            .start();
        azure.backend("east").set(answer);
        let socket = ask(gateway.address(), &chat_request(), "connection: close\r\n");
        let active = "http.azure_openai.downstream_cx_active";
        gateway.wait_for(
            |g| !g.access_log().is_empty() && g.stat(active) == Some(1),
            Duration::from_secs(10),
            "Envoy to have all of the answer",
        );
        gateway.wait_for(
            |g| g.stat(active) == Some(0),
            Duration::from_secs(30),
            "the connection to end",
        );
        drop(socket);
    }

    fn a_refusal_arrives_although_the_request_is_large(engine) {
        let azure = simulate(&["east"]);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("clients.yaml");
        let key = Key { client: "app-1".to_owned(), key: "KEY".to_owned() };
        fs::write(&file, render::keys_file("x-aoai-client", &[key])).expect("write the keys");
        let gateway = Gateway::builder()
            .simulator(&azure)
            .engine(engine)
            .log_level("info")
            .fleet(|fleet| fleet.clients = Clients::Keys { file })
            .start();
        for size in [100_000, 1_000_000, 4_000_000] {
            let chat = chat_request().padded(size);
            for _ in 0..5 {
                let answer = gateway.client().send("POST", &chat.path, &[], &chat.bytes()).expect("an answer");
                assert_eq!(answer.status, 401, "{size}");
                assert_eq!(answer.json()["error"]["code"], "invalid_api_key", "{size}");
                let mut kept = gateway.client().connect().expect("a connection");
                let answer = kept.send("POST", &chat.path, &[], &chat.bytes()).expect("an answer");
                assert_eq!((answer.status, answer.ending), (401, Ending::Complete), "{size}");
            }
        }
    }

    fn a_request_of_http_1_0_is_served(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("east").set(Behaviour::throttled(60));
        let one_zero = |chat: &Chat, headers: &str| {
            let body = chat.bytes();
            let head = format!(
                "POST {} HTTP/1.0\r\ncontent-length: {}\r\n{headers}\r\n",
                chat.path,
                body.len()
            );
            let mut socket = gateway.client().socket().expect("a connection");
            socket.write_all(&[head.as_bytes(), &body].concat()).expect("it is sent");
            String::from_utf8(rest(socket)).expect("text")
        };
        for headers in ["", "host: x\r\n", "host: x\r\nconnection: close\r\n"] {
            let text = one_zero(&chat_request(), headers);
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.contains(" 200 OK\r\n"), "{headers:?}: {text}");
            assert!(head.contains("x-aoai-backend: west"), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(body["object"], "chat.completion");

            let text = one_zero(&chat_request().streaming(), headers);
            let (head, body) = text.split_once("\r\n\r\n").expect("a head");
            assert!(head.contains(" 200 OK\r\n") && !head.contains("transfer-encoding"), "{text}");
            assert!(body.starts_with("data: ") && body.ends_with("data: [DONE]\n\n"), "{body}");
        }
        for request in azure.backend("west").requests() {
            assert_eq!(request.authority, azure.backend("west").host());
        }
    }
}
