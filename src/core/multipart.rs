//! Finds one value in a form as the form streams through.
//!
//! Uploads and transcriptions arrive as `multipart/form-data` (RFC 7578): a file of many megabytes, and before or after
//! it small values such as `model` and `purpose`. The scanner reads each byte once and stores nothing of the file.

use crate::prelude::*;
use core::ops::Range;

/// The longest boundary that RFC 2046 allows.
const MAX_BOUNDARY: usize = 70;

/// The longest headers of a part, in bytes. Those of the SDKs have some 100.
pub const MAX_HEADERS: usize = 4096;

/// The longest value that is stored, in bytes. Of a longer value only the range is reported.
const MAX_VALUE: usize = 256;

/// Finds the value of one name in a form that arrives in chunks, which end anywhere.
#[derive(Clone, Debug)]
pub struct Scanner {
    name: &'static str,
    /// Whether the search ends at the first file.
    ends_at_file: bool,
    delimiter: Delimiter,
    state: State,
    offset: usize,
}

/// A value in a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The byte range in the body.
    pub range: Range<usize>,
    /// The value. `None` if it is too long or not UTF-8, so that it is not a name.
    pub text: Option<String>,
}

#[derive(Clone, Debug)]
enum State {
    /// Before the first part, or in a part of no interest.
    Elsewhere,
    /// On the line of a delimiter, after it.
    Line { last: u8, hyphens: u8 },
    /// In the headers of a part.
    Headers(Vec<u8>),
    /// In the wanted value.
    Inside { start: usize, bytes: Vec<u8> },
    /// The value was found, or the form has ended or is malformed.
    Done(Option<Value>),
}

impl Scanner {
    /// A scanner for the first value of `name` in a body with this content type. `None` if the body is not a form.
    pub fn new(content_type: &str, name: &'static str) -> Option<Self> {
        Some(Self {
            name,
            ends_at_file: false,
            delimiter: Delimiter::new(&boundary(content_type)?),
            state: State::Elsewhere,
            offset: 0,
        })
    }

    /// A scanner that stops at the first file, so that the request does not wait for a value after it.
    pub fn before_files(content_type: &str, name: &'static str) -> Option<Self> {
        let scanner = Self::new(content_type, name)?;
        Some(Self {
            ends_at_file: true,
            ..scanner
        })
    }

    /// Reads the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while !self.is_done() {
            let passed = self.passes(rest);
            self.offset = self.offset.saturating_add(passed);
            let Some((byte, after)) = rest.get(passed..).and_then(<[u8]>::split_first) else {
                return;
            };
            self.take(*byte);
            self.offset = self.offset.saturating_add(1);
            rest = after;
        }
    }

    /// Whether the result is final.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done(_))
    }

    /// The value, once all of it was read. A part with a file name is a file and never a value.
    pub fn value(&self) -> Option<&Value> {
        match &self.state {
            State::Done(value) => value.as_ref(),
            _ => None,
        }
    }

    /// The number of bytes that can be skipped at once. In a file, these are the bytes before the next line break.
    fn passes(&self, bytes: &[u8]) -> usize {
        if !matches!(self.state, State::Elsewhere) || self.delimiter.matched > 0 {
            return 0;
        }
        let next = bytes.iter().position(|byte| *byte == b'\r');
        next.unwrap_or(bytes.len())
    }

    fn take(&mut self, byte: u8) {
        match &mut self.state {
            State::Elsewhere => {
                if self.delimiter.push(byte) {
                    self.state = State::Line {
                        last: 0,
                        hyphens: 0,
                    };
                }
            }
            State::Line { last, hyphens } => match (byte, *last) {
                (b'\n', b'\r') => self.state = State::Headers(Vec::new()),
                // Two hyphens right after the last delimiter end the form.
                (b'-', 0 | b'-') if *hyphens < 2 => {
                    *last = byte;
                    *hyphens += 1;
                    if *hyphens == 2 {
                        self.state = State::Done(None);
                    }
                }
                (b'\r', 0 | b' ' | b'\t') | (b' ' | b'\t', 0 | b' ' | b'\t') => *last = byte,
                _ => self.state = State::Done(None),
            },
            State::Headers(headers) => {
                headers.push(byte);
                if *headers == b"\r\n" || headers.ends_with(b"\r\n\r\n") {
                    let start = self.offset.saturating_add(1);
                    self.state = match Part::of(headers, self.name) {
                        Part::Wanted => State::Inside {
                            start,
                            bytes: Vec::new(),
                        },
                        Part::File if self.ends_at_file => State::Done(None),
                        Part::File | Part::Other => State::Elsewhere,
                    };
                    self.delimiter.restart();
                } else if headers.len() >= MAX_HEADERS {
                    self.state = State::Done(None);
                }
            }
            State::Inside { start, bytes } => {
                let length = self.delimiter.length();
                if bytes.len() <= MAX_VALUE + length {
                    bytes.push(byte);
                }
                if self.delimiter.push(byte) {
                    let end = self.offset.saturating_add(1).saturating_sub(length);
                    let range = *start..end;
                    let text = (range.len() <= MAX_VALUE)
                        .then(|| String::from_utf8(bytes.get(..range.len())?.to_vec()).ok())
                        .flatten();
                    self.state = State::Done(Some(Value { range, text }));
                }
            }
            State::Done(_) => {}
        }
    }
}

