//! Recognizes the JSON keys whose values matter.

use crate::text::copy_to;

/// The longest key that is recognized.
const MAX_LENGTH: usize = 32;

/// Stands for any escaped character outside ASCII. No recognized key has one.
const OTHER_CHARACTER: u8 = 0x80;

/// A recognized key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `model` of the document: the deployment.
    Model,
    /// `background` of the document: the answer is made after the request has ended.
    Background,
    /// `store` of the document: the answer can be retrieved later.
    Store,
    /// `purpose` of the document: the purpose of a file.
    Purpose,
    /// `stream` of the document: the answer is an event stream.
    Stream,
    /// `stream_options` of the document, or `data_sources`, with which Azure refuses `stream_options`.
    StreamOptions,
    /// `prompt_cache_key` of the document: prompts with equal keys share their beginning.
    PromptCacheKey,
    /// A key at any depth whose values may be ids of objects.
    ObjectId,
    /// A key at any depth whose value only the resource that made it can read.
    Encrypted,
    /// `value` at any depth, which may be a key for a realtime session.
    SessionKey,
}

/// The meaning of a key for its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Key(Key),
    /// A map with the client's own content, in which nothing is an id.
    ClientsOwn,
    Other,
}

/// Keys with ids of objects, in addition to `id`, `*_id` and `*_ids`.
const ID_KEYS: [&[u8]; 6] = [
    b"training_file",
    b"validation_file",
    b"result_files",
    b"conversation",
    b"container",
    b"file",
];

/// Reads a key between its quotes, byte by byte, and resolves escapes.
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
    /// Whether the next byte is part of an escape.
    pub(super) fn is_in_escape(&self) -> bool {
        self.escape != Escape::None
    }

    /// Reads the next bytes. None of them is a quote, a backslash or part of an escape.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        copy_to(&mut self.bytes, self.length, bytes);
        self.length = self.length.saturating_add(bytes.len());
    }

    /// Reads the next byte. `true` if it was the closing quote.
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
                    // A control character, or an invalid escape.
                    _ => self.take(OTHER_CHARACTER),
                }
            }
            Escape::Unicode { digits, character } => {
                self.escape = Escape::None;
                let Some(digit) = char::from(byte).to_digit(16) else {
                    // An invalid escape makes the key unknown, but must not hide the closing quote.
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

    /// The meaning of the key. `at_root` if it is in the outermost object.
    pub(super) fn meaning(&self, at_root: bool) -> Meaning {
        let key = self.bytes.get(..self.length);
        key.map_or(Meaning::Other, |key| meaning(key, at_root))
    }
}

/// The meaning of a key without escapes. `at_root` if it is in the outermost object.
pub(super) fn meaning(key: &[u8], at_root: bool) -> Meaning {
    if key.len() > MAX_LENGTH {
        return Meaning::Other;
    }
    match key {
        b"model" if at_root => Meaning::Key(Key::Model),
        b"background" if at_root => Meaning::Key(Key::Background),
        b"store" if at_root => Meaning::Key(Key::Store),
        b"purpose" if at_root => Meaning::Key(Key::Purpose),
        b"stream" if at_root => Meaning::Key(Key::Stream),
        b"stream_options" | b"data_sources" if at_root => Meaning::Key(Key::StreamOptions),
        b"prompt_cache_key" if at_root => Meaning::Key(Key::PromptCacheKey),
        b"metadata" | b"attributes" => Meaning::ClientsOwn,
        // JSON Schemas of functions, MCP servers' tools and answers.
        b"parameters" | b"input_schema" | b"schema" => Meaning::ClientsOwn,
        // The client's own name in the input of a batch.
        b"custom_id" => Meaning::Other,
        b"id" => Meaning::Key(Key::ObjectId),
        b"value" => Meaning::Key(Key::SessionKey),
        b"encrypted_content" => Meaning::Key(Key::Encrypted),
        key if key.ends_with(b"_id") || key.ends_with(b"_ids") => Meaning::Key(Key::ObjectId),
        key if ID_KEYS.contains(&key) => Meaning::Key(Key::ObjectId),
        _ => Meaning::Other,
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
    fn other_keys_are_not_recognized() {
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
    fn escaped_keys_are_recognized() {
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
