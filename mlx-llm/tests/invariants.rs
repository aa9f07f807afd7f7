//! What holds for every model and cache, from one table.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Reference, for_all_models, has_state, ids, near};
use mlx_llm::common::{
    cache::{Cache, CachePolicy, CacheSpec},
    model::{LanguageModel, LoadedModel},
};
use mlx_rs::{Array, ops, ops::indexing::IndexOp};

/// The ways in which a cache is kept: as the model says, and bounded by a caller who wants to take positions back.
fn policies() -> [(&'static str, CachePolicy); 2] {
    let bounded = CachePolicy { max_size: Some(6), rewind: 5, ..Default::default() };
    [("as declared", CachePolicy::default()), ("six positions", bounded)]
}

/// Whether a layer lets go of positions by itself.
fn is_bounded(spec: &CacheSpec) -> bool {
    matches!(spec, CacheSpec::Window(_) | CacheSpec::Chunked(_))
}

/// Which models a law holds for.
#[derive(Clone, Copy, PartialEq)]
enum For {
    All,
    /// Not where the rotation depends on the length of the text: the keys of an earlier, shorter text stay as they were, so such
    /// models, like the reference, give other logits when a text comes in pieces.
    FixedRotation,
}

/// Runs `f` for every model and policy. The tokens are the prompt's and the decode tokens', ten in all.
fn for_every_cache(which: For, f: impl Fn(&dyn LanguageModel, &CachePolicy, &[u32]) -> Result<(), String>) {
    for_all_models(|name, LoadedModel { model, .. }| {
        if which == For::FixedRotation && name.starts_with("llama_dynamic_ntk") {
            return Ok(());
        }
        let reference = Reference::of(name);
        let tokens = [reference.tokens("prompt"), reference.tokens("decode_tokens")].concat();
        for (kind, policy) in policies() {
            f(model.as_ref(), &policy, &tokens).map_err(|e| format!("cache {kind}: {e}"))?;
        }
        Ok(())
    });
}

fn empty(model: &dyn LanguageModel, policy: &CachePolicy) -> Cache {
    Cache::new(&model.cache_specs(), policy).unwrap()
}

fn forward(model: &dyn LanguageModel, cache: &mut Cache, tokens: &[u32]) -> Array {
    model.forward(&ids(tokens), cache).unwrap()
}

/// Logits of tokens that are fed in pieces of these sizes.
fn in_pieces(model: &dyn LanguageModel, cache: &mut Cache, tokens: &[u32], sizes: &[usize]) -> Array {
    let mut rest = tokens;
    let pieces: Vec<_> = sizes
        .iter()
        .map(|n| {
            let (piece, after) = rest.split_at(*n);
            rest = after;
            forward(model, cache, piece)
        })
        .collect();
    assert!(rest.is_empty());
    ops::concatenate(&pieces, 1).unwrap()
}

#[test]
fn chunked_prefill_equals_one_pass() {
    for_every_cache(For::FixedRotation, |model, policy, tokens| {
        let whole = forward(model, &mut empty(model, policy), tokens);
        for sizes in [&[5, 5][..], &[7, 3], &[1, 4, 5], &[9, 1]] {
            near(
                &in_pieces(model, &mut empty(model, policy), tokens, sizes),
                &whole,
                &format!("pieces of {sizes:?}"),
            )?;
        }
        Ok(())
    });
}

#[test]
fn cached_steps_equal_uncached_passes() {
    for_every_cache(For::FixedRotation, |model, policy, tokens| {
        let mut cache = empty(model, policy);
        for n in 1..=tokens.len() {
            let step = forward(model, &mut cache, &tokens[n - 1..n]);
            let whole = forward(model, &mut empty(model, policy), &tokens[..n]).index((.., -1.., ..));
            near(&step, &whole, &format!("step {n}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_copy_is_independent() {
    for_every_cache(For::All, |model, policy, tokens| {
        let mut cache = empty(model, policy);
        forward(model, &mut cache, &tokens[..7]);
        let mut copy = cache.clone();
        let wanted = forward(model, &mut cache.clone(), &tokens[7..]);
        // Other tokens through one of them leave the other alone, whichever comes first.
        forward(model, &mut copy, &[3, 9, 27]);
        near(&forward(model, &mut cache, &tokens[7..]), &wanted, "the original after its copy was used")?;
        let mut second = empty(model, policy);
        forward(model, &mut second, &tokens[..7]);
        let mut copy = second.clone();
        forward(model, &mut second, &[3, 9, 27]);
        near(&forward(model, &mut copy, &tokens[7..]), &wanted, "the copy after its original was used")
    });
}

#[test]
fn trimming_and_going_on_equals_never_having_been_there() {
    for_every_cache(For::All, |model, policy, tokens| {
        let mut cache = empty(model, policy);
        forward(model, &mut cache, &tokens[..7]);
        let wanted = forward(model, &mut cache.clone(), &tokens[7..]);
        let forgets = policy.rewind == 0 && model.cache_specs().iter().any(has_state);
        for pieces in [&[3][..], &[1, 1, 1], &[2, 1]] {
            in_pieces(model, &mut cache, &[5, 4, 3], pieces);
            if forgets {
                let taken = cache.trim(3);
                return if (taken, cache.offset()) == (0, 10) {
                    Ok(())
                } else {
                    Err(format!("{taken} positions of a state that is not logged were taken back"))
                };
            }
            if (cache.offset(), cache.trim(3), cache.offset()) != (10, 3, 7) {
                return Err(format!("three positions cannot be taken back: at {}", cache.offset()));
            }
            near(&forward(model, &mut cache.clone(), &tokens[7..]), &wanted, "after trimming")?;
        }
        // Some of a piece, and then all of it.
        forward(model, &mut cache, &tokens[7..]);
        if cache.trim(2) != 2 {
            return Err("two of three positions cannot be taken back".into());
        }
        near(
            &forward(model, &mut cache, &tokens[8..]),
            &wanted.index((.., 1.., ..)),
            "after trimming a part",
        )?;
        let (before, taken) = (cache.offset(), cache.trim(1000));
        if taken != 0 || cache.offset() != before {
            return Err(format!("{taken} of 1000 positions were taken back"));
        }
        Ok(())
    });
}

#[test]
fn a_snapshot_brings_everything_back() {
    for_every_cache(For::All, |model, policy, tokens| {
        let mut cache = empty(model, policy);
        forward(model, &mut cache, &tokens[..7]);
        let (snapshot, bytes) = (cache.snapshot(), cache.nbytes());
        let wanted = forward(model, &mut cache, &tokens[7..]);
        for round in ["first", "second"] {
            forward(model, &mut cache, &[8, 8, 8, 8]);
            cache.rewind(&snapshot);
            if (cache.offset(), cache.nbytes()) != (7, bytes) {
                return Err(format!("{round} rewind: offset {}, {} bytes", cache.offset(), cache.nbytes()));
            }
            near(
                &forward(model, &mut cache, &tokens[7..]),
                &wanted,
                &format!("{round} time after rewinding"),
            )?;
        }
        Ok(())
    });
}

#[test]
fn saving_and_loading_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.safetensors");
    for_every_cache(For::All, |model, policy, tokens| {
        let mut cache = empty(model, policy);
        forward(model, &mut cache, &tokens[..7]);
        let user = vec![("who".to_string(), "me".to_string())];
        cache.save(&path, &user).map_err(|e| e.to_string())?;
        let wanted = forward(model, &mut cache, &tokens[7..]);
        let (mut loaded, metadata) =
            Cache::load(&path, &model.cache_specs(), policy).map_err(|e| e.to_string())?;
        if (loaded.offset(), &metadata) != (7, &user) {
            return Err(format!("offset {} and {metadata:?}", loaded.offset()));
        }
        near(&forward(model, &mut loaded, &tokens[7..]), &wanted, "after loading")?;
        let other = vec![CacheSpec::Full; model.cache_specs().len() + 1];
        let refused = Cache::load(&path, &other, policy).err().map(|e| e.to_string()).unwrap_or_default();
        if refused.contains("layers") {
            Ok(())
        } else {
            Err(format!("with another number of layers: {refused:?}"))
        }
    });
}

#[test]
fn a_left_padded_row_equals_the_row_alone() {
    for_all_models(|name, LoadedModel { model, .. }| {
        if name.starts_with("llama_dynamic_ntk") {
            // Its rotation depends on the length of the text, which a batch has but one of.
            return Ok(());
        }
        let tokens = Reference::of(name).tokens("prompt");
        let rows: [&[u32]; 3] = [&tokens, &tokens[..4], &tokens[2..3]];
        let more = [[11, 23], [42, 5], [7, 90]];
        let width = tokens.len();
        let padding: Vec<i32> = rows.iter().map(|r| (width - r.len()) as i32).collect();
        let padded: Vec<u32> =
            rows.iter().flat_map(|r| [vec![0; width - r.len()], r.to_vec()].concat()).collect();
        let policy = CachePolicy { left_padding: Some(padding.into()), ..Default::default() };
        let mut batch = Cache::new(&model.cache_specs(), &policy).unwrap();
        let prompt = model.forward(&Array::from_slice(&padded, &[3, width as i32]), &mut batch).unwrap();
        let step = model.forward(&Array::from_slice(&more.concat(), &[3, 2]), &mut batch).unwrap();
        for (i, row) in rows.iter().enumerate() {
            let mut cache = common::cache(model.as_ref());
            let (first, i32row) = ((width - row.len()) as i32, i as i32);
            let alone = forward(model.as_ref(), &mut cache, row);
            let of_row = |x: &Array, from: i32| x.index((i32row..i32row + 1, from.., ..));
            near(&of_row(&prompt, first), &alone, &format!("prompt of row {i}"))?;
            let alone = forward(model.as_ref(), &mut cache, &more[i]);
            near(&of_row(&step, 0), &alone, &format!("tokens after row {i}"))?;
        }
        Ok(())
    });
}

/// Texts so long that bounded caches let go of positions, several times.
#[test]
fn bounded_caches_let_go_of_what_nobody_sees() {
    for_all_models(|name, LoadedModel { model, .. }| {
        let declared = model.cache_specs().iter().any(is_bounded);
        let plain =
            ["qwen3", "llama-4bit", "deepseek_v3"].contains(&name.trim_end_matches(" without kernels"));
        // Of twins, which have the same caches, the plain one is enough.
        if !plain && (!declared || name.contains('-')) {
            return Ok(());
        }
        let policy = CachePolicy { max_size: Some(40), rewind: 5, ..Default::default() };
        let model = model.as_ref();
        let tokens: Vec<u32> = (0..1500u32).map(|i| i.wrapping_mul(2_654_435_761) >> 25).collect();
        let whole = forward(model, &mut empty(model, &policy), &tokens);
        let mut cache = empty(model, &policy);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.safetensors");
        let (mut at, mut most) = (0, 0);
        let sizes = [&[300][..], &[1; 200], &[100, 7, 250, 3], &[1; 100], &[40, 500]].concat();
        for (i, size) in sizes.iter().enumerate() {
            let piece = forward(model, &mut cache, &tokens[at..at + size]);
            let wanted = whole.index((.., at as i32..(at + size) as i32, ..));
            near(&piece, &wanted, &format!("piece {i} of {size} tokens from {at} on"))?;
            at += size;
            if *size == 1 {
                most = most.max(cache.nbytes());
            }
            // Take some back, and come again through a file.
            if i % 97 == 96 {
                if cache.trim(5) != 5 {
                    return Err(format!("five positions cannot be taken back at {at}"));
                }
                at -= 5;
                cache.save(&path, &[]).map_err(|e| e.to_string())?;
                cache = Cache::load(&path, &model.cache_specs(), &policy).map_err(|e| e.to_string())?.0;
                let again = forward(model, &mut cache, &tokens[at..at + 5]);
                near(
                    &again,
                    &whole.index((.., at as i32..(at + 5) as i32, ..)),
                    "after taking back and loading",
                )?;
                at += 5;
            }
        }
        let slot = cache.arrays().iter().map(|a| a.nbytes() / a.dim(2) as usize).sum::<usize>();
        // Windows of 40 and less never need two thousand slots a layer; all positions would be 1500.
        if most > slot * 768 {
            return Err(format!("{most} bytes, with {slot} bytes a slot"));
        }
        Ok(())
    });
}
