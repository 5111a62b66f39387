//! Finds the places for tags in an answer.

use super::lexer::{Event, Lexer};
use crate::prelude::*;
use crate::state::ids::Tag;
use crate::state::objects::{Kind, ValueReader};

/// Finds the values in an answer that belong to the backend's resource: ids of objects and items, and encrypted
/// content. The answer is JSON or an event stream, in chunks that end anywhere.
///
/// A tag is inserted before the closing quote, so bytes that have passed never change. Tagged values stay unchanged,
/// because another balancer behind this one has tagged them.
#[derive(Debug, Default)]
pub struct Tagger {
    lexer: Lexer,
    value: Option<ValueReader>,
    places: Vec<usize>,
}

impl Tagger {
    /// Reads the next chunk. Returns the positions for tags in ascending order. Most chunks have none.
    pub fn push(&mut self, chunk: &[u8]) -> &[usize] {
        let Self {
            lexer,
            value,
            places,
        } = self;
        places.clear();
        lexer.push(chunk, &mut |event| match event {
            Event::Begin { key, .. } => *value = ValueReader::of(key),
            Event::Text(text) => {
                if let Some(value) = value {
                    value.push(text);
                }
            }
            Event::End { at } => {
                let kind = value.take().and_then(|value| value.kind());
                if matches!(kind, Some(Kind::Plain(_))) {
                    places.push(at);
                }
            }
            Event::Key(_) | Event::Bool { .. } => {}
        });
        places
    }
}

/// Appends the chunk to `tagged`, with the tag inserted at each position.
pub fn insert(tag: Tag, chunk: &[u8], places: &[usize], tagged: &mut Vec<u8>) {
    tagged.reserve(chunk.len() + places.len() * Tag::LENGTH);
    let mut copied = 0;
    for place in places {
        tagged.extend_from_slice(chunk.get(copied..*place).unwrap_or_default());
        tagged.extend_from_slice(tag.as_str().as_bytes());
        copied = *place;
    }
    tagged.extend_from_slice(chunk.get(copied..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: &str = "<T>";

    /// The tagged body. It is the same for every split into two chunks and for single bytes.
    fn tagged(body: &str) -> String {
        let tag = Tag::of("host");
        let whole = through(&[body.as_bytes()]);
        for at in 0..=body.len() {
            let (left, right) = body.as_bytes().split_at(at);
            assert_eq!(through(&[left, right]), whole, "{body} at {at}");
        }
        let bytes: Vec<_> = body.as_bytes().chunks(1).collect();
        assert_eq!(through(&bytes), whole, "{body}");
        String::from_utf8(whole).unwrap().replace(tag.as_str(), TAG)
    }

    fn through(chunks: &[&[u8]]) -> Vec<u8> {
        let mut tagger = Tagger::default();
        let mut out = Vec::new();
        for chunk in chunks {
            insert(Tag::of("host"), chunk, tagger.push(chunk), &mut out);
        }
        out
    }

    #[test]
    fn the_ids_of_objects_are_tagged() {
        for body in [
            r#"{"id":"resp_1<T>","object":"response","previous_response_id":"resp_0<T>","conversation":{"id":"conv_1<T>"}}"#,
            r#"{"id": "file-1<T>", "object": "file"}"#,
            r#"{"object":"list","data":[{"id":"vs_1<T>"},{"id":"vs_2<T>"}],"first_id":"vs_1<T>","last_id":"vs_2<T>"}"#,
            r#"{"id":"batch_1<T>","input_file_id":"file-1<T>","output_file_id":null}"#,
            r#"{"id":"ftjob-1<T>","training_file":"file-1<T>","result_files":["file-2<T>","file-3<T>"]}"#,
            r#"{"tool_resources":{"file_search":{"vector_store_ids":["vs_1<T>"]}}}"#,
            r#"{"generations":[{"id":"gen_1<T>","job_id":"task_1<T>"}]}"#,
            r#"{"output":[{"id":"rs_1<T>","encrypted_content":"gAAAA-_\u003d<T>"},{"id":"fc_1<T>","call_id":"call_1"}]}"#,
            r#"{"type":"compaction","id":"cmp_1<T>","encrypted_content":"gAAAA==<T>"}"#,
            r#"{"item":{"type":"mcp_approval_request","id":"mcpr_1<T>"},"approval_request_id":"mcpr_1<T>"}"#,
        ] {
            assert_eq!(tagged(&body.replace(TAG, "")), body);
        }
    }

    #[test]
    fn other_values_are_not_tagged() {
        let foreign = Tag::of("other").append_to("resp_1");
        for body in [
            r#"{"output":[{"type":"message","content":[{"text":"resp_1 is an id"}]}]}"#,
            r#"{"output":[{"call_id":"call_1","arguments":"{\"id\":\"resp_1\"}"}]}"#,
            r#"{"output":[{"type":"reasoning","encrypted_content":null},{"encrypted_content":""}]}"#,
            r#"{"tools":[{"parameters":{"properties":{"id":{"default":{"id":"resp_1"}}}},"input_schema":{"id":"rs_1"}}]}"#,
            r#"{"text":{"format":{"schema":{"encrypted_content":"x","file_id":"file-1"}}}}"#,
            r#"{"id":"run_1","step_id":"step_1","name":"file-1","text":"vs_1"}"#,
            r#"{"id":"chatcmpl-1","choices":[{"delta":{"content":"resp_1"}}]}"#,
            r#"{"metadata":{"task_id":"task_1","id":"resp_1"},"attributes":{"file_id":"file-1"}}"#,
            r#"{"custom_id":"task_1"}"#,
            r#"{"id":"resp\u005f1","resp_1":"resp_1"}"#,
            r#"{"id":"resp_1 "}"#,
            &format!(
                r#"{{"id":"{foreign}","encrypted_content":"x{}"}}"#,
                Tag::of("other").as_str()
            ),
            "resp_1",
            "",
        ] {
            assert_eq!(tagged(body), body);
        }
    }

    #[test]
    fn a_stream_of_events_is_tagged_frame_by_frame() {
        let stream = concat!(
            "event: response.created\n",
            "data: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1<T>\",\"previous_response_id\":null}}\n\n",
            ": \"keep-alive\r\n\r\n",
            "data: {\"item_id\":\"msg_1<T>\",\"delta\":\"resp_1 \\\"ü\\\"\"}\r\n\r\n",
            "data: {\"cut off\": \"\n",
            "data: {\"response\":{\"id\":\"resp_1<T>\"}}\n\n",
            "data: [DONE]\n\n",
        );
        assert_eq!(tagged(&stream.replace(TAG, "")), stream);
    }

    #[test]
    fn ids_are_tagged_behind_a_byte_order_mark_too() {
        for body in [
            "\u{feff}{\"id\":\"resp_1<T>\"}",
            "\u{feff}data: {\"id\":\"resp_1<T>\"}\n\ndata: {\"id\":\"resp_2<T>\"}\n\n",
            "\u{feff}event: x\ndata: {\"id\":\"resp_1<T>\"}\n\n",
        ] {
            assert_eq!(tagged(&body.replace(TAG, "")), body);
        }
    }

    #[test]
    fn chunks_without_ids_allocate_nothing() {
        let mut tagger = Tagger::default();
        for _ in 0..1000 {
            let chunk =
                b"data: {\"id\":\"chatcmpl-1\",\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
            assert_eq!(tagger.push(chunk), [0; 0]);
        }
        assert_eq!(tagger.places.capacity(), 0);
    }
}
