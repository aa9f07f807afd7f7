//! The metadata of an architecture, typed.

use crate::{
    Error, Result,
    gguf::{Gguf, List, header::TensorInfo, metadata::Field},
};
use serde_json::Value;

/// The keys of an architecture, without its name in front.
#[derive(Clone, Copy)]
pub(super) struct Keys<'a> {
    pub(super) gguf: &'a Gguf,
    pub(super) architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.gguf.metadata().get(&self.key(name)).is_some()
    }

    pub(super) fn optional<T>(
        &self,
        name: &str,
        read: impl FnOnce(Field<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.gguf.metadata().optional(&self.key(name), read)
    }

    pub(super) fn required<T>(&self, name: &str, read: impl FnOnce(Field<'a>) -> Result<T>) -> Result<T> {
        self.gguf.metadata().required(&self.key(name), read)
    }

    /// A positive number of things.
    pub(super) fn size(&self, name: &str) -> Result<i32> {
        self.required(name, size)
    }

    pub(super) fn size_opt(&self, name: &str) -> Result<Option<i32>> {
        self.optional(name, size)
    }

    /// A number of things, or none.
    pub(super) fn count(&self, name: &str) -> Result<i32> {
        Ok(self.optional(name, count)?.unwrap_or(0))
    }

    pub(super) fn positive(&self, name: &str) -> Result<f32> {
        self.required(name, positive)
    }

    pub(super) fn positive_opt(&self, name: &str) -> Result<Option<f32>> {
        self.optional(name, positive)
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.optional(name, |field| field.bool())
    }

    /// A number for each of the layers: a list, or the same for all.
    pub(super) fn each(&self, name: &str, layers: usize) -> Result<Vec<i32>> {
        self.required(name, |field| {
            let Some(list) = field.list() else { return Ok(vec![count(field)?; layers]) };
            let wanted = || field.wanted(format!("an integer from 0 on for each of the {layers} layers"));
            let numbers: Option<Vec<i32>> = match list {
                List::I32(n) => n.iter().map(|n| (*n >= 0).then_some(*n)).collect(),
                List::U32(n) => n.iter().map(|n| i32::try_from(*n).ok()).collect(),
                List::U64(n) => n.iter().map(|n| i32::try_from(*n).ok()).collect(),
                List::I64(n) => n.iter().map(|n| i32::try_from(*n).ok().filter(|n| *n >= 0)).collect(),
                _ => None,
            };
            // Lists may go on for layers that predict further tokens.
            numbers.filter(|n| n.len() >= layers).map(|n| n[..layers].to_vec()).ok_or_else(wanted)
        })
    }

    /// Yes or no for each of the layers.
    pub(super) fn each_flag(&self, name: &str, layers: usize) -> Result<Option<Vec<bool>>> {
        self.optional(name, |field| match field.list() {
            Some(List::Bool(flags)) if flags.len() >= layers => Ok(flags[..layers].to_vec()),
            _ => Err(field.wanted(format!("true or false for each of the {layers} layers"))),
        })
    }

    /// An error about the value of a key.
    pub(super) fn wanted(&self, name: &str, wanted: impl Into<String>) -> Error {
        let key = self.key(name);
        match self.gguf.metadata().get(&key) {
            Some(field) => field.wanted(wanted),
            None => Error::config(key, "nothing", wanted),
        }
    }

    /// Checks that a key, if it is there, has this value, which is the only one that architectures compute with.
    pub(super) fn only(&self, name: &str, value: i32) -> Result<()> {
        match self.optional(name, |field| field.u32())? {
            Some(found) if i64::from(found) != i64::from(value) => Err(self.wanted(name, value.to_string())),
            _ => Ok(()),
        }
    }

    /// A tensor of the file.
    pub(super) fn tensor(&self, name: &str) -> Option<&'a TensorInfo> {
        self.gguf.info(name)
    }

    /// Whether some layer has this tensor.
    pub(super) fn in_layers(&self, name: &str) -> bool {
        self.gguf.infos.iter().any(|info| {
            let rest = info.name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            rest.is_some_and(|(_, rest)| rest == name)
        })
    }
}

fn size(field: Field<'_>) -> Result<i32> {
    let wanted = || field.wanted(format!("an integer from 1 to {}", i32::MAX));
    field.u32().ok().and_then(|n| i32::try_from(n).ok()).filter(|&n| n > 0).ok_or_else(wanted)
}

fn count(field: Field<'_>) -> Result<i32> {
    let wanted = || field.wanted(format!("an integer from 0 to {}", i32::MAX));
    field.u32().ok().and_then(|n| i32::try_from(n).ok()).ok_or_else(wanted)
}

pub(super) fn positive(field: Field<'_>) -> Result<f32> {
    let x = field.f32()?;
    if x.is_finite() && x > 0.0 { Ok(x) } else { Err(field.wanted("a positive number")) }
}

pub(super) fn finite(field: Field<'_>) -> Result<f32> {
    let x = field.f32()?;
    if x.is_finite() { Ok(x) } else { Err(field.wanted("a finite number")) }
}

/// The shortest decimal that reads back as `x`: 1e-5 rather than 9.999999747378752e-6, as the published config has it.
pub(super) fn decimal(x: f32) -> Value {
    x.to_string().parse::<f64>().unwrap_or(x.into()).into()
}
