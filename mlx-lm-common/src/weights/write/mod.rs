//! Writing a model's folder: all of it, or nothing.
//!
//! Everything goes into a folder beside the one that is asked for, which nothing loads: `.NAME.partial-PID-N`, whose tensors have
//! other names and whose configuration comes last. [`FolderWriter::finish`] gives it its name. If that is never reached, the
//! folder goes; what a killed program leaves of one goes when the next begins to write the same model.

mod shard;

use super::index::INDEX;
use crate::{Error, Result};
use mlx_rs::Array;
use serde::Serialize;
use serde_json::{Map, Value, json};
use shard::Shard;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    path::{Component, Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// The configuration, which makes a folder one that loads.
const CONFIG: &str = "config.json";

/// Held by whoever writes a partial folder.
const LOCK: &str = ".lock";

/// What to write into the files of tensors, and how large they become.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// What every file notes of itself.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of tensors in a file at most, unless it holds a single tensor.
    pub shard_bytes: u64,
    /// Whether a file that is the only one has a number in its name, too.
    pub is_numbered: bool,
}

impl Default for WriteOptions {
    /// As mlx-lm: files of 5 GiB that say `"format": "mlx"`.
    fn default() -> WriteOptions {
        let metadata = BTreeMap::from([("format".into(), "mlx".into())]);
        WriteOptions { metadata, shard_bytes: 5 << 30, is_numbered: false }
    }
}

/// Writes a model's folder. Tensors go to disk as they come; of those of a file at most 64 MiB are held in memory.
pub struct FolderWriter {
    target: PathBuf,
    partial: PathBuf,
    /// Locked as long as this lives.
    _lock: File,
    options: WriteOptions,
    shard: Option<Shard>,
    /// Files that are complete, under the names that they have meanwhile.
    shards: Vec<PathBuf>,
    /// In which file each tensor is, by number.
    placed: BTreeMap<String, usize>,
    total_bytes: u64,
    config: Option<Vec<u8>>,
    is_finished: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Files of tensors.
    pub shards: usize,
    /// Bytes of tensors.
    pub bytes: u64,
}

impl FolderWriter {
    /// Begins the folder `target`, which must not exist or be empty; the folder that it is to be in is made.
    ///
    /// # Errors
    /// [`Error::File`] if there is something already, [`Error::Io`] where nothing can be written.
    pub fn create(target: &Path, options: WriteOptions) -> Result<FolderWriter> {
        refuse_existing(target)?;
        let name = match target.components().next_back() {
            Some(Component::Normal(name)) => name.to_os_string(),
            _ => return Err(Error::file(target, "is no name for a new folder")),
        };
        let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        let mut start = OsString::from(".");
        start.push(&name);
        start.push(".partial-");
        remove_leftovers(parent, &start);
        let (partial, lock) = create_partial(parent, &start)?;
        Ok(FolderWriter {
            target: target.into(),
            partial,
            _lock: lock,
            options,
            shard: None,
            shards: Vec::new(),
            placed: BTreeMap::new(),
            total_bytes: 0,
            config: None,
            is_finished: false,
        })
    }

    /// Appends a tensor, which is evaluated.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a name that is there already or that no file can have, or a type that none has; [`Error::Io`].
    pub fn tensor(&mut self, name: &str, array: &Array) -> Result<()> {
        if name.is_empty()
            || name == "__metadata__"
            || name.len() > 1024
            || name.chars().any(char::is_control)
        {
            return Err(Error::tensor(name.escape_debug().to_string(), "is no name for a tensor in a file"));
        }
        if self.placed.contains_key(name) {
            return Err(Error::tensor(name, "would be written twice"));
        }
        let bytes = array.nbytes() as u64;
        let is_full = |s: &Shard| {
            s.bytes() > 0 && s.bytes().saturating_add(bytes) > self.options.shard_bytes || !s.has_room(name)
        };
        if self.shard.as_ref().is_some_and(is_full) {
            self.close_shard()?;
        }
        if self.shard.is_none() {
            let path = self.partial.join(format!("{:05}.part", self.shards.len() + 1));
            self.shard = Some(Shard::create(path, &self.options.metadata)?);
        }
        if let Some(shard) = &mut self.shard {
            shard.tensor(name, array)?;
        }
        self.placed.insert(name.into(), self.shards.len());
        self.total_bytes += bytes;
        Ok(())
    }

