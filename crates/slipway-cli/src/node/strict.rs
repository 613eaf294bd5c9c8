//! Values read as types that know all their fields: one that a type does not have is refused, with the one that was probably meant. Types
//! themselves ignore it, as old clients and services must.

use crate::near::nearest;
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde_json::{Error, Value};

/// Reads a value; the error says where and what.
pub(crate) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let mut track = serde_path_to_error::Track::new();
    let read = T::deserialize(serde_path_to_error::Deserializer::new(Strict(value), &mut track));
    read.map_err(|why| {
        let why = why.to_string();
        match track.path().to_string() {
            path if path == "." => why,
            path => format!("{path}: {}", in_words(&path, &why)),
        }
    })
}

/// What is expected of a number, for people; sizes are bytes without a letter behind them.
fn in_words(path: &str, why: &str) -> String {
    let is_size =
        ["size", "memory", "limit", "offset"].iter().any(|end| path.ends_with(end) && !path.ends_with("entries_limit"));
    let number = if is_size { "expected a number of bytes" } else { "expected a whole number" };
    why.replace("expected u64", number).replace("expected i64", number).replace("expected u32", number)
}

/// A value whose objects must have no other fields than their type.
struct Strict(Value);

impl<'de> IntoDeserializer<'de, Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Strict))),
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| (name, Strict(value)));
                visitor.visit_map(MapDeserializer::new(fields))
            }
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Value::Object(given) = &self.0
            && let Some(unknown) = given.keys().find(|name| !fields.contains(&name.as_str()))
        {
            return Err(Error::custom(match nearest(unknown, fields.iter().copied()) {
                Some(near) => format!("there is no field '{unknown}'; did you mean '{near}'?"),
                None => format!("there is no field '{unknown}'; there are {}", fields.join(", ")),
            }));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}
