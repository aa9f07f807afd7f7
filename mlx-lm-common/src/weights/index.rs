//! Which files of a folder make up a checkpoint.
//!
//! With a `model.safetensors.index.json`, exactly the files that it names: adapters and strays beside them are not read.
//! Without one, `model.safetensors`, or else every `model*.safetensors`, or else every `*.safetensors` that is no adapter.

use super::header::Header;
use crate::{Error, Result, file};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

/// The index of a checkpoint in several files.
pub const INDEX: &str = "model.safetensors.index.json";

/// The largest index that is read, in bytes: some hundred thousand tensors.
const MAX_INDEX: u64 = 64 << 20;

/// What other programs put beside a checkpoint.
const STRAYS: [&str; 4] = ["adapter", "consolidated", "jang_imatrix", "jangtq_"];

/// The files of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Shards {
    /// The files, in order of name.
    pub files: Vec<PathBuf>,
    /// The index and what it says: in which file each tensor lies.
    index: Option<(PathBuf, BTreeMap<String, PathBuf>)>,
}

/// The safetensors files that make up the checkpoint in `folder`, in order of name.
///
/// # Errors
/// As [`Shards::find`].
pub fn checkpoint_files(folder: &Path) -> Result<Vec<PathBuf>> {
    Shards::find(folder).map(|shards| shards.files)
}

impl Shards {
    /// Finds the files of the checkpoint in `folder`.
    ///
    /// # Errors
    /// [`Error::File`] if the index is damaged, names files that are missing (all of them at once) or may not be read, or if
    /// the folder holds no safetensors file; [`Error::Io`] if it cannot be read.
    pub fn find(folder: &Path) -> Result<Shards> {
        if let Some(shards) = Shards::by_index(folder, INDEX)? {
            return Ok(shards);
        }
        let single = folder.join("model.safetensors");
        let files = if single.is_file() { vec![single] } else { listed(folder)? };
        if files.is_empty() {
            return Err(Error::file(folder, "holds no safetensors file, but a checkpoint must have one"));
        }
        Ok(Shards { files, index: None })
    }

    /// The files that the index `name` of `folder` names, or `None` if there is no such index.
    pub(super) fn by_index(folder: &Path, name: &str) -> Result<Option<Shards>> {
        let index = folder.join(name);
        fs::symlink_metadata(&index).is_ok().then(|| Shards::from_index(folder, index)).transpose()
    }

    /// The files of `folder` whose names end in `suffix`, or `None` if there are none.
    pub(super) fn by_suffix(folder: &Path, suffix: &str) -> Result<Option<Shards>> {
        let mut files = listed(folder)?;
        files.retain(|file| file.to_string_lossy().ends_with(suffix));
        Ok((!files.is_empty()).then_some(Shards { files, index: None }))
    }

    fn from_index(folder: &Path, index: PathBuf) -> Result<Shards> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let bytes = file::read(&index, MAX_INDEX)?;
        let bad = |what: String| Error::file(&index, what);
        let Index { weight_map } =
            serde_json::from_slice(&bytes).map_err(|e| bad(format!("is no index of tensors: {e}")))?;
        let mut checked: BTreeMap<&str, PathBuf> = BTreeMap::new();
        for (tensor, name) in &weight_map {
            if !checked.contains_key(name.as_str()) {
                let file = inside(folder, name)
                    .map_err(|why| bad(format!("maps tensor `{tensor}` to {name:?}, {why}")))?;
                checked.insert(name, file);
            }
        }
        let files: BTreeSet<PathBuf> = checked.values().cloned().collect();
        if files.is_empty() {
            return Err(bad("names no tensor".into()));
        }
        let missing: Vec<&str> =
            checked.iter().filter(|(_, file)| !file.is_file()).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let (lost, all) = (missing.len(), files.len());
            return Err(bad(format!(
                "names {all} files, of which {lost} are missing: {}. Download them",
                missing.join(", ")
            )));
        }
        let map = weight_map
            .iter()
            .filter_map(|(tensor, name)| Some((tensor.clone(), checked.get(name.as_str())?.clone())));
        Ok(Shards { files: files.into_iter().collect(), index: Some((index.clone(), map.collect())) })
    }

    /// The checked headers of all files, in which every tensor is found once: where the index puts it, if there is one.
    ///
    /// # Errors
    /// Those of [`Header::read`], and [`Error::File`] if a tensor is not in the file that the index names, or in two files.
    pub fn headers(&self) -> Result<Vec<(PathBuf, Header)>> {
        let read = self.files.iter().map(|file| Ok((file.clone(), Header::read(file)?)));
        let mut headers = read.collect::<Result<Vec<_>>>()?;
        if let Some((index, map)) = &self.index {
            let by_file: BTreeMap<&PathBuf, &Header> =
                headers.iter().map(|(file, header)| (file, header)).collect();
            let lacks = |(tensor, file): &(&String, &PathBuf)| {
                by_file.get(file).is_none_or(|h| !h.tensors.contains_key(*tensor))
            };
            if let Some((tensor, file)) = map.iter().find(lacks) {
                let what = format!("maps tensor `{tensor}` to {}, which does not have it", file.display());
                return Err(Error::file(index, what));
            }
            for (file, header) in &mut headers {
                header.tensors.retain(|tensor, _| map.get(tensor).is_none_or(|place| place == file));
            }
        }
        let mut seen: BTreeMap<&str, &Path> = BTreeMap::new();
        for (file, tensor) in headers.iter().flat_map(|(file, h)| h.tensors.keys().map(move |t| (file, t))) {
            if let Some(first) = seen.insert(tensor, file) {
                return Err(Error::file(
                    file,
                    format!("holds tensor `{tensor}`, which is also in {}", first.display()),
                ));
            }
        }
        Ok(headers)
    }
}

/// The safetensors files of a folder without an index.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let name = entry.map_err(|e| Error::io(folder, e))?.file_name();
        names.extend(
            name.into_string().ok().filter(|n| n.ends_with(".safetensors") && folder.join(n).is_file()),
        );
    }
    names.retain(|name| !name.starts_with('.') && !STRAYS.iter().any(|stray| name.starts_with(stray)));
    if names.iter().any(|name| name.starts_with("model")) {
        names.retain(|name| name.starts_with("model"));
    }
    names.sort_unstable();
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The place of a file that an index names, or why it may not be read: an index must not reach out of its folder. The file
/// itself may be a link, as all are in a hub's cache; the folders on the way to it may not lead away.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, &'static str> {
    if !name.ends_with(".safetensors") {
        return Err("which is no safetensors file");
    }
    if name.contains('\\') || name.chars().any(char::is_control) {
        return Err("which is no portable file name");
    }
    let mut path = folder.to_path_buf();
    for part in Path::new(name).components() {
        match part {
            Component::Normal(part) => path.push(part),
            _ => return Err("which leads out of the folder"),
        }
    }
    // What does not exist is reported with everything else that is missing.
    if let Some(Ok(parent)) = path.parent().filter(|p| *p != folder).map(Path::canonicalize)
        && !folder.canonicalize().is_ok_and(|folder| parent.starts_with(folder))
    {
        return Err("which leads out of the folder");
    }
    Ok(path)
}
