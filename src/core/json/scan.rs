//! Finds the facts in a request's body that decide its backend.

use core::ops::Range;

use serde_json::Value;

use super::key::Key;
use super::lexer::{Event, Lexer};
use crate::affinity;
use crate::hash::Fingerprint;
use crate::prelude::*;
use crate::state::ids::Tag;
use crate::state::objects::{Kind, Untagged, ValueReader};

/// The most tags that are collected. Every item of a conversation may have two, and the longest conversations have some
/// thousand.
pub const MAX_TAGS: usize = 65_536;

/// The purpose of a batch's input file.
pub const FOR_BATCH: &str = "batch";

/// The longest name of a deployment that is read, in bytes. Azure allows 64 characters.
const MAX_NAME: usize = 256;

/// Reads the body of a request chunk by chunk.
///
/// The last of duplicate keys counts, as in the parsers of Python and .NET. The body must be read to its end, because
/// an id that decides the backend may come last.
#[derive(Debug, Default)]
pub struct Scan {
    lexer: Lexer,
    offset: usize,
    /// Whether a byte after the byte order mark was read.
    has_begun: bool,
    reading: Reading,
    found: Findings,
}

/// The facts in a body. All ranges are in bytes from the start of the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The deployment, from the document's `model`.
    pub model: Option<Model>,
    /// The document's `prompt_cache_key`.
    pub cache_key: Option<affinity::Key>,
    /// `"background": true`
    pub background: bool,
    /// `"stream": true`
    pub stream: bool,
    /// The end of the value `true` of `stream`.
    pub stream_end: usize,
    /// Whether the document has `stream_options`, or must not have them.
    pub fixes_stream_options: bool,
    /// The value of `store`, if present.
    pub store: Option<bool>,
    /// `"purpose": "batch"`
    pub for_batch: bool,
    /// The tags of ids, in the order of the body.
    pub tags: Vec<Tagged>,
    /// Whether an id or encrypted content has no tag, because it was made before tags existed or without this gateway.
    pub untagged: bool,
    /// Whether the body has more than [`MAX_TAGS`] tags. The others were not collected.
    pub too_many_tags: bool,
}

/// The name of the deployment in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The range between the quotes.
    pub range: Range<usize>,
    /// The name, with escapes resolved. `None` if it is too long or not UTF-8, so that no deployment can have it.
    pub name: Option<String>,
}

/// A tag of an id in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tagged {
    /// The tag, of a configured backend or not.
    pub tag: Tag,
    /// The start of the tag, which has [`Tag::LENGTH`] bytes.
    pub start: usize,
}

impl Tagged {
    /// The range of the tag.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start.saturating_add(Tag::LENGTH)
    }
}

/// The byte order mark that some programs write before UTF-8. Azure's parsers skip it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Nothing,
    Model {
        start: usize,
        raw: Vec<u8>,
    },
    CacheKey(Fingerprint),
    Value(ValueReader),
    /// A purpose, compared with [`FOR_BATCH`] as it arrives.
    Purpose {
        length: usize,
        for_batch: bool,
    },
}

impl Scan {
    /// Reads the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        let rest = self.pass_mark(chunk);
        self.read(rest);
    }

    /// Skips a byte order mark at the start of the body, and returns the rest of the chunk.
    fn pass_mark<'c>(&mut self, chunk: &'c [u8]) -> &'c [u8] {
        if self.has_begun {
            return chunk;
        }
        let expected = BYTE_ORDER_MARK.get(self.offset..).unwrap_or_default();
        let same = chunk.iter().zip(expected).take_while(|(is, of)| is == of);
        let passed = same.count();
        self.offset = self.offset.saturating_add(passed);
        let rest = chunk.get(passed..).unwrap_or_default();
        self.has_begun = !rest.is_empty();
        if self.has_begun && passed < expected.len() {
            // The bytes only resembled a byte order mark.
            let begun = BYTE_ORDER_MARK.get(..self.offset).unwrap_or_default();
            self.offset = 0;
            self.read(begun);
        }
        rest
    }

    fn read(&mut self, chunk: &[u8]) {
        let Self {
            lexer,
            offset,
            reading,
            found,
            ..
        } = self;
        lexer.push(chunk, &mut |event| found.take(reading, *offset, event));
        *offset = offset.saturating_add(chunk.len());
    }

    /// The facts so far. Another `model` may still follow.
    pub fn so_far(&self) -> &Findings {
        &self.found
    }

    /// The facts in the complete body. `None` if it is malformed; such a body is passed on unchanged for the backend to
    /// refuse.
    pub fn finish(self) -> Option<Findings> {
        self.lexer.is_well_formed().then_some(self.found)
    }
}

