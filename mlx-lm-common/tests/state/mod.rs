//! A small recurrent layer: a convolution of width 4, then s ← decay · s + x.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

use mlx_lm_common::{Result, cache::StateCache};
use mlx_rs::{
    Array,
    ops::{self, indexing::IndexOp},
    random,
};

pub const WIDTH: i32 = 4;
pub const CHANNELS: i32 = 6;

pub fn leaky(state: Option<&Array>, inputs: &[Array], constants: &[Array]) -> Result<(Array, Array)> {
    let (x, mask) = (&inputs[0], inputs.get(1));
    let mut state = match state {
        Some(state) => state.clone(),
        None => ops::zeros::<f32>(&[x.dim(0), 1, CHANNELS])?,
    };
    let mut outputs = Vec::new();
    for i in 0..x.dim(1) {
        let mut next = state.multiply(&constants[0])?.add(x.index((.., i..i + 1, ..)))?;
        if let Some(mask) = mask {
            next = ops::select(mask.index((.., i..i + 1)).expand_dims(-1)?, next, state)?;
        }
        state = next;
        outputs.push(state.clone());
    }
    Ok((ops::concatenate(&outputs, 1)?, state))
}

pub struct Layer {
    conv: Array,
    decay: Array,
}

impl Layer {
    pub fn new() -> Layer {
        let key = random::key(7).unwrap();
        let conv = random::normal::<f32>(&[CHANNELS, WIDTH, 1], None, None, &key).unwrap();
        Layer { conv, decay: Array::from_slice(&[0.5f32, 0.9, 0.8, 0.2, 0.99, 0.7], &[1, 1, CHANNELS]) }
    }

    pub fn forward(&self, x: &Array, cache: &mut StateCache) -> Array {
        let mask = cache.mask(x.dim(1)).unwrap();
        let x = match &mask {
            Some(mask) => x.multiply(mask.expand_dims(-1).unwrap()).unwrap(),
            None => x.clone(),
        };
        let input = cache.conv_input(0, &x, WIDTH).unwrap();
        let h = ops::conv1d(&input, &self.conv, None, None, None, CHANNELS).unwrap();
        let inputs: Vec<_> = [h].into_iter().chain(mask).collect();
        let y = cache.scan(1, leaky, &inputs, std::slice::from_ref(&self.decay)).unwrap();
        cache.advance(x.dim(1));
        y
    }

    pub fn in_pieces(&self, x: &Array, cache: &mut StateCache, sizes: &[i32]) -> Array {
        let mut at = 0;
        let mut piece = |size: &i32| {
            at += size;
            self.forward(&x.index((.., at - size..at, ..)), cache)
        };
        ops::concatenate(&sizes.iter().map(&mut piece).collect::<Vec<_>>(), 1).unwrap()
    }
}

pub fn text(len: i32, seed: u64) -> Array {
    random::normal::<f32>(&[1, len, CHANNELS], None, None, &random::key(seed).unwrap()).unwrap()
}

pub fn distance(a: &Array, b: &Array) -> f32 {
    assert_eq!(a.shape(), b.shape());
    ops::max(ops::abs(a.subtract(b).unwrap()).unwrap(), None).unwrap().item_cast::<f32>()
}
