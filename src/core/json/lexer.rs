//! Reads JSON from a stream of chunks.
//!
//! The lexer never fails. It [notes](Lexer::is_well_formed) malformed JSON and reads on. It starts again after a line
//! break inside a string, which JSON forbids, and at a line that begins with a word. So it reads an event stream, whose
//! lines are `data:` and JSON, line by line. A malformed line affects only itself.
//!
//! The values of `metadata`, `attributes` and JSON Schemas are the client's own and are never reported. Neither is
//! anything nested deeper than [`MAX_DEPTH`].

use super::key::{Key, KeyReader, Meaning};
use crate::text::{copy_to, find, ByteSet};

/// The depth up to which nesting is read. The ids of Azure OpenAI's APIs are within the first ten levels.
pub const MAX_DEPTH: usize = 32;

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
    levels: [Level; MAX_DEPTH],
    depth: usize,
    /// The depth from which levels are only counted.
    unread_from: Option<usize>,
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

/// A number, `true`, `false` or `null`, as far as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    key: Option<Key>,
    bytes: [u8; 5],
    length: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Level {
    #[default]
    Object,
    List {
        of_ids: bool,
    },
}

impl Lexer {
    /// Reads the next bytes and reports the tokens of interest.
    pub fn push<'c>(&mut self, chunk: &'c [u8], mut report: impl FnMut(Event<'c>)) {
        let mut rest = chunk;
        while let Some((byte, after)) = rest.split_first() {
            #[cfg(test)]
            {
                self.steps += 1;
            }
            let run = self.run(rest);
            if run > 0 {
                let (text, beyond) = rest.split_at_checked(run).unwrap_or((rest, &[]));
                match &mut self.state {
                    State::InString { reported: true, .. } => report(Event::Text(text)),
                    State::InScalar(word) => word.extend(text),
                    State::InKey => self.key.extend(text),
                    _ => {}
                }
                rest = beyond;
                continue;
            }
            let at = chunk.len() - rest.len();
            match self.state {
                State::InString { reported, escaped } => {
                    if reported && (escaped || *byte == b'\\') {
                        report(Event::Text(rest.get(..1).unwrap_or_default()));
                    }
                    self.mark(*byte, reported, escaped, at, &mut report);
                }
                State::InKey => self.in_key(*byte, &mut report),
                State::InScalar(word) => {
                    if let (Some(key), Some(value)) = (word.key, word.bool()) {
                        report(Event::Bool {
                            key,
                            value,
                            end: at,
                        });
                    }
                    self.flawed |= !word.may_be_json();
                    self.state = State::After;
                    self.structure(*byte, at, &mut report);
                }
                _ => self.structure(*byte, at, &mut report),
            }
            rest = after;
        }
    }

    /// Whether the input so far is one complete value with correct brackets, quotes, colons and commas. Scalars are not
    /// checked closely: anything that starts with a digit counts as a number, and any escape is accepted.
    pub fn is_well_formed(&self) -> bool {
        let ended = match self.state {
            State::After => true,
            State::InScalar(word) => word.may_be_json(),
            _ => false,
        };
        ended && self.depth == 0 && !self.flawed
    }

    /// The number of bytes that continue the first byte's token.
    fn run(&self, bytes: &[u8]) -> usize {
        match self.state {
            State::InString { escaped: false, .. } => text(bytes),
            State::InKey if !self.key.is_in_escape() => text(bytes),
            State::InScalar(_) => ENDS_SCALAR.position(bytes),
            _ => 0,
        }
    }

    /// Handles a special byte of a string: a quote, a backslash, a line break or an escaped byte.
    fn mark<'c>(
        &mut self,
        byte: u8,
        reported: bool,
        escaped: bool,
        at: usize,
        report: &mut impl FnMut(Event<'c>),
    ) {
        match byte {
            b'\n' | b'\r' => self.reset(),
            b'"' if !escaped => {
                self.state = State::After;
                if reported {
                    report(Event::End { at });
                }
            }
            byte => {
                self.state = State::InString {
                    reported,
                    escaped: !escaped && byte == b'\\',
                };
            }
        }
    }

