//! SentencePiece's unigram model, of T5 and XLM-RoBERTa: of all ways to write a text with tokens, the likeliest.

use super::{
    Built, end,
    vocab::{self, Kind, Vocab},
};
use crate::pipeline::guarded;
use mlx_lm_common::{
    Error, Result,
    gguf::{Field, Metadata},
};
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, Tokenizer,
    decoders::{fuse::Fuse, sequence::Sequence as Decoders, strip::Strip as StripFirst},
    models::unigram::Unigram,
    normalizers::{Precompiled, Prepend, Replace, Sequence, Strip, replace::ReplacePattern},
};

/// A map from sequences of characters to what stands for them, compiled by SentencePiece.
const CHARACTERS: &str = "tokenizer.ggml.precompiled_charsmap";

pub(super) fn build(vocab: &Vocab, metadata: &Metadata) -> Result<Built> {
    let unknown = vocab.special(metadata, vocab::UNKNOWN)?;
    let unknown = unknown.ok_or_else(|| Error::config(vocab::UNKNOWN, "nothing", "a token"))?;
    let scores = vocab.scores(metadata)?;
    // What users define counts as certain.
    let score = |id: u32| match vocab.kind(id) {
        Kind::UserDefined => 0.0,
        _ => f64::from(scores[id as usize]),
    };
    let tokens = (0..vocab.tokens().len() as u32).map(|id| (vocab.text(id).to_string(), score(id)));
    let tokens = tokens.collect();
    let model = guarded("build it", || Unigram::from(tokens, Some(unknown as usize), false))?;

    let flag = |key: &str, default| Ok::<_, Error>(metadata.optional(key, Field::bool)?.unwrap_or(default));
    let prefix = flag("tokenizer.ggml.add_space_prefix", true)?;
    let merges_spaces = flag("tokenizer.ggml.remove_extra_whitespaces", false)?;
    let replace = |pattern: ReplacePattern, to: &str| guarded("build it", || Replace::new(pattern, to));
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if let Some(bytes) = metadata.optional(CHARACTERS, Field::u8s)? {
        steps.push(guarded("read its map of characters", || Ok(Precompiled::from(bytes)?))?.into());
    }
    if merges_spaces {
        steps.push(Strip::new(true, true).into());
        steps.push(replace(ReplacePattern::Regex(" {2,}".into()), " ")?.into());
    }
    if prefix || merges_spaces {
        steps.push(Prepend::new(SPACE.into()).into());
    }
    steps.push(replace(ReplacePattern::String(" ".into()), SPACE)?.into());
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(ReplacePattern::String(SPACE.into()), " ")?.into(), Fuse::new().into()];
    if prefix || merges_spaces {
        decoders.push(StripFirst::new(' ', 1, 0).into());
    }
    let mut tokenizer = Tokenizer::new(model);
    guarded("build it", || tokenizer.with_normalizer(Some(Sequence::new(steps))).map(drop))?;
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    guarded("add the special tokens", || tokenizer.add_tokens(vocab.added()))?;
    let first = end(vocab, metadata, "tokenizer.ggml.add_bos_token", false, vocab::BOS)?;
    let last = end(vocab, metadata, "tokenizer.ggml.add_eos_token", true, vocab::EOS)?;
    Ok(Built { pipeline: Box::new(tokenizer.into_inner()), first, last })
}

/// What stands for a space in the vocabulary.
const SPACE: &str = "▁";
