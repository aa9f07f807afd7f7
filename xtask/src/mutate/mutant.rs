//! Sound checkpoints, and broken copies of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{bytes, gguf, json, random::Random, safetensors};

/// Files of fixtures that are no part of a checkpoint.
const REFERENCES: [&str; 6] = [
    "reference.safetensors",
    "expected.safetensors",
    "inputs.safetensors",
    "expected_bits.json",
    "meta.json",
    "convert.log",
];

/// What a tokenizer of a folder may be.
const TOKENIZER: [(&str, &str); 2] = [
    ("tokenizer.json", include_str!("tokenizer.json")),
    ("tokenizer_config.json", include_str!("tokenizer_config.json")),
];

/// A sound checkpoint in memory.
pub(super) struct Base {
    pub(super) name: String,
    files: Vec<(String, Vec<u8>)>,
}

impl Base {
    /// The files of a folder.
    pub(super) fn read(folder: &Path) -> Result<Base> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let (path, name) = (entry.as_ref().map(|e| e.path()), entry.as_ref().map(|e| e.file_name()));
            let (Ok(path), Ok(name)) = (path, name) else { continue };
            let name = name.to_string_lossy().into_owned();
            if path.is_file() && !REFERENCES.contains(&name.as_str()) {
                files.push((name, fs::read(&path).with_context(|| path.display().to_string())?));
            }
        }
        files.sort();
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Base { name, files })
    }

    /// A single file.
    pub(super) fn file(path: &Path) -> Result<Base> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        Ok(Base { name, files: vec![("model.gguf".into(), bytes)] })
    }

    /// The same model in two files, if it is one GGUF file.
    pub(super) fn split(&self) -> Option<Base> {
        let [(name, bytes)] = &self.files[..] else { return None };
        let parts = gguf::split(bytes).filter(|_| name == "model.gguf")?;
        let named = (1..).zip(parts).map(|(i, part)| (format!("model-{i:05}-of-00002.gguf"), part));
        Some(Base { name: format!("{} in two files", self.name), files: named.collect() })
    }

    /// Bytes of all files.
    pub(super) fn size(&self) -> u64 {
        self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// A broken copy of a checkpoint.
pub(super) struct Mutant {
    files: Vec<(String, Vec<u8>)>,
    /// What was done to it.
    pub(super) changes: Vec<String>,
}

impl Mutant {
    pub(super) fn of(base: &Base, random: &mut Random) -> Mutant {
        let mut mutant = Mutant { files: base.files.clone(), changes: Vec::new() };
        let is_folder = mutant.files.iter().any(|(name, _)| name == "config.json");
        if is_folder && random.once_in(4) {
            for (name, text) in TOKENIZER.iter().filter(|(name, _)| base.files.iter().all(|(n, _)| n != name))
            {
                mutant.files.push(((*name).into(), text.as_bytes().to_vec()));
            }
        }
        for _ in 0..1 + random.below(3) {
            let change =
                if random.once_in(12) { mutant.change_folder(random) } else { mutant.change_file(random) };
            mutant.changes.extend(change);
        }
        mutant
    }

    fn change_file(&mut self, random: &mut Random) -> Option<String> {
        let at = random.below(self.files.len());
        let (name, content) = self.files.get_mut(at)?;
        let kind = Path::new(name).extension()?.to_str()?;
        let how = match kind {
            _ if random.once_in(6) => None,
            "json" => json::mutate(content, random).map(|(new, how)| {
                *content = new;
                how
            }),
            "safetensors" => safetensors::mutate(content, random).map(|(new, how)| {
                *content = new;
                how
            }),
            "gguf" => gguf::mutate(content, random),
            _ => None,
        };
        let how = how.unwrap_or_else(|| bytes::mutate(content, random));
        Some(format!("{name}: {how}"))
    }

    fn change_folder(&mut self, random: &mut Random) -> Option<String> {
        let (at, other) = random.two(self.files.len());
        let name = self.files.get(at)?.0.clone();
        Some(match random.below(5) {
            0 => {
                self.files.remove(at);
                format!("{name} removed")
            }
            1 => {
                self.files[at].1.clear();
                format!("{name} emptied")
            }
            2 => {
                let (stem, extension) = name.rsplit_once('.')?;
                let copy = format!("{stem}-00002-of-00002.{extension}");
                let content = self.files[at].1.clone();
                self.files.retain(|(name, _)| *name != copy);
                self.files.push((copy.clone(), content));
                format!("{name} also as {copy}")
            }
            3 => {
                let taken = std::mem::take(&mut self.files[other].1);
                self.files[other].1 = std::mem::replace(&mut self.files[at].1, taken);
                format!("{name} and {} swapped", self.files[other].0)
            }
            _ => {
                let new = random.pick(&[
                    "jang_config.json",
                    "model.safetensors.index.json",
                    "model.jang.index.json",
                    "generation_config.json",
                ]);
                let content = self.files[at].1.clone();
                self.files.retain(|(name, _)| name != new);
                self.files.push(((*new).into(), content));
                format!("{name} also as {new}")
            }
        })
    }

    /// Writes it into an empty folder; what a user would name of it.
    pub(super) fn write(&self, folder: &Path) -> Result<PathBuf> {
        for (name, content) in &self.files {
            fs::write(folder.join(name), content)
                .with_context(|| format!("cannot write to {}", folder.display()))?;
        }
        let mut gguf = self.files.iter().map(|(name, _)| name).filter(|name| name.ends_with(".gguf"));
        Ok(gguf.next().map_or_else(|| folder.into(), |name| folder.join(name)))
    }
}
