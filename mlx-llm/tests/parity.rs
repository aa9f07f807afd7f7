//! Logits and greedy tokens equal mlx-lm's, for every architecture and every way of storing weights, with kernels and without.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Reference, agrees, cache, for_all, ids, near};
use mlx_rs::ops;

#[test]
fn logits_and_greedy_tokens_equal_the_reference() {
    for_all(|name, loaded| agrees(loaded.model.as_ref(), &Reference::of(name)));
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
