//! Reads JSON into types, with errors in the module's form and not in that of `serde_json`.

use std::fmt;

use azure_openai_balancer::core::config::Fault;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error, IntoDeserializer, Visitor};
use serde::{forward_to_deserialize_any, Deserialize};
use serde_json::Value;

/// `value` as a `T`.
///
/// # Errors
/// The path of the first wrong field, and its problem.
pub(crate) fn from_value<'de, T: Deserialize<'de>>(
    value: &'de Value,
) -> Result<T, (String, Fault)> {
    serde_path_to_error::deserialize(Json(value)).map_err(|error| {
        let path = error.path().to_string();
        match error.into_inner() {
            Mistake::Missing(name) => (format!("{path}.{name}"), Fault::missing(form_of(name))),
            Mistake::Fault(fault) => (path, fault),
        }
    })
}

/// The form of a required field.
fn form_of(name: &str) -> &'static str {
    match name {
        "endpoint" => "a URL such as \"http://ratelimit:8081\"",
        "tenant" => "the id of the tenant",
        "port" => "a port from 1 to 65535",
        "audience" => "the client id, or the URI, of the application that stands for this gateway",
        _ => "the path of a file in PEM form",
    }
}

#[derive(Debug)]
enum Mistake {
    Missing(&'static str),
    Fault(Fault),
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "{name} is missing"),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Mistake {}

impl Error for Mistake {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self::Fault(text.to_string().into())
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::Fault(Fault::Unknown {
            known: known.to_vec(),
        })
    }

    fn missing_field(name: &'static str) -> Self {
        Self::Missing(name)
    }
}

struct Json<'a>(&'a Value);

impl<'a> IntoDeserializer<'a, Mistake> for Json<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Json<'de> {
    type Error = Mistake;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (_, Some(number)) => visitor.visit_i64(number),
                _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(list) => visitor.visit_seq(SeqDeserializer::new(list.iter().map(Json))),
            Value::Object(fields) => {
                let fields = fields
                    .iter()
                    .map(|(name, value)| (name.as_str(), Json(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mistake> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mistake> {
        let read = self.0.deserialize_enum(name, variants, visitor);
        read.map_err(Mistake::custom)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}
