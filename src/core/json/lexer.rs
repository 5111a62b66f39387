//! Reads JSON from a stream of chunks.
//!
//! The lexer never fails. It [notes](Lexer::is_well_formed) malformed JSON and reads on. It starts again after a line
//! break inside a string, which JSON forbids, and at a line that begins with a word. So it reads an event stream, whose
//! lines are `data:` and JSON, line by line. A malformed line affects only itself.
//!
//! The values of `metadata`, `attributes` and JSON Schemas are the client's own and are never reported. Neither is
//! anything nested deeper than [`MAX_DEPTH`](super::nesting::MAX_DEPTH).

use super::key::{self, Key, KeyReader, Meaning};
use super::nesting::{Level, Nesting};
use super::word::{begins_word, bool_of, may_be_json, Word, ENDS_SCALAR};
use crate::text::find;

/// A token of interest. Positions count from the start of the current chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'c> {
    /// A recognized key. Its value follows, of any type.
    Key(Key),
    /// The start of a string that is the key's value or in its list. `at` is the first byte after the quote.
    Begin {
        /// The key of the string.
        key: Key,
        /// The position of the string's content.
        at: usize,
    },
    /// The next bytes of the current string, with escapes unresolved.
    Text(&'c [u8]),
    /// The end of the current string. A broken string has no end, and another string may begin after it.
    End {
        /// The position of the closing quote.
        at: usize,
    },
    /// `true` or `false` under a key.
    Bool {
        /// The key of the value.
        key: Key,
        /// The value.
        value: bool,
        /// The position after the value.
        end: usize,
    },
}

/// The state of reading a document.
#[derive(Clone, Debug, Default)]
pub struct Lexer {
    state: State,
    key: KeyReader,
    /// The meaning of the last key for its value.
    meaning: Option<Meaning>,
    nesting: Nesting,
    line_begins: bool,
    flawed: bool,
    #[cfg(test)]
    steps: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// A value may begin.
    #[default]
    Value,
    /// A key may begin.
    Key,
    /// A colon must follow.
    Colon,
    /// A comma or a bracket must follow.
    After,
    InKey,
    InString {
        reported: bool,
        escaped: bool,
    },
    InScalar(Word),
}

impl Lexer {
    /// Reads the next bytes and reports the tokens of interest.
    pub fn push<'c>(&mut self, chunk: &'c [u8], report: &mut dyn FnMut(Event<'c>)) {
        let mut rest = chunk;
        while !rest.is_empty() {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            let at = chunk.len() - rest.len();
            let read = match self.state {
                State::InString { reported, escaped } => {
                    self.in_string(rest, reported, escaped, at, report)
                }
                State::InKey => self.in_key(rest, report),
                State::InScalar(word) => self.in_scalar(word, rest, at, report),
                _ => self.structure(rest, at, report),
            };
            rest = rest.get(read..).unwrap_or_default();
        }
    }

    /// Whether the input so far is one complete value with correct brackets, quotes, colons and commas. Scalars are not
    /// checked closely: anything that starts with a digit counts as a number, and any escape is accepted.
    pub fn is_well_formed(&self) -> bool {
        let ended = match self.state {
            State::After => true,
            State::InScalar(word) => may_be_json(word.text()),
            _ => false,
        };
        ended && self.nesting.depth() == 0 && !self.flawed
    }

    /// Reads on in a string, at most to its end. Returns the number of bytes that it read.
    fn in_string<'c>(
        &mut self,
        bytes: &'c [u8],
        reported: bool,
        escaped: bool,
        at: usize,
        report: &mut dyn FnMut(Event<'c>),
    ) -> usize {
        let plain = if escaped { 0 } else { text(bytes) };
        let (text, beyond) = bytes.split_at_checked(plain).unwrap_or((bytes, &[]));
        if reported && !text.is_empty() {
            report(Event::Text(text));
        }
        let Some(byte) = beyond.first() else {
            return plain;
        };
        match byte {
            b'\n' | b'\r' => self.reset(),
            b'"' if !escaped => {
                self.state = State::After;
                if reported {
                    let at = at.saturating_add(plain);
                    report(Event::End { at });
                }
            }
            byte => {
                let escaped = !escaped && *byte == b'\\';
                self.state = State::InString { reported, escaped };
            }
        }
        let is_text = escaped || *byte == b'\\';
        if reported && is_text {
            report(Event::Text(beyond.get(..1).unwrap_or_default()));
        }
        plain.saturating_add(1)
    }

