//! The header of a safetensors file, checked before anything else touches the file.
//!
//! The crate `safetensors` wants the whole file in memory and says little about what is wrong; so the header is read here, by
//! the same rules and some more: names are unique and printable, sizes fit MLX's 32-bit axes.

use crate::{Error, Result, file};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    io::Read,
    path::Path,
};

/// Element types of safetensors files; `bitsize()` gives their size.
pub use safetensors::Dtype as DType;

/// The longest header, in bytes: the format's own limit.
pub const MAX_HEADER: u64 = 100_000_000;

/// Most axes of a tensor.
const MAX_RANK: usize = 32;

/// Longest name of a tensor, in bytes.
const MAX_NAME: usize = 1024;

/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// What a safetensors file holds. Every range lies in the file, none overlap.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Header {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// What the writer noted: `format` and the like.
    pub metadata: BTreeMap<String, String>,
}

/// Where a tensor lies in its file: row-major, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Sizes of the axes.
    pub shape: Vec<i32>,
    /// Where it begins, in bytes from the start of the file.
    pub offset: u64,
    /// How many bytes it has.
    pub len: u64,
}

impl Header {
    /// Reads and checks the header of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] with what is wrong and with which tensor.
    pub fn read(path: &Path) -> Result<Header> {
        let (file, len) = file::open(path)?;
        Header::from_reader(file, len, path)
    }

    /// Checks the header of a file of `file_len` bytes that begins as `reader` does. `path` is for messages.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn from_reader(mut reader: impl Read, file_len: u64, path: &Path) -> Result<Header> {
        let bad = |what: String| Error::file(path, what);
        if file_len < PREFIX {
            return Err(bad(format!("has {file_len} bytes, too few for a safetensors file")));
        }
        let mut prefix = [0; PREFIX as usize];
        reader.read_exact(&mut prefix).map_err(|e| Error::io(path, e))?;
        let len = u64::from_le_bytes(prefix);
        if len > MAX_HEADER {
            return Err(bad(match &prefix {
                b"version " => "is a Git LFS pointer: the file itself was never downloaded".into(),
                _ => format!(
                    "is no safetensors file: its header would have {len} bytes, of at most {MAX_HEADER}"
                ),
            }));
        }
        if len > file_len - PREFIX {
            return Err(bad(format!(
                "ends within its header of {len} bytes: the file has {file_len}. Download it again"
            )));
        }
        let mut json = vec![0; len as usize];
        reader.read_exact(&mut json).map_err(|e| Error::io(path, e))?;
        let written: Written = serde_json::from_slice(&json)
            .map_err(|e| bad(format!("has a header that is not as it should be: {e}")))?;
        let start = PREFIX + len;
        let mut tensors = BTreeMap::new();
        for (name, entry) in written.tensors {
            let info = entry.check(start).map_err(|what| bad(format!("tensor `{name}`: {what}")))?;
            tensors.insert(name, info);
        }
        check_ranges(&tensors, start, file_len).map_err(bad)?;
        Ok(Header { tensors, metadata: written.metadata })
    }
}

/// The ranges must fill the file from `start` to its end, one after the other.
fn check_ranges(tensors: &BTreeMap<String, TensorInfo>, start: u64, file_len: u64) -> Result<(), String> {
    let mut ranges: Vec<_> =
        tensors.iter().map(|(name, t)| (t.offset, t.offset.saturating_add(t.len), name)).collect();
    ranges.sort_unstable();
    let (mut end, mut last) = (start, "the header");
    for (begin, stop, name) in ranges {
        if begin < end {
            return Err(format!(
                "tensor `{name}` overlaps `{last}`: it begins at byte {begin}, before byte {end}"
            ));
        }
        if begin > end {
            return Err(format!("bytes {end} to {begin} between `{last}` and `{name}` belong to no tensor"));
        }
        if stop > file_len {
            return Err(format!(
                "tensor `{name}` ends at byte {stop}, but the file has {file_len}. Download it again"
            ));
        }
        (end, last) = (stop, name);
    }
    if end < file_len {
        Err(format!("{} bytes after `{last}` belong to no tensor", file_len - end))
    } else {
        Ok(())
    }
}

/// A tensor as the header describes it.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dtype: DType,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Described {
    /// Checks all that concerns this tensor alone. `start` is where data begins in the file.
    fn check(self, start: u64) -> Result<TensorInfo, String> {
        let Described { dtype, shape, data_offsets: (begin, end) } = self;
        if shape.len() > MAX_RANK {
            return Err(format!("has {} axes, of at most {MAX_RANK}", shape.len()));
        }
        let axes = shape.iter().map(|n| {
            i32::try_from(*n).map_err(|_| format!("an axis of {n} is larger than MLX's 2147483647"))
        });
        let axes = axes.collect::<Result<Vec<i32>, String>>()?;
        let bits = shape.iter().try_fold(dtype.bitsize() as u64, |bits, n| bits.checked_mul(*n));
        let bits = bits.ok_or_else(|| format!("shape {shape:?} has too many elements"))?;
        if bits % 8 != 0 {
            return Err(format!("shape {shape:?} of {dtype:?} is no whole number of bytes"));
        }
        let len = end
            .checked_sub(begin)
            .ok_or_else(|| format!("its data ends at {end}, before it begins at {begin}"))?;
        if len != bits / 8 {
            return Err(format!(
                "shape {shape:?} of {dtype:?} has {} bytes, but its data has {len}",
                bits / 8
            ));
        }
        let offset = start.checked_add(begin).ok_or_else(|| format!("its data would begin at {begin}"))?;
        Ok(TensorInfo { dtype, shape: axes, offset, len })
    }
}

/// The header's JSON.
#[derive(Default)]
struct Written {
    tensors: BTreeMap<String, Described>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Written, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
                let mut written = Written::default();
                let mut has_metadata = false;
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(A::Error::custom("`__metadata__` is there twice"));
                        }
                        written.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    // MLX takes names as C strings, and a terminal would obey control characters.
                    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                        let shown: String = name.chars().take(60).collect();
                        return Err(A::Error::custom(format_args!(
                            "{shown:?} cannot be the name of a tensor"
                        )));
                    }
                    match written.tensors.entry(name) {
                        Entry::Occupied(e) => {
                            return Err(A::Error::custom(format_args!(
                                "tensor `{}` is there twice",
                                e.key()
                            )));
                        }
                        Entry::Vacant(e) => {
                            let described = map.next_value();
                            let described = described
                                .map_err(|why| A::Error::custom(format_args!("tensor `{}`: {why}", e.key())));
                            e.insert(described?);
                        }
                    }
                }
                Ok(written)
            }
        }
        d.deserialize_map(Names)
    }
}
