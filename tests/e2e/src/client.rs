//! A client for tests: it records when each byte came, can pause, and can disconnect at any point.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::wire::{Body, Chunk, Ending, Head, Headers, Response};

/// An HTTP/1.1 client for one address. Every request has a connection of its own, except on a [`Connection`].
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    silence: Duration,
}

impl Client {
    /// A client that gives up after 30 seconds without a byte.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            silence: Duration::from_secs(30),
        }
    }

    /// Gives up after this long without a byte.
    pub fn give_up_after(mut self, silence: Duration) -> Self {
        self.silence = silence;
        self
    }

    /// Sends a request and reads its answer. A truncated answer is an error.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        whole(self.stream(method, path, headers, body)?.read_to_end())
    }

    /// Sends a request and returns after the head of its answer.
    pub fn stream(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Stream> {
        let mut headers = headers.to_vec();
        headers.push(("connection", "close"));
        let request = request(self.address, method, path, &headers, body);
        let started = Instant::now();
        let mut socket = self.socket()?;
        write_unless_refused(&mut socket, &request)?;
        Stream::begin(socket, Vec::new(), method, started)
    }

    /// Requests a WebSocket and returns after the head of the answer.
    pub fn upgrade(&self, path: &str, headers: &[(&str, &str)]) -> io::Result<Stream> {
        let mut headers = headers.to_vec();
        headers.extend([
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            // Any 16 bytes.
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ]);
        let started = Instant::now();
        let mut socket = self.socket()?;
        socket.write_all(&request(self.address, "GET", path, &headers, b""))?;
        Stream::begin(socket, Vec::new(), "GET", started)
    }

    /// Starts a request whose body is sent in chunks, at the caller's pace.
    pub fn upload(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Upload> {
        self.begin_upload(method, path, headers, ("transfer-encoding", "chunked"))
    }

    /// Starts a request whose body has an announced length and is sent in pieces, at the caller's pace.
    pub fn upload_of(
        &self,
        length: usize,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Upload> {
        let length = length.to_string();
        self.begin_upload(method, path, headers, ("content-length", &length))
    }

    fn begin_upload(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        framing: (&str, &str),
    ) -> io::Result<Upload> {
        let mut headers = headers.to_vec();
        headers.extend([framing, ("connection", "close")]);
        let started = Instant::now();
        let mut socket = self.socket()?;
        socket.write_all(&request(self.address, method, path, &headers, b""))?;
        Ok(Upload {
            socket,
            method: method.to_owned(),
            started,
            is_chunked: framing.0 == "transfer-encoding",
        })
    }

    /// A connection for several requests, one after the other.
    pub fn connect(&self) -> io::Result<Connection> {
        Ok(Connection {
            address: self.address,
            socket: Some((self.socket()?, Vec::new())),
        })
    }

    /// A connection for raw bytes.
    pub fn socket(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.address, self.silence)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(self.silence))?;
        socket.set_write_timeout(Some(self.silence))?;
        Ok(socket)
    }
}

/// A connection that stays open for further requests until the server closes it.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    /// The connection, and the bytes read beyond the last answer; `None` once the connection has ended.
    socket: Option<(TcpStream, Vec<u8>)>,
}

impl Connection {
    /// Sends a request and reads its answer. A truncated answer and a closed connection are errors.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let (mut socket, read) = self.socket.take().ok_or(io::ErrorKind::NotConnected)?;
        let started = Instant::now();
        write_unless_refused(
            &mut socket,
            &request(self.address, method, path, headers, body),
        )?;
        let mut stream = Stream::begin(socket, read, method, started)?;
        let response = whole(stream.drain())?;
        let closes = response
            .header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"));
        if !closes && !matches!(stream.body, Body::UntilClose) {
            self.socket = Some((stream.socket, stream.read));
        }
        Ok(response)
    }

    /// Whether the connection can send another request.
    pub fn is_open(&self) -> bool {
        self.socket.is_some()
    }
}

