//! The graph of one decoding step: how long it takes to build, and how many operations it has.
#![allow(unsafe_code, reason = "mlx-rs cannot show a graph")]

use crate::kv::KvSpec;
use mlx_llm::{
    Error, ModelContainer, Result,
    common::{
        cache::{Cache, CachePolicy, CacheSpec},
        model::LanguageModel,
    },
};
use mlx_rs::{Array, ops, transforms};
use std::{ffi::c_char, ptr, slice, time::Instant};

/// Steps that are timed; their median counts.
const STEPS: usize = 15;

/// One decoding step.
pub(super) struct Step {
    /// To build its graph.
    pub(super) seconds: f64,
    /// Operations in it.
    pub(super) nodes: usize,
}

/// Looks at a decoding step of a model.
///
/// A model may start computing before its graph is complete. What has been computed is no longer part of a graph, and waiting for
/// it is no building. So layers are counted one by one, as what the graph gains when the model ends with them (a layer after which
/// computing starts is taken to be like the one before it), and building is timed for as many layers as are built before computing
/// starts.
pub(super) fn step(model: &ModelContainer, kv: KvSpec) -> Result<Step> {
    let policy = CachePolicy { max_size: kv.max_size(), ..Default::default() };
    model.run(move |context| measure(context.model.as_ref(), &policy))
}

fn measure(model: &dyn LanguageModel, policy: &CachePolicy) -> Result<Step> {
    let specs = model.cache_specs();
    let (mut nodes, mut before, mut layer) = (0, 0, 0);
    let mut whole = None;
    for layers in 0..=specs.len() {
        // A model has as many layers as there are caches for.
        let mut cache = warm_cache(model, &specs[..layers], policy)?;
        let visible = count(&decode(model, &mut cache)?)?;
        if visible > before {
            layer = visible - before;
        } else if whole.is_none() {
            whole = Some((layers - 1, before));
        }
        nodes += layer;
        before = visible;
    }
    let (layers, visible) = whole.unwrap_or((specs.len(), before));
    let seconds = time(model, &mut warm_cache(model, &specs[..layers], policy)?)?;
    Ok(Step { seconds: seconds * nodes as f64 / visible.max(1) as f64, nodes })
}

/// A cache of some layers after one step: the first one sets memory aside, which later ones do not.
fn warm_cache(model: &dyn LanguageModel, specs: &[CacheSpec], policy: &CachePolicy) -> Result<Cache> {
    let mut cache = Cache::new(specs, policy)?;
    transforms::eval([&decode(model, &mut cache)?])?;
    Ok(cache)
}

/// Seconds to build the graph of a step.
fn time(model: &dyn LanguageModel, cache: &mut Cache) -> Result<f64> {
    let times = (0..STEPS).map(|_| {
        let start = Instant::now();
        let next = decode(model, cache)?;
        let seconds = start.elapsed().as_secs_f64();
        transforms::eval([&next])?;
        Ok(seconds)
    });
    Ok(super::median(times.collect::<Result<Vec<_>>>()?.into_iter()))
}

/// From a token to the next one, as the generation loop does it.
fn decode(model: &dyn LanguageModel, cache: &mut Cache) -> Result<Array> {
    let token = Array::from_slice(&[0u32], &[1, 1]);
    let logits = model.logits(&model.hidden(model.embed(&token)?, cache)?)?.reshape(&[1, -1])?;
    Ok(ops::indexing::argmax_axis(&logits, -1, None)?)
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
        let dot =
            if text.is_null() { Vec::new() } else { slice::from_raw_parts(text.cast::<u8>(), len).to_vec() };
        libc::free(text.cast());
        if status == 0 { Ok(dot) } else { Err(failed("MLX refuses")) }
    }
}