    fn in_key<'c>(&mut self, byte: u8, report: &mut impl FnMut(Event<'c>)) {
        if matches!(byte, b'\n' | b'\r') {
            self.reset();
        } else if self.key.push(byte) {
            let meaning = self.key.meaning(self.depth == 1);
            self.meaning = Some(meaning);
            self.state = State::Colon;
            if let Meaning::Key(key) = meaning {
                report(Event::Key(key));
            }
        }
    }

    /// Handles a byte outside of strings and scalars.
    fn structure<'c>(&mut self, byte: u8, at: usize, report: &mut impl FnMut(Event<'c>)) {
        let line_begins = core::mem::replace(&mut self.line_begins, matches!(byte, b'\n' | b'\r'));
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' => self.open(Level::Object),
            b'[' => {
                let of_ids = self.value_key() == Some(Key::ObjectId);
                self.open(Level::List { of_ids });
            }
            b'}' | b']' => self.close(byte),
            b'"' if self.state == State::Key => {
                self.key = KeyReader::default();
                self.state = State::InKey;
            }
            b'"' => {
                let key = self.value_key();
                self.expect(State::Value);
                self.state = State::InString {
                    reported: key.is_some(),
                    escaped: false,
                };
                if let Some(key) = key {
                    report(Event::Begin { key, at: at + 1 });
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
                self.flawed |= self.depth == 0;
                self.state = match self.level() {
                    Some(Level::Object) => State::Key,
                    _ => State::Value,
                };
            }
            byte if line_begins && begins_word(byte) => {
                self.reset();
                self.line_begins = false;
            }
            byte => {
                let key = self.value_key();
                self.expect(State::Value);
                let mut word = Word::new(key);
                word.extend(&[byte]);
                self.state = State::InScalar(word);
            }
        }
    }

    fn open(&mut self, level: Level) {
        let clients_own = self.state == State::Value
            && self.level() == Some(Level::Object)
            && self.meaning == Some(Meaning::ClientsOwn);
        self.expect(State::Value);
        match self.levels.get_mut(self.depth) {
            Some(slot) => *slot = level,
            None => self.unread_from = self.unread_from.or(Some(self.depth)),
        }
        if clients_own {
            self.unread_from = self.unread_from.or(Some(self.depth));
        }
        self.depth = self.depth.saturating_add(1);
        self.state = match self.level() {
            Some(Level::Object) => State::Key,
            _ => State::Value,
        };
    }

    fn close(&mut self, byte: u8) {
        if let Some(level) = self.level() {
            self.flawed |= (level == Level::Object) != (byte == b'}');
        }
        // An empty object or list closes where an element could begin. A trailing comma is accepted.
        let value_missing = self.state == State::Value && self.level() == Some(Level::Object);
        self.flawed |= self.state == State::Colon || value_missing || self.depth == 0;
        self.depth = self.depth.saturating_sub(1);
        if self.unread_from.is_some_and(|from| self.depth <= from) {
            self.unread_from = None;
        }
        self.state = State::After;
    }

    /// The current level, if it is read.
    fn level(&self) -> Option<Level> {
        match self.unread_from {
            Some(_) => None,
            None => self.levels.get(self.depth.checked_sub(1)?).copied(),
        }
    }

    /// The key of a value at this position.
    fn value_key(&self) -> Option<Key> {
        if self.state != State::Value {
            return None;
        }
        match (self.level()?, self.meaning) {
            (Level::Object, Some(Meaning::Key(key))) => Some(key),
            (Level::List { of_ids: true }, _) => Some(Key::ObjectId),
            _ => None,
        }
    }

    /// Notes a flaw if another token was expected. Levels that are only counted expect nothing.
    fn expect(&mut self, state: State) {
        self.flawed |= self.state != state && self.unread_from.is_none();
    }

    fn reset(&mut self) {
        // Other fields have no meaning after this. Resetting all of them would take longer than reading a line.
        self.state = State::default();
        self.meaning = None;
        self.depth = 0;
        self.unread_from = None;
        self.flawed = true;
        self.line_begins = true;
    }
}

impl Word {
    fn new(key: Option<Key>) -> Self {
        Self {
            key,
            bytes: [0; 5],
            length: 0,
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        copy_to(&mut self.bytes, self.length, bytes);
        self.length = self.length.saturating_add(bytes.len());
    }

    fn bool(&self) -> Option<bool> {
        match self.bytes.get(..self.length)? {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    fn may_be_json(&self) -> bool {
        let number = matches!(self.bytes, [b'-' | b'0'..=b'9', ..]);
        number || self.bool().is_some() || self.bytes.get(..self.length) == Some(b"null")
    }
}

/// The number of leading bytes that are plain text of a string.
fn text(bytes: &[u8]) -> usize {
    let ended = find(bytes, [b'"', b'\\', b'\n', b'\r']);
    ended.unwrap_or(bytes.len())
}

/// The bytes that end a number or a word.
const ENDS_SCALAR: ByteSet = ByteSet::of(b" \t\n\r{}[]\":,");

/// Whether no JSON value begins with this letter. `true`, `false` and `null` are the only words.
fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() && !matches!(byte, b't' | b'f' | b'n')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    /// The tokens as text: `model=gpt` for strings, `store:false` for booleans.
    fn read_chunks(chunks: &[&[u8]]) -> (Vec<String>, Lexer) {
        let mut lexer = Lexer::default();
        let mut found = Vec::new();
        let mut text = Vec::new();
        for chunk in chunks {
            lexer.push(chunk, |event| match event {
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