/// A request whose body is being sent. Dropping it disconnects in the middle of the request.
#[derive(Debug)]
pub struct Upload {
    socket: TcpStream,
    method: String,
    started: Instant,
    is_chunked: bool,
}

impl Upload {
    /// Sends a chunk, or a piece of a body with an announced length.
    pub fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if !self.is_chunked {
            return self.socket.write_all(bytes);
        }
        let mut framed = format!("{:x}\r\n", bytes.len()).into_bytes();
        framed.extend_from_slice(bytes);
        framed.extend_from_slice(b"\r\n");
        self.socket.write_all(&framed)
    }

    /// Ends the body and waits for the head of the answer.
    pub fn finish(self) -> io::Result<Stream> {
        if self.is_chunked {
            self.finish_with_trailers(&[])
        } else {
            self.answer()
        }
    }

    /// Ends a chunked body with these trailers and waits for the head of the answer.
    pub fn finish_with_trailers(mut self, trailers: &[(&str, &str)]) -> io::Result<Stream> {
        let mut end = String::from("0\r\n");
        for (name, value) in trailers {
            end.push_str(&format!("{name}: {value}\r\n"));
        }
        end.push_str("\r\n");
        write_unless_refused(&mut self.socket, end.as_bytes())?;
        self.answer()
    }

    /// Waits for the head of an answer that comes before the body is complete.
    pub fn answer(self) -> io::Result<Stream> {
        Stream::begin(self.socket, Vec::new(), &self.method, self.started)
    }

    /// Disconnects in the middle of the request.
    pub fn disconnect(self) {
        drop(self);
    }
}

/// An answer whose head is read and whose body is arriving. Iterating yields the parts of the body, each with its time.
/// Dropping it disconnects in the middle of the answer.
#[derive(Debug)]
pub struct Stream {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: Headers,
    /// The time when the request began.
    pub started: Instant,
    /// The time when the head was complete.
    pub head_at: Instant,
    socket: TcpStream,
    /// Bytes read from the connection and not yet parsed.
    read: Vec<u8>,
    body: Body,
    ending: Option<Ending>,
}

