//! The graph of one decoding step: how long it takes to build, and how many operations it has.
#![allow(unsafe_code, reason = "mlx-rs cannot show a graph")]

use crate::kv::KvSpec;
use mlx_llm::{
    Error, GenerateParameters, ModelContainer, Result,
    common::{
        cache::{Cache, CachePolicy},
        generate::prefill,
        model::{LanguageModel, ModelContext},
    },
};
use mlx_rs::{Array, ops, transforms};
use std::{ffi::c_char, ptr, slice, time::Instant};

/// Steps that are timed; their median counts.
const STEPS: usize = 15;

/// One decoding step.
pub(super) struct Step {
    /// To build its graph, and to start what the model itself starts on the way.
    pub(super) seconds: f64,
    /// Operations in it.
    pub(super) nodes: usize,
}

/// Measures the steps after `prompt`.
pub(super) fn step(model: &ModelContainer, prompt: Vec<u32>, kv: KvSpec) -> Result<Step> {
    model.run(move |context| measure(context, &prompt, kv))
}

fn measure(context: &ModelContext, prompt: &[u32], kv: KvSpec) -> Result<Step> {
    let model = context.model.as_ref();
    let policy = CachePolicy { max_size: kv.max_size(), ..Default::default() };
    let mut cache = Cache::new(&model.cache_specs(), &policy)?;
    let step_size = GenerateParameters::default().prefill_step_size;
    prefill(model, &mut cache, prompt, step_size, None, &mut |_| true)?;
    cache.eval()?;
    let mut seconds = Vec::new();
    for _ in 0..STEPS {
        let token = Array::from_slice(&[0u32], &[1, 1]);
        let start = Instant::now();
        let next = decode(model, &token, &mut cache)?;
        seconds.push(start.elapsed().as_secs_f64());
        transforms::eval([&next])?;
    }
    Ok(Step { seconds: super::median(seconds.into_iter()), nodes: count_step(model, &policy)? })
}

/// From a token [1, 1] to the next one, as the generation loop does it.
fn decode(model: &dyn LanguageModel, token: &Array, cache: &mut Cache) -> Result<Array> {
    let logits = model.logits(&model.hidden(model.embed(token)?, cache)?)?.reshape(&[1, -1])?;
    Ok(ops::indexing::argmax_axis(&logits, -1, None)?)
}

/// Counts the operations of a step.
///
/// A model may start computing before its graph is complete, and what has been computed is no longer part of a graph. So the
/// layers are counted one by one, as what the graph gains when the model ends with them; a layer after which the computing starts
/// is taken to be like the one before it.
fn count_step(model: &dyn LanguageModel, policy: &CachePolicy) -> Result<usize> {
    let specs = model.cache_specs();
    let (mut total, mut before, mut layer) = (0, 0, 0);
    for layers in 0..=specs.len() {
        let mut cache = Cache::new(&specs[..layers], policy)?;
        // The first step sets memory aside, which later ones do not.
        let token = Array::from_slice(&[0u32], &[1, 1]);
        transforms::eval([&decode(model, &token, &mut cache)?])?;
        let visible = count(&decode(model, &token, &mut cache)?)?;
        if visible > before {
            layer = visible - before;
        }
        total += layer;
        before = visible;
    }
    Ok(total)
}

/// The operations that lead to `array`.
fn count(array: &Array) -> Result<usize> {
    let dot = dot(array)?;
    Ok(dot.windows(RECTANGLE.len()).filter(|w| *w == RECTANGLE).count())
}

/// How MLX draws an operation.
const RECTANGLE: &[u8] = b"shape=rectangle";

/// The graph that leads to `array` in the language of Graphviz.
fn dot(array: &Array) -> Result<Vec<u8>> {
    let failed = |what: &str| Error::Unsupported(format!("the graph cannot be shown: {what}"));
    let (mut text, mut len): (*mut c_char, libc::size_t) = (ptr::null_mut(), 0);
    // SAFETY: the stream writes to `text` and `len`, which are valid once it is closed; all handles are freed once.
    unsafe {
        let stream = libc::open_memstream(&raw mut text, &raw mut len);
        if stream.is_null() {
            return Err(failed("no memory"));
        }
        let outputs = mlx_sys::mlx_vector_array_new_value(array.as_ptr());
        let namer = mlx_sys::mlx_node_namer_new();
        let status = mlx_sys::mlx_export_to_dot(stream.cast(), namer, outputs);
        mlx_sys::mlx_node_namer_free(namer);
        mlx_sys::mlx_vector_array_free(outputs);
        libc::fclose(stream);
        let dot = if text.is_null() { Vec::new() } else { slice::from_raw_parts(text.cast::<u8>(), len).to_vec() };
        libc::free(text.cast());
        if status == 0 { Ok(dot) } else { Err(failed("MLX refuses")) }
    }
}
