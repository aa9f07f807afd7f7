//! A checkpoint in mlx-lm's layout, module by module.

use super::Choice;
use crate::{
    Config, Error, Progress, Result,
    config::json,
    gguf::Gguf,
    model::{Registry, Written},
    raw::{self, Arena},
    weights::{self, Checkpoint, Matrix, Packed, Place, Tensor, Weights},
};
use mlx_rs::{Array, Dtype, memory, transforms};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// A matrix of a model in mlx-lm's layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its path as mlx-lm has it, `language_model.` in front of the text part of a larger model included.
    pub path: String,
    /// The sizes of all axes but the last: [.., out].
    pub rows: Vec<i32>,
    /// The size of the last axis.
    pub columns: i32,
    /// Whether its values come packed.
    pub is_packed: bool,
}

/// Where converted tensors go.
pub trait Sink {
    /// Takes the matrix of `module`, evaluated.
    ///
    /// # Errors
    /// Those of whatever it is written to.
    fn matrix(&mut self, module: &Module, matrix: &Matrix) -> Result<()>;

    /// Takes any other tensor, evaluated: norms, biases of layers, tables.
    ///
    /// # Errors
    /// Those of whatever it is written to.
    fn tensor(&mut self, name: &str, array: &Array) -> Result<()>;
}

/// A model that is to be converted: its configuration, and its tensors in mlx-lm's layout, none of them read yet.
pub struct Source {
    /// Where it is: a folder, or a GGUF file.
    pub path: PathBuf,
    /// Normalized.
    pub config: Config,
    /// The configuration as its file has it.
    pub json: Map<String, Value>,
    /// What mlx-lm does when it writes such a model.
    pub written: Written,
    modules: Vec<Module>,
    checkpoint: Checkpoint,
    prefix: &'static str,
}

/// Called with how far it has come; `false` calls the work off.
pub type OnProgress<'a> = &'a mut dyn FnMut(&Progress) -> bool;

impl Source {
    /// Reads headers and configuration of `path`, a folder of any layout that can be loaded or a GGUF file, and checks that the model
    /// could be built of them.
    ///
    /// # Errors
    /// Those of [`load_model`](crate::model::load_model).
    pub fn open(path: &Path, registry: &Registry) -> Result<Source> {
        raw::init();
        let (config, mut checkpoint) = weights::open(path)?;
        let architecture = registry.get(&config.model_type)?;
        (architecture.remap)(&mut checkpoint, &config)?;
        // Only the architecture knows how many columns packed rows have.
        let mut read = checkpoint.clone();
        (architecture.fold)(&mut read, &config)?;
        let read = Weights::zeros(read, crate::Backend::new(None, None, Dtype::Float32, false));
        (architecture.load)(&config, &read)?;
        read.finish()?;
        let prefix = match config.wrapper_model_type {
            Some(_) => Written::WRAPPED,
            None => architecture.written.prefix,
        };
        let modules = modules(&checkpoint, prefix, &read.columns())?;
        let json = if path.is_dir() {
            json::read(&path.join("config.json"))?
        } else {
            Gguf::open(path)?.config()?
        };
        let Value::Object(json) = json else {
            return Err(Error::file(path.join("config.json"), "is not a JSON object"));
        };
        let (path, written) = (path.into(), architecture.written);
        Ok(Source { path, config, json, written, modules, checkpoint, prefix })
    }

