//! Byte pair encoding by a list of merges.

use super::{
    Built, end,
    pre::{self, Bos, Pre, Spelling},
    vocab::{self, Vocab},
};
use crate::pipeline::guarded;
use mlx_lm_common::{
    Error, Result,
    gguf::{Field, Metadata},
};
use std::collections::HashSet;
use tokenizers::{
    AddedToken, DecoderWrapper, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders},
    models::bpe::{BPE, BpeBuilder},
    normalizers::{Lowercase, Replace},
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
        whitespace::WhitespaceSplit,
    },
};

pub(super) const MERGES: &str = "tokenizer.ggml.merges";

/// GPT-2's kind: text is cut in the way of the file's `pre` type.
pub(super) fn build(vocab: &Vocab, metadata: &Metadata) -> Result<Built> {
    let pre = pre::find(metadata)?;
    match pre.spelling {
        Spelling::Bytes => build_bytes(vocab, metadata, pre),
        Spelling::Plain => build_plain(vocab, metadata, pre),
        Spelling::Words => build_words(vocab, metadata, pre),
    }
}

/// Gemma 4's kind.
pub(super) fn build_gemma(vocab: &Vocab, metadata: &Metadata) -> Result<Built> {
    build_plain(vocab, metadata, pre::named("gemma4")?)
}

/// Bytes are written as printable characters.
fn build_bytes(vocab: &Vocab, metadata: &Metadata, pre: &Pre) -> Result<Built> {
    let model = model(vocab, metadata, BPE::builder().ignore_merges(pre.whole_words))?;
    let mut steps = splits(pre.splits)?;
    steps.push(ByteLevel::new(false, true, false).into());
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps))).with_decoder(Some(ByteLevel::default()));
    finish(tokenizer, vocab, metadata, pre)
}

/// Plain characters with `▁` for a space, and bytes where a character is not in the vocabulary.
fn build_plain(vocab: &Vocab, metadata: &Metadata, pre: &Pre) -> Result<Built> {
    let model = model(vocab, metadata, BPE::builder().byte_fallback(true))?;
    let replace = |from: &str, to: &str| guarded("build it", || Replace::new(from, to));
    let decoders: Vec<DecoderWrapper> =
        vec![replace("▁", " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = replace(" ", "▁")?;
    guarded("build it", || tokenizer.with_normalizer(Some(normalizer)).map(drop))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(splits(pre.splits)?)));
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    finish(tokenizer, vocab, metadata, pre)
}

/// Plain characters of words; the spaces between them are lost.
fn build_words(vocab: &Vocab, metadata: &Metadata, pre: &Pre) -> Result<Built> {
    let mut tokenizer = Tokenizer::new(model(vocab, metadata, BPE::builder().byte_fallback(true))?);
    if metadata.optional("tokenizer.ggml.normalizer.lowercase", Field::bool)?.unwrap_or(false) {
        guarded("build it", || tokenizer.with_normalizer(Some(Lowercase)).map(drop))?;
    }
    tokenizer.with_pre_tokenizer(Some(WhitespaceSplit));
    tokenizer.with_decoder(Some(Decoders::new(vec![ByteFallback::new().into(), Fuse::new().into()])));
    finish(tokenizer, vocab, metadata, pre)
}

fn finish(mut tokenizer: Tokenizer, vocab: &Vocab, metadata: &Metadata, pre: &Pre) -> Result<Built> {
    let added: Vec<AddedToken> = vocab.added();
    guarded("add the special tokens", || tokenizer.add_tokens(added))?;
    let first = match pre.bos {
        Bos::Always => vocab.special(metadata, vocab::BOS)?,
        bos => end(vocab, metadata, "tokenizer.ggml.add_bos_token", bos == Bos::Usual, vocab::BOS)?,
    };
    let last = end(vocab, metadata, "tokenizer.ggml.add_eos_token", false, vocab::EOS)?;
    Ok(Built { pipeline: Box::new(tokenizer.into_inner()), first, last })
}

/// Cuts a text by one expression after another; what lies between two matches is a piece too.
fn splits(expressions: &[&str]) -> Result<Vec<PreTokenizerWrapper>> {
    let split = |e: &&str| {
        let pattern = SplitPattern::Regex(e.to_string());
        guarded("compile a regular expression", || {
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        })
        .map(Into::into)
    };
    expressions.iter().map(split).collect()
}

fn model(vocab: &Vocab, metadata: &Metadata, builder: BpeBuilder) -> Result<BPE> {
    let list = metadata.strings(MERGES)?;
    let mut merges = Vec::with_capacity(list.len());
    let mut seen = HashSet::with_capacity(list.len());
    let mut whole = String::new();
    for (i, line) in list.iter().enumerate() {
        // The first part has at least one character, which may be a space itself.
        let cut = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        let Some((left, right)) = cut.map(|at| (&line[..at], &line[at + 1..])) else {
            return Err(Error::config(
                format!("{MERGES}[{i}]"),
                format!("{line:?}"),
                "two tokens with a space between them",
            ));
        };
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        if let Some(stranger) = [left, right, &whole].into_iter().find(|token| vocab.id(token).is_none()) {
            let found = format!("{line:?}, but {stranger:?} is no token");
            return Err(Error::config(format!("{MERGES}[{i}]"), found, "tokens of the vocabulary"));
        }
        if seen.insert((left, right)) {
            merges.push((left.to_string(), right.to_string()));
        }
    }
    let ids: Vec<(String, u32)> = vocab.tokens().iter().cloned().zip(0..).collect();
    guarded("build it", || {
        builder.vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges).build()
    })
}