    /// Reads on in a key with escapes, or in one that began in an earlier chunk. Returns the number of bytes that it
    /// read.
    #[inline(never)]
    fn in_key<'c>(&mut self, bytes: &'c [u8], report: &mut dyn FnMut(Event<'c>)) -> usize {
        let plain = match self.key.is_in_escape() {
            true => 0,
            false => text(bytes),
        };
        let (text, beyond) = bytes.split_at_checked(plain).unwrap_or((bytes, &[]));
        self.key.extend(text);
        let Some(byte) = beyond.first() else {
            return plain;
        };
        if matches!(byte, b'\n' | b'\r') {
            self.reset();
        } else if self.key.push(*byte) {
            self.end_key(self.key.meaning(self.nesting.depth() == 1), report);
        }
        plain.saturating_add(1)
    }

    fn end_key<'c>(&mut self, meaning: Meaning, report: &mut dyn FnMut(Event<'c>)) {
        self.meaning = Some(meaning);
        self.state = State::Colon;
        if let Meaning::Key(key) = meaning {
            report(Event::Key(key));
        }
    }

    /// Reads on in a number or a word that began in an earlier chunk. Returns the number of bytes that it read.
    #[inline(never)]
    fn in_scalar<'c>(
        &mut self,
        mut word: Word,
        bytes: &'c [u8],
        at: usize,
        report: &mut dyn FnMut(Event<'c>),
    ) -> usize {
        let more = ENDS_SCALAR.position(bytes);
        let (text, beyond) = bytes.split_at_checked(more).unwrap_or((bytes, &[]));
        word.extend(text);
        match beyond {
            [] => self.state = State::InScalar(word),
            _ => self.end_scalar(word.key, word.text(), at.saturating_add(more), report),
        }
        more
    }

    fn end_scalar<'c>(
        &mut self,
        key: Option<Key>,
        word: &[u8],
        end: usize,
        report: &mut dyn FnMut(Event<'c>),
    ) {
        if let (Some(key), Some(value)) = (key, bool_of(word)) {
            report(Event::Bool { key, value, end });
        }
        self.flawed |= !may_be_json(word);
        self.state = State::After;
    }

    /// Reads a token that begins outside of strings and scalars. Returns the number of bytes that it read.
    fn structure<'c>(
        &mut self,
        bytes: &'c [u8],
        at: usize,
        report: &mut dyn FnMut(Event<'c>),
    ) -> usize {
        let Some((byte, after)) = bytes.split_first() else {
            return 0;
        };
        let line_begins = core::mem::replace(&mut self.line_begins, matches!(byte, b'\n' | b'\r'));
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' => self.open(Level::Object),
            b'[' => {
                let of_ids = self.value_key() == Some(Key::ObjectId);
                self.open(Level::List { of_ids });
            }
            b'}' | b']' => self.close(*byte),
            b'"' if self.state == State::Key => {
                return self.members(bytes, report);
            }
            b'"' => {
                let key = self.value_key();
                self.expect(State::Value);
                self.state = State::InString {
                    reported: key.is_some(),
                    escaped: false,
                };
                if let Some(key) = key {
                    let at = at.saturating_add(1);
                    report(Event::Begin { key, at });
                }
            }
            b':' => {
                if self.state != State::Colon {
                    self.meaning = None;
                }
                self.expect(State::Colon);
                self.state = State::Value;
            }
            b',' => {
                self.expect(State::After);
                self.flawed |= self.nesting.depth() == 0;
                self.state = match self.nesting.level() {
                    Some(Level::Object) => State::Key,
                    _ => State::Value,
                };
            }
            byte => {
                if line_begins && begins_word(*byte) {
                    self.reset();
                    self.line_begins = false;
                }
                if self.nesting.depth() == 0 && self.flawed {
                    // This is part of an event's name or a comment. Only an object, a list or a string matters here.
                    self.state = State::After;
                    let passed = find(after, [b'{', b'[', b'"']).unwrap_or(after.len());
                    return passed.saturating_add(1);
                }
                let key = self.value_key();
                self.expect(State::Value);
                let read = ENDS_SCALAR.position(after).saturating_add(1);
                let (word, beyond) = bytes.split_at_checked(read).unwrap_or((bytes, &[]));
                if beyond.is_empty() {
                    let mut begun = Word::new(key);
                    begun.extend(word);
                    self.state = State::InScalar(begun);
                } else {
                    self.end_scalar(key, word, at.saturating_add(read), report);
                }
                return read;
            }
        }
        1
    }

    /// Reads members of an object, from the quote of a key on. It passes members without meaning in one step. Returns
    /// the number of bytes that it read.
    fn members<'c>(&mut self, bytes: &'c [u8], report: &mut dyn FnMut(Event<'c>)) -> usize {
        let mut rest = bytes;
        while let Some(behind) = rest.strip_prefix(b"\"") {
            let (key, behind) = split_at_mark(behind);
            let Some(behind) = behind.strip_prefix(b"\"") else {
                // The chunk ends in the key, or the key has escapes.
                self.key = KeyReader::default();
                self.state = State::InKey;
                return bytes.len() - behind.len() - key.len();
            };
            let meaning = key::meaning(key, self.nesting.depth() == 1);
            let value = behind.strip_prefix(b":");
            let plain = value.filter(|_| meaning == Meaning::Other);
            let Some(behind) = plain.and_then(pass_plain) else {
                self.end_key(meaning, report);
                return bytes.len() - behind.len();
            };
            let Some(next) = behind.strip_prefix(b",") else {
                self.state = State::After;
                return bytes.len() - behind.len();
            };
            rest = next;
        }
        bytes.len() - rest.len()
    }

    fn open(&mut self, level: Level) {
        let clients_own = self.state == State::Value
            && self.nesting.level() == Some(Level::Object)
            && self.meaning == Some(Meaning::ClientsOwn);
        self.expect(State::Value);
        self.nesting.open(level, !clients_own);
        self.state = match self.nesting.level() {
            Some(Level::Object) => State::Key,
            _ => State::Value,
        };
    }

    fn close(&mut self, byte: u8) {
        if let Some(level) = self.nesting.level() {
            self.flawed |= (level == Level::Object) != (byte == b'}');
        }
        // An empty object or list closes where an element could begin. A trailing comma is accepted.
        let value_missing =
            self.state == State::Value && self.nesting.level() == Some(Level::Object);
        self.flawed |= self.state == State::Colon || value_missing || self.nesting.depth() == 0;
        self.nesting.close();
        self.state = State::After;
    }

    /// The key of a value at this position.
    fn value_key(&self) -> Option<Key> {
        if self.state != State::Value {
            return None;
        }
        match (self.nesting.level()?, self.meaning) {
            (Level::Object, Some(Meaning::Key(key))) => Some(key),
            (Level::List { of_ids: true }, _) => Some(Key::ObjectId),
            _ => None,
        }
    }

    /// Notes a flaw if another token was expected. Levels that are only counted expect nothing.
    fn expect(&mut self, state: State) {
        self.flawed |= self.state != state && self.nesting.is_read();
    }

    fn reset(&mut self) {
        // `key` means nothing in this state.
        self.state = State::default();
        self.meaning = None;
        self.nesting.reset();
        self.flawed = true;
        self.line_begins = true;
    }
}

