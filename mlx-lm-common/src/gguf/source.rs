//! The file, and reads at a place in it.

use crate::{Error, Result};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// An open file of known length.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source> {
        let (file, len) = crate::file::open(path)?;
        Ok(Source { path: path.into(), file, len })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `into` from `offset`, whatever other threads read meanwhile.
    pub(super) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(&self.file, into, offset).map_err(|e| Error::io(&self.path, e))
    }
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