impl Findings {
    fn take(&mut self, reading: &mut Reading, offset: usize, event: Event<'_>) {
        match event {
            Event::Key(Key::Model) => self.model = None,
            Event::Key(Key::Background) => self.background = false,
            Event::Key(Key::Stream) => self.stream = false,
            Event::Key(Key::Store) => self.store = None,
            Event::Key(Key::PromptCacheKey) => self.cache_key = None,
            Event::Key(Key::Purpose) => self.for_batch = false,
            Event::Key(Key::StreamOptions) => self.fixes_stream_options = true,
            Event::Key(Key::ObjectId | Key::Encrypted | Key::SessionKey) => {}
            Event::Bool { key, value, end } => match key {
                Key::Background => self.background = value,
                Key::Stream => {
                    self.stream = value;
                    self.stream_end = offset.saturating_add(end);
                }
                Key::Store => self.store = Some(value),
                _ => {}
            },
            Event::Begin { key, at } => {
                *reading = match key {
                    Key::Model => Reading::Model {
                        start: offset.saturating_add(at),
                        raw: Vec::new(),
                    },
                    Key::PromptCacheKey => Reading::CacheKey(Fingerprint::default()),
                    Key::Purpose => Reading::Purpose {
                        length: 0,
                        for_batch: true,
                    },
                    key => ValueReader::of(key).map_or(Reading::Nothing, Reading::Value),
                }
            }
            Event::Text(text) => match reading {
                Reading::Nothing => {}
                Reading::Model { raw, .. } => {
                    // One byte more than allowed marks a name as too long.
                    let room = (MAX_NAME + 1).saturating_sub(raw.len());
                    raw.extend(text.iter().take(room));
                }
                Reading::CacheKey(key) => key.push(text),
                Reading::Value(value) => value.push(text),
                Reading::Purpose { length, for_batch } => {
                    let expected = FOR_BATCH.as_bytes().get(*length..).unwrap_or_default();
                    *for_batch &= expected.starts_with(text);
                    *length = length.saturating_add(text.len());
                }
            },
            Event::End { at } => self.complete(core::mem::take(reading), offset.saturating_add(at)),
        }
    }

    fn complete(&mut self, reading: Reading, end: usize) {
        match reading {
            Reading::Nothing => {}
            Reading::CacheKey(key) => self.cache_key = affinity::Key::read(key),
            Reading::Model { start, raw } => {
                self.model = Some(Model {
                    range: start..end,
                    name: (raw.len() <= MAX_NAME).then(|| unescaped(&raw)).flatten(),
                });
            }
            Reading::Purpose { length, for_batch } => {
                self.for_batch = for_batch && length == FOR_BATCH.len();
            }
            Reading::Value(value) => {
                let tag = match value.kind() {
                    Some(Kind::Tagged(tag)) => tag,
                    Some(Kind::Plain(Untagged::Home)) => {
                        self.untagged = true;
                        return;
                    }
                    Some(Kind::Plain(Untagged::Nowhere)) | None => return,
                };
                if self.tags.len() == MAX_TAGS {
                    self.too_many_tags = true;
                    return;
                }
                let start = end.saturating_sub(Tag::LENGTH);
                self.tags.push(Tagged { tag, start });
            }
        }
    }
}

