//! Which strings are ids of objects that live on one backend.
//!
//! Only the ids that a client can ask for on their own count, those that stand first in a path. A message of a thread, an item
//! of a response or a file of a container is always asked for together with what it belongs to, and that says where it is.

use super::ids::Tag;

/// How the ids of Azure OpenAI begin, by examples for it and for the OpenAI API; neither promises a form. A prefix too many costs
/// nothing, an object whose prefix is missing is untagged, like one from before the filter.
///
/// Completions (`chatcmpl-`) are not here: each frame of every stream carries one, and almost none is ever stored.
const PREFIXES: [&[u8]; 15] = [
    b"resp_",      // responses
    b"file-",      // files
    b"assistant-", // files of the Assistants API, as Azure names them
    b"batch_",     // batches
    b"thread_",    // threads
    b"asst_",      // assistants
    b"vs_",        // vector stores
    b"ftjob-",     // fine-tuning jobs
    b"upload_",    // uploads
    b"conv_",      // conversations
    b"cntr_",      // containers
    b"video_",     // videos
    b"task_",      // video generation jobs, Azure's own API
    b"gen_",       // what such a job has made, `/video/generations/{id}/content`
    b"eval_",      // evaluations
];

const LONGEST_PREFIX: usize = 10;

/// No id is longer than this; those of Azure OpenAI have some 20 to 130 bytes.
pub const MAX_LENGTH: usize = 256;

/// What a string is, taken as an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The id of an object as its backend knows it.
    Plain,
    /// Such an id with a tag behind it, as clients know it.
    Tagged(Tag),
}

/// Whether `id` names an object that lives on one backend, as the backend knows it: one of the prefixes and at least one byte
/// of `[A-Za-z0-9_-]`, at most [`MAX_LENGTH`] in all.
pub fn is_object_id(id: &[u8]) -> bool {
    let mut reader = IdReader::default();
    reader.push(id);
    reader.kind() == Some(Kind::Plain)
}

/// Recognizes an id that comes in pieces, and keeps only its ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdReader {
    head: [u8; LONGEST_PREFIX],
    /// The bytes before the tag.
    length: usize,
    tag: [u8; Tag::LENGTH],
    tag_length: usize,
    /// It has bytes that no id has, or too many.
    foreign: bool,
}

impl IdReader {
    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.foreign {
                return;
            }
            self.take(*byte);
        }
    }

    fn take(&mut self, byte: u8) {
        if self.tag_length > 0 || byte == b'.' {
            match self.tag.get_mut(self.tag_length) {
                Some(slot) => *slot = byte,
                None => self.foreign = true,
            }
            self.tag_length += 1;
            return;
        }
        if let Some(slot) = self.head.get_mut(self.length) {
            *slot = byte;
        }
        self.length += 1;
        let allowed = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        self.foreign = !allowed || self.length > MAX_LENGTH;
    }

    /// What all the bytes so far are; `None` if they are not the id of an object.
    pub fn kind(&self) -> Option<Kind> {
        let prefixed = PREFIXES
            .iter()
            .any(|prefix| self.head.starts_with(prefix) && self.length > prefix.len());
        if self.foreign || !prefixed {
            return None;
        }
        match self.tag_length {
            0 => Some(Kind::Plain),
            length => Some(Kind::Tagged(Tag::parse(self.tag.get(..length)?)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    fn kind(id: &str) -> Option<Kind> {
        let mut reader = IdReader::default();
        reader.push(id.as_bytes());
        reader.kind()
    }

    #[test]
    fn ids_of_objects_are_known_by_their_prefixes() {
        for id in [
            "resp_68a1",
            "file-abc123",
            "assistant-0FCbmIkYKpXJVoTTqWdQzGmA",
            "batch_6f7fcbb9-2c4e-4d8b-8f7b-1d4a7c9b0f11",
            "thread_1",
            "asst_1",
            "vs_1",
            "ftjob-1",
            "upload_1",
            "conv_1",
            "cntr_1",
            "video_1",
            "task_01jqzq1",
            "gen_01jqzq1",
            "eval_1",
        ] {
            assert!(is_object_id(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn other_strings_are_not_ids() {
        for id in [
            "",
            "r",
            "resp_",
            "resp-1",
            "xresp_1",
            " resp_1",
            "resp_1 ",
            "resp_ü",
            "resp_a/b",
            "resp_a\\u",
            "msg_1",
            "rs_1",
            "fc_1",
            "call_1",
            "run_1",
            "step_1",
            "vsfb_1",
            "cfile_1",
            "chatcmpl-1",
            "file_1",
            "File-1",
            "assistant_1",
            "resp_1.",
            "resp_1.b",
            ".b123456",
        ] {
            assert_eq!(kind(id), None, "{id}");
        }
    }

    #[test]
    fn a_tag_is_told_from_the_id() {
        let tag = Tag::of("host");
        assert_eq!(kind(&tag.append_to("vs_1")), Some(Kind::Tagged(tag)));
        assert!(!is_object_id(tag.append_to("vs_1").as_bytes()));
        let twice = tag.append_to(&tag.append_to("vs_1"));
        for id in ["vs_.b123456", "vs_1.b12345", "vs_1.b12345_", &twice] {
            assert_eq!(kind(id), None, "{id}");
        }
    }

    #[test]
    fn an_id_has_at_most_256_bytes() {
        let id = format!("resp_{}", "x".repeat(MAX_LENGTH - 5));
        assert!(is_object_id(id.as_bytes()));
        assert!(!is_object_id(format!("{id}x").as_bytes()));
        let tag = Tag::of("host");
        assert_eq!(kind(&tag.append_to(&id)), Some(Kind::Tagged(tag)));
    }

    #[test]
    fn an_id_in_pieces_is_the_same_id() {
        let id = Tag::of("host").append_to("assistant-1");
        for at in 0..=id.len() {
            let mut reader = IdReader::default();
            reader.push(&id.as_bytes()[..at]);
            reader.push(&id.as_bytes()[at..]);
            assert_eq!(reader.kind(), kind(&id), "{at}");
        }
    }

    #[test]
    fn the_longest_prefix_fits() {
        let longest = PREFIXES.iter().map(|prefix| prefix.len()).max();
        assert_eq!(longest, Some(LONGEST_PREFIX));
    }
}
