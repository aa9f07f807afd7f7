//! The tokenizer inside a GGUF file, with llama.cpp's ids.

mod bpe;
mod files;
mod pre;
mod spm;
mod unigram;
mod vocab;
mod wordpiece;
mod write;

use crate::{AutoTokenizer, SpecialTokens, auto::Edge, pipeline::Pipeline, template::ChatTemplates};
use mlx_lm_common::{
    Error, Result,
    gguf::{Field, Gguf, Metadata},
};
use std::path::Path;
use vocab::Vocab;

pub use files::files_of_gguf;
pub use write::gguf_metadata;

/// The special tokens that templates know by name.
const SPECIAL: [(&str, &str); 6] = [
    ("bos_token", vocab::BOS),
    ("eos_token", vocab::EOS),
    ("unk_token", vocab::UNKNOWN),
    ("sep_token", vocab::SEPARATOR),
    ("pad_token", vocab::PADDING),
    ("mask_token", vocab::MASK),
];

const TEMPLATE: &str = "tokenizer.chat_template";

/// A tokenizer's parts and what its kind adds to a text unless the file says otherwise.
struct Built {
    pipeline: Box<dyn Pipeline>,
    first: Option<u32>,
    last: Option<u32>,
}

pub(crate) fn load(path: &Path) -> Result<AutoTokenizer> {
    build(path, Gguf::open(path)?.metadata())
}

/// The tokenizer that `metadata` of the file at `path` describe.
fn build(path: &Path, metadata: &Metadata) -> Result<AutoTokenizer> {
    let model = metadata.str(vocab::MODEL)?;
    if matches!(model, "none" | "no_vocab") {
        let what = "has no vocabulary: this model reads token ids alone";
        return Err(Error::file(path, what));
    }
    let mut vocab = Vocab::read(metadata)?;
    let eos = vocab.mark_ends(metadata)?;
    let Built { pipeline, first, last } = match model {
        "gpt2" | "whitespace" => bpe::build(&vocab, metadata)?,
        "gemma4" => bpe::build_gemma(&vocab, metadata)?,
        "llama" => spm::build(&vocab, metadata)?,
        "bert" => wordpiece::build(&vocab, metadata)?,
        "t5" => unigram::build(&vocab, metadata)?,
        other => {
            let wanted = "gpt2, gemma4, whitespace, llama, bert or t5";
            return Err(Error::config(vocab::MODEL, format!("`{other}`"), wanted));
        }
    };
    let mut special = SpecialTokens::new();
    for (name, key) in SPECIAL {
        if let Some(id) = vocab.special(metadata, key)? {
            special.insert(name, vocab.text(id).into());
        }
    }
    let edge = |id: Option<u32>| id.map_or(Edge::AsIs, Edge::Add);
    Ok(AutoTokenizer {
        vocab_size: pipeline.vocab_size(),
        pipeline,
        first: edge(first),
        last: edge(last),
        special,
        bos: vocab.special(metadata, vocab::BOS)?,
        eos,
        templates: templates(metadata, path)?,
    })
}

/// The token that goes to an end of every text: the one at `key`, if `flag` or the default says so.
fn end(vocab: &Vocab, metadata: &Metadata, flag: &str, default: bool, key: &str) -> Result<Option<u32>> {
    if !metadata.optional(flag, Field::bool)?.unwrap_or(default) {
        return Ok(None);
    }
    let id = vocab.special(metadata, key)?;
    id.map(Some).ok_or_else(|| Error::config(key, "nothing", format!("a token, because {flag} is set")))
}

fn templates(metadata: &Metadata, path: &Path) -> Result<ChatTemplates> {
    let mut templates = ChatTemplates::default();
    let keys = metadata.iter().filter_map(|(key, _)| Some((key, key.strip_prefix(TEMPLATE)?)));
    for (key, rest) in keys {
        let name = match rest.strip_prefix('.') {
            Some(name) => name,
            None if rest.is_empty() => "default",
            None => continue,
        };
        templates.insert(name, metadata.str(key)?, format!("{}: `{key}`", path.display()));
    }
    Ok(templates)
}
