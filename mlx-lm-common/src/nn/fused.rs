//! Chains of elementwise operations as one node of the graph.

use crate::Result;
use half::{bf16, f16};
use mlx_rs::{Array, Dtype, error::Exception, transforms::compile};
use std::{cell::RefCell, collections::HashMap};

type Compiled = Box<dyn for<'a> FnMut(&'a [Array]) -> Result<Vec<Array>, Exception>>;

/// A chain's address, its numbers of inputs and outputs, and the bits of its constants. (The linker may give functions of different
/// types one address, though never such that compute different things from the same inputs.)
type Key = (usize, usize, usize, Vec<u32>);

thread_local! {
    /// MLX's compiler keeps its graphs by thread, too.
    static CHAINS: RefCell<HashMap<Key, Compiled>> = RefCell::default();
}

/// Applies an elementwise `chain` to `args`: as one node if `compile` (see [`Backend::compile`](crate::Backend::compile)), else
/// operation by operation. `chain` must be a function of its arguments alone, of elementwise operations without slices or reductions:
/// it is traced once for each combination of types and ranks, not of shapes.
pub fn fused<const N: usize, const M: usize>(
    compile: bool,
    chain: fn([&Array; N]) -> Result<[Array; M], Exception>,
    args: [&Array; N],
) -> Result<[Array; M]> {
    if !compile {
        return Ok(chain(args)?);
    }
    apply((chain as usize, N, M, Vec::new()), chain, args)
}

/// A chain with constants.
type ChainWith<const N: usize, const P: usize, const M: usize> =
    fn([&Array; N], [f32; P]) -> Result<[Array; M], Exception>;

/// As [`fused`], for a chain that has constants; they become part of the node.
pub fn fused_with<const N: usize, const P: usize, const M: usize>(
    compile: bool,
    chain: ChainWith<N, P, M>,
    args: [&Array; N],
    constants: [f32; P],
) -> Result<[Array; M]> {
    if !compile {
        return Ok(chain(args, constants)?);
    }
    let bits = constants.iter().map(|c| c.to_bits()).collect();
    apply((chain as usize, N, M, bits), move |args| chain(args, constants), args)
}

/// A scalar in the type of `like`: MLX would compute in float32 if either side of an operation had it. No node of the graph.
pub fn scalar(value: f32, like: &Array) -> Result<Array, Exception> {
    match like.dtype() {
        Dtype::Float16 => Ok(Array::from_slice(&[f16::from_f32(value)], &[])),
        Dtype::Bfloat16 => Ok(Array::from_slice(&[bf16::from_f32(value)], &[])),
        dtype => Array::from_f32(value).as_dtype(dtype),
    }
}

fn apply<const N: usize, const M: usize>(
    key: Key,
    chain: impl Fn([&Array; N]) -> Result<[Array; M], Exception> + 'static,
    args: [&Array; N],
) -> Result<[Array; M]> {
    let wrong = |what: &str, n: usize| Exception::custom(format!("a chain of {what} {n}"));
    let compiled = CHAINS.with_borrow_mut(|chains| chains.remove(&key));
    let mut compiled: Compiled = compiled.unwrap_or_else(|| {
        let flat = move |args: &[Array]| -> Result<Vec<Array>, Exception> {
            let args: Vec<&Array> = args.iter().collect();
            let args = <[&Array; N]>::try_from(args).map_err(|a| wrong("inputs", a.len()))?;
            chain(args).map(Vec::from)
        };
        Box::new(compile::compile(flat, true))
    });
    let result = compiled(&args.map(Array::clone));
    CHAINS.with_borrow_mut(|chains| chains.insert(key, compiled));
    <[Array; M]>::try_from(result?).map_err(|r| wrong("outputs", r.len()).into())
}
