//! Recognizes strings that belong to one resource: ids of its objects and of items of its responses, and encrypted
//! content.
//!
//! A part of another object is always requested together with the whole, whose id has a tag. Examples are a run of a
//! thread, a step of a run or a file of a container. Ids of parts need no tag.

use super::ids::{split, Tag};
use crate::json::key::Key;
use crate::text::{copy_to, ByteSet};

use Untagged::{Home, Nowhere};

/// The prefixes of ids of objects, from examples of Azure OpenAI and the OpenAI API. Neither guarantees a form. A
/// superfluous prefix costs nothing. An object whose prefix is missing stays untagged, like one from before the filter.
///
/// Completions (`chatcmpl-`) are left out: each frame of every stream has one, and almost none is ever stored.
const OBJECTS: [Prefix; 19] = [
    Prefix(b"resp_", Home),      // responses
    Prefix(b"file-", Home),      // files
    Prefix(b"assistant-", Home), // files of the Assistants API, as Azure names them
    Prefix(b"batch_", Home),     // batches
    Prefix(b"thread_", Home),    // threads
    Prefix(b"asst_", Home),      // assistants
    Prefix(b"vs_", Home),        // vector stores
    Prefix(b"ftjob-", Home),     // fine-tuning jobs
    Prefix(b"upload_", Home),    // uploads
    Prefix(b"conv_", Home),      // conversations
    Prefix(b"cntr_", Home),      // containers
    Prefix(b"video_", Home),     // videos
    Prefix(b"task_", Home),      // video generation jobs, Azure's own API
    Prefix(b"gen_", Home),       // results of such jobs, `/video/generations/{id}/content`
    Prefix(b"eval_", Home),      // evaluations
    Prefix(b"evalrun_", Home),   // evaluation runs
    Prefix(b"skill_", Home),     // skills
    Prefix(b"rtc_", Home),       // realtime calls
    Prefix(b"sess_", Home),      // live sessions
];

/// The prefixes of ids of items. A response consists of items, and later requests may refer to them.
///
/// Clients send whole items back, with ids that they may have invented. So an untagged item names no resource.
/// Reasoning and compactions are exceptions, because only their own resource can use them.
///
/// Sources: the reference of the [Responses API], unless a line names another one.
///
/// [Responses API]: https://platform.openai.com/docs/api-reference/responses
const ITEMS: [Prefix; 17] = [
    Prefix(b"msg_", Nowhere),  // messages
    Prefix(b"fc_", Nowhere),   // function calls
    Prefix(b"rs_", Home),      // reasoning
    Prefix(b"ws_", Nowhere),   // web searches
    Prefix(b"fs_", Nowhere),   // file searches
    Prefix(b"ci_", Nowhere),   // runs of the code interpreter
    Prefix(b"ig_", Nowhere),   // generated images
    Prefix(b"cu_", Nowhere),   // uses of a computer
    Prefix(b"mcp_", Nowhere),  // calls of an MCP server
    Prefix(b"mcpl_", Nowhere), // lists of an MCP server's tools
    Prefix(b"mcpr_", Nowhere), // requests for the approval of such a call
    Prefix(b"ctc_", Nowhere),  // calls of custom tools (OpenAI's guide to function calling)
    Prefix(b"lsh_", Nowhere), // calls of the local shell (recorded answers in the Vercel AI SDK's tests)
    Prefix(b"sh_", Nowhere),  // calls of the shell (same source)
    Prefix(b"apc_", Nowhere), // patches (OpenAI's guide to the apply_patch tool)
    Prefix(b"tsc_", Nowhere), // searches for tools (recorded frames in tests of proxies)
    Prefix(b"cmp_", Home),    // compactions (OpenAI's guide to compaction)
];

/// The prefix of keys for realtime sessions, from the reference of the [Realtime API]. A key is valid on the resource
/// that issued it.
///
/// [Realtime API]: https://platform.openai.com/docs/api-reference/realtime-sessions
const SESSION_KEYS: [Prefix; 1] = [Prefix(b"ek_", Nowhere)];

