//! The load: a number of connections, each with one request at a time. It runs in the calling thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::backend::{EVENTS, FAIL_ONCE, FAIL_STREAM_ONCE, ITEMS, PAUSE};
use crate::http1::{self, Event, Reader};

/// The request that every connection sends repeatedly.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
    /// The position of the number that differs per request, if the request has one.
    number_at: Option<usize>,
    /// The count of different numbers. `u64::MAX` gives every request its own number.
    numbers: u64,
}

/// The kind of answer that a request wants, and the kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// A chat, answered in one piece.
    Whole,
    /// A stream of this number of events.
    Stream(usize),
    /// A stream whose first attempt is answered 503.
    RetriedStream,
    /// A stream whose first attempt begins with an error.
    FailedStream,
    /// A chat with its own `prompt_cache_key`, answered in one piece.
    Keyed,
    /// A chat with one of this number of deployments, answered in one piece.
    Deployments(u64),
    /// An answer of the Responses API with this number of items.
    Items(usize),
    /// A stream with an event every ten seconds.
    SlowStream,
}

/// The client's own key, which must not reach a backend.
pub const CLIENT_KEY: &str = "sk-3f9d1c6b08e24a57b1d0c7e95f82a6340d9be17c52f84ab6";

/// The number of digits of the number that differs per request.
const DIGITS: usize = 12;

impl Request {
    /// A request with a body of `size` bytes, and with the headers of the openai SDK for Python.
    pub fn chat(size: usize, asks: Asks) -> Self {
        let body = body(size, asks);
        let path = match asks {
            Asks::Deployments(_) => {
                let number = placeholder();
                format!("/openai/deployments/gpt-{number}/chat/completions?api-version=2024-10-21")
            }
            Asks::Items(_) => "/openai/v1/responses".to_owned(),
            _ => "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21".to_owned(),
        };
        let mut head = format!(
            "POST {path} HTTP/1.1\r\n\
             host: gateway.internal\r\naccept-encoding: gzip, deflate\r\nconnection: keep-alive\r\naccept: application/json\r\n\
             content-type: application/json\r\nuser-agent: AzureOpenAI/Python 2.54.0\r\nx-stainless-lang: python\r\n\
             x-stainless-package-version: 2.54.0\r\nx-stainless-os: Linux\r\nx-stainless-arch: x64\r\n\
             x-stainless-runtime: CPython\r\nx-stainless-runtime-version: 3.13.5\r\nx-stainless-async: false\r\n\
             x-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\napi-key: {CLIENT_KEY}\r\nx-client: team-a\r\n\
             content-length: {}\r\n",
            body.len()
        );
        let header = match asks {
            Asks::Stream(count) => Some((EVENTS, format!("{count}"))),
            Asks::RetriedStream => Some((FAIL_ONCE, placeholder())),
            Asks::FailedStream => Some((FAIL_STREAM_ONCE, placeholder())),
            Asks::Items(count) => Some((ITEMS, format!("{count}"))),
            Asks::SlowStream => Some((PAUSE, "10000".to_owned())),
            Asks::Whole | Asks::Keyed | Asks::Deployments(_) => None,
        };
        if let Some((name, value)) = header {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let bytes = [head.into_bytes(), body.into_bytes()].concat();
        let number_at = memchr::memmem::find(&bytes, placeholder().as_bytes());
        Self {
            bytes,
            number_at,
            numbers: match asks {
                Asks::Deployments(count) => count,
                _ => u64::MAX,
            },
        }
    }

    fn number(&mut self, number: u64) {
        if let Some(at) = self.number_at {
            let digits = format!("{:0DIGITS$}", number % self.numbers);
            self.bytes[at..at + DIGITS].copy_from_slice(digits.as_bytes());
        }
    }
}

/// The digits that [`Request::number`] replaces.
fn placeholder() -> String {
    "0".repeat(DIGITS)
}

/// A chat request's body of exactly `size` bytes, or of the minimum size if that is larger.
fn body(size: usize, asks: Asks) -> String {
    let stream = matches!(
        asks,
        Asks::Stream(_) | Asks::RetriedStream | Asks::FailedStream | Asks::SlowStream
    );
    let key = match asks {
        Asks::Keyed => format!(r#""prompt_cache_key":"{}","#, placeholder()),
        _ => String::new(),
    };
    let frame = |text: &str| {
        format!(
            r#"{{"model":"gpt-4o","stream":{stream},"max_tokens":120,{key}"messages":[{{"role":"user","content":"{text}"}}]}}"#
        )
    };
    let text = "All work and no play makes a dull prompt. ";
    let length = size.saturating_sub(frame("").len());
    let mut content = text.repeat(length / text.len() + 1);
    content.truncate(length);
    frame(&content)
}

/// The results of a run of the load.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The number of answers with status 200.
    pub served: u64,
    /// The number of other answers and of broken connections.
    pub errors: u64,
    /// The duration of the run.
    pub elapsed: Duration,
    /// The times from a request's first byte to its answer's last byte.
    pub latencies: Vec<Duration>,
    /// The times from a request's first byte to the first byte of its answer's body.
    pub first_bytes: Vec<Duration>,
}

struct Connection {
    socket: TcpStream,
    request: Request,
    sent: usize,
    began: Instant,
    reader: Reader<u16>,
    status: u16,
    first_byte: Option<Duration>,
    answered: bool,
}

/// The connections to one address.
pub struct Load {
    poll: Poll,
    events: Events,
    address: SocketAddr,
    request: Request,
    connections: Vec<Connection>,
    scratch: Vec<u8>,
    requests: u64,
    seen: Seen,
}

impl Load {
    /// Opens `count` connections.
    pub fn connect(address: SocketAddr, count: usize, request: &Request) -> io::Result<Self> {
        let mut load = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(256),
            address,
            request: request.clone(),
            connections: Vec::new(),
            scratch: vec![0; 256 << 10],
            // Each load starts at another number, so that no two loads use the same one.
            requests: u64::from(std::process::id()) << 8 ^ since_epoch(),
            seen: Seen::default(),
        };
        load.grow(count)?;
        Ok(load)
    }

