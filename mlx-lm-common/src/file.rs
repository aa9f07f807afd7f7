//! Opening files that someone else put there.

use crate::{Error, Result};
use std::{fs::File, io::Read, path::Path};

/// Opens a regular file and says how long it is. A pipe would wait for a writer, and a device may never end.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a file"));
    }
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    Ok((file, meta.len()))
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, len) = open(path)?;
    let mut bytes = Vec::new();
    // The file may grow meanwhile; so the reader has a bound of its own.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::file(
            path,
            format!("has {len} bytes, more than the {limit} that such a file may have"),
        ));
    }
    Ok(bytes)
}
