//! Tensors that are computed, when they are asked for, from others that are still in their files.

use super::{Tensor, stored::is_float};
use crate::{
    Error, Result,
    raw::{Arena, size_of},
};
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, Dtype, memory};
use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

type Compute = dyn Fn(&[Array]) -> Result<Array>;

/// A tensor that is computed from others. They are read when it is asked for, in the types that are stored, and let go.
#[derive(Clone)]
pub struct Derived {
    inputs: Vec<Rc<Source>>,
    compute: Rc<Compute>,
    shape: Vec<i32>,
    dtype: Dtype,
    float_type: Option<Dtype>,
}

/// A tensor that others are computed from.
#[derive(Debug)]
pub struct Source {
    name: String,
    tensor: Tensor,
    readers: usize,
    left: Cell<usize>,
    kept: RefCell<Option<Array>>,
}

impl Source {
    /// The tensor `name`, which so many derived tensors read: it is read from its file once, and kept until the last has it.
    pub fn new(name: impl Into<String>, tensor: Tensor, readers: usize) -> Rc<Source> {
        let readers = readers.max(1);
        Rc::new(Source { name: name.into(), tensor, readers, left: readers.into(), kept: RefCell::default() })
    }

    /// The tensor itself.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn read(&self) -> Result<Array> {
        self.left.set(self.left.get().saturating_sub(1));
        let array = match self.kept.take() {
            Some(array) => array,
            // In memory of its own, which goes with the array.
            None => self.tensor.load(&Arena::new(0), None)?.plain(&self.name)?,
        };
        if self.left.get() > 0 {
            self.kept.replace(Some(array.clone()));
        }
        Ok(array)
    }
}

impl Derived {
    /// What `compute` makes of `inputs`: an array of this shape and type. The checkpoint counts as one that computes in the
    /// type of the first input that has floats.
    pub fn new(
        inputs: Vec<Rc<Source>>,
        shape: Vec<i32>,
        dtype: Dtype,
        compute: impl Fn(&[Array]) -> Result<Array> + 'static,
    ) -> Derived {
        let float_type = inputs.iter().find_map(|i| i.tensor.float_type());
        Derived { inputs, compute: Rc::new(compute), shape, dtype, float_type }
    }

    /// The same, of a checkpoint that counts as one that computes in `float_type`, or in what its other tensors have.
    pub fn with_float_type(self, float_type: Option<Dtype>) -> Derived {
        Derived { float_type, ..self }
    }

    /// Sizes of the axes.
    pub fn shape(&self) -> &[i32] {
        &self.shape
    }

    /// The type of the result before its floats are converted.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The first tensor that it is computed from.
    pub(super) fn first(&self) -> Option<&Tensor> {
        self.inputs.first().map(|source| source.tensor())
    }

    /// Bytes of its inputs in their files; of an input that several read, its share.
    pub fn bytes(&self) -> u64 {
        self.inputs.iter().map(|i| i.tensor.bytes() / i.readers as u64).sum()
    }

    /// Bytes of the result in memory at most, if its floats become `compute`. What it takes meanwhile is not counted.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        let own = size_of(self.dtype);
        let size = if is_float(self.dtype) { own.max(size_of(compute)) } else { own };
        Arena::footprint(self.shape.iter().fold(size, |n, d| n.saturating_mul(*d as usize)))
    }

    /// The type of the floats that it comes from.
    pub fn float_type(&self) -> Option<Dtype> {
        self.float_type
    }

    /// Computes it; floats become `dtype` if one is given.
    pub fn load(&self, arena: &Arena, dtype: Option<Dtype>) -> Result<Array> {
        let inputs = self.inputs.iter().map(|i| i.read()).collect::<Result<Vec<_>>>()?;
        let array = (self.compute)(&inputs)?;
        drop(inputs);
        if array.shape() != self.shape {
            let (found, wanted) = (array.shape(), &self.shape);
            return Err(Error::Unsupported(format!("{found:?} was computed where {wanted:?} was meant")));
        }
        let to = dtype.filter(|_| is_float(array.dtype())).unwrap_or(array.dtype());
        let array = place(array.as_dtype(to)?, arena)?;
        // What it took meanwhile goes back to the system.
        memory::clear_cache()?;
        Ok(array)
    }
}

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Derived")
            .field("shape", &self.shape)
            .field("dtype", &self.dtype)
            .field("inputs", &self.inputs)
            .finish_non_exhaustive()
    }
}

/// The evaluated values, row-major, among the other weights in `arena` where MLX takes them from there.
fn place(array: Array, arena: &Arena) -> Result<Array> {
    let array = array.contiguous()?;
    array.eval()?;
    if !kernels::can_adopt() || array.size() == 0 || array.ndim() == 0 {
        return Ok(array);
    }
    let bytes = array.view_dtype(Dtype::Uint8)?;
    let bytes = bytes.try_as_slice::<u8>().map_err(|e| Error::Unsupported(e.to_string()))?;
    let mut block = arena.block(bytes.len())?;
    block.bytes_mut().copy_from_slice(bytes);
    block.into_array(array.shape(), array.dtype())
}