/// The delimiter of parts: a line break, two hyphens and the boundary. The search takes linear time for any boundary,
/// by the algorithm of Knuth, Morris and Pratt.
#[derive(Clone, Debug)]
struct Delimiter {
    bytes: Vec<u8>,
    /// For each prefix length, the length of the longest shorter prefix that is also its suffix.
    shorter: Vec<usize>,
    matched: usize,
}

const LINE_BREAK: &[u8] = b"\r\n";

impl Delimiter {
    fn new(boundary: &[u8]) -> Self {
        let mut delimiter = Self {
            bytes: [LINE_BREAK, b"--", boundary].concat(),
            shorter: vec![0, 0],
            matched: 0,
        };
        for byte in delimiter.bytes.clone().into_iter().skip(1) {
            let matched = delimiter.longest(delimiter.matched, byte);
            delimiter.matched = matched;
            delimiter.shorter.push(matched);
        }
        // The first delimiter may be at the start of the body, without a line break.
        delimiter.matched = LINE_BREAK.len();
        delimiter
    }

    fn length(&self) -> usize {
        self.bytes.len()
    }

    fn restart(&mut self) {
        self.matched = 0;
    }

    /// Reads the next byte. `true` if it completes the delimiter.
    fn push(&mut self, byte: u8) -> bool {
        self.matched = self.longest(self.matched, byte);
        self.matched == self.bytes.len()
    }

    /// The length of the longest prefix of the delimiter that ends with `byte`, after a prefix of length `matched`.
    fn longest(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes.get(matched) == Some(&byte) {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = self.shorter.get(matched).copied().unwrap_or_default();
        }
    }
}

/// The boundary in the content type of a form.
fn boundary(content_type: &str) -> Option<Vec<u8>> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameter(parameters, "boundary")?;
    (1..=MAX_BOUNDARY)
        .contains(&boundary.len())
        .then(|| boundary.into_bytes())
}

/// A part of a form.
enum Part {
    /// The wanted value.
    Wanted,
    /// A file.
    File,
    /// Another value, or a malformed part.
    Other,
}

impl Part {
    /// The part with these headers, if the value `name` is wanted.
    fn of(headers: &[u8], name: &str) -> Self {
        let headers = core::str::from_utf8(headers).unwrap_or_default();
        let disposition = headers.split("\r\n").find_map(|line| {
            let (header, value) = line.split_once(':')?;
            header
                .eq_ignore_ascii_case("content-disposition")
                .then_some(value)
        });
        let Some((kind, parameters)) = disposition.and_then(|value| value.split_once(';')) else {
            return Self::Other;
        };
        let has = |name| parameter(parameters, name).is_some();
        let is_wanted = || parameter(parameters, "name").is_some_and(|found| found == name);
        if has("filename") || has("filename*") {
            Self::File
        } else if kind.trim().eq_ignore_ascii_case("form-data") && is_wanted() {
            Self::Wanted
        } else {
            Self::Other
        }
    }
}

/// The value of a parameter in `a=b; c="d"`, quoted or not.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while !rest.is_empty() {
        let (found, after) = rest.split_once('=')?;
        let found = found.trim_matches([' ', '\t', ';']);
        let value;
        (value, rest) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => {
                let (value, after) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), after)
            }
        };
        if found.eq_ignore_ascii_case(name) {
            return Some(value);
        }
    }
    None
}

