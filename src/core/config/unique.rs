//! Reads JSON and refuses objects with a duplicate field. `serde_json` would silently drop the first value.

use core::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::redact::redacted_text;
use crate::prelude::*;

/// Reads JSON.
///
/// # Errors
/// The text is not JSON, or an object has a duplicate field.
pub(super) fn from_slice(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(bytes).map(|Unique(value)| value)
}

struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(value)) = elements.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Unique(value))) = fields.next_entry::<String, Unique>()? {
            if object.contains_key(&key) {
                let name = redacted_text(&key);
                return Err(A::Error::custom(format_args!("{name} is given twice")));
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_unchanged() {
        let text = r#"{"a": [null, true, 1, -1, 1.5, "x\n", {}, []], "b": {"a": {"a": 1}}}"#;
        let plain: Value = serde_json::from_str(text).unwrap();
        assert_eq!(from_slice(text.as_bytes()).unwrap(), plain);
    }

    #[test]
    fn duplicate_fields_are_named() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"a": {}, "a": 2}}]"#] {
            let error = from_slice(text.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with(r#""a" is given twice at line 1"#),
                "{error}"
            );
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = "[".repeat(100_000);
        assert!(from_slice(nested.as_bytes()).is_err());
    }
}
