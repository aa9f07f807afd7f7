//! Blocks from numbers, and the same numbers in float64.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use mlx_lm_common::{
    Backend,
    raw::{self, Device},
    weights::{self, Weights},
};
use mlx_rs::{Array, Dtype};
use safetensors::{Dtype as Stored, tensor::TensorView};
use std::{cell::Cell, fs};

/// A row of numbers.
pub type Row = Vec<f64>;

/// Numbers that look random.
pub struct Random(Cell<u64>);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1))
    }

    pub fn word(&self) -> u64 {
        let mut x = self.0.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.set(x);
        x
    }

    /// Between -1 and 1, exact in float32.
    pub fn number(&self) -> f32 {
        (self.word() >> 41) as f32 / (1 << 22) as f32 - 1.0
    }

    pub fn numbers(&self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.number()).collect()
    }
}

/// A checkpoint in the making.
#[derive(Default)]
pub struct Tensors(Vec<(String, Stored, Vec<usize>, Vec<u8>)>);

impl Tensors {
    pub fn floats(&mut self, name: &str, shape: &[i32], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, Stored::F32, shape, bytes);
    }

    /// An array as it is.
    pub fn array(&mut self, name: &str, array: &Array) {
        array.eval().unwrap();
        let (dtype, bytes) = match array.dtype() {
            Dtype::Float32 => {
                (Stored::F32, array.as_slice::<f32>().iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            Dtype::Uint32 => {
                (Stored::U32, array.as_slice::<u32>().iter().flat_map(|v| v.to_le_bytes()).collect())
            }
            Dtype::Uint8 => (Stored::U8, array.as_slice::<u8>().to_vec()),
            other => panic!("{other:?}"),
        };
        self.push(name, dtype, array.shape(), bytes);
    }

    fn push(&mut self, name: &str, dtype: Stored, shape: &[i32], bytes: Vec<u8>) {
        self.0.push((name.into(), dtype, shape.iter().map(|&n| n as usize).collect(), bytes));
    }

    /// A view of all, for the CPU.
    pub fn weights(&self, kernels: bool) -> Weights {
        self.weights_for(Backend::new(Some(Device::Cpu), None, Dtype::Float32, kernels))
    }

    /// A view of all.
    pub fn weights_for(&self, backend: Backend) -> Weights {
        raw::init();
        raw::set_default_device(Device::Cpu);
        let folder = tempfile::tempdir().unwrap();
        let views = self.0.iter().map(|(name, dtype, shape, bytes)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
        fs::write(folder.path().join("config.json"), r#"{"model_type": "any"}"#).unwrap();
        let (_, checkpoint) = weights::open(folder.path()).unwrap();
        Weights::new(checkpoint, backend, None)
    }
}

/// Rows [.., n] of an array.
pub fn rows(x: &Array) -> Vec<Row> {
    let x = x.contiguous().unwrap();
    x.eval().unwrap();
    x.as_slice::<f32>()
        .chunks(x.dim(-1) as usize)
        .map(|row| row.iter().map(|&v| v.into()).collect())
        .collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// W · x for the rows of W.
pub fn product(w: &[Row], x: &[f64]) -> Row {
    w.iter().map(|w| dot(w, x)).collect()
}

pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// The largest difference; infinite if there is none to be had.
pub fn distance(a: &[Row], b: &[Row]) -> f64 {
    assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), b.iter().map(Vec::len).collect::<Vec<_>>());
    let differences = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |most, d| if d.is_nan() { f64::INFINITY } else { d.max(most) })
}
