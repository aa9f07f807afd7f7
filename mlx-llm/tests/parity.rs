//! Logits and greedy tokens equal mlx-lm's, for every architecture and every way of storing weights, with kernels and without.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Reference, cache, for_all, ids, near};
use mlx_rs::ops;

#[test]
fn logits_and_greedy_tokens_equal_the_reference() {
    for_all(|name, loaded| {
        let (model, reference) = (loaded.model, Reference::of(name));
        let prompt = reference.tokens("prompt");
        let mut cache = cache(model.as_ref());
        let prefill = model.forward(&ids(&prompt), &mut cache).map_err(|e| e.to_string())?;
        near(&prefill, reference.array("prefill"), "prefill")?;

        let start = cache.snapshot();
        let steps: Vec<_> = reference
            .tokens("decode_tokens")
            .iter()
            .map(|t| model.forward(&ids(&[*t]), &mut cache).unwrap())
            .collect();
        near(&ops::concatenate(&steps, 1).unwrap(), reference.array("decode"), "decode")?;

        cache.rewind(&start);
        let mut logits = prefill;
        for (i, wanted) in reference.tokens("greedy").into_iter().enumerate() {
            let last = ops::indexing::argmax_axis(&logits, -1, false).unwrap();
            let token = *last.to_vec_cast::<u32>().unwrap().last().unwrap();
            if token != wanted {
                return Err(format!("greedy token {i} is {token} instead of {wanted}"));
            }
            logits = model.forward(&ids(&[token]), &mut cache).unwrap();
        }
        Ok(())
    });
}

/// A text over which windows and chunks pass several times, in one piece and in many.
#[test]
fn long_texts_equal_the_reference() {
    for_all(|name, loaded| {
        let (model, reference) = (loaded.model, Reference::of(name));
        let (Some(text), Some(wanted)) = (reference.get("long"), reference.get("long_logits")) else {
            return Ok(());
        };
        let tokens = text.reshape(&[-1]).unwrap().to_vec_cast::<u32>().unwrap();
        let whole = model.forward(&ids(&tokens), &mut cache(model.as_ref())).map_err(|e| e.to_string())?;
        near(&whole, wanted, "in one pass")?;
        let mut cache = cache(model.as_ref());
        let pieces: Vec<_> = [&tokens[..13], &tokens[13..20]]
            .into_iter()
            .chain(tokens[20..].chunks(1))
            .map(|piece| model.forward(&ids(piece), &mut cache).unwrap())
            .collect();
        near(&ops::concatenate(&pieces, 1).unwrap(), wanted, "in pieces")
    });
}
