//! A scoped, shape-checked view of a checkpoint, whatever holds it.
//!
//! Architectures are built from [`Weights`]; nothing is ever left at random. Every request declares the shape that the
//! configuration implies, so a wrong file is an error that names the tensor, and quantization is read off the shapes.

mod aliases;
mod checkpoint;
mod container;
mod derived;
mod encoding;
mod encodings;
pub mod header;
pub mod index;
mod jang;
mod matrix;
mod rotated;
mod stored;
mod tensor;
mod verbs;
pub mod write;

pub use crate::file::CheckpointFile;
pub use checkpoint::{Checkpoint, Layout};
pub use container::open;
pub(crate) use container::open_file;
pub use derived::{Derived, Source};
pub use encoding::{Encoding, Kept};
pub use jang::JangConfig;
pub(crate) use jang::Place;
pub(crate) use matrix::NVFP4_MAX;
pub use matrix::{Matrix, Packed, Packing};
pub use rotated::{Codes, Rotated, Turned};
pub use stored::{Float8, Runs, Stored};
pub use tensor::{Loaded, Tensor};

use crate::{
    At, Backend, Error, Progress, Result, dtype,
    raw::{self, Arena, Device},
};
use mlx_rs::{Array, Dtype, ops};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt::Display,
    rc::Rc,
    sync::Arc,
};

/// Called with progress while tensors are read.
pub type LoadProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// A cursor into a checkpoint: `w.pp("layers").pp(3)` sees `layers.3.…`. Tensors are read when they are asked for, once.
#[derive(Clone)]
pub struct Weights {
    store: Rc<Store>,
    prefix: String,
}

struct Store {
    checkpoint: RefCell<Checkpoint>,
    arena: Arena,
    backend: Backend,
    total: u64,
    done: Cell<u64>,
    on_progress: Option<LoadProgress>,
    /// Whether zeros stand in for all tensors.
    is_zero: bool,
    shared: rotated::Shared,
    /// Columns of the packed matrices that were asked for, by where their scales lie.
    columns: RefCell<BTreeMap<Place, i32>>,
    packings: RefCell<BTreeMap<String, Packing>>,
}

impl Store {
    /// One without an arena, whose tensors each take memory of their own.
    fn new(checkpoint: Checkpoint, backend: Backend) -> Store {
        Store {
            checkpoint: RefCell::new(checkpoint),
            arena: Arena::new(0),
            backend,
            total: 0,
            done: Cell::new(0),
            on_progress: None,
            is_zero: false,
            shared: rotated::Shared::default(),
            columns: RefCell::default(),
            packings: RefCell::default(),
        }
    }
}

impl Weights {
    /// A view of all of `checkpoint`.
    pub fn new(checkpoint: Checkpoint, backend: Backend, on_progress: Option<LoadProgress>) -> Weights {
        let total = checkpoint.bytes();
        let arena = Arena::new(checkpoint.memory_bytes(backend.compute));
        Weights::of(Store { arena, total, on_progress, ..Store::new(checkpoint, backend) })
    }

    /// A view of the shapes of `checkpoint`: nothing is read, and zeros that take no memory stand in for the values.
    pub fn zeros(checkpoint: Checkpoint, backend: Backend) -> Weights {
        Weights::of(Store { is_zero: true, ..Store::new(checkpoint, backend) })
    }

    /// A view whose tensors do not stay: each is in memory of its own, which goes with the array, in the types that are stored.
    pub(crate) fn passing(checkpoint: Checkpoint) -> Weights {
        // None of it matters to matrices and tensors as they are stored.
        let backend =
            Backend { device: Device::Cpu, compute: Dtype::Float32, kernels: false, compile: false };
        Weights::of(Store::new(checkpoint, backend))
    }

    fn of(store: Store) -> Weights {
        Weights { store: Rc::new(store), prefix: String::new() }
    }

    /// The view below `segment`.
    pub fn pp(&self, segment: impl Display) -> Weights {
        Weights { store: self.store.clone(), prefix: self.path(segment) }
    }