/// The number of leading bytes that are plain text of a string.
fn text(bytes: &[u8]) -> usize {
    find(bytes, MARKS).unwrap_or(bytes.len())
}

/// Splits the bytes of a string before the first byte that is not plain text.
fn split_at_mark(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at_checked(text(bytes)).unwrap_or((bytes, &[]))
}

/// The bytes after the first value, if the value is complete and a string without escapes, a number or a word.
fn pass_plain(value: &[u8]) -> Option<&[u8]> {
    if let Some(text) = value.strip_prefix(b"\"") {
        return split_at_mark(text).1.strip_prefix(b"\"");
    }
    let (word, behind) = value.split_at_checked(ENDS_SCALAR.position(value))?;
    (may_be_json(word) && !behind.is_empty()).then_some(behind)
}

/// The bytes of a string that are not plain text: its end, an escape, or a line break, which is an error.
const MARKS: [u8; 4] = [b'"', b'\\', b'\n', b'\r'];

#[cfg(test)]
mod tests {
    use super::super::nesting::MAX_DEPTH;
    use super::*;
    use crate::prelude::*;

    /// The tokens as text: `model=gpt` for strings, `store:false` for booleans.
    fn read_chunks(chunks: &[&[u8]]) -> (Vec<String>, Lexer) {
        let mut lexer = Lexer::default();
        let mut found = Vec::new();
        let mut text = Vec::new();
        for chunk in chunks {
            lexer.push(chunk, &mut |event| match event {
                Event::Key(_) => {}
                Event::Begin { key, at } => {
                    if at > 0 {
                        assert_eq!(chunk[at - 1], b'"');
                    }
                    text = format!("{key:?}=").into_bytes();
                }
                Event::Text(bytes) => text.extend_from_slice(bytes),
                Event::End { at } => {
                    assert_eq!(chunk[at], b'"');
                    found.push(String::from_utf8_lossy(&text).into_owned());
                }
                Event::Bool { key, value, .. } => found.push(format!("{key:?}:{value}")),
            });
        }
        (found, lexer)
    }

