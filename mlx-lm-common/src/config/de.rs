//! From JSON values to an architecture's own struct, with errors that name key, finding and wish.

use super::json::tagged_float;
use crate::{Error, Result};
use serde::{
    Deserialize, Deserializer,
    de::{
        self, DeserializeOwned, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value, map, value::Index};
use serde_path_to_error::Segment;
use std::{fmt, slice};

/// What a size must be.
pub(super) const DIM: &str = "a whole number from 1 to 2147483647";

/// What a message calls the whole config.
pub(super) const ROOT: &str = "(all of it)";

/// Longest excerpt of a value in a message, in characters.
const EXCERPT: usize = 60;

/// For `#[serde(deserialize_with = "dim")]`: a size, from 1 to 2^31 - 1.
pub fn dim<'de, D: Deserializer<'de>>(d: D) -> Result<i32, D::Error> {
    Dim::deserialize(d).map(|dim| dim.0)
}

/// For `#[serde(default, deserialize_with = "optional_dim")]`: a size that may be missing or null.
pub fn optional_dim<'de, D: Deserializer<'de>>(d: D) -> Result<Option<i32>, D::Error> {
    Option::<Dim>::deserialize(d).map(|dim| dim.map(|d| d.0))
}

/// For `#[serde(deserialize_with = "epsilon")]`: what a norm adds to a variance, a finite number from 0 on.
pub fn epsilon<'de, D: Deserializer<'de>>(d: D) -> Result<f32, D::Error> {
    let eps = f32::deserialize(d)?;
    if (0.0..f32::INFINITY).contains(&eps) {
        return Ok(eps);
    }
    Err(de::Error::invalid_value(Unexpected::Float(eps.into()), &"a finite number from 0 on"))
}

/// A size: positive, and small enough for MLX.
pub(super) struct Dim(pub(super) i32);

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Dim, D::Error> {
        struct Positive;
        impl Visitor<'_> for Positive {
            type Value = Dim;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str(DIM)
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Dim, E> {
                let positive = i32::try_from(n).ok().filter(|n| *n > 0).map(Dim);
                positive.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(n), &self))
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Dim, E> {
                match u64::try_from(n) {
                    Ok(n) => self.visit_u64(n),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(n), &self)),
                }
            }
        }
        d.deserialize_i32(Positive)
    }
}

/// Reads a `T`; `at` is the key of `value` for error messages, empty for the whole config.
pub(super) fn from_value<T: DeserializeOwned>(value: &Value, at: &str) -> Result<T> {
    serde_path_to_error::deserialize(De(value)).map_err(|e| {
        let mut key = at.to_string();
        let mut found = Some(value);
        for segment in e.path() {
            found = match segment {
                Segment::Seq { index } => step(found, index),
                Segment::Map { key } => step(found, key),
                Segment::Enum { .. } | Segment::Unknown => found,
            };
            key = join(&key, segment);
        }
        match e.into_inner() {
            Mismatch { missing: Some(field), wanted } => Error::config(join(&key, field), "nothing", wanted),
            Mismatch { wanted, .. } if key.is_empty() => Error::config(ROOT, render(value), wanted),
            Mismatch { wanted, .. } => Error::config(key, found.map_or("nothing".into(), render), wanted),
        }
    })
}

/// Reads one key of an object, or `None` if it is missing or null.
pub(super) fn get<T: DeserializeOwned>(object: &Value, key: &str) -> Result<Option<T>> {
    object.get(key).map_or(Ok(None), |value| from_value(value, key))
}

/// A value as a message shows it.
pub(super) fn render(value: &Value) -> String {
    let text = match value {
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(o) => {
            tagged_float(o).map_or_else(|| format!("an object of {} keys", o.len()), |x| x.to_string())
        }
        plain => plain.to_string(),
    };
    match text.char_indices().nth(EXCERPT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn step(value: Option<&Value>, index: impl Index) -> Option<&Value> {
    value?.get(index)
}

/// The path of an inner key (`a.b`) or element (`a[0]`).
fn join(path: &str, segment: impl fmt::Display) -> String {
    let segment = segment.to_string();
    let dot = if path.is_empty() || segment.starts_with('[') { "" } else { "." };
    format!("{path}{dot}{segment}")
}

/// Why a value does not fit.
#[derive(Debug)]
struct Mismatch {
    missing: Option<&'static str>,
    wanted: String,
}

impl Mismatch {
    fn wanted(wanted: impl fmt::Display) -> Mismatch {
        let wanted = match wanted.to_string() {
            int if int.starts_with(['i', 'u']) && int[1..].parse::<u8>().is_ok() => {
                format!("a whole number ({int})")
            }
            float if float == "f32" || float == "f64" => "a number".into(),
            other => other,
        };
        Mismatch { missing: None, wanted }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.wanted)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Mismatch {
        Mismatch::wanted(message)
    }

    fn invalid_type(_: Unexpected, wanted: &dyn Expected) -> Mismatch {
        Mismatch::wanted(wanted)
    }

    fn invalid_value(_: Unexpected, wanted: &dyn Expected) -> Mismatch {
        Mismatch::wanted(wanted)
    }

    fn invalid_length(_: usize, wanted: &dyn Expected) -> Mismatch {
        Mismatch::wanted(wanted)
    }

    fn unknown_variant(_: &str, wanted: &'static [&'static str]) -> Mismatch {
        Mismatch::wanted(format_args!("one of {}", wanted.join(", ")))
    }

    fn missing_field(field: &'static str) -> Mismatch {
        Mismatch { missing: Some(field), wanted: "a value".into() }
    }
}

/// serde_json's own deserializer of values, but: null keys are missing, whole floats are integers, tagged floats are floats.
struct De<'a>(&'a Value);

impl<'de> Deserializer<'de> for De<'_> {
    type Error = Mismatch;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(*b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64().unwrap_or(f64::NAN)) {
                (Some(n), ..) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                // Below 2^53 the integer is the float, exactly; so a visitor of floats sees no difference.
                (_, _, x) if x.fract() == 0.0 && x.abs() < 9007199254740992.0 => visitor.visit_i64(x as i64),
                (_, _, x) => visitor.visit_f64(x),
            },
            Value::String(s) => visitor.visit_str(s),
            Value::Array(a) => visitor.visit_seq(Items(a.iter())),
            Value::Object(o) => match tagged_float(o) {
                Some(x) => visitor.visit_f64(x),
                None => visitor.visit_map(Entries::new(o)),
            },
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::String(s) => visitor.visit_enum(s.as_str().into_deserializer()),
            Value::Object(o) => visitor.visit_enum(de::value::MapAccessDeserializer::new(Entries::new(o))),
            _ => Err(Mismatch::wanted("a name")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Mismatch> for De<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Items<'a>(slice::Iter<'a, Value>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Mismatch;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mismatch> {
        self.0.next().map(|value| seed.deserialize(De(value))).transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'a> {
    entries: map::Iter<'a>,
    value: &'a Value,
}

impl<'a> Entries<'a> {
    fn new(object: &'a Map<String, Value>) -> Self {
        Entries { entries: object.iter(), value: &Value::Null }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Mismatch;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Mismatch> {
        let Some((key, value)) = self.entries.find(|(_, value)| !value.is_null()) else { return Ok(None) };
        self.value = value;
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Mismatch> {
        seed.deserialize(De(self.value))
    }
}
