//! One safetensors file, written as its tensors come.
//!
//! The header, which is in front, can only be written last. So what comes first is kept in memory, and what is too much for that
//! goes to the file behind room for a header, which spaces fill up, as the format allows.

use crate::{Error, Result};
use mlx_rs::{Array, Dtype};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::PathBuf,
};

/// How much of a file is held in memory before it is written.
const HELD: usize = 64 << 20;

/// Room for the header of a file that is larger than that.
const ROOM: usize = 1 << 20;

/// What a header says of a tensor, in bytes at most.
const DESCRIPTION: usize = 512;

/// The length of the header, in front of it.
const PREFIX: usize = 8;

/// A file that is being written.
pub(super) struct Shard {
    path: PathBuf,
    file: File,
    held: Vec<u8>,
    /// Whether the file has begun, behind room for its header.
    is_spilled: bool,
    /// What the header says of the tensors so far.
    described: Map<String, Value>,
    header_bytes: usize,
    bytes: u64,
}

impl Shard {
    /// A file without tensors.
    pub(super) fn create(path: PathBuf, metadata: &BTreeMap<String, String>) -> Result<Shard> {
        let file = File::create_new(&path).map_err(|e| Error::io(&path, e))?;
        let mut described = Map::new();
        described.insert("__metadata__".into(), json!(metadata));
        let header_bytes = json!(described).to_string().len();
        Ok(Shard { path, file, held: Vec::new(), is_spilled: false, described, header_bytes, bytes: 0 })
    }

    /// Bytes of the tensors so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether another tensor of this name has room in the header.
    pub(super) fn has_room(&self, name: &str) -> bool {
        self.header_bytes + 6 * name.len() + DESCRIPTION <= ROOM
    }

    /// Appends a tensor.
    pub(super) fn tensor(&mut self, name: &str, array: &Array) -> Result<()> {
        let dtype = type_name(array.dtype()).ok_or_else(|| {
            Error::tensor(name, format!("{:?} is no type of safetensors files", array.dtype()))
        })?;
        let end = self.bytes + array.nbytes() as u64;
        let entry = json!({ "dtype": dtype, "shape": array.shape(), "data_offsets": [self.bytes, end] });
        self.header_bytes += json!(name).to_string().len() + entry.to_string().len() + 2;
        self.described.insert(name.into(), entry);
        self.bytes = end;
        with_bytes(array, |data| self.append(data))
    }

    fn append(&mut self, data: &[u8]) -> Result<()> {
        if !self.is_spilled && self.held.len() + data.len() <= HELD {
            self.held.extend_from_slice(data);
            return Ok(());
        }
        if !self.is_spilled {
            self.is_spilled = true;
            let held = std::mem::take(&mut self.held);
            self.write(&[b' '; ROOM])?;
            self.write(&held)?;
        }
        self.write(data)
    }

    fn write(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(data).map_err(|e| Error::io(&self.path, e))
    }

    /// Writes what is left, and says where the file is.
    pub(super) fn finish(mut self) -> Result<PathBuf> {
        let mut header = json!(self.described).to_string().into_bytes();
        // Data begins at a multiple of 8 bytes.
        let length = if self.is_spilled { ROOM - PREFIX } else { header.len().next_multiple_of(8) };
        header.resize(length, b' ');
        header.splice(0..0, (length as u64).to_le_bytes());
        if self.is_spilled {
            self.file.seek(SeekFrom::Start(0)).map_err(|e| Error::io(&self.path, e))?;
        }
        self.write(&header)?;
        let held = std::mem::take(&mut self.held);
        self.write(&held)?;
        self.file.sync_all().map_err(|e| Error::io(&self.path, e))?;
        Ok(self.path)
    }
}

/// Calls `then` with the values, row-major and little-endian.
fn with_bytes(array: &Array, mut then: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    if array.size() == 0 {
        return Ok(());
    }
    // A single value has no axis along which its bytes could lie.
    let bytes = array.reshape(&[-1])?.contiguous()?.view_dtype(Dtype::Uint8)?;
    bytes.eval()?;
    then(bytes.try_as_slice::<u8>().map_err(|e| Error::Unsupported(e.to_string()))?)
}

/// The name of a type in the header.
fn type_name(dtype: Dtype) -> Option<&'static str> {
    Some(match dtype {
        Dtype::Bool => "BOOL",
        Dtype::Uint8 => "U8",
        Dtype::Int8 => "I8",
        Dtype::Uint16 => "U16",
        Dtype::Int16 => "I16",
        Dtype::Uint32 => "U32",
        Dtype::Int32 => "I32",
        Dtype::Uint64 => "U64",
        Dtype::Int64 => "I64",
        Dtype::Float16 => "F16",
        Dtype::Bfloat16 => "BF16",
        Dtype::Float32 => "F32",
        Dtype::Float64 => "F64",
        Dtype::Complex64 => return None,
    })
}
