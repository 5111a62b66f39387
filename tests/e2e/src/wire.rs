//! HTTP/1.1 on the wire: heads and framings, and their form in tests.

use std::io;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Header fields in the order of their arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a field.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    /// All values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.values(name).collect()
    }

    fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// An answer that has ended.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The header fields.
    pub headers: Headers,
    /// The body, without its framing.
    pub body: Vec<u8>,
    /// The trailers of a chunked body.
    pub trailers: Headers,
    /// How the body ended.
    pub ending: Ending,
    /// The time from the start of the request to the last byte.
    pub elapsed: Duration,
}

impl Response {
    /// The first value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.first(name)
    }

    /// The simulated backend that answered; `nobody` if the gateway answered.
    pub fn backend(&self) -> &str {
        self.header("x-sim-backend").unwrap_or("nobody")
    }

    /// The `id` in a successful answer.
    ///
    /// # Panics
    ///
    /// When the status is not 200, or the body has no id.
    pub fn id(&self) -> String {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The body as text, with a replacement character for each invalid byte.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is not JSON. The message has the body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| {
            panic!(
                "status {}, body is not JSON ({e}): {}",
                self.status,
                self.text()
            )
        })
    }
}

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The body is complete, as its head announced.
    Complete,
    /// The body is truncated: the connection was closed, reset or silent for too long.
    Cut(io::ErrorKind),
}

/// A part of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The time when this part was read from the connection.
    pub at: Instant,
    /// The bytes of one read, without their framing.
    pub bytes: Vec<u8>,
}

/// The start of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    /// The length of the head in bytes.
    pub(crate) length: usize,
}

impl Head {
    /// The head at the start of `bytes`; `None` while it is incomplete.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; 128];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(bytes).map_err(invalid)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        Ok(Some(Self {
            status: parsed.code.unwrap_or_default(),
            headers: owned(parsed.headers),
            length,
        }))
    }
}

/// The framing of a body, which is removed piece by piece.
#[derive(Debug)]
pub(crate) enum Body {
    /// This many bytes are missing.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
}

impl Body {
    /// The framing that an answer's head announces.
    pub(crate) fn of(method: &str, head: &Head) -> io::Result<Self> {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Ok(Self::Length(0));
        }
        if head.status == 101 {
            return Ok(Self::UntilClose);
        }
        if let Some(coding) = head.headers.first("transfer-encoding") {
            return if coding.eq_ignore_ascii_case("chunked") {
                Ok(Self::Chunked(Chunked::default()))
            } else {
                Err(invalid(format!("transfer-encoding: {coding}")))
            };
        }
        match head.headers.first("content-length") {
            Some(length) => length.trim().parse().map(Self::Length).map_err(invalid),
            None => Ok(Self::UntilClose),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunked) => chunked.state == State::End,
            Self::UntilClose => false,
        }
    }

    /// The body's bytes among those that just came. Bytes after the end of the body stay in `bytes`.
    pub(crate) fn take(&mut self, bytes: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        match self {
            Self::Length(left) => {
                let here = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                Ok(bytes.drain(..here).collect())
            }
            Self::Chunked(chunked) => chunked.take(bytes),
            Self::UntilClose => Ok(std::mem::take(bytes)),
        }
    }

    pub(crate) fn trailers(&self) -> Headers {
        match self {
            Self::Chunked(chunked) => chunked.trailers.clone(),
            _ => Headers::default(),
        }
    }
}

/// A chunked body.
#[derive(Debug, Default)]
pub(crate) struct Chunked {
    state: State,
    trailers: Headers,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Size,
    Data(usize),
    AfterData,
    Trailers,
    End,
}

impl Chunked {
    fn take(&mut self, bytes: &mut Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self.state {
                State::Size => {
                    match httparse::parse_chunk_size(rest).map_err(|_| invalid("chunk size"))? {
                        httparse::Status::Complete((used, size)) => {
                            at += used;
                            self.state = match size {
                                0 => State::Trailers,
                                size => State::Data(usize::try_from(size).map_err(invalid)?),
                            };
                        }
                        httparse::Status::Partial => break,
                    }
                }
                State::Data(left) => {
                    let here = left.min(rest.len());
                    out.extend_from_slice(&rest[..here]);
                    at += here;
                    if here < left {
                        self.state = State::Data(left - here);
                        break;
                    }
                    self.state = State::AfterData;
                }
                State::AfterData => {
                    if rest.len() < 2 {
                        break;
                    }
                    if !rest.starts_with(b"\r\n") {
                        return Err(invalid("no line break after a chunk"));
                    }
                    at += 2;
                    self.state = State::Size;
                }
                State::Trailers => {
                    let mut fields = [httparse::EMPTY_HEADER; 64];
                    match httparse::parse_headers(rest, &mut fields).map_err(invalid)? {
                        httparse::Status::Complete((used, fields)) => {
                            at += used;
                            self.trailers = owned(fields);
                            self.state = State::End;
                        }
                        httparse::Status::Partial => break,
                    }
                }
                State::End => break,
            }
        }
        bytes.drain(..at);
        Ok(out)
    }
}

fn owned(fields: &[httparse::Header<'_>]) -> Headers {
    Headers(
        fields
            .iter()
            .map(|f| {
                (
                    f.name.to_owned(),
                    String::from_utf8_lossy(f.value).into_owned(),
                )
            })
            .collect(),
    )
}

pub(crate) fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &[u8] = b"3\r\nabc\r\n5;note=x\r\ndefgh\r\n0\r\nx-last: yes\r\n\r\nrest";

    #[test]
    fn a_chunked_body_reads_the_same_however_it_is_split() {
        for size in 1..=ANSWER.len() {
            let mut body = Body::Chunked(Chunked::default());
            let (mut left, mut got) = (Vec::new(), Vec::new());
            for piece in ANSWER.chunks(size) {
                left.extend_from_slice(piece);
                got.extend(body.take(&mut left).expect("well-formed"));
            }
            assert_eq!(got, b"abcdefgh", "in pieces of {size}");
            assert!(body.is_complete());
            assert_eq!(body.trailers().first("X-Last"), Some("yes"));
            assert_eq!(left, b"rest");
        }
    }

    #[test]
    fn the_framing_follows_the_head() {
        let body = |method: &str, head: &[u8]| {
            let head = Head::parse(head).expect("well-formed").expect("complete");
            Body::of(method, &head)
        };
        let with_length = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        assert!(matches!(body("GET", with_length), Ok(Body::Length(5))));
        assert!(matches!(body("HEAD", with_length), Ok(Body::Length(0))));
        assert!(matches!(
            body("GET", b"HTTP/1.1 200 OK\r\n\r\n"),
            Ok(Body::UntilClose)
        ));
        assert!(matches!(
            body(
                "GET",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            Ok(Body::Chunked(_))
        ));
        assert!(matches!(
            body("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
            Ok(Body::Length(0))
        ));
    }

    #[test]
    fn half_a_head_is_not_one() {
        assert!(Head::parse(b"HTTP/1.1 200 OK\r\ncontent-le")
            .expect("well-formed")
            .is_none());
        assert!(Head::parse(b"SSH-2.0\r\n\r\n").is_err());
    }
}
