//! A plain reader of JSON by `serde_json`, to compare the core's reader with.

use std::fmt;
use std::ops::Range;

use azure_openai_balancer::core::json::key::Key;
use azure_openai_balancer::core::json::nesting::MAX_DEPTH;
use azure_openai_balancer::core::state::objects::{Kind, ValueReader};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The longest key that is read, in bytes.
const LONGEST_KEY: usize = 32;

/// The parts of a document that the core looks for.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// The strings that may belong to a resource, without their quotes, and the kind of each.
    pub(super) values: Vec<(Range<usize>, Kind)>,
    /// The document's last `model`, without its quotes.
    pub(super) model: Option<Range<usize>>,
    pub(super) background: bool,
    pub(super) stream: bool,
    pub(super) store: Option<bool>,
    pub(super) for_batch: bool,
}

/// The place of a value: directly under a key, or in a list.
#[derive(Clone, Copy, PartialEq)]
enum Under {
    Model,
    Background,
    Store,
    Stream,
    Purpose,
    Id,
    Encrypted,
    ClientsOwn,
    Other,
}

impl Document {
    /// Reads `text`; `None` if it is not JSON, or has a key whose length the core counts in another way.
    pub(super) fn read(text: &str) -> Option<Self> {
        let root: &RawValue = serde_json::from_str(text).ok()?;
        let mut document = Self::default();
        document.value(text, root, Under::Other, 0)?;
        Some(document)
    }

    /// Reads a value within `depth` others.
    fn value(&mut self, text: &str, value: &RawValue, under: Under, depth: usize) -> Option<()> {
        let raw = value.get();
        let start = raw.as_ptr() as usize - text.as_ptr() as usize;
        let is_read = depth < MAX_DEPTH && under != Under::ClientsOwn;
        match raw.as_bytes()[0] {
            b'{' if is_read => {
                let Members(members) = serde_json::from_str(raw).ok()?;
                for (key, value) in members {
                    let under = self.key(key, depth == 0)?;
                    self.value(text, value, under, depth + 1)?;
                }
            }
            b'[' if is_read => {
                let under = if under == Under::Id {
                    under
                } else {
                    Under::Other
                };
                let values: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
                for value in values {
                    self.value(text, value, under, depth + 1)?;
                }
            }
            b'"' => self.string(text, start + 1..start + raw.len() - 1, under),
            b't' | b'f' => match under {
                Under::Background => self.background = raw == "true",
                Under::Stream => self.stream = raw == "true",
                Under::Store => self.store = Some(raw == "true"),
                _ => {}
            },
            _ => {}
        }
        Some(())
    }

    /// The last of equal keys counts.
    fn key(&mut self, key: &RawValue, at_root: bool) -> Option<Under> {
        let raw = key.get();
        let name: String = serde_json::from_str(raw).ok()?;
        if raw.len() - 2 > LONGEST_KEY {
            return (!raw.contains('\\')).then_some(Under::Other);
        }
        let under = match name.as_str() {
            "model" if at_root => Under::Model,
            "background" if at_root => Under::Background,
            "store" if at_root => Under::Store,
            "stream" if at_root => Under::Stream,
            "purpose" if at_root => Under::Purpose,
            "metadata" | "attributes" | "parameters" | "input_schema" | "schema" => {
                Under::ClientsOwn
            }
            "encrypted_content" => Under::Encrypted,
            "custom_id" => Under::Other,
            "id" | "training_file" | "validation_file" | "result_files" | "conversation"
            | "container" | "file" => Under::Id,
            name if name.ends_with("_id") || name.ends_with("_ids") => Under::Id,
            _ => Under::Other,
        };
        match under {
            Under::Model => self.model = None,
            Under::Background => self.background = false,
            Under::Store => self.store = None,
            Under::Stream => self.stream = false,
            Under::Purpose => self.for_batch = false,
            _ => {}
        }
        Some(under)
    }

    fn string(&mut self, text: &str, range: Range<usize>, under: Under) {
        let raw = &text[range.clone()];
        let key = match under {
            Under::Id => Key::ObjectId,
            Under::Encrypted => Key::Encrypted,
            Under::Model => {
                self.model = Some(range);
                return;
            }
            Under::Purpose => {
                self.for_batch = raw == "batch";
                return;
            }
            _ => return,
        };
        let mut reader = ValueReader::of(key).expect("a key of ids");
        reader.push(raw.as_bytes());
        if let Some(kind) = reader.kind() {
            self.values.push((range, kind));
        }
    }
}

/// The members of an object in their order, equal keys included.
struct Members<'d>(Vec<(&'d RawValue, &'d RawValue)>);

impl<'d> Deserialize<'d> for Members<'d> {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'d> Visitor<'d> for InOrder {
            type Value = Members<'d>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}