/// The text up to the closing quote, and the rest. The opening quote is already removed.
fn unquoted(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=b1";

    #[test]
    fn the_search_can_end_at_the_first_file() {
        let value = "--b1\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n";
        let file = "--b1\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\nx";
        let other = "--b1\r\nContent-Disposition: form-data; name=\"purposes\"\r\n\r\nx\r\n";
        for (body, found) in [
            ([value, file].concat(), true),
            ([other, value, file].concat(), true),
            ([file, "\r\n", value].concat(), false),
            ([other, file].concat(), false),
        ] {
            for at in 0..=body.len() {
                let (one, two) = body.as_bytes().split_at(at);
                let mut scanner = Scanner::before_files(TYPE, "purpose").unwrap();
                scanner.push(one);
                scanner.push(two);
                assert!(scanner.is_done(), "{body}");
                let text = scanner.value().and_then(|value| value.text.as_deref());
                assert_eq!(text, found.then_some("batch"), "{body}");
            }
        }
    }

    /// The value in the body. It is the same for every split into two chunks.
    fn find(content_type: &str, body: &[u8]) -> Option<Value> {
        let scan = |chunks: &[&[u8]]| {
            let mut scanner = Scanner::new(content_type, "model")?;
            chunks.iter().for_each(|chunk| scanner.push(chunk));
            scanner.value().cloned()
        };
        let found = scan(&[body]);
        for at in 0..=body.len() {
            let (left, right) = body.split_at(at);
            assert_eq!(scan(&[left, right]), found, "{at}");
        }
        let bytes: Vec<_> = body.chunks(1).collect();
        assert_eq!(scan(&bytes), found);
        found
    }

    fn text(content_type: &str, body: &str) -> Option<String> {
        let value = find(content_type, body.as_bytes())?;
        assert_eq!(Some(&body[value.range]), value.text.as_deref());
        value.text
    }

    #[test]
    fn the_value_is_found_in_every_position() {
        let file = "--b1\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
            content-type: audio/wav\r\n\r\nRIFF\r\n--b\r\n\r\n--b2\r\n\r\n";
        let value = "--b1\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n";
        for body in [
            format!("{value}{file}--b1--\r\n"),
            format!("{file}{value}--b1--\r\n"),
            format!("{file}{value}--b1"),
            format!("a preamble\r\n{file}{value}--b1--\r\nand an epilogue"),
            format!("{value}{}--b1--", value.replace("whisper", "second")),
            format!("{}--b1--", value.replace("b1\r\n", "b1 \t\r\n")),
            format!("{value}--b1--").replace(
                "Content-Disposition: form-data; name=\"model\"",
                "X: y\r\nCONTENT-DISPOSITION:Form-Data ;  name=model",
            ),
        ] {
            assert_eq!(text(TYPE, &body).as_deref(), Some("whisper"), "{body}");
        }
    }

    #[test]
    fn the_value_is_taken_unchanged() {
        for value in [
            "",
            " a ",
            "größe",
            "\r\n",
            "\r\n--b",
            "a\r\n\r\n--b2",
            "\r\r\n--",
        ] {
            let body = format!(
                "--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\n{value}\r\n--b1--"
            );
            assert_eq!(text(TYPE, &body).as_deref(), Some(value), "{value:?}");
        }
    }

    #[test]
    fn other_parts_are_not_taken_for_the_value() {
        for body in [
            "",
            "--b1--",
            "--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper",
            "--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\nwhisper\r\n--b",
            "--b1\r\ncontent-disposition: form-data; name=\"model\"; filename=\"m\"\r\n\r\na\r\n--b1--",
            "--b1\r\ncontent-disposition: form-data; name=model; filename*=UTF-8''m\r\n\r\na\r\n--b1--",
            "--b1\r\ncontent-disposition: form-data; name=\"models\"\r\n\r\na\r\n--b1--",
            "--b1\r\ncontent-disposition: attachment; name=\"model\"\r\n\r\na\r\n--b1--",
            "--b1\r\ncontent-disposition: form-data\r\n\r\na\r\n--b1--",
            "--b1\r\ncontent-disposition: form-data; name=\"model\r\n\r\na\r\n--b1--",
            "--b1\r\ncontent-disposition: form-data; x=\"; name=model\"\r\n\r\na\r\n--b1--",
            "--b1\r\n\r\na\r\n--b1--",
            "--b1--\r\n--b1\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\na\r\n--b1--",
            "--b1x\r\ncontent-disposition: form-data; name=\"model\"\r\n\r\na\r\n--b1--",
            "{\"model\":\"a\"}",
        ] {
            assert_eq!(text(TYPE, body), None, "{body}");
        }
    }

    #[test]
    fn a_name_may_be_written_with_escapes() {
        for (parameters, name, value) in [
            (r#" name="a\"b"; x=y"#, "name", Some("a\"b")),
            (r#" filename="name=x"; name="y""#, "name", Some("y")),
            ("name=a;filename=b", "filename", Some("b")),
            ("NAME = a ", "name", Some("a")),
            (r#"name="a"#, "name", None),
            (r#"name="a\"#, "name", None),
            ("", "name", None),
            ("name", "name", None),
        ] {
            assert_eq!(
                parameter(parameters, name).as_deref(),
                value,
                "{parameters}"
            );
        }
    }

    #[test]
    fn the_boundary_comes_from_the_content_type() {
        let longest = "x".repeat(MAX_BOUNDARY);
        for (content_type, expected) in [
            ("multipart/form-data; boundary=b1", Some("b1")),
            ("multipart/form-data;boundary=\"a b;c\"", Some("a b;c")),
            (
                "Multipart/Form-Data ; charset=utf-8; Boundary=----x=y",
                Some("----x=y"),
            ),
            (
                &format!("multipart/form-data; boundary={longest}"),
                Some(&longest),
            ),
            (&format!("multipart/form-data; boundary={longest}x"), None),
            ("multipart/form-data; boundary=", None),
            ("multipart/form-data; boundary=\"\"", None),
            ("multipart/form-data", None),
            ("multipart/mixed; boundary=b1", None),
            ("application/json", None),
            ("", None),
        ] {
            let found = boundary(content_type);
            assert_eq!(
                found.as_deref(),
                expected.map(str::as_bytes),
                "{content_type}"
            );
        }
    }

    #[test]
    fn headers_without_an_end_end_the_search() {
        let body = |headers: usize| {
            let disposition = "content-disposition: form-data; name=model\r\nx: ";
            let padding = "x".repeat(headers - disposition.len() - 4);
            format!("--b1\r\n{disposition}{padding}\r\n\r\na\r\n--b1--")
        };
        let find = |body: &str| {
            let mut scanner = Scanner::new(TYPE, "model").unwrap();
            scanner.push(body.as_bytes());
            assert!(scanner.is_done());
            scanner.value().cloned()
        };
        assert!(find(&body(MAX_HEADERS)).is_some());
        assert_eq!(find(&body(MAX_HEADERS + 1)), None);
    }

    #[test]
    fn long_and_invalid_values_have_only_a_range() {
        for (value, named) in [
            (vec![b'x'; MAX_VALUE], true),
            (vec![b'x'; MAX_VALUE + 1], false),
            (vec![b'x'; 10_000], false),
            (vec![0xff], false),
        ] {
            let head = b"--b1\r\ncontent-disposition: form-data; name=model\r\n\r\n";
            let body = [&head[..], &value, b"\r\n--b1--"].concat();
            let mut scanner = Scanner::new(TYPE, "model").unwrap();
            scanner.push(&body);
            let found = scanner.value().unwrap();
            assert_eq!(found.range, head.len()..head.len() + value.len());
            assert_eq!(found.text.is_some(), named);
        }
    }

    #[test]
    fn boundaries_with_repetitions_are_found() {
        let content_type = "multipart/form-data; boundary=\"\r\n--\r\n--x\"";
        let body = "--\r\n--\r\n--x\r\ncontent-disposition: form-data; name=model\r\n\r\n\
            a\r\n--\r\n--\r\n--\r\n--x--";
        assert_eq!(text(content_type, body).as_deref(), Some("a\r\n--"));
        // A partial delimiter at the end of a value must not hide the real one.
        let content_type = "multipart/form-data; boundary=\"x\r\n--\"";
        let body = "--x\r\n--\r\ncontent-disposition: form-data; name=model\r\n\r\n\
            x\r\n--\r\n--x\r\n----";
        assert_eq!(text(content_type, body).as_deref(), Some("x\r\n--"));
    }

    #[test]
    fn files_are_not_stored() {
        let head = "--b1\r\ncontent-disposition: form-data; name=file; filename=f\r\n\r\n";
        let tail = "\r\n--b1\r\ncontent-disposition: form-data; name=model\r\n\r\na\r\n--b1--";
        let mut scanner = Scanner::new(TYPE, "model").unwrap();
        scanner.push(head.as_bytes());
        for _ in 0..500_000 {
            scanner.push(b"\r\n--b\r\n-\r");
            assert!(matches!(scanner.state, State::Elsewhere));
        }
        scanner.push(tail.as_bytes());
        assert_eq!(scanner.value().unwrap().text.as_deref(), Some("a"));
    }
}