    /// The full name of a tensor of this view.
    pub fn path(&self, name: impl Display) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }

    /// Whether this view has a tensor of that name (and nobody took it yet).
    pub fn has(&self, name: &str) -> bool {
        self.store.checkpoint.borrow().contains(&self.path(name))
    }

    /// The policy that blocks are built for.
    pub fn backend(&self) -> Backend {
        self.store.backend
    }

    /// A tensor of exactly this shape; floats come in the compute type, but for a few that stay float32 always.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Shape`], or [`Error::Io`].
    pub fn tensor(&self, name: &str, shape: &[i32]) -> Result<Array> {
        self.tensor_in(name, shape, dtype::of_parameter(name, self.store.backend.compute))
    }

    /// As [`Weights::tensor`], in a type of the block's choice: for what must stay float32 whatever the rest computes in.
    pub fn tensor_in(&self, name: &str, shape: &[i32], dtype: Dtype) -> Result<Array> {
        let array = self.take(name, Some(dtype))?.plain(&self.path(name))?;
        self.expect(name, array, shape)
    }

    /// As [`Weights::tensor`], or nothing if the checkpoint has no such tensor.
    pub fn tensor_opt(&self, name: &str, shape: &[i32]) -> Result<Option<Array>> {
        self.has(name).then(|| self.tensor(name, shape)).transpose()
    }

    /// The matrix `weight` of this view [.., out, in]: dense, or packed with its `scales`, `biases` and `global_scale`. Everything comes
    /// in the types that are stored, except that dense floats become `dense` if that is given. Of JANG bundles it may have turned rows.
    pub fn matrix(&self, shape: &[i32], dense: Option<Dtype>) -> Result<Matrix> {
        let columns = shape.last().copied().unwrap_or_default();
        let (single, place) = {
            let mut checkpoint = self.store.checkpoint.borrow_mut();
            let place = checkpoint.get(&self.path("scales")).and_then(Tensor::place);
            if let Some(place) = place {
                self.store.columns.borrow_mut().insert(place, columns);
            }
            (checkpoint.widen_single_bits(&self.prefix, columns)?, place)
        };
        if self.has("tq_bits") {
            return self.codes(shape).map(Matrix::Rotated);
        }
        let whole = self.take("weight", dense)?;
        if let Loaded::Packed(..) = whole {
            let packed = whole.packed(&self.prefix, shape)?;
            self.note(Packing { bits: packed.bits, group: packed.group, mode: packed.mode });
            return Ok(Matrix::Packed(packed));
        }
        let weight = whole.plain(&self.path("weight"))?;
        if !self.has("scales") {
            return self.expect("weight", weight, shape).map(Matrix::Dense);
        }
        let part = |name: &str| self.take(name, None)?.plain(&self.path(name));
        let biases = self.has("biases").then(|| part("biases")).transpose()?;
        let mut packed = Packed::new(&self.prefix, shape, weight, part("scales")?, biases)?;
        if self.has("global_scale") {
            packed = packed.with_global_scale(&self.prefix, shape, &part("global_scale")?)?;
        }
        let bits = if single { 1 } else { packed.bits };
        let packing = Packing { bits, group: packed.group, mode: packed.mode };
        self.note(packing);
        if let Some(place) = place {
            let mut checkpoint = self.store.checkpoint.borrow_mut();
            let lies = checkpoint.claims().lies(place, packing);
            lies.into_iter().for_each(|lie| checkpoint.remark(lie));
        }
        if self.is_rotated(&packed) {
            let rotation = self.store.shared.rotation(columns, jang::SEED);
            // As what they are multiplied with.
            let packed = packed.with_scales_in(Dtype::Float32)?;
            return Ok(Matrix::Rotated(Rotated { rotation, values: Turned::Packed(packed) }));
        }
        Ok(Matrix::Packed(packed))
    }

    /// Columns of the packed matrices that were asked for, by where their scales lie.
    pub(crate) fn columns(&self) -> BTreeMap<Place, i32> {
        self.store.columns.borrow().clone()
    }

    fn note(&self, packing: Packing) {
        self.store.packings.borrow_mut().insert(self.prefix.clone(), packing);
    }

    /// How the packed matrices that were asked for so far are stored, by module.
    pub fn packings(&self) -> BTreeMap<String, Packing> {
        self.store.packings.borrow().clone()
    }

    /// The matrix of codes `weight`, `scales` and `tq_bits` [.., out, in].
    fn codes(&self, shape: &[i32]) -> Result<Rotated> {
        let store = &self.store;
        let (bits, seed) = {
            let (mut checkpoint, name) = (store.checkpoint.borrow_mut(), self.path("tq_bits"));
            let bits = checkpoint.take(&name).ok_or_else(|| Error::MissingTensor(name.clone()))?;
            let seed = checkpoint.jang().map_or(jang::SEED, |jang| jang.mxtq_seed);
            if bits.dtype() != Some(Dtype::Uint8) {
                return Err(Error::tensor(name, format!("holds {:?}, but must hold bytes", bits.dtype())));
            }
            store.done.set(store.done.get() + bits.bytes());
            // Also where nothing else is read: the shapes mean nothing without.
            let bits = match bits.shape() {
                shape if shape.contains(&0) => Vec::new(),
                _ => bits.load(&Arena::new(0), None).at(&name)?.plain(&name)?.as_slice::<u8>().to_vec(),
            };
            (bits, seed)
        };
        let part = |name: &str| self.take(name, None)?.plain(&self.path(name));
        let parts = (part("weight")?, part("scales")?);
        let kernels = store.backend.kernels;
        let codes = Codes::new(&self.prefix, shape, parts, &bits, &store.shared)?.with_kernels(kernels);
        let rotation = store.shared.rotation(codes.columns, seed);
        Ok(Rotated { rotation, values: Turned::Codes(codes) })
    }

    /// Whether the rows of a packed matrix were turned before they were quantized, which the writers of JANG bundles do to all but
    /// these, if at all.
    fn is_rotated(&self, packed: &Packed) -> bool {
        let rotates = self.store.checkpoint.borrow().jang().is_some_and(|jang| jang.hadamard_rotation);
        let name = format!("{}.weight", self.prefix.to_lowercase());
        let plain = ["embed", "lm_head", "norm", ".gate."].iter().any(|part| name.contains(part));
        rotates && packed.bits >= 3 && packed.mode == raw::Mode::Affine && !plain
    }

    /// What [`Checkpoint::remarks`] has so far.
    pub fn remarks(&self) -> Vec<String> {
        self.store.checkpoint.borrow().remarks().to_vec()
    }

    /// Fails if the checkpoint has tensors that nobody asked for.
    pub fn finish(&self) -> Result<()> {
        let left: Vec<String> =
            self.store.checkpoint.borrow().iter().map(|(name, _)| name.to_string()).collect();
        if left.is_empty() { Ok(()) } else { Err(Error::SurplusTensors(left)) }
    }

    fn expect(&self, name: &str, array: Array, shape: &[i32]) -> Result<Array> {
        if array.shape() == shape {
            return Ok(array);
        }
        Err(Error::Shape { name: self.in_files(name), found: array.shape().to_vec(), wanted: shape.to_vec() })
    }

    /// The full name of a tensor of this view, and what files call it if that is another.
    fn in_files(&self, name: &str) -> String {
        self.store.checkpoint.borrow().aliases.explain(&self.path(name))
    }

    /// A tensor as it is stored; floats become `dtype` if one is given.
    pub(crate) fn take(&self, name: &str, dtype: Option<Dtype>) -> Result<Loaded> {
        let (store, path) = (&self.store, self.path(name));
        let tensor = store.checkpoint.borrow_mut().take(&path);
        let tensor = tensor.ok_or_else(|| Error::MissingTensor(self.in_files(name)))?;
        if store.is_zero {
            return zeros(&tensor, dtype).map(Loaded::Plain);
        }
        let loaded = tensor.load(&store.arena, dtype).at(&path)?;
        store.done.set(store.done.get() + tensor.bytes());
        if let Some(report) = &store.on_progress {
            report(Progress { what: "weights".into(), done: store.done.get(), total: store.total });
        }
        Ok(loaded)
    }
}

/// One zero in the shape and type of a tensor, which floats may change to `dtype`.
fn zeros(tensor: &Tensor, dtype: Option<Dtype>) -> Result<Array> {
    let own = tensor.dtype().or(tensor.float_type()).unwrap_or(Dtype::Float32);
    let dtype = dtype.filter(|_| stored::is_float(own)).unwrap_or(own);
    let zeros = ops::broadcast_to(Array::from_int(0).as_dtype(dtype)?, tensor.shape())?;
    zeros.eval()?;
    Ok(zeros)
}