    /// Adds a file, whose name may begin with folders. One of the same name gives way to it.
    ///
    /// # Errors
    /// [`Error::File`] for a name that would leave the folder or that tensors have; [`Error::Io`].
    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.place(name)?;
        if name == CONFIG {
            self.config = Some(bytes.to_vec());
            return Ok(());
        }
        write_synced(&path, bytes)
    }

    /// Adds a file of indented JSON, with its keys in the order that they have.
    ///
    /// # Errors
    /// As [`FolderWriter::file`].
    pub fn json(&mut self, name: &str, value: &Value) -> Result<()> {
        self.file(name, &indented(value)?)
    }

    /// Adds a copy of a file, under its own name.
    ///
    /// # Errors
    /// As [`FolderWriter::file`].
    pub fn copy(&mut self, from: &Path) -> Result<()> {
        let name = from.file_name().and_then(|n| n.to_str());
        let name = name.ok_or_else(|| Error::file(from, "has no name that a copy could have"))?;
        if name == CONFIG {
            return self.file(name, &fs::read(from).map_err(|e| Error::io(from, e))?);
        }
        let to = self.place(name)?;
        // The contents alone: not its permissions, nor a link.
        let mut read = crate::file::open(from)?.0;
        let mut write = File::create(&to).map_err(|e| Error::io(&to, e))?;
        std::io::copy(&mut read, &mut write).and_then(|_| write.sync_all()).map_err(|e| Error::io(&to, e))
    }

    /// Writes the index, whose metadata get `index` besides `total_size`, and the configuration, and gives the folder its name.
    ///
    /// # Errors
    /// [`Error::File`] if something has this name meanwhile, if no tensor was written or no `config.json` added; [`Error::Io`].
    pub fn finish(mut self, index: Map<String, Value>) -> Result<Written> {
        self.close_shard()?;
        let Some(config) = self.config.take().filter(|_| !self.shards.is_empty()) else {
            return Err(Error::file(&self.target, "would have no tensors, or no config.json"));
        };
        let count = self.shards.len();
        let name = |i: usize| match count {
            1 if !self.options.is_numbered => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        let mut metadata = Map::from_iter([("total_size".to_string(), json!(self.total_bytes))]);
        metadata.extend(index);
        let map: Map<String, Value> =
            self.placed.iter().map(|(tensor, i)| (tensor.clone(), json!(name(*i)))).collect();
        let index = json!({ "metadata": metadata, "weight_map": map });
        write_synced(&self.partial.join(INDEX), &indented(&index)?)?;
        for (i, from) in self.shards.iter().enumerate() {
            fs::rename(from, self.partial.join(name(i))).map_err(|e| Error::io(from, e))?;
        }
        write_synced(&self.partial.join(CONFIG), &config)?;
        refuse_existing(&self.target)?;
        let lock = self.partial.join(LOCK);
        fs::remove_file(&lock).map_err(|e| Error::io(&lock, e))?;
        // An empty folder of this name gives way.
        let _ = fs::remove_dir(&self.target);
        fs::rename(&self.partial, &self.target).map_err(|e| Error::io(&self.target, e))?;
        self.is_finished = true;
        Ok(Written { shards: count, bytes: self.total_bytes })
    }

    fn close_shard(&mut self) -> Result<()> {
        let shard = self.shard.take().map(Shard::finish).transpose()?;
        self.shards.extend(shard);
        Ok(())
    }

    /// Where a file goes: never outside the folder, nor where tensors are.
    fn place(&self, name: &str) -> Result<PathBuf> {
        let parts: Vec<_> = Path::new(name).components().collect();
        let plain = parts.iter().all(|part| matches!(part, Component::Normal(_)));
        let taken =
            name == INDEX || name == LOCK || name.ends_with(".safetensors") || name.ends_with(".part");
        if !plain
            || parts.is_empty()
            || taken
            || name.contains(['\\', ':'])
            || name.chars().any(char::is_control)
        {
            return Err(Error::file(
                name.escape_debug().to_string(),
                "is no name for a file of a model's folder",
            ));
        }
        let path = self.partial.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        Ok(path)
    }
}

impl Drop for FolderWriter {
    fn drop(&mut self) {
        if !self.is_finished {
            // Whatever cannot be removed does not load.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn refuse_existing(target: &Path) -> Result<()> {
    let is_empty = || fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_none());
    match fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() && is_empty() => Ok(()),
        Ok(_) => Err(Error::file(target, "exists already: remove it, or name another folder")),
        Err(_) => Ok(()),
    }
}

/// A new folder and its lock.
fn create_partial(parent: &Path, start: &OsString) -> Result<(PathBuf, File)> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    loop {
        let mut name = start.clone();
        name.push(format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed)));
        let partial = parent.join(name);
        match fs::create_dir(&partial) {
            // Of a process with the same number elsewhere.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.map_err(|e| Error::io(&partial, e))?,
        }
        let path = partial.join(LOCK);
        let lock = File::create_new(&path).map_err(|e| Error::io(&path, e))?;
        // Where there are no locks, leftovers stay.
        let _ = lock.try_lock();
        return Ok((partial, lock));
    }
}

/// Removes partial folders whose writers are gone.
fn remove_leftovers(parent: &Path, start: &OsString) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let start = start.as_encoded_bytes();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.as_encoded_bytes().strip_prefix(start) else { continue };
        let numbered = !rest.is_empty() && rest.iter().all(|b| b.is_ascii_digit() || *b == b'-');
        let folder = entry.path();
        if numbered && File::open(folder.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            tracing::info!("removing {}, which a program that ended left behind", folder.display());
            let _ = fs::remove_dir_all(folder);
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = File::create(path)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    };
    write().map_err(|e| Error::io(path, e))
}

/// JSON as Python writes it with `indent=4`. Floats that are not finite stay `{"__float__": "Infinity"}`, as mlx-lm and transformers
/// write them.
fn indented(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, format))
        .map_err(|e| Error::Unsupported(format!("cannot write JSON: {e}")))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
