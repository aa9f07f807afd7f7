//! The tokenizer of a GGUF file as the files of a folder in the Hugging Face layout.

use super::{TEMPLATE, build, spm, vocab};
use crate::auto::Edge;
use mlx_lm_common::{
    Error, Result, Tokenizer,
    gguf::{Field, Gguf, Metadata},
};
use serde_json::{Map, Value, json};
use std::path::Path;

/// `tokenizer.json`, `tokenizer_config.json` with the chat templates, and `generation_config.json` with the tokens that end a text: names
/// and contents. None for a file without a vocabulary.
///
/// SentencePiece's merges go by the scores of tokens, those of a `tokenizer.json` by rank; where scores are equal, the two may cut a
/// text in other places.
///
/// # Errors
/// As [`AutoTokenizer::load`](crate::AutoTokenizer::load).
pub fn files_of_gguf(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let file = Gguf::open(path)?;
    let metadata = file.metadata();
    let model = metadata.optional(vocab::MODEL, Field::str)?;
    let Some(model) = model.filter(|model| !matches!(*model, "none" | "no_vocab")) else {
        return Ok(Vec::new());
    };
    let built = build(path, metadata)?;
    let mut tokenizer = built.pipeline.json()?;
    if model == "llama" {
        tokenizer["normalizer"] = spm::normalizer(metadata)?;
    }
    let token = |edge: Edge| match edge {
        Edge::Add(id) => built.pipeline.id_to_token(id).map(|text| (id, text)),
        _ => None,
    };
    let (first, last) = (token(built.first), token(built.last));
    if first.is_some() || last.is_some() {
        tokenizer["post_processor"] = edges(first.as_ref(), last.as_ref());
    }
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("add_bos_token".into(), first.is_some().into());
    config.insert("add_eos_token".into(), last.is_some().into());
    config.extend(built.special.iter().map(|(name, text)| (name.clone(), text.clone())));
    if let Some(template) = template(metadata)? {
        config.insert("chat_template".into(), template);
    }
    let mut generation = Map::new();
    if let Some(bos) = built.bos {
        generation.insert("bos_token_id".into(), bos.into());
    }
    match built.eos() {
        [] => {}
        [one] => drop(generation.insert("eos_token_id".into(), (*one).into())),
        several => drop(generation.insert("eos_token_id".into(), several.into())),
    }
    let files = [
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config.into()),
        ("generation_config.json", generation.into()),
    ];
    let text = |value: &Value| {
        let text = serde_json::to_vec_pretty(value);
        text.map_err(|e| Error::Tokenizer(format!("cannot write it: {e}")))
    };
    files.iter().map(|(name, value)| Ok((name.to_string(), text(value)?))).collect()
}

/// Puts tokens around a text, or around two.
fn edges(first: Option<&(u32, String)>, last: Option<&(u32, String)>) -> Value {
    let special =
        |(_, text): &(u32, String), of: u8| json!({ "SpecialToken": { "id": text, "type_id": of } });
    let around = |name: &str, of: u8| -> Vec<Value> {
        let text = json!({ "Sequence": { "id": name, "type_id": of } });
        let [first, last] = [first, last].map(|token| token.map(|token| special(token, of)));
        first.into_iter().chain([text]).chain(last).collect()
    };
    let known = [first, last]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] })));
    let known: Map<String, Value> = known.collect();
    let (single, pair) = (around("A", 0), [around("A", 0), around("B", 1)].concat());
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known })
}

/// The chat template, or several with names, as `tokenizer_config.json` has them.
fn template(metadata: &Metadata) -> Result<Option<Value>> {
    let mut named = Vec::new();
    for (key, _) in metadata.iter() {
        let Some(rest) = key.strip_prefix(TEMPLATE) else { continue };
        let name = match rest.strip_prefix('.') {
            Some(name) => name,
            None if rest.is_empty() => "default",
            None => continue,
        };
        named.push((name.to_string(), metadata.str(key)?));
    }
    Ok(match &named[..] {
        [] => None,
        [(name, template)] if name == "default" => Some((*template).into()),
        several => {
            Some(several.iter().map(|(name, text)| json!({ "name": name, "template": text })).collect())
        }
    })
}
