//! A simulator for a test, and an HTTP/1.1 client that records raw answers.
#![allow(dead_code, reason = "each test program uses its own part of it")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use simulator::{BackendSettings, Settings, Simulator};

/// The path of a chat completion in the dated API.
pub const CHAT: &str = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
/// The key of the backends [`simulator`] starts.
pub const KEY: &str = "k-east";
/// The body of a request for a stream.
pub const STREAM: &str = r#"{"stream":true,"messages":[]}"#;

/// One backend `east` with a key.
pub fn simulator() -> Simulator {
    started(vec![BackendSettings {
        api_key: Some(KEY.to_owned()),
        ..BackendSettings::new("east")
    }])
}

pub fn started(backends: Vec<BackendSettings>) -> Simulator {
    let settings = Settings {
        backends,
        admin_port: Some(0),
        ..Settings::default()
    };
    Simulator::start(settings).expect("the simulator starts")
}

/// An answer, as far as it arrived.
#[derive(Debug, Default)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The end of the connection.
    pub end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    #[default]
    Closed,
    Reset,
    Refused,
    TimedOut,
    /// Another error. In TLS, a close without a close notification.
    Broken,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn error_code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// The text of a request that closes its connection.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("content-length: {}\r\n\r\n", body.len());
    [text.as_bytes(), body].concat()
}

pub fn send(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let Ok(mut stream) = TcpStream::connect(addr) else {
        return Answer {
            end: End::Refused,
            ..Answer::default()
        };
    };
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout can be set");
    // A backend that answers early or resets may not accept all of it.
    let _ = stream.write_all(&request(method, path, headers, body));
    received(&mut stream)
}

/// Reads until the connection ends.
pub fn received(stream: &mut impl Read) -> Answer {
    let mut all = Vec::new();
    let mut piece = [0; 8192];
    let end = loop {
        match stream.read(&mut piece) {
            Ok(0) => break End::Closed,
            Ok(size) => all.extend_from_slice(&piece[..size]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break End::Reset,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break End::TimedOut,
            Err(_) => break End::Broken,
        }
    };
    let split = all.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = split.map_or((&all[..], &[][..]), |at| (&all[..at], &all[at + 4..]));
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        dechunked(body)
    } else {
        body.to_vec()
    };
    Answer {
        status,
        head,
        body,
        end,
    }
}

fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).ok();
        let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else {
            break;
        };
        let chunk = &rest[line + 2..];
        body.extend_from_slice(&chunk[..size.min(chunk.len())]);
        rest = chunk.get(size + 2..).unwrap_or_default();
    }
    body
}

/// A chat completion with the backend's key.
pub fn chat(simulator: &Simulator, backend: &str, body: &str) -> Answer {
    let addr = simulator.backend(backend).addr();
    send(addr, "POST", CHAT, &[("api-key", KEY)], body.as_bytes())
}

/// A request with the key of the backend `east`, and a JSON body unless it is empty.
pub fn call(simulator: &Simulator, method: &str, path: &str, body: &str) -> Answer {
    let headers = [("api-key", KEY), ("content-type", "application/json")];
    let addr = simulator.backend("east").addr();
    send(addr, method, path, &headers, body.as_bytes())
}

/// A form with the key of the backend `east`.
pub fn upload(simulator: &Simulator, path: &str, form: &[u8]) -> Answer {
    let content_type = ("content-type", "multipart/form-data; boundary=XX");
    let headers = [("api-key", KEY), content_type];
    send(
        simulator.backend("east").addr(),
        "POST",
        path,
        &headers,
        form,
    )
}

/// A form with the boundary `XX`, from names, file names and contents.
pub fn form(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, file_name, content) in parts {
        let file_name = file_name.map(|file_name| format!("; filename=\"{file_name}\""));
        let file_name = file_name.unwrap_or_default();
        let head =
            format!("--XX\r\ncontent-disposition: form-data; name=\"{name}\"{file_name}\r\n\r\n");
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(content);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--XX--\r\n");
    form
}

/// Waits for a condition that comes true soon.
pub fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(5);
    while !happens() {
        assert!(Instant::now() < patience, "in vain waited until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
