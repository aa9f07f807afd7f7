//! Opening files that someone else put there.

use crate::{Error, Result};
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

/// An open checkpoint file of known length, for reads at a place in it from any thread.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    file: File,
    len: u64,
}

impl CheckpointFile {
    /// Opens a regular file.
    pub fn open(path: &Path) -> Result<CheckpointFile> {
        let (file, len) = open(path)?;
        Ok(CheckpointFile { path: path.into(), file, len })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into` from `offset`, whatever other threads read meanwhile.
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(&self.file, into, offset).map_err(|e| Error::io(&self.path, e))
    }
}

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

#[cfg(unix)]
fn read_exact_at(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, into: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    // All readers share one cursor.
    static CURSOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _held = CURSOR.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(into)
}
