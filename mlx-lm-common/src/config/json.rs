//! JSON as people and Python write it: strict JSON first, and what strict JSON refuses is read as JSON5 (comments, trailing
//! commas, bare `Infinity` and `NaN`). As in Python, the last of equal keys wins.

use crate::{Error, Result, file};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, json};
use std::path::Path;

/// The largest configuration that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// How deep arrays and objects may be nested.
const MAX_DEPTH: usize = 128;

/// The key under which a non-finite float is kept.
const FLOAT: &str = "__float__";

/// Reads a JSON file of at most [`MAX_BYTES`].
///
/// # Errors
/// [`Error::Io`], or [`Error::File`] if it is too large or not JSON.
pub fn read(path: &Path) -> Result<Value> {
    parse(&file::read(path, MAX_BYTES)?).map_err(|what| Error::file(path, what))
}

/// As [`read`], or `None` if there is no such file.
pub fn read_optional(path: &Path) -> Result<Option<Value>> {
    match read(path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Parses JSON or JSON5. Non-finite numbers become `{"__float__": "Infinity"}`.
///
/// # Errors
/// What is wrong and where, for a message that names the file.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let strict = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(e) => e,
    };
    let text = std::str::from_utf8(bytes).map_err(|e| format!("is not UTF-8: {e}"))?;
    match json5::from_str::<Root>(text) {
        Ok(Root(value)) => Ok(value),
        Err(relaxed) => Err(format!("is neither JSON ({strict}) nor JSON5 ({relaxed})")),
    }
}

/// A number that JSON may lack.
fn number(x: f64) -> Value {
    let tag = match x {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => return Number::from_f64(x).map_or_else(|| json!({ FLOAT: "NaN" }), Value::Number),
    };
    json!({ FLOAT: tag })
}

/// The float that an object stands for.
pub(crate) fn tagged_float(map: &Map<String, Value>) -> Option<f64> {
    if map.len() != 1 {
        return None;
    }
    match map.get(FLOAT)?.as_str()? {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => None,
    }
}

struct Root(Value);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Root, D::Error> {
        Bounded(MAX_DEPTH).deserialize(d).map(Root)
    }
}

/// Builds a value no deeper than this; the JSON5 parser has no bound of its own.
struct Bounded(usize);

impl Bounded {
    fn inner<E: serde::de::Error>(&self) -> Result<Bounded, E> {
        self.0
            .checked_sub(1)
            .map(Bounded)
            .ok_or_else(|| E::custom(format_args!("nested deeper than {MAX_DEPTH}")))
    }
}

impl<'de> DeserializeSeed<'de> for Bounded {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(b.into())
    }

    fn visit_i64<E>(self, n: i64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_u64<E>(self, n: u64) -> Result<Value, E> {
        Ok(n.into())
    }

    fn visit_i128<E>(self, n: i128) -> Result<Value, E> {
        Ok(i64::try_from(n).map_or_else(|_| number(n as f64), Value::from))
    }

    fn visit_u128<E>(self, n: u128) -> Result<Value, E> {
        Ok(u64::try_from(n).map_or_else(|_| number(n as f64), Value::from))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Value, E> {
        Ok(number(x))
    }

    fn visit_str<E: serde::de::Error>(self, s: &str) -> Result<Value, E> {
        Ok(s.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(value) = seq.next_element_seed(self.inner()?)? {
            array.push(value);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            object.insert(key, map.next_value_seed(self.inner()?)?);
        }
        Ok(Value::Object(object))
    }
}
