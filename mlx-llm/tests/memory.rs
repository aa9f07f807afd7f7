//! Memory over long texts: a process of its own, since MLX counts for all threads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{for_all_models, has_state, ids};
use mlx_llm::common::{
    cache::{Cache, CachePolicy},
    model::LoadedModel,
};

/// States do not grow, whatever the length of the text.
#[test]
fn two_thousand_steps_leave_the_memory_of_states_flat() {
    for_all_models(|name, LoadedModel { model, .. }| {
        let specs = model.cache_specs();
        // Twins of a model have the same caches.
        if name.contains('-') || !specs.iter().any(has_state) {
            return Ok(());
        }
        let policy = CachePolicy { max_size: Some(40), ..Default::default() };
        let mut cache = Cache::new(&specs, &policy).unwrap();
        let mut sizes = Vec::new();
        for step in 0..2000u32 {
            let logits = model.forward(&ids(&[step * 37 % 128]), &mut cache).unwrap();
            if step % 100 == 99 {
                if !logits.sum(None).unwrap().item_cast::<f32>().is_finite() {
                    return Err(format!("logits of step {step} are no numbers"));
                }
                cache.eval().map_err(|e| e.to_string())?;
                let layers = cache.report();
                let states: usize = layers.iter().filter(|l| l.kind == "a state").map(|l| l.nbytes).sum();
                sizes.push((cache.nbytes(), mlx_rs::memory::active_memory().unwrap(), states));
            }
        }
        // Buffers of the attention layers come and go within their bound; the first ones are still growing.
        let (least, most) = (sizes[5..].iter().min().unwrap(), sizes[5..].iter().max().unwrap());
        let grows = sizes.iter().any(|s| s.2 != sizes[0].2);
        if grows || most.0 > least.0 * 2 || most.1 > least.1 + least.0 * 2 {
            return Err(format!("bytes of the cache, of MLX and of states go from {least:?} to {most:?}"));
        }
        Ok(())
    });
}
