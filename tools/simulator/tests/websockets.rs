//! Realtime sessions.

mod common;

use std::io::Write;
use std::net::TcpStream;

use common::{eventually, send, simulator, KEY};
use serde_json::{json, Value};
use simulator::Behaviour;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{client, Message};

#[test]
fn a_session_names_its_backend_and_echoes_messages() {
    let simulator = simulator();
    let east = simulator.backend("east");
    for path in [
        "/openai/realtime?api-version=1&deployment=rt",
        "/openai/v1/realtime?model=rt",
    ] {
        let uri = format!("ws://{}{path}", east.addr());
        let mut request = uri.into_client_request().unwrap();
        request
            .headers_mut()
            .insert("api-key", KEY.parse().unwrap());
        let stream = TcpStream::connect(east.addr()).unwrap();
        let (mut socket, response) = client(request, stream).unwrap();
        assert_eq!(response.headers()["x-sim-backend"], "east");
        let greeting = socket.read().unwrap().into_text().unwrap();
        let greeting: Value = serde_json::from_str(&greeting).unwrap();
        assert_eq!(greeting["session"]["model"], "rt");
        let asked =
            json!({ "backend": "east", "path": path, "credential": "key", "identity": null });
        assert_eq!(greeting["asked"], asked);
        socket.send(Message::text("naïve")).unwrap();
        let echo = socket.read().unwrap().into_text().unwrap();
        assert_eq!(echo.as_str(), "naïve");
    }
    eventually("the first session is over", || east.open_streams() == 0);
}

#[test]
fn a_session_ends_with_its_port() {
    let simulator = simulator();
    let east = simulator.backend("east");
    let uri = format!("ws://{}/openai/v1/realtime?model=rt", east.addr());
    let mut request = uri.into_client_request().unwrap();
    request
        .headers_mut()
        .insert("api-key", KEY.parse().unwrap());
    let stream = TcpStream::connect(east.addr()).unwrap();
    let (mut socket, _) = client(request, stream).unwrap();
    assert!(socket.read().unwrap().is_text());
    assert_eq!(
        (east.open_streams(), east.requests()[0].status),
        (1, Some(101))
    );
    east.stop();
    assert!(socket.read().is_err());
    eventually("the session is over", || east.open_streams() == 0);
}

#[test]
fn without_an_upgrade_there_is_no_session() {
    let simulator = simulator();
    let east = simulator.backend("east");
    let path = "/openai/v1/realtime?model=rt";
    assert_eq!(
        send(east.addr(), "GET", path, &[("api-key", KEY)], b"").status,
        400
    );
    assert_eq!(send(east.addr(), "GET", path, &[], b"").status, 401);
    east.set(Behaviour::throttled(1));
    let mut stream = TcpStream::connect(east.addr()).unwrap();
    let upgrade = "GET /openai/v1/realtime HTTP/1.1\r\nhost: t\r\nupgrade: websocket\r\n\
        connection: upgrade, close\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    stream.write_all(upgrade.as_bytes()).unwrap();
    assert_eq!(common::received(&mut stream).status, 429);
}
