//! Rotary position embeddings (arXiv 2104.09864).

use super::scalar;
use crate::{
    Result,
    config::{Frequencies, RopeConfig, Theta},
};
use mlx_lm_kernels as kernels;
use mlx_rs::{
    Array, fast,
    ops::{concatenate, indexing::IndexOp},
};
use std::{cell::RefCell, rc::Rc, sync::Arc};

/// Rotates heads by position. Layers of a model share one: clones are cheap.
#[derive(Clone, Debug)]
pub struct Rope(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    config: RopeConfig,
    /// Pairs are neighbours, rather than half of the rotated channels apart.
    traditional: bool,
    built: RefCell<Built>,
}

/// The numbers of a rotation, for texts of a length.
#[derive(Clone, Debug)]
struct Built {
    len: i32,
    base: Option<f32>,
    wavelengths: Option<Array>,
    scale: f32,
    mscale: f32,
    kernel: Arc<kernels::Rope>,
}

impl Built {
    fn new(config: &RopeConfig, traditional: bool, len: i32) -> Built {
        let Frequencies { theta, scale, mscale } = config.frequencies(len);
        let kernel = match &theta {
            Theta::Base(base) => kernels::Rope::new(config.dims, *base, scale, traditional),
            Theta::Wavelengths(w) => kernels::Rope::with_freqs(w, scale, traditional),
        };
        let (base, wavelengths) = match theta {
            Theta::Base(base) => (Some(base), None),
            Theta::Wavelengths(w) => (None, Some(Array::from_slice(&w, &[w.len() as i32]))),
        };
        Built { len, base, wavelengths, scale, mscale, kernel: Arc::new(kernel.mscale(mscale)) }
    }
}

impl Rope {
    /// The rotation that `config` describes; `traditional` pairs neighbouring channels.
    pub fn new(config: RopeConfig, traditional: bool) -> Result<Rope> {
        let built = RefCell::new(Built::new(&config, traditional, 1));
        Ok(Rope(Rc::new(Shared { config, traditional, built })))
    }

    /// Rotates x [B, heads, L, D], whose columns are the positions from `first` on; the positions of a row are less by its part of
    /// `padding` [B].
    pub(crate) fn forward(&self, x: &Array, first: i32, padding: Option<&Array>) -> Result<Array> {
        let b = self.built(first + x.dim(2));
        let dims = self.0.config.dims;
        let scaled = if b.mscale == 1.0 { None } else { Some(self.scaled(x, b.mscale)?) };
        let x = scaled.as_ref().unwrap_or(x);
        let (traditional, freqs) = (self.0.traditional, b.wavelengths.as_ref());
        Ok(match padding {
            None => fast::rope(x, dims, traditional, b.base, b.scale, first, freqs)?,
            Some(padding) => {
                let positions = Array::from_int(first).subtract(padding)?;
                fast::rope_dynamic(x, dims, traditional, b.base, b.scale, positions, freqs)?
            }
        })
    }

    /// The rotation as the CPU kernels take it, for a text of `len` positions.
    pub(crate) fn kernel(&self, len: i32) -> Arc<kernels::Rope> {
        self.built(len).kernel
    }

    fn built(&self, len: i32) -> Built {
        let mut built = self.0.built.borrow_mut();
        if self.0.config.depends_on_length() && built.len != len {
            *built = Built::new(&self.0.config, self.0.traditional, len);
        }
        built.clone()
    }

    /// Multiplies the channels that will turn.
    fn scaled(&self, x: &Array, mscale: f32) -> Result<Array> {
        let dims = self.0.config.dims;
        let factor = scalar(mscale, x)?;
        if dims == x.dim(-1) {
            return Ok(x.multiply(factor)?);
        }
        let turned = x.index((.., .., .., ..dims)).multiply(factor)?;
        Ok(concatenate(&[turned, x.index((.., .., .., dims..))], -1)?)
    }
}
