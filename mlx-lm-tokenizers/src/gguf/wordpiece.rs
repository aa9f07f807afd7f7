//! BERT's tokenizer. GGUF files mark the first piece of a word with `▁`; WordPiece marks all others with `##`.

use super::{
    Built,
    vocab::{self, Kind, Vocab},
};
use crate::pipeline::guarded;
use mlx_lm_common::{
    Error, Result,
    gguf::{Field, Metadata},
};
use tokenizers::{
    Tokenizer, decoders::wordpiece::WordPiece as Decoder, models::wordpiece::WordPiece,
    normalizers::BertNormalizer, pre_tokenizers::bert::BertPreTokenizer,
};

pub(super) fn build(vocab: &Vocab, metadata: &Metadata) -> Result<Built> {
    let word = |id: u32| match (vocab.kind(id), vocab.text(id)) {
        (Kind::Normal, text) => match text.strip_prefix('▁') {
            Some(start) => start.to_string(),
            None if text.starts_with('[') && text.ends_with(']') => text.to_string(),
            None => format!("##{text}"),
        },
        (_, text) => text.to_string(),
    };
    let ids = (0..vocab.tokens().len() as u32).map(|id| (word(id), id));
    let special = |key| vocab.special(metadata, key)?.ok_or_else(|| Error::config(key, "nothing", "a token"));
    let unknown = vocab.text(special(vocab::UNKNOWN)?).to_string();
    let builder =
        WordPiece::builder().vocab(ids.collect::<tokenizers::models::bpe::Vocab>()).unk_token(unknown);
    let model = guarded("build it", || builder.max_input_chars_per_word(MAX_WORD).build())?;

    let lowercase = metadata.optional("tokenizer.ggml.normalizer.lowercase", Field::bool)?.unwrap_or(true);
    let strip =
        metadata.optional("tokenizer.ggml.normalizer.strip_accents", Field::bool)?.unwrap_or(lowercase);
    let mut tokenizer = Tokenizer::new(model);
    let normalizer = BertNormalizer::new(true, true, Some(strip), lowercase);
    guarded("build it", || tokenizer.with_normalizer(Some(normalizer)).map(drop))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer)).with_decoder(Some(Decoder::default()));
    guarded("add the special tokens", || tokenizer.add_tokens(vocab.added()))?;
    let first = vocab.special(metadata, "tokenizer.ggml.cls_token_id")?;
    let first = first.map_or_else(|| special(vocab::BOS), Ok)?;
    let last = special(vocab::SEPARATOR)?;
    Ok(Built { pipeline: Box::new(tokenizer.into_inner()), first: Some(first), last: Some(last) })
}

/// Longer words are unknown, as in BERT.
const MAX_WORD: usize = 100;
