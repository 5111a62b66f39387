//! Simulated backends: three Azure OpenAI resources and the token service. One thread serves all of them, with as little work as
//! possible.

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::cores::Cores;
use crate::http1::{self, Event, Framing, Reader};

/// The number of backends.
pub const BACKENDS: usize = 3;

/// The access token that the backends accept. It is as long as a managed identity's token.
pub fn token() -> String {
    "eyJ0eXAiOiJKV1Qi".repeat(100)
}

/// The value of `retry-after` in a throttled backend's answers, in seconds.
const RETRY_AFTER: &str = "2";

/// The number of events in a stream.
pub const STREAM_EVENTS: usize = 51;
/// The time between two events of a stream.
pub const STREAM_PAUSE: Duration = Duration::from_millis(3);

/// The largest body that is searched for `"stream": true`, in bytes. Larger bodies never get a stream.
const MAX_SEARCHED_BODY: usize = 4096;

/// A request header with a number. The first attempt with that number fails, on whichever backend it arrives.
pub const FAIL_ONCE: &str = "x-bench-fail-once";

/// A request header with a number. The first attempt with that number gets a stream that begins with an error.
pub const FAIL_STREAM_ONCE: &str = "x-bench-fail-stream-once";

/// The request header with the number of events in the stream. The default is [`STREAM_EVENTS`].
pub const EVENTS: &str = "x-bench-events";

/// The request header with the milliseconds between two events of the stream. The default is [`STREAM_PAUSE`].
pub const PAUSE: &str = "x-bench-pause-ms";

/// The request header with the number of items in a response.
pub const ITEMS: &str = "x-bench-items";

/// The index of the token service's listener. The backends' listeners come before it.
const IMDS: usize = BACKENDS;
/// The index of the listener of a backend that throttles every request for ten minutes.
const THROTTLING: usize = BACKENDS + 1;
/// The index of the listener of a token service that never answers.
const SILENT: usize = BACKENDS + 2;
const LISTENERS: usize = BACKENDS + 3;

/// Settings of the running backends, and their counters.
#[derive(Debug, Default)]
pub struct Board {
    /// Whether the first backend answers 429.
    pub throttled: AtomicBool,
    /// The number of requests to each backend.
    pub requests: [AtomicU64; BACKENDS],
    /// The number of requests that sent the token.
    pub authorized: AtomicU64,
    /// The number, from [`FAIL_ONCE`] or [`FAIL_STREAM_ONCE`], of the last attempt that failed.
    failed_once: AtomicU64,
}

/// The running backends, which end with the process.
#[derive(Debug)]
pub struct Backends {
    /// The addresses of the Azure OpenAI resources.
    pub addresses: [SocketAddr; BACKENDS],
    /// The address of the token service.
    pub imds: SocketAddr,
    /// The address of a backend that throttles every request for ten minutes.
    pub throttling: SocketAddr,
    /// The address of a token service that never answers.
    pub silent: SocketAddr,
    /// The backends' settings and counters.
    pub board: Arc<Board>,
}

impl Backends {
    /// Starts the backends on the load's core.
    pub fn start(cores: &Cores) -> io::Result<Self> {
        let listen = || TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listeners = (0..LISTENERS)
            .map(|_| listen())
            .collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<Vec<_>>>()?;
        let board = Arc::new(Board::default());
        let mut server = Server::new(listeners, Arc::clone(&board))?;
        let cores = cores.clone();
        thread::Builder::new()
            .name("backends".to_owned())
            .spawn(move || {
                cores.pin_to_load();
                if let Err(error) = server.run() {
                    eprintln!("the backends ended: {error}");
                }
            })?;
        Ok(Self {
            addresses: std::array::from_fn(|index| addresses[index]),
            imds: addresses[IMDS],
            throttling: addresses[THROTTLING],
            silent: addresses[SILENT],
            board,
        })
    }
}

/// The parts of a request's head that decide the answer.
#[derive(Debug)]
struct Head {
    authorized: bool,
    small: bool,
    fail_once: Option<u64>,
    fail_stream_once: Option<u64>,
    events: usize,
    pause: Duration,
    items: Option<usize>,
}

fn parse(head: &[u8]) -> Option<(Head, Framing)> {
    let mut headers = [httparse::EMPTY_HEADER; 96];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(head).ok()?;
    let framing = http1::framing(request.headers)?;
    let mut read = Head {
        authorized: false,
        small: matches!(framing, Framing::Length(length) if length <= MAX_SEARCHED_BODY),
        fail_once: None,
        fail_stream_once: None,
        events: STREAM_EVENTS,
        pause: STREAM_PAUSE,
        items: None,
    };
    for header in request.headers.iter() {
        match header.name {
            name if name.eq_ignore_ascii_case("authorization") => {
                read.authorized = header.value.starts_with(b"Bearer eyJ0eXAi");
            }
            name if name.eq_ignore_ascii_case(FAIL_ONCE) => {
                read.fail_once = number(header.value);
            }
            name if name.eq_ignore_ascii_case(FAIL_STREAM_ONCE) => {
                read.fail_stream_once = number(header.value);
            }
            name if name.eq_ignore_ascii_case(EVENTS) => {
                read.events = number(header.value)?;
            }
            name if name.eq_ignore_ascii_case(PAUSE) => {
                read.pause = Duration::from_millis(number(header.value)?);
            }
            name if name.eq_ignore_ascii_case(ITEMS) => {
                read.items = number(header.value);
            }
            _ => {}
        }
    }
    Some((read, framing))
}

