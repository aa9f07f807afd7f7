//! The header: magic, version, metadata and the list of tensors.

use super::{
    metadata::{Field, Metadata},
    reader::Reader,
    types::{self, TensorType},
};
use crate::{Error, Result, file::CheckpointFile};
use std::{collections::BTreeSet, sync::Arc};

/// More than any real file has, little enough for their bookkeeping to be small.
const MAX_PAIRS: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 17;
/// The longest key that the format allows.
const MAX_KEY: usize = 65535;
/// ggml allows 63 bytes.
const MAX_TENSOR_NAME: usize = 255;
const MAX_DIMS: u32 = 4;
/// The fewest bytes of a pair (key length, type, a byte) and of a tensor (name length, dimensions, type, offset).
const MIN_PAIR: u64 = 13;
const MIN_TENSOR: u64 = 32;

/// A tensor of the file, checked: its bytes are there, aligned, and nobody else's.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    pub(super) source: Arc<CheckpointFile>,
    pub(super) name: String,
    /// Row-major: the last axis is contiguous. Each size is at least 1.
    pub(super) shape: Vec<i32>,
    pub(super) kind: &'static TensorType,
    /// From the start of the file.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

pub(super) fn read(source: &Arc<CheckpointFile>) -> Result<(Metadata, Vec<TensorInfo>)> {
    let mut r = Reader::new(source);
    let magic = r.u32("magic")?.to_le_bytes();
    if &magic != b"GGUF" {
        return Err(r.bad(format!("no GGUF file: it begins with \"{}\"", magic.escape_ascii())));
    }
    match r.u32("version")? {
        2 | 3 => {}
        v if v & 0xffff == 0 => {
            return Err(r.bad("a big-endian GGUF file; only little-endian files can be read"));
        }
        v => return Err(r.bad(format!("GGUF version {v}; versions 2 and 3 can be read"))),
    }
    let tensors = count(&mut r, "tensors", MIN_TENSOR, MAX_TENSORS)?;
    let pairs = count(&mut r, "metadata pairs", MIN_PAIR, MAX_PAIRS)?;

    let mut metadata = Metadata::default();
    for _ in 0..pairs {
        let key = name(&mut r, "a metadata key", MAX_KEY)?;
        let kind = r.u32(&key)?;
        let value = r.value(kind, &key)?;
        if metadata.pairs.contains_key(&key) {
            return Err(r.bad(format!("the key `{key}` occurs twice")));
        }
        metadata.pairs.insert(key, value);
    }
    let alignment = metadata.optional("general.alignment", alignment)?.unwrap_or(32);

    r.expect(tensors, MIN_TENSOR, "tensors")?;
    let mut infos = Vec::with_capacity(tensors as usize);
    let mut names = BTreeSet::new();
    for _ in 0..tensors {
        let info = tensor(&mut r, source, alignment)?;
        if !names.insert(info.name.clone()) {
            return Err(Error::tensor(info.name, "the name occurs twice"));
        }
        infos.push(info);
    }
    // Offsets count from the end of the header, padded.
    let start = r.at().next_multiple_of(alignment);
    place(&mut infos, start, source.len())?;
    Ok((metadata, infos))
}

fn count(r: &mut Reader<'_>, what: &str, size: u64, limit: u64) -> Result<u64> {
    let n = r.u64(what)?;
    r.expect(n, size, what)?;
    if n > limit {
        return Err(r.bad(format!("{n} {what}; at most {limit} can be read")));
    }
    Ok(n)
}

fn name(r: &mut Reader<'_>, what: &str, limit: usize) -> Result<String> {
    let name = r.string(what)?;
    match name.len() {
        0 => Err(r.bad(format!("{what} is empty"))),
        n if n > limit => Err(r.bad(format!("{what} has {n} bytes; at most {limit} are allowed"))),
        _ => Ok(name),
    }
}

fn alignment(field: Field<'_>) -> Result<u64> {
    let n = field.u32()?;
    if n.is_power_of_two() { Ok(n.into()) } else { Err(field.wanted("a power of two")) }
}

/// One entry of the list; `offset` still counts from the start of the data.
fn tensor(r: &mut Reader<'_>, source: &Arc<CheckpointFile>, alignment: u64) -> Result<TensorInfo> {
    let name = name(r, "a tensor's name", MAX_TENSOR_NAME)?;
    let bad = |why: String| Err(Error::tensor(&name, why));
    let dims = r.u32("dimensions")?;
    if dims == 0 || dims > MAX_DIMS {
        return bad(format!("{dims} dimensions; 1 to {MAX_DIMS} are allowed"));
    }
    let mut shape = Vec::new();
    let mut values = 1_u64;
    for _ in 0..dims {
        let size = r.u64("a dimension")?;
        match i32::try_from(size) {
            Ok(n) if n > 0 => shape.push(n),
            _ => return bad(format!("a dimension of {size}; 1 to {} are allowed", i32::MAX)),
        }
        let Some(product) = values.checked_mul(size) else { return bad("too many values".into()) };
        values = product;
    }
    let id = r.u32("a tensor's type")?;
    let Some(kind) = types::find(id) else { return bad(format!("the unknown element type {id}")) };
    // The file lists the contiguous axis first.
    let columns = shape[0] as u64;
    if !columns.is_multiple_of(kind.values) {
        return bad(format!(
            "rows of {columns} values, which {} cannot divide into blocks of {}",
            kind.name, kind.values
        ));
    }
    shape.reverse();
    let Some(bytes) = (values / kind.values).checked_mul(kind.bytes) else {
        return bad("too many values".into());
    };
    let offset = r.u64("a tensor's offset")?;
    if !offset.is_multiple_of(alignment) {
        return bad(format!("its offset {offset} is not a multiple of the alignment {alignment}"));
    }
    Ok(TensorInfo { source: source.clone(), name, shape, kind, offset, bytes })
}

/// Makes offsets count from the start of the file, and checks that tensors lie inside it and apart.
fn place(infos: &mut [TensorInfo], start: u64, len: u64) -> Result<()> {
    for info in infos.iter_mut() {
        let end = start.checked_add(info.offset).and_then(|offset| offset.checked_add(info.bytes));
        match end {
            Some(end) if end <= len => info.offset += start,
            _ => {
                let TensorInfo { name, offset, bytes, .. } = info;
                let why = format!(
                    "{bytes} bytes at offset {offset} of the data, which begins at byte {start}, pass the end of the file at byte {len}"
                );
                return Err(Error::tensor(&*name, why));
            }
        }
    }
    let mut order: Vec<&TensorInfo> = infos.iter().collect();
    order.sort_by_key(|info| info.offset);
    for pair in order.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            return Err(Error::tensor(&pair[1].name, format!("overlaps `{}` in the file", pair[0].name)));
        }
    }
    Ok(())
}
