//! Reads a configuration from the bytes of a protobuf Struct, as Envoy passes them to the module.
//!
//! `google.protobuf.Struct` is `{1: map<string, Value>}`. A `Value` has one of 1: null, 2: double, 3: string, 4: bool,
//! 5: Struct, 6: ListValue. A `ListValue` is `{1: repeated Value}`.
//!
//! Source: <https://protobuf.dev/reference/protobuf/google.protobuf/#struct>

use crate::prelude::*;
use serde_json::{Map, Value};

/// The deepest nesting that is read. It exceeds every valid configuration and fits on the stack.
const DEPTH: usize = 32;

/// The Struct in `bytes` as a JSON object. `None` if `bytes` is not a Struct.
pub(super) fn object(bytes: &[u8]) -> Option<Value> {
    read_struct(bytes, DEPTH)
}

fn read_struct(bytes: &[u8], depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let mut map = Map::new();
    for field in Fields(bytes) {
        let (1, Field::Bytes(entry)) = field? else {
            return None;
        };
        let (mut key, mut value) = (String::new(), Value::Null);
        for field in Fields(entry) {
            match field? {
                (1, Field::Bytes(text)) => key = String::from_utf8(text.to_vec()).ok()?,
                (2, Field::Bytes(bytes)) => value = read_value(bytes, depth)?,
                _ => return None,
            }
        }
        map.insert(key, value);
    }
    Some(Value::Object(map))
}

fn read_value(bytes: &[u8], depth: usize) -> Option<Value> {
    let mut value = Value::Null;
    for field in Fields(bytes) {
        value = match field? {
            (1, Field::Varint(_)) => Value::Null,
            (2, Field::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
            (3, Field::Bytes(text)) => Value::String(String::from_utf8(text.to_vec()).ok()?),
            (4, Field::Varint(number)) => Value::Bool(number != 0),
            (5, Field::Bytes(bytes)) => read_struct(bytes, depth)?,
            (6, Field::Bytes(bytes)) => read_list(bytes, depth)?,
            _ => return None,
        };
    }
    Some(value)
}

fn read_list(bytes: &[u8], depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    let elements = Fields(bytes).map(|field| match field? {
        (1, Field::Bytes(bytes)) => read_value(bytes, depth),
        _ => None,
    });
    elements.collect::<Option<Vec<_>>>().map(Value::Array)
}

enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message. The iterator ends with `None` at the first malformed field.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Field<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.read();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                let (bytes, rest) = self.0.split_first_chunk::<8>()?;
                self.0 = rest;
                Field::Fixed64(u64::from_le_bytes(*bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Envoy's bytes for the YAML `{retry: {max_attempts: 2, statuses: [429]}, headers: {backend: null}, on: true}`.
    const STRUCT: &[u8] = b"\x0a\x3a\x0a\x05retry\x12\x31\x2a\x2f\
        \x0a\x19\x0a\x0cmax_attempts\x12\x09\x11\x00\x00\x00\x00\x00\x00\x00\x40\
        \x0a\x12\x0a\x08statuses\x12\x06\x32\x04\x0a\x02\x1a\x00\
        \x0a\x08\x0a\x02on\x12\x02\x20\x01\
        \x0a\x0a\x0a\x04none\x12\x02\x08\x00";

    #[test]
    fn every_kind_of_value_is_read() {
        assert_eq!(
            object(STRUCT),
            Some(json!({
                "retry": {"max_attempts": 2.0, "statuses": [""]},
                "on": true,
                "none": null,
            }))
        );
        assert_eq!(object(b""), Some(json!({})));
    }

    #[test]
    fn truncated_or_changed_bytes_never_panic() {
        for cut in 0..STRUCT.len() {
            let _ = object(&STRUCT[..cut]);
            for bit in 0..8 {
                let mut changed = STRUCT.to_vec();
                changed[cut] ^= 1 << bit;
                let _ = object(&changed);
            }
        }
    }

    #[test]
    fn depth_is_bounded() {
        // `{"a": {"a": ...}}`, nested far deeper than the stack allows.
        let mut nested = Vec::new();
        for _ in 0..1000 {
            let wrap = |tag: u8, inner: &[u8]| {
                let mut outer = vec![tag];
                let mut length = inner.len();
                while length >= 0x80 {
                    outer.push(length as u8 | 0x80);
                    length >>= 7;
                }
                outer.push(length as u8);
                outer.extend_from_slice(inner);
                outer
            };
            let value = wrap(0x12, &wrap(0x2a, &nested));
            nested = wrap(0x0a, &[&wrap(0x0a, b"a")[..], &value].concat());
        }
        assert_eq!(object(&nested), None);
    }
}
