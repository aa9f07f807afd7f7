//! Writes checkpoint folders and reads what verbs and encodings made of them.

// Each test uses its part.
#![allow(dead_code)]

use mlx_lm_common::{
    Backend, Config, Result,
    raw::Device,
    weights::{self, Checkpoint, Matrix, Weights, header::DType},
};
use mlx_rs::{Array, Dtype};
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::fs;

/// A tensor to write: name, element type, shape, bytes.
pub(crate) type Entry = (String, DType, Vec<usize>, Vec<u8>);

/// Any values as bytes, little-endian.
pub(crate) fn bytes<T: Copy, const N: usize>(values: &[T], le: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|v| le(*v)).collect()
}

/// A float32 tensor.
pub(crate) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Entry {
    (name.into(), DType::F32, shape.to_vec(), bytes(values, f32::to_le_bytes))
}

/// A float32 tensor of 0, 1, 2 …
pub(crate) fn count(name: &str, shape: &[usize]) -> Entry {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
    f32s(name, shape, &values)
}

/// A tensor of bytes, of any type of one byte.
pub(crate) fn u8s(name: &str, dtype: DType, shape: &[usize], values: &[u8]) -> Entry {
    (name.into(), dtype, shape.to_vec(), values.to_vec())
}

/// A tensor of 32-bit words.
pub(crate) fn words(name: &str, dtype: DType, shape: &[usize], values: &[u32]) -> Entry {
    (name.into(), dtype, shape.to_vec(), bytes(values, u32::to_le_bytes))
}

/// Any numbers, the same at every call: multiples of 1/64 between -1 and 1.
pub(crate) fn numbers(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) % 129) as f32 / 64.0 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The checkpoint of a folder with these tensors.
pub(crate) fn checkpoint(entries: &[Entry]) -> Checkpoint {
    open(entries, json!({})).1
}

/// As [`checkpoint`], with more keys in the configuration.
pub(crate) fn open(entries: &[Entry], config: Value) -> (Config, Checkpoint) {
    try_open(entries, config).unwrap()
}

/// As [`open`], for folders that may be refused.
pub(crate) fn try_open(entries: &[Entry], config: Value) -> Result<(Config, Checkpoint)> {
    open_in(&tempfile::tempdir().unwrap(), entries, config)
}

/// As [`try_open`], for a JANG bundle with this `jang_config.json`.
pub(crate) fn try_open_jang(entries: &[Entry], jang: Value) -> Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("jang_config.json"), jang.to_string()).unwrap();
    Ok(open_in(&folder, entries, json!({}))?.1)
}

fn open_in(folder: &tempfile::TempDir, entries: &[Entry], config: Value) -> Result<(Config, Checkpoint)> {
    let views = entries.iter().map(|(name, dtype, shape, data)| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    let mut all = json!({"model_type": "test"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    fs::write(folder.path().join("config.json"), all.to_string()).unwrap();
    // The files stay open after the folder is gone.
    weights::open(folder.path())
}

/// A view of the checkpoint, on the CPU in float32.
pub(crate) fn weights(checkpoint: Checkpoint) -> Weights {
    Weights::new(checkpoint, Backend::new(Some(Device::Cpu), None, Dtype::Float32, true), None)
}

/// The values of a tensor, which must have this shape.
pub(crate) fn values(w: &Weights, name: &str, shape: &[i32]) -> Result<Vec<f32>> {
    Ok(w.tensor(name, shape)?.as_slice::<f32>().to_vec())
}

/// The values of a matrix, packed or not, below `module`.
pub(crate) fn matrix(w: &Weights, module: &str, shape: &[i32]) -> Result<Vec<f32>> {
    let dense = match w.pp(module).matrix(shape, Some(Dtype::Float32))? {
        Matrix::Dense(a) => a,
        Matrix::Rotated(r) => r.dense()?,
        Matrix::Packed(p) => {
            let p = p.with_scales_in(Dtype::Float32)?;
            let codes = mlx_lm_common::raw::dequantize(&p.weight, &p.scales, p.biases.as_ref(), p.format())?;
            match &p.factor {
                Some(factor) => codes.multiply(factor.expand_dims(-1)?)?,
                None => codes,
            }
        }
    };
    Ok(floats(&dense))
}

/// Any array's values, row-major, as float32.
pub(crate) fn floats(a: &Array) -> Vec<f32> {
    a.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap().as_slice::<f32>().to_vec()
}

/// What an error says.
pub(crate) fn message<T>(result: Result<T>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}
