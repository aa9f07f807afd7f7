//! Models in several files, `name-00001-of-00003.gguf` and so on: the first has the metadata, all have tensors.

use super::{
    header::{self, TensorInfo},
    metadata::{Field, Metadata},
};
use crate::{Error, Result, file::CheckpointFile};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// An open file and what its header says.
pub(super) struct Part {
    pub(super) source: Arc<CheckpointFile>,
    pub(super) metadata: Metadata,
    pub(super) infos: Vec<TensorInfo>,
}

impl Part {
    pub(super) fn open(path: &Path) -> Result<Part> {
        let source = Arc::new(CheckpointFile::open(path)?);
        let (metadata, infos) = header::read(&source)?;
        Ok(Part { source, metadata, infos })
    }

    /// Which part of how many it says to be, counted from zero; a whole model says nothing or one.
    fn place(&self) -> Result<Option<(u32, u32)>> {
        let read = || -> Result<Option<(u32, u32)>> {
            let count = self.metadata.optional(COUNT, Field::u32)?.unwrap_or(1);
            if count < 2 {
                return Ok(None);
            }
            let number = self.metadata.required(NUMBER, |field| match field.u32()? {
                number if number < count => Ok(number),
                _ => Err(field.wanted(format!("a number below {COUNT}, which is {count}"))),
            })?;
            Ok(Some((number, count)))
        };
        read().map_err(|e| self.bad(e))
    }

    fn bad(&self, what: impl std::fmt::Display) -> Error {
        Error::file(self.source.path(), what.to_string())
    }
}

/// The file at `path`, and if it is a part of a model, all others: any part stands for all. The tensors of all are in the first.
pub(super) fn open(path: &Path) -> Result<Part> {
    let part = Part::open(path)?;
    let Some((number, count)) = part.place()? else { return Ok(part) };
    let stem = stem(path, number, count).ok_or_else(|| {
        let wanted = suffix(number, count);
        part.bad(format!(
            "is part {} of {count}; its name must end in {wanted} for the others to be found",
            number + 1
        ))
    })?;
    let mut first = if number == 0 { part } else { existing(&stem, 0, count)? };
    let mut files: BTreeMap<String, Arc<CheckpointFile>> = BTreeMap::new();
    let mut infos = Vec::new();
    for number in 0..count {
        let part = if number == 0 { None } else { Some(another(&first, &stem, number, count)?) };
        let part = part.as_ref().unwrap_or(&first);
        if part.place()? != Some((number, count)) {
            return Err(part.bad(format!("is not part {} of {count}, as its name says", number + 1)));
        }
        for info in &part.infos {
            if let Some(other) = files.insert(info.name.clone(), part.source.clone()) {
                return Err(part.bad(format!(
                    "holds tensor `{}`, as does {}",
                    info.name,
                    other.path().display()
                )));
            }
            infos.push(info.clone());
        }
    }
    if let Some(total) = first.metadata.optional(TENSORS, Field::u32).map_err(|e| first.bad(e))?
        && total as usize != infos.len()
    {
        let found = infos.len();
        return Err(first.bad(format!("the {count} parts hold {found} tensors, but `{TENSORS}` is {total}")));
    }
    first.infos = infos;
    Ok(first)
}

fn existing(stem: &Path, number: u32, count: u32) -> Result<Part> {
    let path = path_of(stem, number, count);
    if !path.exists() {
        return Err(Error::file(path, format!("is missing: part {} of {count}", number + 1)));
    }
    Part::open(&path)
}

/// Part `number`, which must belong to the same model as the first: what both say is the same.
fn another(first: &Part, stem: &Path, number: u32, count: u32) -> Result<Part> {
    let part = existing(stem, number, count)?;
    for (key, value) in part.metadata.iter().filter(|(key, _)| ![NUMBER, "general.alignment"].contains(key)) {
        if first.metadata.get(key).is_some_and(|field| field.value() != value) {
            let other = first.source.path().display();
            return Err(part.bad(format!("belongs to another model than {other}: `{key}` differs")));
        }
    }
    Ok(part)
}

fn suffix(number: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", number + 1)
}

/// The path without the suffix of a part.
fn stem(path: &Path, number: u32, count: u32) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.strip_suffix(&suffix(number, count))?;
    Some(path.with_file_name(name))
}

fn path_of(stem: &Path, number: u32, count: u32) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    name.push(suffix(number, count));
    name.into()
}
