//! The container: a header that is known before any tensor is, and tensors that come in any order.

use super::blocks::FileType;
use crate::{
    Error, Result,
    gguf::metadata::{List, Metadata, Value},
};
use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Every tensor begins at a multiple of so many bytes: the format's default.
const ALIGNMENT: u64 = 32;

/// A tensor as the header lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Row-major: the last axis is contiguous.
    pub(super) shape: Vec<i32>,
    pub(super) kind: FileType,
}

impl Entry {
    /// Values of a row.
    pub(super) fn columns(&self) -> usize {
        self.shape.last().map_or(1, |n| *n as usize)
    }

    pub(super) fn bytes(&self) -> u64 {
        let values: u64 = self.shape.iter().map(|n| *n as u64).product();
        let (values_of_block, bytes) = self.kind.block();
        values / values_of_block as u64 * bytes as u64
    }
}

/// A file that is being written, under a name of its own until it is complete. What is not finished goes; nothing loads it meanwhile.
pub(super) struct Container {
    target: PathBuf,
    partial: PathBuf,
    file: File,
    /// From the start of the file, in the order of the entries.
    offsets: Vec<u64>,
    end: u64,
    is_finished: bool,
}

impl Container {
    /// Begins the file `target`, which must not exist.
    pub(super) fn create(target: &Path, metadata: &Metadata, entries: &[Entry]) -> Result<Container> {
        refuse_existing(target)?;
        let (header, relative) = header(metadata, entries);
        let start = (header.len() as u64).next_multiple_of(ALIGNMENT);
        let offsets: Vec<u64> = relative.iter().map(|offset| start + offset).collect();
        let end = offsets.iter().zip(entries).map(|(offset, e)| offset + e.bytes()).max().unwrap_or(start);
        let (partial, file) = create_partial(target)?;
        let mut container = Container {
            target: target.into(),
            partial,
            file,
            offsets,
            end: end.next_multiple_of(ALIGNMENT),
            is_finished: false,
        };
        container.write(0, &header)?;
        Ok(container)
    }

    /// Writes the bytes of entry `index`.
    pub(super) fn tensor(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        self.write(self.offsets[index], bytes)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(bytes)
        };
        write(&mut self.file).map_err(|e| Error::io(&self.partial, e))
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        // What lies between tensors was never written and reads as zeros.
        self.file
            .set_len(self.end)
            .and_then(|()| self.file.sync_all())
            .map_err(|e| Error::io(&self.partial, e))?;
        refuse_existing(&self.target)?;
        fs::rename(&self.partial, &self.target).map_err(|e| Error::io(&self.target, e))?;
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.is_finished {
            // Whatever cannot be removed does not load: its name does not end in .gguf.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn refuse_existing(target: &Path) -> Result<()> {
    match fs::symlink_metadata(target) {
        Ok(_) => Err(Error::file(target, "exists already: remove it, or name another file")),
        Err(_) => Ok(()),
    }
}

fn create_partial(target: &Path) -> Result<(PathBuf, File)> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = target.file_name().ok_or_else(|| Error::file(target, "is no name for a new file"))?;
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
    loop {
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".partial-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed)));
        let partial = parent.join(partial);
        match File::create_new(&partial) {
            // Of a process with the same number elsewhere.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => return Ok((partial.clone(), made.map_err(|e| Error::io(&partial, e))?)),
        }
    }
}

/// The header, and where tensors begin after it and its padding.
fn header(metadata: &Metadata, entries: &[Entry]) -> (Vec<u8>, Vec<u64>) {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    out.extend((metadata.pairs.len() as u64).to_le_bytes());
    // Readers look at the architecture first, and so do people.
    let first = |key: &str| !key.starts_with("general.");
    let mut pairs: Vec<_> = metadata.iter().collect();
    pairs.sort_by_key(|(key, _)| (*key != "general.architecture", first(key)));
    for (key, value) in pairs {
        string(&mut out, key);
        out.extend(kind(value).to_le_bytes());
        self::value(&mut out, value);
    }
    let (mut offsets, mut offset) = (Vec::with_capacity(entries.len()), 0_u64);
    for entry in entries {
        string(&mut out, &entry.name);
        out.extend((entry.shape.len() as u32).to_le_bytes());
        entry.shape.iter().rev().for_each(|n| out.extend((*n as u64).to_le_bytes()));
        out.extend(entry.kind.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offsets.push(offset);
        offset = (offset + entry.bytes()).next_multiple_of(ALIGNMENT);
    }
    (out, offsets)
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The number of a value's type. Integers are of 32 bits where they fit: llama.cpp takes no other width for most keys.
fn kind(value: &Value) -> u32 {
    match value {
        Value::Int(n) if u32::try_from(*n).is_ok() => 4,
        Value::Int(n) if i32::try_from(*n).is_ok() => 5,
        Value::Int(n) if *n >= 0 => 10,
        Value::Int(_) => 11,
        Value::Float(_) => 6,
        Value::Bool(_) => 7,
        Value::Str(_) => 8,
        Value::List(_) => 9,
    }
}

fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Int(n) if matches!(kind(value), 4 | 5) => out.extend((*n as u32).to_le_bytes()),
        Value::Int(n) => out.extend((*n as u64).to_le_bytes()),
        Value::Float(x) => out.extend((*x as f32).to_le_bytes()),
        Value::Bool(b) => out.push((*b).into()),
        Value::Str(text) => string(out, text),
        Value::List(items) => list(out, items),
    }
}

fn list(out: &mut Vec<u8>, list: &List) {
    macro_rules! numbers {
        ($kind:literal, $items:expr) => {{
            head(out, $kind, $items.len());
            $items.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }};
    }
    match list {
        List::U8(items) => numbers!(0, items),
        List::I8(items) => numbers!(1, items),
        List::U16(items) => numbers!(2, items),
        List::I16(items) => numbers!(3, items),
        List::U32(items) => numbers!(4, items),
        List::I32(items) => numbers!(5, items),
        List::F32(items) => numbers!(6, items),
        List::Bool(items) => {
            head(out, 7, items.len());
            out.extend(items.iter().map(|b| u8::from(*b)));
        }
        List::Strings(items) => {
            head(out, 8, items.len());
            items.iter().for_each(|text| string(out, text));
        }
        List::U64(items) => numbers!(10, items),
        List::I64(items) => numbers!(11, items),
        List::F64(items) => numbers!(12, items),
    }
}

fn head(out: &mut Vec<u8>, kind: u32, count: usize) {
    out.extend(kind.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}