    fn read(body: &str) -> Vec<String> {
        let (found, whole) = read_chunks(&[body.as_bytes()]);
        for at in 0..=body.len() {
            let (left, right) = body.as_bytes().split_at(at);
            let (split, lexer) = read_chunks(&[left, right]);
            assert_eq!(split, found, "{body:?} at {at}");
            assert_eq!(lexer.is_well_formed(), whole.is_well_formed(), "{at}");
        }
        found
    }

    fn well_formed(body: &str) -> bool {
        read_chunks(&[body.as_bytes()]).1.is_well_formed()
    }

    #[test]
    fn strings_are_found_under_their_keys() {
        for (body, found) in [
            (r#"{"model":"gpt-4o"}"#, &["Model=gpt-4o"][..]),
            (
                "{ \"model\"\n:\r\t\"a\" , \"id\" : \"b\" }",
                &["Model=a", "ObjectId=b"],
            ),
            (r#"{"model":"a\"b\\","x":"id"}"#, &[r#"Model=a\"b\\"#]),
            (r#"{"x":{"model":"a"},"model":"b"}"#, &["Model=b"]),
            (r#"[{"model":"a"}]"#, &[]),
            (r#"{"model":["a"],"model":{"model":"b"}}"#, &[]),
            (r#"{"a":[{"b":{"id":"x"}}]}"#, &["ObjectId=x"]),
            (
                r#"{"file_ids":["a",["b"],{"x":"c","id":"d"},1,"e"],"x":"f"}"#,
                &["ObjectId=a", "ObjectId=b", "ObjectId=d", "ObjectId=e"],
            ),
            (r#"{"mod\u0065l":"a"}"#, &["Model=a"]),
            (r#"{"id":null,"x":"id"}"#, &[]),
            (r#"{"id":1,"x":["id","y"]}"#, &[]),
            (r#"{"x":"{\"id\":\"a\"}","id":"ü€😀"}"#, &["ObjectId=ü€😀"]),
            (r#"["id","a"]"#, &[]),
            (r#""id""#, &[]),
        ] {
            assert_eq!(read(body), found, "{body}");
            assert!(well_formed(body), "{body}");
        }
    }

    #[test]
    fn only_booleans_are_reported_as_booleans() {
        for (body, found) in [
            (
                r#"{"background":true,"store":false}"#,
                &["Background:true", "Store:false"][..],
            ),
            (r#"{"store": true }"#, &["Store:true"]),
            (r#"{"x":{"store":false},"y":true}"#, &[]),
            (r#"{"store":"false"}"#, &["Store=false"]),
            (r#"{"store":null,"background":[true]}"#, &[]),
            (r#"{"store":falsey,"background":1}"#, &[]),
        ] {
            assert_eq!(read(body), found, "{body}");
        }
    }

    #[test]
    fn the_clients_own_maps_are_not_read() {
        let body = r#"{"metadata":{"id":"a","x":[{"id":"b"}],"metadata":{}},"id":"c",
            "attributes":{"file_id":"d"},"metadata":"e","metadata":["f"],"file_ids":["g"]}"#;
        assert_eq!(read(body), ["ObjectId=c", "ObjectId=g"]);
        assert!(well_formed(body));
    }

    #[test]
    fn too_deep_levels_are_skipped() {
        let deep = |depth: usize| {
            let (open, close) = (r#"{"x":"#.repeat(depth - 1), "}".repeat(depth - 1));
            format!(r#"{open}{{"id":"in"}}{close}"#)
        };
        assert_eq!(read(&deep(MAX_DEPTH)), ["ObjectId=in"]);
        assert_eq!(read(&deep(MAX_DEPTH + 1)), [""; 0]);
        let around = format!(r#"{{"x":{},"id":"out"}}"#, deep(3 * MAX_DEPTH));
        assert_eq!(read(&around), ["ObjectId=out"]);
        assert!(well_formed(&around));
    }

    #[test]
    fn malformed_documents_are_noted_and_read_on() {
        for (body, found) in [
            ("", &[][..]),
            ("{", &[]),
            (r#"{"id":"a""#, &["ObjectId=a"]),
            (r#"{"id":"a"}}"#, &["ObjectId=a"]),
            (r#"{"id":"a"]"#, &["ObjectId=a"]),
            (r#"{"id":"a"} {"id":"b"}"#, &["ObjectId=a", "ObjectId=b"]),
            (r#"{"id" "a"}"#, &[]),
            (r#"{"id",:"a"}"#, &[]),
            (r#"{"id":"a" "b":"c"}"#, &["ObjectId=a"]),
            (r#"{"id":{} "a"}"#, &[]),
            (r#"{"id":"a","#, &["ObjectId=a"]),
            (r#"{"id":}"#, &[]),
            (r#"{"x":y}"#, &[]),
            ("nul", &[]),
            (r#"{x:"id","id":"a"}"#, &["ObjectId=a"]),
            (r#"}{"id":"a"}"#, &["ObjectId=a"]),
            ("{\"x\":\"a\nb\"}", &[]),
            ("{\"x\":\"a\\\nb\"}", &[]),
            ("{\"a\nid\":\"b\"}", &[]),
        ] {
            assert_eq!(read(body), found, "{body}");
            assert!(!well_formed(body), "{body}");
        }
    }

    #[test]
    fn a_stream_of_events_is_read_line_by_line() {
        let stream = "event: a\ndata: {\"id\":\"a\"}\n\n: it's \"a comment\n\ndata: {\"id\":\"b\",\r\n\
            id: 7\r\ndata: {\"id\":\"c\"}\r\n\r\ndata: {\"x\":\"broken\ndata:{\"id\":\"d\"}\n\ndata: [DONE]\n\n";
        assert_eq!(
            read(stream),
            ["ObjectId=a", "ObjectId=b", "ObjectId=c", "ObjectId=d"]
        );
    }

    #[test]
    fn each_byte_is_read_once() {
        let long = "x".repeat(1 << 20);
        for body in [
            format!(r#"{{"a":"{long}","id":"{long}"}}"#),
            format!(r#"{{"{long}":{long}}}"#),
            format!(r#"{{"a":"{}"}}"#, "\\\"".repeat(1 << 19)),
            "[".repeat(1 << 20),
            "\n".repeat(1 << 20),
            "data:\n".repeat(1 << 17),
            "\"\n".repeat(1 << 19),
        ] {
            let (_, lexer) = read_chunks(&[body.as_bytes()]);
            assert!(lexer.steps <= body.len());
            assert!(size_of_val(&lexer) < 256);
        }
    }
}