fn number<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

struct Connection {
    socket: TcpStream,
    /// The index of the listener that accepted the connection.
    at: usize,
    reader: Reader<Head>,
    head: Option<Head>,
    streams: bool,
    /// Bytes to send. The first `written` of them are already sent.
    out: Vec<u8>,
    written: usize,
    events_left: usize,
    pause: Duration,
}

struct Server {
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Slab<Connection>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    board: Arc<Board>,
    answers: Answers,
    scratch: Vec<u8>,
}

impl Server {
    fn new(mut listeners: Vec<TcpListener>, board: Arc<Board>) -> io::Result<Self> {
        let poll = Poll::new()?;
        for (index, listener) in listeners.iter_mut().enumerate() {
            poll.registry()
                .register(listener, Token(index), Interest::READABLE)?;
        }
        Ok(Self {
            poll,
            listeners,
            connections: Slab::new(),
            timers: BinaryHeap::new(),
            board,
            answers: Answers::new(),
            scratch: vec![0; 256 << 10],
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        loop {
            let next = self.timers.peek().map(|Reverse((at, _))| *at);
            let wait = next.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                let Token(token) = event.token();
                match token.checked_sub(self.listeners.len()) {
                    None => self.accept(token)?,
                    Some(key) => self.proceed(key),
                }
            }
            self.send_due_events();
        }
    }

    fn accept(&mut self, at: usize) -> io::Result<()> {
        loop {
            let mut socket = match self.listeners[at].accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            // Without Nagle's algorithm, an answer is sent at once.
            socket.set_nodelay(true)?;
            let entry = self.connections.vacant_entry();
            let token = Token(entry.key() + self.listeners.len());
            let both = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut socket, token, both)?;
            entry.insert(Connection {
                socket,
                at,
                reader: Reader::new(parse),
                head: None,
                streams: false,
                out: Vec::new(),
                written: 0,
                events_left: 0,
                pause: STREAM_PAUSE,
            });
        }
    }

    /// Reads and writes as much as possible, and drops a connection that has ended.
    fn proceed(&mut self, key: usize) {
        if self.connections.contains(key) && self.read_and_write(key).is_none() {
            self.connections.remove(key);
        }
    }

    fn read_and_write(&mut self, key: usize) -> Option<()> {
        self.connections[key].flush()?;
        loop {
            let connection = &mut self.connections[key];
            let mut input = match connection.socket.read(&mut self.scratch) {
                Ok(0) => return None,
                Ok(size) => &self.scratch[..size],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return None,
            };
            let short = input.len() < self.scratch.len();
            while let Some(event) = connection.reader.next(&mut input).ok()? {
                match event {
                    Event::Head(head) => connection.head = Some(head),
                    Event::Body(part) => {
                        if connection.head.as_ref().is_some_and(|head| head.small) {
                            connection.streams |= asks_for_stream(part);
                        }
                    }
                    Event::End => {
                        let head = connection.head.take()?;
                        if connection.at == SILENT {
                            continue;
                        }
                        let streams = std::mem::take(&mut connection.streams);
                        let answer = self.answers.choose(&self.board, connection.at, &head);
                        match answer {
                            Some(answer) => connection.send(&answer)?,
                            None if streams => {
                                connection.send(&self.answers.stream_head)?;
                                connection.events_left = head.events;
                                connection.pause = head.pause;
                                self.timers.push(Reverse((Instant::now(), key)));
                            }
                            None => connection.send(&self.answers.chat)?,
                        }
                    }
                }
            }
            // The read did not fill the buffer, so the socket is empty. Another read would only cost a system call. Later data causes
            // a new event.
            if short {
                return Some(());
            }
        }
    }

    fn send_due_events(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, key))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(connection) = self.connections.get_mut(key) else {
                continue;
            };
            // The key may belong to a newer connection that has no stream.
            if connection.events_left == 0 {
                continue;
            }
            connection.events_left -= 1;
            let last = connection.events_left == 0;
            let event = match last {
                true => &self.answers.last_event,
                false => &self.answers.event,
            };
            if connection.send(event).is_none() {
                self.connections.remove(key);
            } else if !last {
                self.timers.push(Reverse((at + connection.pause, key)));
            }
        }
    }
}

fn asks_for_stream(part: &[u8]) -> bool {
    [&b"\"stream\":true"[..], b"\"stream\": true"]
        .iter()
        .any(|text| memchr::memmem::find(part, text).is_some())
}