impl Stream {
    fn begin(
        mut socket: TcpStream,
        mut read: Vec<u8>,
        method: &str,
        started: Instant,
    ) -> io::Result<Self> {
        let head = loop {
            match Head::parse(&read)? {
                // Interim answers like 100 Continue are not the answer; 101 is.
                Some(head) if (100..200).contains(&head.status) && head.status != 101 => {
                    read.drain(..head.length);
                }
                Some(head) => break head,
                None if more(&mut socket, &mut read)? => {}
                None if read.is_empty() => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the connection was closed without an answer",
                    ));
                }
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "half a head")),
            }
        };
        read.drain(..head.length);
        Ok(Self {
            status: head.status,
            body: Body::of(method, &head)?,
            headers: head.headers,
            started,
            head_at: Instant::now(),
            socket,
            read,
            ending: None,
        })
    }

    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.first(name)
    }

    /// How the body ended; `None` while it is arriving.
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The trailers of a chunked body that has ended.
    pub fn trailers(&self) -> Headers {
        self.body.trailers()
    }

    /// Reads the rest of the body.
    pub fn read_to_end(mut self) -> Response {
        self.drain()
    }

    /// Disconnects in the middle of the answer.
    pub fn disconnect(self) {
        drop(self);
    }

    /// The connection after `101 Switching Protocols`, and the bytes already read from it.
    pub fn into_socket(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.read)
    }

    fn drain(&mut self) -> Response {
        let mut body = Vec::new();
        for chunk in self.by_ref() {
            body.extend_from_slice(&chunk.bytes);
        }
        Response {
            status: self.status,
            headers: self.headers.clone(),
            body,
            trailers: self.trailers(),
            ending: self.ending.clone().unwrap_or(Ending::Complete),
            elapsed: self.started.elapsed(),
        }
    }

    fn advance(&mut self) -> io::Result<Option<Chunk>> {
        loop {
            let bytes = self.body.take(&mut self.read)?;
            if !bytes.is_empty() {
                return Ok(Some(Chunk {
                    at: Instant::now(),
                    bytes,
                }));
            }
            if self.body.is_complete() {
                return Ok(None);
            }
            if !more(&mut self.socket, &mut self.read)? {
                return match self.body {
                    Body::UntilClose => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }
}

impl Iterator for Stream {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        if self.ending.is_some() {
            return None;
        }
        match self.advance() {
            Ok(Some(chunk)) => Some(chunk),
            Ok(None) => {
                self.ending = Some(Ending::Complete);
                None
            }
            Err(error) => {
                self.ending = Some(Ending::Cut(error.kind()));
                None
            }
        }
    }
}

/// Reads once. Returns `false` at the end of the connection.
fn more(socket: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 64 * 1024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(false),
            Ok(length) => {
                read.extend_from_slice(&buffer[..length]);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes a request. A server may answer and close before it has read everything: then the answer counts, not the write
/// error.
fn write_unless_refused(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    match socket.write_all(bytes) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            // An error here only means that the server has closed already.
            let _ = socket.shutdown(Shutdown::Write);
            Ok(())
        }
        result => result,
    }
}

/// The bytes of a request. Adds `host` and `content-length` if the caller did not give them.
fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !given("host") {
        text.push_str(&format!("host: {address}\r\n"));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let may_have_body = matches!(method, "POST" | "PUT" | "PATCH") || !body.is_empty();
    if may_have_body && !given("content-length") && !given("transfer-encoding") {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn whole(response: Response) -> io::Result<Response> {
    match response.ending {
        Ending::Complete => Ok(response),
        Ending::Cut(kind) => Err(io::Error::new(
            kind,
            format!(
                "the answer {} was cut off after {} bytes",
                response.status,
                response.body.len()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that answers each connection's first read with these bytes and closes.
    fn server(answers: Vec<Vec<&'static [u8]>>) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().expect("accept");
                for piece in answer {
                    let _ = socket.read(&mut [0; 1024]).expect("read");
                    socket.write_all(piece).expect("write");
                }
            }
        });
        Client::new(address)
    }

    #[test]
    fn an_interim_answer_is_not_the_answer() {
        let client = server(vec![vec![
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\nX-A: 2\r\ncontent-length: 2\r\n\r\nok",
        ]]);
        let answer = client.send("GET", "/", &[], b"").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.headers.all("x-a"), ["1", "2"]);
    }

    #[test]
    fn a_cut_answer_differs_from_a_complete_one() {
        let client = server(vec![
            vec![b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"],
            vec![b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"],
            vec![b"HTTP/1.1 200 OK\r\n\r\nab"],
            vec![],
        ]);
        for _ in 0..2 {
            let answer = client
                .stream("GET", "/", &[], b"")
                .expect("a head")
                .read_to_end();
            assert_eq!(answer.text(), "ab");
            assert_eq!(answer.ending, Ending::Cut(io::ErrorKind::UnexpectedEof));
        }
        let answer = client.send("GET", "/", &[], b"").expect("an answer");
        assert_eq!(answer.text(), "ab");
        assert!(client.send("GET", "/", &[], b"").is_err());
    }

    #[test]
    fn a_connection_serves_until_it_is_closed() {
        let client = server(vec![vec![
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1",
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\n2",
        ]]);
        let mut connection = client.connect().expect("connect");
        assert_eq!(
            connection
                .send("GET", "/", &[], b"")
                .expect("an answer")
                .text(),
            "1"
        );
        assert!(connection.is_open());
        assert_eq!(
            connection
                .send("GET", "/", &[], b"")
                .expect("an answer")
                .text(),
            "2"
        );
        assert!(!connection.is_open());
    }
}