    /// Opens `count` more connections.
    pub fn grow(&mut self, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let index = self.connections.len();
            let connection = self.open(index)?;
            self.connections.push(connection);
            self.write(index)?;
        }
        Ok(())
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// The number of answers that have begun and not ended.
    pub fn begun(&self) -> usize {
        let begun = self.connections.iter();
        begun
            .filter(|connection| connection.first_byte.is_some())
            .count()
    }

    fn open(&mut self, index: usize) -> io::Result<Connection> {
        let mut socket = TcpStream::connect(self.address)?;
        socket.set_nodelay(true)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll
            .registry()
            .register(&mut socket, Token(index), both)?;
        let mut request = self.request.clone();
        self.requests += 1;
        request.number(self.requests);
        Ok(Connection {
            socket,
            request,
            sent: 0,
            began: Instant::now(),
            reader: Reader::new(http1::response),
            status: 0,
            first_byte: None,
            answered: false,
        })
    }

    /// Sends and receives until `time` is over or `most` requests have ended. Returns the results of that time.
    pub fn run(&mut self, time: Duration, most: u64) -> io::Result<Seen> {
        self.seen = Seen::default();
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            let done = self.seen.served + self.seen.errors;
            if elapsed >= time || done >= most {
                self.seen.elapsed = elapsed;
                return Ok(std::mem::take(&mut self.seen));
            }
            match self.poll.poll(&mut self.events, Some(time - elapsed)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            for index in ready {
                if self.proceed(index).is_err() {
                    self.seen.errors += 1;
                    self.connections[index] = self.open(index)?;
                }
            }
        }
    }

    fn proceed(&mut self, index: usize) -> io::Result<()> {
        self.write(index)?;
        loop {
            let connection = &mut self.connections[index];
            let mut input = match connection.socket.read(&mut self.scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => &self.scratch[..size],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let short = input.len() < self.scratch.len();
            let mut ended = false;
            loop {
                let event = connection.reader.next(&mut input);
                match event.map_err(|_| ErrorKind::InvalidData)? {
                    None => break,
                    Some(Event::Head(status)) => connection.status = status,
                    Some(Event::Body(_)) => {
                        let began = connection.began;
                        connection.first_byte.get_or_insert_with(|| began.elapsed());
                    }
                    Some(Event::End) => ended = true,
                }
            }
            if ended {
                connection.answered = true;
                self.next(index)?;
            }
            if short {
                return Ok(());
            }
        }
    }

    /// Counts a complete answer and sends the next request, once all of the current request is sent.
    fn next(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        if !connection.answered || connection.sent < connection.request.bytes.len() {
            return Ok(());
        }
        match connection.status {
            200 => {
                self.seen.served += 1;
                self.seen.latencies.push(connection.began.elapsed());
                self.seen.first_bytes.extend(connection.first_byte);
            }
            _ => self.seen.errors += 1,
        }
        self.requests += 1;
        connection.request.number(self.requests);
        connection.answered = false;
        connection.first_byte = None;
        connection.sent = 0;
        connection.began = Instant::now();
        self.write(index)
    }

    fn write(&mut self, index: usize) -> io::Result<()> {
        let connection = &mut self.connections[index];
        while connection.sent < connection.request.bytes.len() {
            match connection
                .socket
                .write(&connection.request.bytes[connection.sent..])
            {
                Ok(size) => connection.sent += size,
                // The socket is not connected yet, or its buffer is full.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(())
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        match connection.answered {
            true => self.next(index),
            false => Ok(()),
        }
    }
}

fn since_epoch() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64 % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_their_size_and_are_json() {
        for size in [1 << 10, 16 << 10, 1 << 20] {
            for asks in [Asks::Stream(51), Asks::Keyed] {
                let body = body(size, asks);
                assert_eq!(body.len(), size);
                let json: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(json["stream"], asks != Asks::Keyed);
                assert_eq!(json.get("prompt_cache_key").is_some(), asks == Asks::Keyed);
            }
        }
    }

    #[test]
    fn numbers_replace_the_placeholder() {
        let mut request = Request::chat(1024, Asks::RetriedStream);
        let length = request.bytes.len();
        request.number(4711);
        let text = String::from_utf8(request.bytes.clone()).unwrap();
        assert!(text.contains("\r\nx-bench-fail-once: 000000004711\r\n\r\n{"));
        assert_eq!(request.bytes.len(), length);
    }
}