impl Connection {
    /// Sends as much as the socket accepts now, and keeps the rest for later.
    fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    fn flush(&mut self) -> Option<()> {
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(size) => self.written += size,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
        self.out.clear();
        self.written = 0;
        Some(())
    }
}

/// The answers, which are made once.
struct Answers {
    chat: Vec<u8>,
    token: Vec<u8>,
    throttled: Vec<u8>,
    throttled_for_long: Vec<u8>,
    /// Answers of the Responses API by their number of items, made when first requested.
    responses: RefCell<BTreeMap<usize, Vec<u8>>>,
    failed: Vec<u8>,
    failed_stream: Vec<u8>,
    stream_head: Vec<u8>,
    event: Vec<u8>,
    last_event: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let chat = serde_json::json!({
            "id": "chatcmpl-bench", "object": "chat.completion", "created": 1_700_000_000, "model": "gpt-4o",
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": null,
                         "message": {"role": "assistant", "content": "All is well. ".repeat(40)}}],
            "usage": {"prompt_tokens": 200, "completion_tokens": 120, "total_tokens": 320},
        });
        let event = serde_json::json!({
            "id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt-4o",
            "choices": [{"index": 0, "finish_reason": null, "delta": {"content": " well"}}],
        });
        let event = chunk(&format!("data: {event}\n\n"));
        let last_event = [chunk("data: [DONE]\n\n"), b"0\r\n\r\n".to_vec()].concat();
        let error = |code: &str| serde_json::json!({"error": {"code": code, "message": "as Azure words it"}});
        let token = serde_json::json!({
            "access_token": token(), "expires_in": "86399", "expires_on": "4102444800", "token_type": "Bearer",
            "resource": "https://cognitiveservices.azure.com",
        });
        let failure = chunk(&format!("data: {}\n\n", error("server_error")));
        let limits =
            "x-ratelimit-remaining-tokens: 90000\r\nx-ratelimit-remaining-requests: 900\r\n";
        let stream_head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{limits}transfer-encoding: chunked\r\n\r\n"
        )
        .into_bytes();
        let wait = format!("retry-after: {RETRY_AFTER}\r\nx-ratelimit-remaining-tokens: 0\r\n");
        Self {
            chat: answer("200 OK", limits, &chat.to_string()),
            token: answer("200 OK", "", &token.to_string()),
            throttled: answer("429 Too Many Requests", &wait, &error("429").to_string()),
            throttled_for_long: answer(
                "429 Too Many Requests",
                "retry-after: 600\r\n",
                &error("429").to_string(),
            ),
            responses: RefCell::default(),
            failed: answer("503 Service Unavailable", "", &error("503").to_string()),
            failed_stream: [stream_head.clone(), failure, last_event.clone()].concat(),
            stream_head,
            event,
            last_event,
        }
    }

    /// The answer that does not depend on the request's body, if there is one.
    fn choose(&self, board: &Board, at: usize, head: &Head) -> Option<Cow<'_, [u8]>> {
        if at == THROTTLING {
            return Some(Cow::Borrowed(&self.throttled_for_long));
        }
        let Some(requests) = board.requests.get(at) else {
            return Some(Cow::Borrowed(&self.token));
        };
        requests.fetch_add(1, Relaxed);
        board
            .authorized
            .fetch_add(u64::from(head.authorized), Relaxed);
        if at == 0 && board.throttled.load(Relaxed) {
            return Some(Cow::Borrowed(&self.throttled));
        }
        if let Some(items) = head.items {
            let mut responses = self.responses.borrow_mut();
            let response = responses.entry(items).or_insert_with(|| response(items));
            return Some(Cow::Owned(response.clone()));
        }
        let (number, failed) = match (head.fail_once, head.fail_stream_once) {
            (Some(number), _) => (number, &self.failed),
            (None, Some(number)) => (number, &self.failed_stream),
            (None, None) => return None,
        };
        let fails = board.failed_once.swap(number, Relaxed) != number;
        fails.then_some(Cow::Borrowed(failed))
    }
}

/// An answer of the Responses API with this number of items. Each item has an id.
fn response(items: usize) -> Vec<u8> {
    let output = (0..items).map(|index| {
        serde_json::json!({
            "id": format!("msg_68a6102a4968819c8177b05584dd627b0679e572a9{index:06}"), "type": "message", "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": "All is well. ".repeat(40)}],
        })
    });
    let body = serde_json::json!({
        "id": "resp_68a6102a4968819c8177b05584dd627b0679e572a900e618", "object": "response", "created_at": 1_700_000_000,
        "status": "completed", "error": null, "model": "gpt-4o", "output": output.collect::<Vec<_>>(),
        "usage": {"input_tokens": 200, "output_tokens": 120, "total_tokens": 320}, "metadata": {},
    });
    answer("200 OK", "", &body.to_string())
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\napim-request-id: 5f1c1a52\r\nx-ms-region: East US\r\n\
         {headers}content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}
