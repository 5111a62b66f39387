//! The keys that matter, as they are read.

use crate::text::copy_to;

/// Longer keys matter to no one.
const MAX_LENGTH: usize = 32;

/// What stands for a character outside ASCII that is written as an escape: no key that matters has one.
const OTHER_CHARACTER: u8 = 0x80;

/// A key whose value is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `model` of the whole document: the deployment.
    Model,
    /// `background` of the whole document: the answer is made after the request has ended.
    Background,
    /// `store` of the whole document: the answer can be retrieved later.
    Store,
    /// `purpose` of the whole document: what a file is for.
    Purpose,
    /// `stream` of the whole document: the answer is an event stream.
    Stream,
    /// `stream_options` of the whole document, or `data_sources`, beside which Azure refuses `stream_options`.
    StreamOptions,
    /// `prompt_cache_key` of the whole document: prompts with the same one begin alike.
    PromptCacheKey,
    /// A key, at any depth, whose value or values may be ids of objects.
    ObjectId,
    /// A key, at any depth, whose value only the resource can read that made it.
    Encrypted,
    /// `value`, at any depth, which may be a key for a realtime session.
    SessionKey,
}

/// What a key means for what stands under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Key(Key),
    /// A map of the client's own: whatever looks like an id in it is the client's text.
    ClientsOwn,
    Other,
}

/// Keys, besides `id`, `*_id` and `*_ids`, that hold ids of objects.
const ID_KEYS: [&[u8]; 6] = [
    b"training_file",
    b"validation_file",
    b"result_files",
    b"conversation",
    b"container",
    b"file",
];

/// Reads a key from between its quotes, byte for byte, and takes escapes for what they stand for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyReader {
    bytes: [u8; MAX_LENGTH],
    length: usize,
    escape: Escape,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    Backslash,
    Unicode {
        digits: u8,
        character: u16,
    },
}

impl KeyReader {
    /// Whether the next byte is a part of an escape.
    pub(super) fn is_in_escape(&self) -> bool {
        self.escape != Escape::None
    }

    /// The next bytes, none of which is a quote or a backslash. None of them is a part of an escape.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        copy_to(&mut self.bytes, self.length, bytes);
        self.length = self.length.saturating_add(bytes.len());
    }

    /// The next byte; `true` if it was the closing quote.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        match self.escape {
            Escape::None => match byte {
                b'"' => return true,
                b'\\' => self.escape = Escape::Backslash,
                byte => self.take(byte),
            },
            Escape::Backslash => {
                self.escape = Escape::None;
                match byte {
                    b'u' => {
                        self.escape = Escape::Unicode {
                            digits: 0,
                            character: 0,
                        };
                    }
                    b'"' | b'\\' | b'/' => self.take(byte),
                    // A control character, or no escape at all.
                    _ => self.take(OTHER_CHARACTER),
                }
            }
            Escape::Unicode { digits, character } => {
                self.escape = Escape::None;
                let Some(digit) = char::from(byte).to_digit(16) else {
                    // A broken escape spoils the key and hides nothing, least of all the closing quote.
                    self.take(OTHER_CHARACTER);
                    return self.push(byte);
                };
                let character = (character << 4) | u16::try_from(digit).unwrap_or_default();
                if digits < 3 {
                    self.escape = Escape::Unicode {
                        digits: digits + 1,
                        character,
                    };
                } else {
                    let ascii = u8::try_from(character).ok().filter(u8::is_ascii);
                    self.take(ascii.unwrap_or(OTHER_CHARACTER));
                }
            }
        }
        false
    }

    fn take(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    /// What the key means, `at_root` in the outermost object.
    pub(super) fn meaning(&self, at_root: bool) -> Meaning {
        let Some(key) = self.bytes.get(..self.length) else {
            return Meaning::Other;
        };
        match key {
            b"model" if at_root => Meaning::Key(Key::Model),
            b"background" if at_root => Meaning::Key(Key::Background),
            b"store" if at_root => Meaning::Key(Key::Store),
            b"purpose" if at_root => Meaning::Key(Key::Purpose),
            b"stream" if at_root => Meaning::Key(Key::Stream),
            b"stream_options" | b"data_sources" if at_root => Meaning::Key(Key::StreamOptions),
            b"prompt_cache_key" if at_root => Meaning::Key(Key::PromptCacheKey),
            b"metadata" | b"attributes" => Meaning::ClientsOwn,
            // JSON Schemas of functions, of MCP servers' tools and of answers.
            b"parameters" | b"input_schema" | b"schema" => Meaning::ClientsOwn,
            // A name in a batch's input, made by the client.
            b"custom_id" => Meaning::Other,
            b"id" => Meaning::Key(Key::ObjectId),
            b"value" => Meaning::Key(Key::SessionKey),
            b"encrypted_content" => Meaning::Key(Key::Encrypted),
            key if key.ends_with(b"_id") || key.ends_with(b"_ids") => Meaning::Key(Key::ObjectId),
            key if ID_KEYS.contains(&key) => Meaning::Key(Key::ObjectId),
            _ => Meaning::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    fn meaning(key: &str) -> Meaning {
        let mut reader = KeyReader::default();
        for byte in key.bytes() {
            assert!(!reader.push(byte), "{key}");
        }
        assert!(reader.push(b'"'), "{key}");
        reader.meaning(true)
    }

    #[test]
    fn keys_of_ids_are_known() {
        for key in [
            "id",
            "file_id",
            "previous_response_id",
            "vector_store_ids",
            "training_file",
            "validation_file",
            "result_files",
            "conversation",
            "container",
            "file",
            "ü_id",
            "\\u00fc_id",
            "_id",
        ] {
            assert_eq!(meaning(key), Meaning::Key(Key::ObjectId), "{key}");
        }
        let longest = format!("{}_id", "x".repeat(29));
        assert_eq!(meaning(&longest), Meaning::Key(Key::ObjectId));
        assert_eq!(meaning(&format!("x{longest}")), Meaning::Other);
    }

    #[test]
    fn other_keys_are_not() {
        for key in [
            "",
            "ID",
            "ids",
            "_i",
            "uuid",
            "file_idx",
            "files",
            "text",
            "content",
            "custom_id",
            "i\\d",
            "i\\td",
            "\\u00e9id",
            "\\u0169d",
            "mode\\\"l",
            "mod\\u00g5l",
            "id\\u00",
            "model ",
        ] {
            assert_eq!(meaning(key), Meaning::Other, "{key}");
        }
    }

    #[test]
    fn an_escaped_key_is_the_same_key() {
        for key in [
            "model",
            "mod\\u0065l",
            "\\u006d\\u006F\\u0064\\u0065\\u006c",
            "m\\u006fdel",
        ] {
            assert_eq!(meaning(key), Meaning::Key(Key::Model), "{key}");
        }
        assert_eq!(meaning("meta\\u0064ata"), Meaning::ClientsOwn);
        assert_eq!(meaning("a\\/b\\\\_id"), Meaning::Key(Key::ObjectId));
    }

    #[test]
    fn only_the_documents_own_model_is_the_model() {
        let mut reader = KeyReader::default();
        for byte in *b"store" {
            reader.push(byte);
        }
        assert_eq!(reader.meaning(true), Meaning::Key(Key::Store));
        assert_eq!(reader.meaning(false), Meaning::Other);
    }
}
