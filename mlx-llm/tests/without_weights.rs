//! Models whose weights are not read tell what they need, as those whose weights are.
#![allow(clippy::unwrap_used)]

mod common;

use common::{cache, checkpoint, fixture, for_all, ids};
use mlx_llm::{
    LoadOptions,
    common::{
        cache::LayerReport,
        model::{LanguageModel, LoadedModel},
        raw::{resident, whole_graphs},
    },
    load_local,
};
use mlx_rs::{memory, transforms};
use std::path::Path;

fn without_weights(folder: &Path) -> mlx_llm::Result<LoadedModel> {
    load_local(&checkpoint(folder), &LoadOptions { without_weights: true, ..Default::default() })
}

/// What the layers remember of a token.
fn remembered(model: &dyn LanguageModel, evaluate: bool) -> Vec<LayerReport> {
    let mut cache = cache(model);
    let logits = whole_graphs(|| model.forward(&ids(&[1]), &mut cache)).unwrap();
    if evaluate {
        transforms::eval([&logits]).unwrap();
    }
    cache.report()
}

#[test]
fn they_say_what_they_will_remember() {
    // One test, so that nothing else takes memory meanwhile.
    let before = memory::active_memory().unwrap() + resident();
    let loaded = without_weights(&fixture("llama3")).unwrap();
    let taken = memory::active_memory().unwrap() + resident() - before;
    assert!(taken < loaded.file_bytes as usize / 10, "{taken} bytes for weights that are not there");

    for_all(|name, loaded| {
        let name = name.strip_suffix(" without kernels").unwrap_or(name);
        let hollow = without_weights(&fixture(name)).map_err(|e| e.to_string())?;
        if hollow.model.cache_specs() != loaded.model.cache_specs() {
            return Err("other layers".into());
        }
        let (found, wanted) =
            (remembered(hollow.model.as_ref(), false), remembered(loaded.model.as_ref(), true));
        if found == wanted { Ok(()) } else { Err(format!("found {found:?}, wanted {wanted:?}")) }
    });
}