/// The prefix of an id, and the meaning of such an id without a tag.
struct Prefix(&'static [u8], Untagged);

const LONGEST_PREFIX: usize = 10;

/// The longest id. Ids of Azure OpenAI have some 20 to 130 bytes.
pub const MAX_LENGTH: usize = 256;

/// The kind of a string that may be an id or encrypted content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An id or content as its backend knows it.
    Plain(Untagged),
    /// An id or content with a tag, as clients know it.
    Tagged(Tag),
}

/// The destination of a request that names something without a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untagged {
    /// The home backend, which has everything made before tags existed.
    Home,
    /// Any backend.
    Nowhere,
}

/// Whether `id` belongs to a resource, in the resource's own form: one of the prefixes and at least one byte of
/// `[A-Za-z0-9_-]`. At most [`MAX_LENGTH`] bytes in total.
pub fn is_object_id(id: &[u8]) -> bool {
    let mut reader = IdReader::default();
    reader.push(id);
    matches!(reader.kind(), Some(Kind::Plain(_)))
}

/// Splits a tagged key for a realtime session into the resource's key and the tag. `None` for other strings.
pub fn split_session_key(key: &str) -> Option<(&str, Tag)> {
    let mut reader = ValueReader::SessionKey(IdReader::default());
    reader.push(key.as_bytes());
    match reader.kind()? {
        Kind::Tagged(_) => split(key),
        Kind::Plain(_) => None,
    }
}

/// Recognizes a value that arrives in pieces.
#[derive(Clone, Copy, Debug)]
pub enum ValueReader {
    /// A value that may be an id.
    Id(IdReader),
    /// A value that a resource encrypted.
    Encrypted(EndReader),
    /// A value that may be a key for a realtime session.
    SessionKey(IdReader),
}

impl ValueReader {
    /// The reader of a value under `key`. `None` if such a value belongs to no resource.
    pub fn of(key: Key) -> Option<Self> {
        match key {
            Key::ObjectId => Some(Self::Id(IdReader::default())),
            Key::Encrypted => Some(Self::Encrypted(EndReader::default())),
            Key::SessionKey => Some(Self::SessionKey(IdReader::default())),
            Key::Model
            | Key::Background
            | Key::Store
            | Key::Stream
            | Key::StreamOptions
            | Key::Purpose
            | Key::PromptCacheKey => None,
        }
    }

    /// Reads the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Id(reader) | Self::SessionKey(reader) => reader.push(bytes),
            Self::Encrypted(reader) => reader.push(bytes),
        }
    }

    /// The kind of the bytes so far. `None` if they belong to no resource.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Id(reader) => reader.kind(),
            Self::Encrypted(reader) => reader.kind(),
            Self::SessionKey(reader) => reader.kind_among(SESSION_KEYS.iter()),
        }
    }
}

/// Recognizes the tag at the end of a value of any length and content, and stores only the end.
///
/// Encrypted content is base64 today, but that is not guaranteed. A tag has no character that JSON escapes.
#[derive(Clone, Copy, Debug, Default)]
pub struct EndReader {
    end: [u8; Tag::LENGTH],
    length: usize,
}

impl EndReader {
    fn push(&mut self, bytes: &[u8]) {
        let new = bytes.get(bytes.len().saturating_sub(Tag::LENGTH)..);
        let new = new.unwrap_or_default();
        self.end.rotate_left(new.len());
        let slots = self.end.iter_mut().rev();
        for (slot, byte) in slots.zip(new.iter().rev()) {
            *slot = *byte;
        }
        self.length = self.length.saturating_add(bytes.len());
    }

    fn kind(&self) -> Option<Kind> {
        match Tag::parse(&self.end) {
            Some(tag) => (self.length > Tag::LENGTH).then_some(Kind::Tagged(tag)),
            None => (self.length > 0).then_some(Kind::Plain(Home)),
        }
    }
}

/// The bytes of ids without tags.
const OF_IDS: ByteSet =
    ByteSet::of(b"-_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");

/// Recognizes an id that arrives in pieces, and stores only its start and end.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdReader {
    head: [u8; LONGEST_PREFIX],
    /// The number of bytes before the tag.
    length: usize,
    tag: [u8; Tag::LENGTH],
    tag_length: usize,
    /// Whether the value has bytes that no id has, or too many.
    foreign: bool,
}

