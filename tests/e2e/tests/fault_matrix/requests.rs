//! The kinds of request, and their answers as clients see them.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use e2e::{chat_request, Client, Ending, Form, Response, Stream};
use serde_json::json;

/// Longer than any answer that ends.
const ENDLESS: Duration = Duration::from_secs(13);

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Chat,
    Stream,
    V1,
    Upload,
    Background,
    Realtime,
}

impl Kind {
    pub(super) const ALL: &[Self] = &[
        Self::Chat,
        Self::Stream,
        Self::V1,
        Self::Upload,
        Self::Background,
        Self::Realtime,
    ];

    /// The name in the page.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Stream => "stream",
            Self::V1 => "v1",
            Self::Upload => "upload",
            Self::Background => "background",
            Self::Realtime => "realtime",
        }
    }
}

/// An answer as its client sees it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) status: u16,
    /// `x-sim-backend`: the backend whose answer it is.
    pub(super) by: Option<String>,
    /// `x-aoai-attempts`.
    pub(super) attempts: Option<String>,
    /// `error.code` of an error.
    pub(super) code: Option<String>,
    pub(super) ending: Ending,
    /// The answer is complete.
    pub(super) is_whole: bool,
    pub(super) elapsed: Duration,
}

/// Sends a request for a deployment.
pub(super) fn send(client: &Client, kind: Kind, deployment: &str) -> io::Result<Seen> {
    let json = [("content-type", "application/json")];
    let mut chat = chat_request().deployment(deployment);
    let (path, body) = match kind {
        Kind::Chat => (chat.path.clone(), chat.bytes()),
        Kind::Stream => (chat.path.clone(), chat.streaming().bytes()),
        Kind::V1 => {
            chat = chat.v1();
            (chat.path.clone(), chat.bytes())
        }
        Kind::Background => {
            let body = json!({"model": deployment, "input": "hi", "background": true});
            (
                "/openai/v1/responses".to_owned(),
                body.to_string().into_bytes(),
            )
        }
        Kind::Upload => {
            let form = Form::new().file("file", "a.wav", &[b'x'; 100_000]);
            let path = format!(
                "/openai/deployments/{deployment}/audio/transcriptions?api-version=2024-10-21"
            );
            let stream = client.stream("POST", &path, &[Form::CONTENT_TYPE], &form.bytes())?;
            return Ok(seen(kind, read(stream)));
        }
        Kind::Realtime => return session(client, deployment),
    };
    let stream = client.stream("POST", &path, &json, &body)?;
    Ok(seen(kind, read(stream)))
}

/// Reads an answer to its end, or for the time after which an answer counts as endless.
fn read(mut stream: Stream) -> Response {
    let mut body = Vec::new();
    let mut is_endless = false;
    while let Some(part) = stream.next() {
        body.extend_from_slice(&part.bytes);
        is_endless = stream.started.elapsed() > ENDLESS;
        if is_endless {
            break;
        }
    }
    let ending = match stream.ending() {
        _ if is_endless => Ending::Cut(io::ErrorKind::FileTooLarge),
        ending => ending.cloned().unwrap_or(Ending::Complete),
    };
    Response {
        status: stream.status,
        headers: stream.headers.clone(),
        trailers: stream.trailers(),
        body,
        ending,
        elapsed: stream.started.elapsed(),
    }
}

fn seen(kind: Kind, answer: Response) -> Seen {
    let text = answer.text();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let is_whole = match kind {
        Kind::Stream => text.contains("\"choices\"") && text.ends_with("data: [DONE]\n\n"),
        Kind::Chat | Kind::V1 => json["choices"][0]["message"]["content"].is_string(),
        Kind::Upload => json["text"].is_string(),
        Kind::Background => json["id"].is_string(),
        Kind::Realtime => false,
    };
    let header = |name| answer.header(name).map(str::to_owned);
    Seen {
        status: answer.status,
        // A backend that sends raw bytes does not name itself.
        by: header("x-sim-backend")
            .or_else(|| header("x-aoai-backend").filter(|_| answer.status == 200)),
        attempts: header("x-aoai-attempts"),
        code: json["error"]["code"].as_str().map(str::to_owned),
        ending: answer.ending,
        is_whole,
        elapsed: answer.elapsed,
    }
}

/// Opens a realtime session, reads the backend's first message, and has a text echoed.
fn session(client: &Client, deployment: &str) -> io::Result<Seen> {
    let path = format!("/openai/realtime?api-version=2024-10-01-preview&deployment={deployment}");
    let began = Instant::now();
    let stream = client.upgrade(&path, &[])?;
    if stream.status != 101 {
        return Ok(seen(Kind::Realtime, read(stream)));
    }
    let header = |name| stream.header(name).map(str::to_owned);
    let mut seen = Seen {
        status: 101,
        by: header("x-sim-backend"),
        attempts: header("x-aoai-attempts"),
        code: None,
        ending: Ending::Complete,
        is_whole: false,
        elapsed: Duration::ZERO,
    };
    let (mut socket, mut read) = stream.into_socket();
    // A text of two letters, with a mask of zeros.
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let _ = socket.write_all(&frame);
    let mut buffer = [0; 4096];
    while !read.ends_with(b"\x81\x02hi") {
        match socket.read(&mut buffer) {
            Ok(0) => seen.ending = Ending::Cut(io::ErrorKind::UnexpectedEof),
            Ok(length) => {
                read.extend_from_slice(&buffer[..length]);
                continue;
            }
            Err(error) => seen.ending = Ending::Cut(error.kind()),
        }
        break;
    }
    seen.is_whole = seen.ending == Ending::Complete;
    seen.elapsed = began.elapsed();
    Ok(seen)
}