/// The string whose JSON form between quotes is `raw`.
fn unescaped(raw: &[u8]) -> Option<String> {
    match serde_json::from_slice(&[b"\"", raw, b"\""].concat()).ok()? {
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splices::Splices;

    fn scan(body: &str) -> Option<Findings> {
        let mut scan = Scan::default();
        scan.push(body.as_bytes());
        scan.finish()
    }

    /// The model as written, and its name.
    fn model(body: &str) -> Option<(&str, Option<String>)> {
        let model = scan(body)?.model?;
        Some((&body[model.range], model.name))
    }

    #[test]
    fn the_documents_own_cache_key_is_found() {
        let key = |body: &str| scan(body).unwrap().cache_key;
        let a = affinity::Key::of(b"a");
        for body in [
            r#"{"prompt_cache_key":"a"}"#,
            r#"{"messages":[{"prompt_cache_key":"b"}],"prompt_cache_key":"a"}"#,
            r#"{"prompt_cache_key":"b","prompt_cache_key":"a"}"#,
        ] {
            assert_eq!(key(body), a, "{body}");
            let mut scan = Scan::default();
            body.as_bytes().chunks(1).for_each(|byte| scan.push(byte));
            assert_eq!(scan.finish().unwrap().cache_key, a, "{body}");
        }
        for body in [
            "{}",
            r#"{"prompt_cache_key":""}"#,
            r#"{"prompt_cache_key":null}"#,
            r#"{"prompt_cache_key":"a","prompt_cache_key":1}"#,
            r#"{"metadata":{"prompt_cache_key":"a"}}"#,
        ] {
            assert_eq!(key(body), None, "{body}");
        }
    }

    #[test]
    fn the_documents_own_model_is_found() {
        for (body, written, name) in [
            (r#"{"model":"gpt-4o"}"#, "gpt-4o", Some("gpt-4o")),
            (r#"{"model" : "" }"#, "", Some("")),
            (
                r#"{"tools":[{"model":"a"}],"x":{"model":"b"},"model":"c"}"#,
                "c",
                Some("c"),
            ),
            (
                r#"{"messages":[{"content":"\"model\":\"x\" ü"}],"mod\u0065l":"y"}"#,
                "y",
                Some("y"),
            ),
            (r#"{"model":"gpt\u002d4o"}"#, r"gpt\u002d4o", Some("gpt-4o")),
            (r#"{"model":"größe-😀"}"#, "größe-😀", Some("größe-😀")),
            (r#"{"model":"a","model":"b"}"#, "b", Some("b")),
            (r#"{"model":"\ud800"}"#, r"\ud800", None),
        ] {
            assert_eq!(
                model(body),
                Some((written, name.map(str::to_owned))),
                "{body}"
            );
        }
    }

    #[test]
    fn a_model_that_is_not_a_name_is_ignored() {
        for body in [
            "{}",
            r#"{"model":null}"#,
            r#"{"model":["a"]}"#,
            r#"{"model":{"id":"a"}}"#,
            r#"{"model":"a","model":5}"#,
            r#"[{"model":"a"}]"#,
            r#"{"metadata":{"model":"a"}}"#,
        ] {
            let found = scan(body).unwrap();
            assert_eq!(found.model, None, "{body}");
        }
    }

    #[test]
    fn a_too_long_name_still_has_its_range() {
        for (length, named) in [(MAX_NAME, true), (MAX_NAME + 1, false), (5000, false)] {
            let body = format!(r#"{{"model":"{}"}}"#, "x".repeat(length));
            let (written, name) = model(&body).unwrap();
            assert_eq!((written.len(), name.is_some()), (length, named));
        }
    }

    #[test]
    fn a_request_for_a_stream_is_found() {
        for (body, stream) in [
            (r#"{"stream":true}"#, true),
            (r#"{"stream": false}"#, false),
            (r#"{"stream":true,"stream":null}"#, false),
            (r#"{"stream":"true"}"#, false),
            (r#"{"x":{"stream":true}}"#, false),
            ("{}", false),
        ] {
            assert_eq!(scan(body).unwrap().stream, stream, "{body}");
        }
    }

    #[test]
    fn fields_that_affect_retries_are_found() {
        for (body, background, store) in [
            (r#"{"background":true,"store":true}"#, true, Some(true)),
            (r#"{"store": false}"#, false, Some(false)),
            (r#"{"background":"true","store":"false"}"#, false, None),
            (r#"{"background":true,"background":false}"#, false, None),
            (
                r#"{"store":false,"background":true,"store":null}"#,
                true,
                None,
            ),
            (r#"{"x":{"background":true,"store":false}}"#, false, None),
        ] {
            let found = scan(body).unwrap();
            assert_eq!(
                (found.background, found.store),
                (background, store),
                "{body}"
            );
        }
    }

    #[test]
    fn tags_are_found_where_ids_stand() {
        let (a, b) = (Tag::of("a"), Tag::of("b"));
        let body = format!(
            r#"{{"previous_response_id":"resp_1{a:?}","input":[{{"type":"input_file","file_id":"file-1{b:?}"}},
            {{"content":"file-2{b:?}"}}],"tools":[{{"vector_store_ids":["vs_1{a:?}","vs_2","x{a:?}","vs_3{b:?}"]}},
            {{"container":"cntr_1{a:?}"}}],"metadata":{{"id":"file-3{a:?}"}},"id":"file-\u0031{a:?}",
            "conversation":{{"id":"conv_1{b:?}"}},"item_id":"msg_1{a:?}","training_file":"file-4{a:?}",
            "encrypted_content":"gAAAA=={b:?}"}}"#
        );
        let found = scan(&body).unwrap();
        let tags: Vec<_> = found.tags.iter().map(|found| found.tag).collect();
        assert_eq!(tags, [a, b, a, b, a, b, a, a, b]);
        let mut splices = Splices::default();
        for tagged in &found.tags {
            assert_eq!(&body[tagged.range()], tagged.tag.as_str());
            assert!(splices.cut(tagged.range()));
        }
        let cut = String::from_utf8(splices.apply(body.as_bytes())).unwrap();
        assert_eq!(scan(&cut).unwrap().tags, []);
        for id in [
            "\"resp_1\"",
            "\"file-1\"",
            "\"vs_1\"",
            "\"cntr_1\"",
            "\"conv_1\"",
        ] {
            assert!(cut.contains(id), "{cut}");
        }
    }

    #[test]
    fn untagged_items_count_only_if_bound_to_a_resource() {
        for (body, untagged) in [
            (
                r#"{"input":[{"id":"msg_1"},{"id":"fc_1"},{"id":"ws_1"}]}"#,
                false,
            ),
            (r#"{"input":[{"type":"item_reference","id":"rs_1"}]}"#, true),
            (
                r#"{"input":[{"type":"reasoning","encrypted_content":"gAAAA"}]}"#,
                true,
            ),
            (
                r#"{"input":[{"type":"reasoning","encrypted_content":null}]}"#,
                false,
            ),
            (r#"{"input":[{"type":"compaction","id":"cmp_1"}]}"#, true),
            (
                r#"{"tools":[{"parameters":{"id":"rs_1","encrypted_content":"x"}}]}"#,
                false,
            ),
        ] {
            assert_eq!(scan(body).unwrap().untagged, untagged, "{body}");
        }
    }

    #[test]
    fn the_purpose_of_a_batch_is_found() {
        for (body, for_batch) in [
            (r#"{"purpose":"batch","filename":"a"}"#, true),
            (r#"{"purpose":"batches"}"#, false),
            (r#"{"purpose":"bat"}"#, false),
            (r#"{"purpose":"fine-tune","purpose":"batch"}"#, true),
            (r#"{"purpose":"batch","purpose":null}"#, false),
            (r#"{"x":{"purpose":"batch"}}"#, false),
        ] {
            for at in 0..=body.len() {
                let (one, other) = body.as_bytes().split_at(at);
                let mut scan = Scan::default();
                scan.push(one);
                scan.push(other);
                assert_eq!(scan.finish().unwrap().for_batch, for_batch, "{body}");
            }
        }
    }

    #[test]
    fn too_many_tags_are_reported() {
        let id = Tag::of("a").append_to("file-1");
        let body = |count| format!(r#"{{"file_ids":{:?}}}"#, vec![id.as_str(); count]);
        let found = scan(&body(MAX_TAGS)).unwrap();
        assert!(found.tags.len() == MAX_TAGS && !found.too_many_tags);
        let found = scan(&body(MAX_TAGS + 1)).unwrap();
        assert!(found.tags.len() == MAX_TAGS && found.too_many_tags);
    }

    #[test]
    fn a_malformed_body_has_no_findings() {
        for body in [
            "",
            "model=a",
            r#"{"model":"a""#,
            r#"{"model":"a"}}"#,
            r#"{"model":"a"} {}"#,
            r#"{"model":"a","#,
            r#"{"model" "a"}"#,
            "{\"model\":\"a\",\"x\":\"\n\"}",
            "\u{feff}",
            "\u{feff}\u{feff}{\"model\":\"a\"}",
            " \u{feff}{\"model\":\"a\"}",
            "{}\u{feff}",
        ] {
            assert_eq!(scan(body), None, "{body}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_counted() {
        let body = "\u{feff}{\"model\":\"gpt\",\"file_id\":\"file-1\"}";
        assert_eq!(model(body), Some(("gpt", Some("gpt".to_owned()))));
        let whole = scan(body);
        for at in 0..=body.len() {
            let (one, other) = body.as_bytes().split_at(at);
            let mut scan = Scan::default();
            scan.push(one);
            scan.push(&[]);
            scan.push(other);
            assert_eq!(scan.finish(), whole, "{at}");
        }
        let mut scan = Scan::default();
        body.bytes().for_each(|byte| scan.push(&[byte]));
        assert_eq!(scan.finish(), whole);
    }

    #[test]
    fn a_partial_byte_order_mark_is_not_json() {
        for start in [
            &b"\xef"[..],
            b"\xef\xbb",
            b"\xef\xbb\xbe",
            b"\xbb\xbf",
            b"\xfe\xff",
        ] {
            let body = [start, br#"{"model":"gpt"}"#].concat();
            for at in 0..=start.len() {
                let (one, other) = body.split_at(at);
                let mut scan = Scan::default();
                scan.push(one);
                scan.push(other);
                assert_eq!(scan.finish(), None, "{start:?}");
            }
        }
    }

    #[test]
    fn findings_are_available_at_once() {
        let mut scan = Scan::default();
        scan.push(br#"{"model":"a","x":["#);
        assert_eq!(scan.so_far().model.as_ref().unwrap().range, 10..11);
        assert_eq!(scan.finish(), None);
    }
}