impl IdReader {
    /// Reads the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.foreign {
            return;
        }
        let own = match self.tag_length {
            0 => OF_IDS.run(bytes),
            _ => 0,
        };
        let (own, tag) = bytes.split_at_checked(own).unwrap_or((bytes, &[]));
        copy_to(&mut self.head, self.length, own);
        self.length = self.length.saturating_add(own.len());
        if !tag.is_empty() {
            copy_to(&mut self.tag, self.tag_length, tag);
            self.tag_length = self.tag_length.saturating_add(tag.len());
        }
        let begins_with_dot = self.tag_length == 0 || self.tag.starts_with(b".");
        self.foreign =
            self.length > MAX_LENGTH || self.tag_length > Tag::LENGTH || !begins_with_dot;
    }

    /// The kind of the bytes so far. `None` if they are not the id of an object.
    pub fn kind(&self) -> Option<Kind> {
        // Items come first, because every event of a response's stream names one.
        self.kind_among(ITEMS.iter().chain(&OBJECTS))
    }

    fn kind_among<'p>(&self, mut prefixes: impl Iterator<Item = &'p Prefix>) -> Option<Kind> {
        if self.foreign {
            return None;
        }
        let Prefix(_, untagged) = prefixes.find(|Prefix(prefix, _)| {
            self.head.starts_with(prefix) && self.length > prefix.len()
        })?;
        match self.tag_length {
            0 => Some(Kind::Plain(*untagged)),
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
            assert_eq!(kind(id), Some(Kind::Plain(Home)), "{id}");
        }
    }

    #[test]
    fn untagged_items_mostly_name_no_resource() {
        for (id, untagged) in [
            ("rs_68a1", Home),
            ("cmp_68a1", Home),
            ("msg_68a1", Nowhere),
            ("fc_68a1", Nowhere),
            ("mcp_68a1", Nowhere),
            ("mcpl_68a1", Nowhere),
            ("apc_68a1", Nowhere),
        ] {
            assert_eq!(kind(id), Some(Kind::Plain(untagged)), "{id}");
        }
    }

    #[test]
    fn session_keys_are_recognized_only_under_their_key() {
        let tag = Tag::of("host");
        let key = tag.append_to("ek_68af");
        assert_eq!(split_session_key(&key), Some(("ek_68af", tag)));
        for other in [
            "ek_68af",
            "ek_",
            &tag.append_to("ek_"),
            &tag.append_to("sk-1"),
        ] {
            assert_eq!(split_session_key(other), None, "{other}");
        }
        assert_eq!(kind("ek_68af"), None);
        let mut reader = ValueReader::of(Key::SessionKey).unwrap();
        reader.push(b"resp_1");
        assert_eq!(reader.kind(), None, "a text that looks like an id");
    }

    #[test]
    fn tags_of_encrypted_content_are_found_at_any_length() {
        let tag = Tag::of("host");
        let end_of = |pieces: &[&[u8]]| {
            let mut reader = EndReader::default();
            pieces.iter().for_each(|piece| reader.push(piece));
            reader.kind()
        };
        let plain = Some(Kind::Plain(Home));
        let long = "gAAAA-_".repeat(1000);
        for (content, expected) in [
            ("", None),
            (tag.as_str(), None),
            ("x", plain),
            ("gAAAA==", plain),
            ("gAAAA.b12345", plain),
            ("a\\u003d", plain),
            (long.as_str(), plain),
            (&tag.append_to("x"), Some(Kind::Tagged(tag))),
            (&tag.append_to(&long), Some(Kind::Tagged(tag))),
            (&format!("{}=", tag.append_to("x")), plain),
        ] {
            let bytes = content.as_bytes();
            assert_eq!(end_of(&[bytes]), expected, "{content}");
            let each: Vec<_> = bytes.chunks(1).collect();
            assert_eq!(end_of(&each), expected, "{content}");
            for at in (0..bytes.len()).rev().take(20) {
                let (one, other) = bytes.split_at(at);
                assert_eq!(end_of(&[one, &[], other]), expected, "{content} {at}");
            }
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
            "msg-1",
            "rs_",
            "fcx_1",
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
    fn tags_are_separated_from_ids() {
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
    fn ids_in_pieces_are_recognized() {
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
        let prefixes = OBJECTS.iter().chain(&ITEMS);
        let longest = prefixes.map(|Prefix(prefix, _)| prefix.len()).max();
        assert_eq!(longest, Some(LONGEST_PREFIX));
    }
}
