//! Reads HTTP/1.1 messages from partial input, without copying bodies. This keeps the load and the backends cheap beside the measured
//! proxy.

use httparse::{Header, EMPTY_HEADER};

/// The framing of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// `content-length`: this number of bytes.
    Length(usize),
    /// `transfer-encoding: chunked`.
    Chunked,
}

/// A part of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a, H> {
    /// The head, reduced to the parts that the reader needs.
    Head(H),
    /// A part of the body.
    Body(&'a [u8]),
    /// The message is complete.
    End,
}

/// The error on input that is not HTTP/1.1.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// Parses a head into the parts that the reader needs, and the body's framing.
pub type ParseHead<H> = fn(&[u8]) -> Option<(H, Framing)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Body(usize),
    ChunkSize(usize),
    /// The rest of the line after a chunk's size.
    ChunkExtension(usize),
    Chunk(usize),
    /// The end of the line after a chunk.
    ChunkEnd,
    /// The empty line after the last chunk. Trailers are not supported.
    LastEnd(u8),
    Ended,
}

/// Reads the messages of one direction of a connection.
#[derive(Debug)]
pub struct Reader<H> {
    parse: ParseHead<H>,
    state: State,
    head: Vec<u8>,
}

impl<H> Reader<H> {
    /// A reader at the beginning of a message.
    pub fn new(parse: ParseHead<H>) -> Self {
        Self {
            parse,
            state: State::Head,
            head: Vec::new(),
        }
    }

    /// Takes the next event from `input`, or returns `None` if `input` is used up.
    ///
    /// # Errors
    /// The input is not HTTP/1.1, or uses a feature that the benchmark does not support.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a, H>>, Broken> {
        loop {
            match self.state {
                State::Ended => {
                    self.state = State::Head;
                    return Ok(Some(Event::End));
                }
                State::Body(0) => self.state = State::Ended,
                _ if input.is_empty() => return Ok(None),
                State::Head => {
                    if let Some(head) = self.take_head(input)? {
                        return Ok(Some(Event::Head(head)));
                    }
                }
                State::Body(left) => {
                    let part = take(input, left);
                    self.state = State::Body(left - part.len());
                    return Ok(Some(Event::Body(part)));
                }
                State::ChunkSize(size) => {
                    let byte = take(input, 1)[0];
                    self.state = match byte {
                        b'\r' | b';' => State::ChunkExtension(size),
                        digit => {
                            let digit = char::from(digit).to_digit(16).ok_or(Broken)? as usize;
                            State::ChunkSize(size << 4 | digit)
                        }
                    };
                }
                State::ChunkExtension(size) => {
                    if take(input, 1) == b"\n" {
                        self.state = match size {
                            0 => State::LastEnd(2),
                            size => State::Chunk(size),
                        };
                    }
                }
                State::Chunk(left) => {
                    let part = take(input, left);
                    self.state = match left - part.len() {
                        0 => State::ChunkEnd,
                        left => State::Chunk(left),
                    };
                    return Ok(Some(Event::Body(part)));
                }
                State::ChunkEnd => {
                    if take(input, 1) == b"\n" {
                        self.state = State::ChunkSize(0);
                    }
                }
                State::LastEnd(left) => {
                    take(input, 1);
                    self.state = match left - 1 {
                        0 => State::Ended,
                        left => State::LastEnd(left),
                    };
                }
            }
        }
    }

    /// Takes the head, if `input` completes it.
    fn take_head(&mut self, input: &mut &[u8]) -> Result<Option<H>, Broken> {
        const END: &[u8] = b"\r\n\r\n";
        let before = self.head.len();
        // A head nearly always arrives in one piece, and is then parsed without a copy.
        let (head, used) = if before == 0 {
            match memchr::memmem::find(input, END) {
                Some(at) => (&input[..at + END.len()], at + END.len()),
                None => {
                    self.head.extend_from_slice(take(input, usize::MAX));
                    return Ok(None);
                }
            }
        } else {
            self.head.extend_from_slice(input);
            let from = before.saturating_sub(END.len() - 1);
            match memchr::memmem::find(&self.head[from..], END) {
                Some(at) => {
                    let length = from + at + END.len();
                    (&self.head[..length], length - before)
                }
                None => {
                    take(input, usize::MAX);
                    return Ok(None);
                }
            }
        };
        let (head, framing) = (self.parse)(head).ok_or(Broken)?;
        self.head.clear();
        take(input, used);
        self.state = match framing {
            Framing::Length(length) => State::Body(length),
            Framing::Chunked => State::ChunkSize(0),
        };
        Ok(Some(head))
    }
}

/// Takes up to `most` bytes from the front of `input`.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}

/// The body's framing according to these headers.
pub fn framing(headers: &[Header<'_>]) -> Option<Framing> {
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value).ok()?;
            return Some(Framing::Length(length.trim().parse().ok()?));
        }
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Some(Framing::Chunked);
        }
    }
    Some(Framing::Length(0))
}

/// Parses the head of a response into its status and its body's framing.
pub fn response(head: &[u8]) -> Option<(u16, Framing)> {
    let mut headers = [EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok()?;
    Some((response.code?, framing(response.headers)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello\
        HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\n\r\n";

    /// The statuses and bodies of [`MESSAGES`], read in pieces of this size.
    fn read(piece: usize) -> Vec<(u16, String)> {
        let mut reader = Reader::new(response);
        let (mut messages, mut ends) = (Vec::new(), 0);
        for mut input in MESSAGES.chunks(piece) {
            while let Some(event) = reader.next(&mut input).unwrap() {
                match event {
                    Event::Head(status) => messages.push((status, String::new())),
                    Event::Body(part) => {
                        let body = &mut messages.last_mut().unwrap().1;
                        body.push_str(std::str::from_utf8(part).unwrap());
                    }
                    Event::End => ends += 1,
                }
            }
        }
        assert_eq!(ends, messages.len());
        messages
    }

    #[test]
    fn messages_are_read_in_pieces_of_any_size() {
        let expected = [
            (200, "hello".to_owned()),
            (503, String::new()),
            (200, "abc0123456789".to_owned()),
        ];
        for piece in 1..=MESSAGES.len() {
            assert_eq!(read(piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn other_protocols_are_refused() {
        let mut reader = Reader::new(response);
        let mut input: &[u8] = b"SMTP ready\r\n\r\n";
        assert_eq!(reader.next(&mut input), Err(Broken));
    }
}
