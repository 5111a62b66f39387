//! Strict reading of objects and optional fields.
//!
//! The code that `serde` derives accepts more than a file's author means. It accepts a list for an object, with the
//! elements as fields in their order. It accepts `null` for an optional field, so that an empty `tls:` would mean no
//! TLS.

use std::fmt;

use azure_openai_balancer::core::config::redacted;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{forward_to_deserialize_any, Deserialize, Deserializer};
use serde_json::Value;

/// An object.
pub(crate) fn object<'de, T, D>(from: D) -> Result<T, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(OnlyObject(from))
}

/// An optional object.
pub(crate) fn optional_object<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    object(from).map(Some)
}

/// An optional value.
pub(crate) fn optional<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
where
    T: DeserializeOwned,
    D: Deserializer<'de>,
{
    T::deserialize(from).map(Some)
}

/// `VALUE is not allowed; use FORM`, with possible secrets removed from the value.
pub(crate) fn refused(value: &Value, form: &str) -> String {
    format!("{} is not allowed; use {form}", redacted(value))
}

struct OnlyObject<D>(D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for OnlyObject<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(MapVisitor { visitor, fields })
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Passes a map to `visitor`, and refuses everything else.
struct MapVisitor<V> {
    visitor: V,
    fields: &'static [&'static str],
}

impl<V> MapVisitor<V> {
    fn refuse<T, E: Error>(&self, value: impl Into<Value>) -> Result<T, E> {
        let form = format!("an object of {}", self.fields.join(", "));
        Err(E::custom(refused(&value.into(), &form)))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for MapVisitor<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(fields)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<V::Value, A::Error> {
        self.refuse(Value::deserialize(SeqAccessDeserializer::new(elements))?)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<V::Value, E> {
        self.refuse(value)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<V::Value, E> {
        self.refuse(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<V::Value, E> {
        self.refuse(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<V::Value, E> {
        self.refuse(value)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<V::Value, E> {
        self.refuse(value)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.refuse(Value::Null)
    }
}
