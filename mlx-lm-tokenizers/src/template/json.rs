//! `tojson` as Python's `json.dumps` writes: spaces after separators, text as it is, key order kept.

use super::Bounded;
use minijinja::{Error, ErrorKind, Output, State, Value, escape_formatter, value::Kwargs};
use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};
use std::io::{self, Write};

/// Python's `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &State, value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators = options.get::<Option<Value>>("separators")?.map(|pair| strings(&pair)).transpose()?;
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::BadSerialization, "an undefined value has no JSON"));
    }
    let item = if indent.is_some() { "," } else { ", " };
    let (item, key) = separators.unwrap_or((item.into(), ": ".into()));
    // What is written is paid for with the template's steps, so the buffer cannot outgrow them.
    let limit = state.fuel_levels().map_or(u64::MAX, |(_, left)| left).saturating_mul(BYTES_PER_STEP);
    let mut out =
        Bounded { bytes: Vec::new(), limit: usize::try_from(limit).unwrap_or(usize::MAX), exceeded: false };
    let python = || Python { item: &item, key: &key, indent, ascii, depth: 0, empty: true };
    let mut done = value.serialize(&mut Serializer::with_formatter(&mut out, python()));
    // Only what could be written is copied for sorting.
    if sorted && done.is_ok() {
        out.bytes.clear();
        done =
            sort_keys(&value).and_then(|v| v.serialize(&mut Serializer::with_formatter(&mut out, python())));
    }
    if out.exceeded {
        return Err(ErrorKind::OutOfFuel.into());
    }
    state.consume_fuel(out.bytes.len() as u64 / BYTES_PER_STEP)?;
    done.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    String::from_utf8(out.bytes)
        .map(Value::from_safe_string)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// Writes `{{ value }}`: a float as Python does, everything else as minijinja does.
pub(super) fn write_value(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    match f64::try_from(value.clone()) {
        Ok(x) if value.is_number() && !value.is_integer() => out.write_str(&repr(x)).map_err(Error::from),
        _ => escape_formatter(out, state, value),
    }
}

/// Serializing a byte takes longer than copying one.
const BYTES_PER_STEP: u64 = 4;

/// Python gives up at a thousand levels, too.
const DEEPEST: usize = 1000;

/// The two strings of a tuple or list.
fn strings(pair: &Value) -> Result<(String, String), Error> {
    let wanted = || Error::new(ErrorKind::InvalidOperation, "separators must be two strings");
    let string = |i: usize| -> Result<String, Error> {
        Ok(pair.get_item_by_index(i)?.as_str().ok_or_else(wanted)?.to_string())
    };
    Ok((string(0)?, string(1)?))
}

fn sort_keys(value: &Value) -> serde_json::Result<serde_json::Value> {
    let mut json = serde_json::to_value(value)?;
    json.sort_all_objects();
    Ok(json)
}

struct Python<'a> {
    item: &'a str,
    key: &'a str,
    indent: Option<usize>,
    ascii: bool,
    depth: usize,
    /// Whether the innermost list or object has nothing in it so far.
    empty: bool,
}

impl Python<'_> {
    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        if self.depth == DEEPEST {
            return Err(io::Error::other(format!("the value is nested more than {DEEPEST} levels deep")));
        }
        self.depth += 1;
        self.empty = true;
        out.write_all(bracket)
    }

    fn next<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !std::mem::take(&mut self.empty) {
            self.line(out)?;
        }
        out.write_all(bracket)
    }

    fn line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        let Some(width) = self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..width.saturating_mul(self.depth)).try_for_each(|_| out.write_all(b" "))
    }
}

impl Formatter for Python<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.next(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, x: f64) -> io::Result<()> {
        out.write_all(repr(x).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        if !self.ascii {
            return out.write_all(text.as_bytes());
        }
        for c in text.chars() {
            if c.is_ascii() {
                out.write_all(&[c as u8])?;
            } else {
                c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?;
            }
        }
        Ok(())
    }
}

/// A float as Python's `repr` has it: the shortest digits that read back, an exponent below 1e-4 and from 1e16 on.
fn repr(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "nan"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let shortest = format!("{x:e}");
    match shortest.split_once('e').and_then(|(digits, e)| Some((digits, e.parse::<i32>().ok()?))) {
        Some((digits, e)) if !(-4..16).contains(&e) => {
            format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
        }
        _ => format!("{x:?}"),
    }
}
