//! The key-value pairs of a GGUF file, and typed access to them.

use crate::{Error, Result};
use std::collections::BTreeMap;

/// A metadata value. Integers and floats of all widths are one kind each; arrays keep their type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Any of the eight integer types.
    Int(i128),
    /// float32 or float64.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Str(String),
    /// An array.
    List(List),
}

/// An array of metadata: one block of memory, however many items.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum List {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Strings(Strings),
}

/// Many strings, such as the tokens of a vocabulary, in one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    pub(super) text: String,
    pub(super) ends: Vec<usize>,
}

impl Strings {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        self.text.get(start..end)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }
}

impl<'a> FromIterator<&'a str> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a str>>(all: I) -> Strings {
        let mut strings = Strings::default();
        for text in all {
            strings.text.push_str(text);
            strings.ends.push(strings.text.len());
        }
        strings
    }
}

/// The key-value pairs of a GGUF file.
///
/// Two ways in: `metadata.u32("llama.block_count")?` for a key that must be there, and
/// `metadata.optional("tokenizer.ggml.eot_token_id", Field::u32)?` for one that may be. Both fail on a value of another type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pub(super) pairs: BTreeMap<String, Value>,
}

/// A value together with its key, which errors name.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    key: &'a str,
    value: &'a Value,
}

impl Metadata {
    /// Sets the value at `key`.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.pairs.insert(key.into(), value.into());
    }

    /// The value at `key`.
    pub fn get(&self, key: &str) -> Option<Field<'_>> {
        self.pairs.get_key_value(key).map(|(key, value)| Field { key, value })
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value at `key`, read by `read`, or nothing if there is no such key.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        read: impl FnOnce(Field<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(key).map(read).transpose()
    }

    /// The value at `key`, read by `read`.
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such key, and those of `read`.
    pub fn required<'a, T>(&'a self, key: &str, read: impl FnOnce(Field<'a>) -> Result<T>) -> Result<T> {
        self.optional(key, read)?.ok_or_else(|| Error::config(key, "nothing", "a value"))
    }

    /// The string at `key`. Errors: [`Error::Config`] if it is missing or of another type; so for all that follow.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.required(key, |field| field.str())
    }

    /// The integer at `key`, stored in any width.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.required(key, |field| field.u32())
    }

    /// The float at `key`.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.required(key, |field| field.f32())
    }

    /// The boolean at `key`.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.required(key, |field| field.bool())
    }

    /// The array of strings at `key`.
    pub fn strings(&self, key: &str) -> Result<&Strings> {
        self.required(key, |field| field.strings())
    }

    /// The array of 32-bit signed integers at `key`.
    pub fn i32s(&self, key: &str) -> Result<&[i32]> {
        self.required(key, |field| field.i32s())
    }

    /// The array of 32-bit floats at `key`.
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        self.required(key, |field| field.f32s())
    }

    /// The array of bytes at `key`.
    pub fn u8s(&self, key: &str) -> Result<&[u8]> {
        self.required(key, |field| field.u8s())
    }
}

impl<'a> Field<'a> {
    /// The key.
    pub fn key(self) -> &'a str {
        self.key
    }

    /// The value, of whatever type.
    pub fn value(self) -> &'a Value {
        self.value
    }

    /// An error about this value.
    pub fn wanted(self, wanted: impl Into<String>) -> Error {
        Error::config(self.key, self.value.describe(), wanted)
    }

    /// A string. Errors: [`Error::Config`] if it is something else; so for all that follow.
    pub fn str(self) -> Result<&'a str> {
        let Value::Str(text) = self.value else { return Err(self.wanted("a string")) };
        Ok(text)
    }

    /// An integer that fits, stored in any width.
    pub fn u32(self) -> Result<u32> {
        let Value::Int(n) = self.value else { return Err(self.wanted("an integer")) };
        u32::try_from(*n).map_err(|_| self.wanted("an integer from 0 to 4294967295"))
    }

    /// A float.
    pub fn f32(self) -> Result<f32> {
        let Value::Float(x) = self.value else { return Err(self.wanted("a float")) };
        Ok(*x as f32)
    }

    /// A boolean.
    pub fn bool(self) -> Result<bool> {
        let Value::Bool(b) = self.value else { return Err(self.wanted("a boolean")) };
        Ok(*b)
    }

    /// An array of strings.
    pub fn strings(self) -> Result<&'a Strings> {
        let Value::List(List::Strings(s)) = self.value else {
            return Err(self.wanted("an array of strings"));
        };
        Ok(s)
    }

    /// An array of 32-bit signed integers.
    pub fn i32s(self) -> Result<&'a [i32]> {
        let Value::List(List::I32(n)) = self.value else { return Err(self.wanted("an array of int32")) };
        Ok(n)
    }

    /// An array of 32-bit floats.
    pub fn f32s(self) -> Result<&'a [f32]> {
        let Value::List(List::F32(x)) = self.value else { return Err(self.wanted("an array of float32")) };
        Ok(x)
    }

    /// Any array.
    pub fn list(self) -> Option<&'a List> {
        let Value::List(list) = self.value else { return None };
        Some(list)
    }

    /// An array of bytes (such as a precompiled character map).
    pub fn u8s(self) -> Result<&'a [u8]> {
        let Value::List(List::U8(b)) = self.value else { return Err(self.wanted("an array of uint8")) };
        Ok(b)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Value {
        Value::Int(n.into())
    }
}

impl From<f32> for Value {
    fn from(x: f32) -> Value {
        Value::Float(x.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Value {
        Value::Bool(b)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::Str(text.into())
    }
}

impl From<List> for Value {
    fn from(list: List) -> Value {
        Value::List(list)
    }
}

impl Value {
    /// The value in a few words.
    fn describe(&self) -> String {
        match self {
            Value::Int(n) => n.to_string(),
            Value::Float(x) => format!("{x:?}"),
            Value::Bool(b) => b.to_string(),
            Value::Str(s) if s.chars().count() > 60 => format!("a string of {} bytes", s.len()),
            Value::Str(s) => format!("{s:?}"),
            Value::List(list) => list.describe(),
        }
    }
}

impl List {
    fn describe(&self) -> String {
        let (len, items) = match self {
            List::U8(v) => (v.len(), "uint8"),
            List::I8(v) => (v.len(), "int8"),
            List::U16(v) => (v.len(), "uint16"),
            List::I16(v) => (v.len(), "int16"),
            List::U32(v) => (v.len(), "uint32"),
            List::I32(v) => (v.len(), "int32"),
            List::U64(v) => (v.len(), "uint64"),
            List::I64(v) => (v.len(), "int64"),
            List::F32(v) => (v.len(), "float32"),
            List::F64(v) => (v.len(), "float64"),
            List::Bool(v) => (v.len(), "bool"),
            List::Strings(v) => (v.len(), "strings"),
        };
        format!("an array of {len} {items}")
    }
}
