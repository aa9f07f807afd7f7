//! The graph of one decoding step: its operations, and how long it takes to build.
#![allow(unsafe_code, reason = "mlx-rs cannot show a graph")]

use mlx_llm::{
    Error, Result,
    common::{
        cache::{Cache, CachePolicy},
        model::LanguageModel,
        raw::whole_graphs,
    },
};
use mlx_rs::{Array, ops, transforms};
use std::{
    collections::{BTreeMap, HashMap},
    ffi::c_char,
    ptr, slice,
    time::Instant,
};

/// Longer than the windows and chunks of the parity fixtures.
const PROMPT: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

/// Steps that are timed.
const STEPS: usize = 15;

/// How often each operation is in a step: a token, its successor, and what the cache keeps. Nothing is evaluated for it; what was
/// there before the step is told by its address.
pub(crate) fn operations(model: &dyn LanguageModel, policy: &CachePolicy) -> Result<BTreeMap<String, usize>> {
    whole_graphs(|| {
        let mut cache = warm(model, policy)?;
        let before = graph(&cache.arrays())?;
        let token = successor(model, &[1], &mut cache)?;
        let mut outputs = cache.arrays();
        outputs.push(&token);
        let mut counts = BTreeMap::new();
        for (address, name) in graph(&outputs)? {
            if !before.contains_key(&address) {
                *counts.entry(name).or_default() += 1;
            }
        }
        Ok(counts)
    })
}

/// Seconds to build each of some steps.
pub(crate) fn building(model: &dyn LanguageModel, policy: &CachePolicy) -> Result<Vec<f64>> {
    let mut cache = Cache::new(&model.cache_specs(), policy)?;
    transforms::eval([&successor(model, &[1], &mut cache)?])?;
    let step = |_| {
        let start = Instant::now();
        let next = whole_graphs(|| successor(model, &[1], &mut cache))?;
        let seconds = start.elapsed().as_secs_f64();
        transforms::eval([&next])?;
        Ok(seconds)
    };
    (0..STEPS).map(step).collect()
}

/// A cache after some steps: the first one sets memory aside, which later ones do not.
pub(crate) fn warm(model: &dyn LanguageModel, policy: &CachePolicy) -> Result<Cache> {
    let mut cache = Cache::new(&model.cache_specs(), policy)?;
    successor(model, &PROMPT, &mut cache)?;
    successor(model, &[1], &mut cache)?;
    Ok(cache)
}

/// The likeliest token after some.
pub(crate) fn successor(model: &dyn LanguageModel, tokens: &[u32], cache: &mut Cache) -> Result<Array> {
    let tokens = Array::from_slice(tokens, &[1, tokens.len() as i32]);
    Ok(ops::indexing::argmax_axis(&model.forward(&tokens, cache)?, -1, None)?)
}

/// The operations that lead to some arrays: name by address.
fn graph(outputs: &[&Array]) -> Result<HashMap<String, String>> {
    // { 94874155600496 [label ="Add", shape=rectangle]; }
    let operation = |line: &str| {
        let (address, rest) = line.strip_prefix("{ ")?.split_once(" [label =\"")?;
        Some((address.to_string(), rest.strip_suffix("\", shape=rectangle]; }")?.to_string()))
    };
    Ok(dot(outputs)?.lines().filter_map(operation).collect())
}

/// The graph that leads to some arrays in the language of Graphviz.
fn dot(outputs: &[&Array]) -> Result<String> {
    let failed = |what: &str| Error::Unsupported(format!("the graph cannot be shown: {what}"));
    let (mut text, mut len): (*mut c_char, libc::size_t) = (ptr::null_mut(), 0);
    let handles: Vec<_> = outputs.iter().map(|a| a.as_ptr()).collect();
    // SAFETY: the handles live through the call; the stream writes to `text` and `len`, which are valid once it is closed; all that
    // is made here is freed once.
    let (status, dot) = unsafe {
        let stream = libc::open_memstream(&raw mut text, &raw mut len);
        if stream.is_null() {
            return Err(failed("no memory"));
        }
        let outputs = mlx_sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len());
        let namer = mlx_sys::mlx_node_namer_new();
        let status = mlx_sys::mlx_export_to_dot(stream.cast(), namer, outputs);
        mlx_sys::mlx_node_namer_free(namer);
        mlx_sys::mlx_vector_array_free(outputs);
        libc::fclose(stream);
        let dot =
            if text.is_null() { Vec::new() } else { slice::from_raw_parts(text.cast::<u8>(), len).to_vec() };
        libc::free(text.cast());
        (status, dot)
    };
    match String::from_utf8(dot) {
        Ok(dot) if status == 0 => Ok(dot),
        _ => Err(failed("MLX refuses")),
    }
}
