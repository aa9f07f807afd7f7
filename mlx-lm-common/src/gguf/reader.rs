//! A reader that knows how much there is: every length is checked before memory is set aside for it.

use super::metadata::{List, Strings, Value};
use crate::{Error, Result, file::CheckpointFile};
use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// No header is larger. The largest vocabularies with their merges take some 20 MB.
const HEADER_LIMIT: u64 = 256 << 20;
/// Numbers converted at a time.
const CHUNK: usize = 8192;

pub(super) struct Reader<'a> {
    path: &'a Path,
    file: BufReader<&'a File>,
    len: u64,
    at: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a CheckpointFile) -> Reader<'a> {
        let file = BufReader::with_capacity(1 << 16, source.file());
        Reader { path: source.path(), file, len: source.len(), at: 0 }
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// An error about the file, with the place.
    pub(super) fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::file(self.path, format!("{what} (at byte {})", self.at))
    }

    /// Checks that `count` items of at least `size` bytes can follow.
    pub(super) fn expect(&self, count: u64, size: u64, what: &str) -> Result<()> {
        let need = count.saturating_mul(size);
        if need > self.len - self.at {
            return Err(self.bad(format!(
                "{what}: {need} bytes do not fit in the {} that are left",
                self.len - self.at
            )));
        }
        if need > HEADER_LIMIT.saturating_sub(self.at) {
            return Err(self.bad(format!("{what}: {need} bytes make the header larger than {HEADER_LIMIT}")));
        }
        Ok(())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        self.file.read_exact(into).map_err(|e| Error::io(self.path, e))?;
        self.at += into.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.expect(1, N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length and as many bytes of UTF-8, put after what `text` holds.
    fn string_into(&mut self, text: &mut String, buffer: &mut Vec<u8>, what: &str) -> Result<()> {
        let len = self.u64(what)?;
        self.expect(len, 1, what)?;
        buffer.resize(len as usize, 0);
        self.fill(buffer)?;
        let new = std::str::from_utf8(buffer)
            .map_err(|_| self.bad(format!("{what}: a string that is not UTF-8")))?;
        text.push_str(new);
        Ok(())
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        let mut text = String::new();
        self.string_into(&mut text, &mut Vec::new(), what)?;
        Ok(text)
    }

    /// A value whose type is `kind`; `key` is for errors.
    pub(super) fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::Int(u8::from_le_bytes(self.array(key)?).into()),
            1 => Value::Int(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Int(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Int(self.u32(key)?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => Value::Bool(self.bools(1, key)?[0]),
            8 => Value::Str(self.string(key)?),
            9 => Value::List(self.list(key)?),
            10 => Value::Int(self.u64(key)?.into()),
            11 => Value::Int(i64::from_le_bytes(self.array(key)?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            _ => return Err(self.bad(format!("`{key}` has the unknown value type {kind}"))),
        })
    }

    fn list(&mut self, key: &str) -> Result<List> {
        let kind = self.u32(key)?;
        let count = self.u64(key)?;
        Ok(match kind {
            0 => List::U8(self.numbers(count, key, u8::from_le_bytes)?),
            1 => List::I8(self.numbers(count, key, i8::from_le_bytes)?),
            2 => List::U16(self.numbers(count, key, u16::from_le_bytes)?),
            3 => List::I16(self.numbers(count, key, i16::from_le_bytes)?),
            4 => List::U32(self.numbers(count, key, u32::from_le_bytes)?),
            5 => List::I32(self.numbers(count, key, i32::from_le_bytes)?),
            6 => List::F32(self.numbers(count, key, f32::from_le_bytes)?),
            7 => List::Bool(self.bools(count, key)?),
            8 => List::Strings(self.strings(count, key)?),
            9 => return Err(self.bad(format!("`{key}` is an array of arrays"))),
            10 => List::U64(self.numbers(count, key, u64::from_le_bytes)?),
            11 => List::I64(self.numbers(count, key, i64::from_le_bytes)?),
            12 => List::F64(self.numbers(count, key, f64::from_le_bytes)?),
            _ => return Err(self.bad(format!("`{key}` is an array of the unknown value type {kind}"))),
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        count: u64,
        key: &str,
        from: fn([u8; N]) -> T,
    ) -> Result<Vec<T>> {
        self.expect(count, N as u64, key)?;
        let mut left = count as usize;
        let mut numbers = Vec::with_capacity(left);
        let mut buffer = vec![0; N * CHUNK.min(left)];
        while left > 0 {
            let bytes = &mut buffer[..N * CHUNK.min(left)];
            self.fill(bytes)?;
            let (items, _) = bytes.as_chunks::<N>();
            numbers.extend(items.iter().map(|b| from(*b)));
            left -= items.len();
        }
        Ok(numbers)
    }

    fn bools(&mut self, count: u64, key: &str) -> Result<Vec<bool>> {
        let bytes = self.numbers(count, key, u8::from_le_bytes)?;
        match bytes.iter().find(|&&b| b > 1) {
            Some(b) => Err(self.bad(format!("`{key}` holds the boolean {b}, which is neither 0 nor 1"))),
            None => Ok(bytes.into_iter().map(|b| b == 1).collect()),
        }
    }

    fn strings(&mut self, count: u64, key: &str) -> Result<Strings> {
        self.expect(count, 8, key)?;
        let (mut strings, mut buffer) = (Strings::default(), Vec::new());
        for _ in 0..count {
            self.string_into(&mut strings.text, &mut buffer, key)?;
            strings.ends.push(strings.text.len());
        }
        Ok(strings)
    }
}
