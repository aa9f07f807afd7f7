//! Writing GGUF files that llama.cpp loads.
//!
//! A [`GgufWriter`] takes the tensors of a checkpoint in mlx-lm's layout, in any order, and undoes what
//! [`Gguf::checkpoint`](super::Gguf::checkpoint) does: names, the order of rows, what is added to norms. The file appears when it is
//! complete; until then it has another name, and it goes if the writer does.

mod architecture;
mod blocks;
mod container;

pub use blocks::FileType;

use super::Metadata;
use crate::{Config, Error, Result};
use architecture::Architecture;
use container::{Container, Entry};
use mlx_rs::{Array, Dtype};
use std::{collections::BTreeMap, path::Path};

/// The tokens of a file, of which there is one for each row of the embedding.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// The matrix that logits come from, and the one that they come from where there is no such.
const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A GGUF file that is being written.
pub struct GgufWriter {
    architecture: Architecture,
    container: Container,
    entries: Vec<Entry>,
    /// By the name in mlx-lm's layout, tensors that are still to come.
    pending: BTreeMap<String, usize>,
}

impl GgufWriter {
    /// Begins the file `target`, which must not exist, for a model of `config` with these tensors: names and shapes in mlx-lm's layout,
    /// matrices [out, in] dense. `more` are further metadata: the tokenizer's, the model's name. They must have a token for each row of
    /// the embedding, if they have any.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::Config`] for a model that GGUF files cannot describe, [`Error::SurplusTensors`] or
    /// [`Error::MissingTensor`] for tensors that do not belong to the architecture or that it needs, [`Error::File`] if the file is
    /// there, [`Error::Io`].
    pub fn create(
        target: &Path,
        config: &Config,
        kind: FileType,
        tensors: &[(String, Vec<i32>)],
        more: &Metadata,
    ) -> Result<GgufWriter> {
        let architecture = Architecture::of(config)?;
        let mut metadata = architecture.metadata(config, kind)?;
        for (key, value) in more.iter() {
            metadata.insert(key, value.clone());
        }
        if let Some(found) = metadata.optional(TOKENS, |field| field.strings())?.map(|tokens| tokens.len())
            && found != architecture.vocab_size() as usize
        {
            let wanted = format!("{}, the vocab_size of the configuration", architecture.vocab_size());
            return Err(Error::config(TOKENS, format!("{found} tokens"), wanted));
        }
        let (mut entries, mut pending) = (Vec::new(), BTreeMap::new());
        if let Some((name, divisors)) = architecture.divisors() {
            entries.push(Entry {
                name: name.into(),
                shape: vec![divisors.len() as i32],
                kind: FileType::F32,
            });
        }
        let untied = tensors.iter().any(|(name, _)| name == HEAD);
        let mut surplus = Vec::new();
        for (name, shape) in tensors {
            let Some(new) = architecture.name_of(name) else {
                surplus.push(name.clone());
                continue;
            };
            let makes_logits = name == if untied { HEAD } else { EMBEDDING };
            let kind = kind_of(kind, shape, makes_logits);
            pending.insert(name.clone(), entries.len());
            entries.push(Entry { name: new, shape: shape.clone(), kind });
        }
        if !surplus.is_empty() {
            return Err(Error::SurplusTensors(surplus));
        }
        architecture.complete(&entries.iter().map(|e| e.name.as_str()).collect())?;
        let container = Container::create(target, &metadata, &entries)?;
        let mut this = GgufWriter { architecture, container, entries, pending };
        if let Some((_, divisors)) = this.architecture.divisors() {
            let mut bytes = Vec::new();
            FileType::F32.pack(&divisors, &mut bytes);
            this.container.tensor(0, &bytes)?;
        }
        Ok(this)
    }

    /// Writes the tensor `name` of mlx-lm's layout, floats in the shape that was announced.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a tensor that is not expected any more or holds what the file's type cannot, [`Error::Shape`],
    /// [`Error::Io`].
    pub fn tensor(&mut self, name: &str, array: &Array) -> Result<()> {
        let index = self
            .pending
            .remove(name)
            .ok_or_else(|| Error::tensor(name, "was not announced, or is written twice"))?;
        let entry = &self.entries[index];
        if array.shape() != entry.shape {
            let (found, wanted) = (array.shape().to_vec(), entry.shape.clone());
            return Err(Error::Shape { name: name.into(), found, wanted });
        }
        let mut values = array.as_dtype(Dtype::Float32)?;
        let term = self.architecture.term(&entry.name);
        if term != 0.0 {
            values = values.add(Array::from_f32(term))?;
        }
        let values = values.contiguous()?;
        values.eval()?;
        let values = values.try_as_slice::<f32>().map_err(|e| Error::Unsupported(e.to_string()))?;
        let limit = entry.kind.limit();
        if let Some(bad) = values.iter().find(|x| x.is_nan() || x.abs() > limit) {
            return Err(Error::tensor(
                name,
                format!("holds {bad}, which {} has no place for", entry.kind.name()),
            ));
        }
        let order = self.architecture.order(&entry.name, entry.shape[0]);
        // A vector whose order changes is rows of one value.
        let columns = if entry.shape.len() == 1 { 1 } else { entry.columns() };
        let mut bytes = Vec::with_capacity(entry.bytes() as usize);
        match &order {
            None => entry.kind.pack(values, &mut bytes),
            Some(order) => order.iter().for_each(|row| {
                entry.kind.pack(&values[*row as usize * columns..][..columns], &mut bytes);
            }),
        }
        self.container.tensor(index, &bytes)
    }

    /// Completes the file, and says how many bytes its tensors have.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for one that was announced and never came, [`Error::File`] if something has the file's name
    /// meanwhile, [`Error::Io`].
    pub fn finish(self) -> Result<u64> {
        match self.pending.into_keys().next() {
            Some(name) => Err(Error::MissingTensor(name)),
            None => self.container.finish().map(|()| self.entries.iter().map(Entry::bytes).sum()),
        }
    }
}

/// How a tensor of this shape is written: vectors as they are, matrices whose rows are not whole blocks in float16.
fn kind_of(kind: FileType, shape: &[i32], makes_logits: bool) -> FileType {
    let kind = if kind == FileType::Q4_0 && makes_logits { FileType::Q8_0 } else { kind };
    match shape {
        [_, columns] if (*columns as usize).is_multiple_of(kind.block().0) => kind,
        [_, _] => FileType::F16,
        _ => FileType::F32,
    }
}