    /// Its matrices, in order of their paths.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// How its tensors are stored, and what was found in it that a person may want to know.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether it is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        !self.path.is_dir()
    }

    /// Reads one tensor after the other, brings it into what `choices` has for its module and floats into `dtype`, and hands it on. One
    /// module is in memory at a time. Floats of [`Written::keeps_type`] and global scales keep their type.
    ///
    /// # Errors
    /// [`Error::Cancelled`] if `on_progress` says so; those of reading and of `sink`.
    pub fn convert(
        &self,
        choices: &[Choice],
        dtype: Option<Dtype>,
        sink: &mut dyn Sink,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let weights = Weights::passing(self.checkpoint.clone());
        let mut progress = Progress { what: "converting".into(), done: 0, total: self.checkpoint.bytes() };
        let mut step = |bytes: u64| {
            memory::clear_cache()?;
            progress.done += bytes;
            if on_progress(&progress) { Ok(()) } else { Err(Error::Cancelled) }
        };
        step(0)?;
        let bytes_of = |name: &str| self.checkpoint.get(name).map_or(0, Tensor::bytes);
        for (module, choice) in self.modules.iter().zip(choices) {
            let inner = self.inner(&module.path);
            self.matrix(&weights.pp(inner), module, *choice, dtype, sink)?;
            step(PARTS.iter().map(|part| bytes_of(&format!("{inner}.{part}"))).sum())?;
        }
        let left: Vec<String> = self.checkpoint.iter().map(|(name, _)| name.to_string()).collect();
        for name in left.iter().filter(|name| weights.has(name)) {
            let keeps = self.written.keeps_type.iter().any(|part| name.contains(part));
            let stored = self.checkpoint.get(name).and_then(Tensor::float_type);
            let array = weights.take(name, dtype.filter(|_| !keeps).or(stored))?.plain(name)?;
            transforms::eval([&array])?;
            sink.tensor(&format!("{}{name}", self.prefix), &array)?;
            step(bytes_of(name))?;
        }
        Ok(())
    }

    /// A path as the checkpoint has it.
    fn inner<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(self.prefix).unwrap_or(path)
    }

    fn matrix(
        &self,
        w: &Weights,
        module: &Module,
        choice: Choice,
        dtype: Option<Dtype>,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let shape = [&module.rows[..], &[module.columns]].concat();
        let inner = self.inner(&module.path);
        let part = |part: &str| self.checkpoint.get(&format!("{inner}.{part}"));
        let matrix = w.matrix(&shape, dtype.or(part("weight").and_then(Tensor::float_type)))?;
        let mut global_scale = None;
        let matrix = match matrix {
            Matrix::Packed(packed) if choice == Choice::Keep => {
                global_scale = part("global_scale").filter(|_| packed.factor.is_some());
                let packed = dtype.map_or(Ok(packed.clone()), |dtype| packed.with_scales_in(dtype))?;
                match (global_scale, &module.rows[..]) {
                    (None, _) => Matrix::Packed(packed),
                    // mlx-lm has a place for one of each expert, and for no other.
                    (Some(scale), [experts, _]) if scale.shape().iter().product::<i32>() == *experts => {
                        Matrix::Packed(Packed { factor: None, ..packed })
                    }
                    _ => {
                        global_scale = None;
                        Matrix::Dense(floats(packed, dtype)?)
                    }
                }
            }
            Matrix::Packed(packed) => Matrix::Dense(floats(packed, dtype)?),
            // mlx-lm has no layout for turned rows.
            Matrix::Rotated(rotated) => {
                let values = rotated.dense()?;
                Matrix::Dense(dtype.map_or(Ok(values.clone()), |dtype| values.as_dtype(dtype))?)
            }
            dense => dense,
        };
        let matrix = match (matrix, choice) {
            (Matrix::Dense(w), Choice::Pack(format)) => Matrix::Packed(format.pack(&w)?),
            (matrix, _) => matrix,
        };
        transforms::eval(matrix.arrays())?;
        sink.matrix(module, &matrix)?;
        let Some(scale) = global_scale else { return Ok(()) };
        let name = format!("{}.global_scale", module.path);
        let scale = scale.load(&Arena::new(0), Some(Dtype::Float32))?.plain(&name)?.reshape(&[-1])?;
        transforms::eval([&scale])?;
        sink.tensor(&name, &scale)
    }
}

/// What belongs to a matrix.
const PARTS: [&str; 4] = ["weight", "scales", "biases", "global_scale"];

/// The values of a packed matrix; computed in `dtype` if one is given, as in mlx-lm.
fn floats(packed: Packed, dtype: Option<Dtype>) -> Result<Array> {
    let Some(dtype) = dtype else { return packed.values() };
    Ok(packed.with_scales_in(dtype)?.values()?.as_dtype(dtype)?)
}

/// The matrices of `checkpoint`: all that are called `weight` and have rows.
fn modules(checkpoint: &Checkpoint, prefix: &str, columns: &BTreeMap<Place, i32>) -> Result<Vec<Module>> {
    let mut modules = Vec::new();
    for (name, tensor) in checkpoint.iter() {
        let Some(path) = name.strip_suffix(".weight") else { continue };
        let [rows @ .., last] = tensor.shape() else { continue };
        if rows.is_empty() {
            continue;
        }
        let scales = checkpoint.get(&format!("{path}.scales"));
        let columns = match scales {
            None => *last,
            Some(scales) => *scales.place().and_then(|place| columns.get(&place)).ok_or_else(|| {
                Error::tensor(name, "is packed, but the architecture reads no packed matrix here")
            })?,
        };
        let is_packed = scales.is_some() || tensor.dtype().is_none();
        modules.push(Module { path: format!("{prefix}{path}"), rows: rows.to_vec(), columns, is_packed });
    }
    Ok(modules)
}
