//! Metadata in the words of a Hugging Face `config.json`.

use super::{
    Gguf,
    header::TensorInfo,
    metadata::Field,
    names,
    types::{Dense, Format},
};
use crate::{Error, Result};
use serde_json::{Map, Value, json};

/// Architectures whose metadata, names and row orders are known. Their `model_type` has the same name.
const ARCHITECTURES: [&str; 3] = ["llama", "qwen2", "qwen3"];

/// The architecture of a whole model that can be read.
pub(super) fn architecture(gguf: &Gguf) -> Result<&str> {
    let metadata = gguf.metadata();
    if let Some(parts) = metadata.get("split.count").filter(|field| !matches!(field.u32(), Ok(0 | 1))) {
        return Err(parts.wanted("1: a model in one file (merge the parts with llama.cpp's gguf-split)"));
    }
    metadata.required("general.architecture", |field| match field.str()? {
        name if ARCHITECTURES.contains(&name) => Ok(name),
        _ => Err(field.wanted(ARCHITECTURES.join(", "))),
    })
}

/// Attention heads, which also say how rows are ordered.
pub(super) struct Heads {
    pub(super) query: i32,
    pub(super) key: i32,
    /// Rows of a head.
    pub(super) dim: i32,
}

impl Heads {
    pub(super) fn read(gguf: &Gguf, architecture: &str) -> Result<Heads> {
        let keys = Keys { gguf, architecture };
        let hidden = keys.size("embedding_length")?;
        let query = keys.size("attention.head_count")?;
        let key = keys.size_opt("attention.head_count_kv")?.unwrap_or(query);
        if query % key != 0 {
            return Err(
                keys.wanted("attention.head_count_kv", format!("a divisor of the {query} query heads"))
            );
        }
        let dim = match keys.size_opt("attention.key_length")? {
            Some(dim) => dim,
            None if hidden % query == 0 => hidden / query,
            None => {
                return Err(keys.wanted("attention.head_count", format!("a divisor of the width {hidden}")));
            }
        };
        let source =
            if keys.has("attention.key_length") { "attention.key_length" } else { "attention.head_count" };
        if dim % 2 != 0 || query.checked_mul(dim).is_none() {
            return Err(keys.wanted(
                source,
                format!("heads of an even number of values, {query} of them (found {dim} values)"),
            ));
        }
        for same in ["attention.value_length", "rope.dimension_count"] {
            if keys.size_opt(same)?.is_some_and(|n| n != dim) {
                return Err(keys.wanted(same, format!("{dim}, as many as keys have")));
            }
        }
        Ok(Heads { query, key, dim })
    }
}

pub(super) fn config(gguf: &Gguf) -> Result<Value> {
    let architecture = architecture(gguf)?;
    let keys = Keys { gguf, architecture };
    let heads = Heads::read(gguf, architecture)?;
    let hidden = keys.size("embedding_length")?;
    let layers = keys.size("block_count")?;
    if layers as usize > gguf.infos.len() {
        return Err(
            keys.wanted("block_count", format!("no more than the {} tensors of the file", gguf.infos.len()))
        );
    }
    if keys.optional("expert_count", Field::u32)?.is_some_and(|n| n > 0) {
        return Err(keys.wanted("expert_count", "0: models with experts cannot be read"));
    }
    let vocab = vocab_size(&keys, hidden)?;
    let mut config = json!({
        "model_type": architecture,
        "hidden_size": hidden,
        "intermediate_size": keys.size("feed_forward_length")?,
        "num_hidden_layers": layers,
        "num_attention_heads": heads.query,
        "num_key_value_heads": heads.key,
        "head_dim": heads.dim,
        "rms_norm_eps": decimal(keys.positive("attention.layer_norm_rms_epsilon")?),
        "rope_theta": decimal(keys.positive_opt("rope.freq_base")?.unwrap_or(10000.0)),
        "vocab_size": vocab,
        "max_position_embeddings": keys.size("context_length")?,
        "tie_word_embeddings": gguf.info("output.weight").is_none(),
        "attention_bias": has_bias(gguf, &["attn_q", "attn_k", "attn_v"]),
        "mlp_bias": has_bias(gguf, &["ffn_gate", "ffn_up", "ffn_down"]),
    });
    if let Some(scaling) = rope_scaling(&keys, &heads)? {
        config["rope_scaling"] = scaling;
    }
    if let Some(id) = token(gguf, "bos", vocab)? {
        config["bos_token_id"] = id.into();
    }
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(token(gguf, name, vocab)?.filter(|id| !ends.contains(id)));
    }
    match ends[..] {
        [] => {}
        [id] => config["eos_token_id"] = id.into(),
        _ => config["eos_token_id"] = ends.into(),
    }
    Ok(config)
}

/// The keys of an architecture, without its name in front.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn has(&self, name: &str) -> bool {
        self.gguf.metadata().get(&self.key(name)).is_some()
    }

    fn optional<T>(&self, name: &str, read: impl FnOnce(Field<'a>) -> Result<T>) -> Result<Option<T>> {
        self.gguf.metadata().optional(&self.key(name), read)
    }

    fn required<T>(&self, name: &str, read: impl FnOnce(Field<'a>) -> Result<T>) -> Result<T> {
        self.gguf.metadata().required(&self.key(name), read)
    }

    fn size(&self, name: &str) -> Result<i32> {
        self.required(name, size)
    }

    fn size_opt(&self, name: &str) -> Result<Option<i32>> {
        self.optional(name, size)
    }

    fn positive(&self, name: &str) -> Result<f32> {
        self.required(name, positive)
    }

    fn positive_opt(&self, name: &str) -> Result<Option<f32>> {
        self.optional(name, positive)
    }

    /// An error about the value of a key.
    fn wanted(&self, name: &str, wanted: impl Into<String>) -> Error {
        let key = self.key(name);
        match self.gguf.metadata().get(&key) {
            Some(field) => field.wanted(wanted),
            None => Error::config(key, "nothing", wanted),
        }
    }
}

fn size(field: Field<'_>) -> Result<i32> {
    let wanted = || field.wanted(format!("an integer from 1 to {}", i32::MAX));
    field.u32().ok().and_then(|n| i32::try_from(n).ok()).filter(|&n| n > 0).ok_or_else(wanted)
}

fn positive(field: Field<'_>) -> Result<f32> {
    let x = field.f32()?;
    if x.is_finite() && x > 0.0 { Ok(x) } else { Err(field.wanted("a positive number")) }
}

/// The shortest decimal that reads back as `x`: 1e-5 rather than 9.999999747378752e-6, as the published config has it.
fn decimal(x: f32) -> Value {
    x.to_string().parse::<f64>().unwrap_or(x.into()).into()
}

fn has_bias(gguf: &Gguf, parts: &[&str]) -> bool {
    parts.iter().any(|part| gguf.info(&format!("blk.0.{part}.bias")).is_some())
}

/// The rows of the embedding, if width and vocabulary agree with them.
fn vocab_size(keys: &Keys<'_>, hidden: i32) -> Result<i32> {
    const EMBEDDING: &str = "token_embd.weight";
    let info = keys.gguf.info(EMBEDDING).ok_or_else(|| Error::MissingTensor(EMBEDDING.into()))?;
    let rows = info.shape[0];
    if info.shape != [rows, hidden] {
        return Err(Error::Shape {
            name: EMBEDDING.into(),
            found: info.shape.clone(),
            wanted: vec![rows, hidden],
        });
    }
    let wanted = format!("at most {rows}, the rows of {EMBEDDING}");
    if keys.size_opt("vocab_size")?.is_some_and(|n| n > rows) {
        return Err(keys.wanted("vocab_size", wanted));
    }
    match keys.gguf.metadata().optional("tokenizer.ggml.tokens", Field::strings)? {
        Some(tokens) if tokens.len() > rows as usize => {
            Err(Error::config("tokenizer.ggml.tokens", format!("{} tokens", tokens.len()), wanted))
        }
        _ => Ok(rows),
    }
}

fn token(gguf: &Gguf, name: &str, vocab: i32) -> Result<Option<u32>> {
    gguf.metadata().optional(&format!("tokenizer.ggml.{name}_token_id"), |field| {
        field
            .u32()
            .ok()
            .filter(|&id| id < vocab as u32)
            .ok_or_else(|| field.wanted(format!("a token id below {vocab}")))
    })
}

fn rope_scaling(keys: &Keys<'_>, heads: &Heads) -> Result<Option<Value>> {
    let kind = keys.optional("rope.scaling.type", Field::str)?.unwrap_or("linear");
    // Zero stands for no scaling, and there is an older name.
    let zero = |field: Field<'_>| if field.f32()? == 0.0 { Ok(1.0) } else { positive(field) };
    let factor = match keys.optional("rope.scaling.factor", zero)? {
        Some(factor) => Some(factor),
        None => keys.optional("rope.scale_linear", zero)?,
    };
    for fixed in ["rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor"] {
        // Negative stands for the default.
        if keys.optional(fixed, Field::f32)?.is_some_and(|x| x != 1.0 && (x >= 0.0 || x.is_nan())) {
            return Err(keys.wanted(fixed, "1, or no such key"));
        }
    }
    let scaled = factor.is_some_and(|factor| factor != 1.0);
    let scaling = match kind {
        "none" => None,
        "linear" => {
            factor.filter(|_| scaled).map(|factor| json!({"rope_type": "linear", "factor": decimal(factor)}))
        }
        "yarn" => Some(yarn(keys, factor)?),
        _ => return Err(keys.wanted("rope.scaling.type", "none, linear or yarn")),
    };
    let Some(info) = keys.gguf.info(names::ROPE_FREQS) else { return Ok(scaling) };
    if scaling.is_some() {
        return Err(Error::tensor(
            names::ROPE_FREQS,
            format!("divides frequencies that are scaled ({kind}) already"),
        ));
    }
    let factors: Vec<Value> = rope_factors(keys.gguf, info, heads)?.into_iter().map(decimal).collect();
    Ok(Some(json!({"rope_type": "freq_factors", "factors": factors})))
}

fn yarn(keys: &Keys<'_>, factor: Option<f32>) -> Result<Value> {
    let factor = factor.ok_or_else(|| keys.wanted("rope.scaling.factor", "a positive number"))?;
    let original = keys
        .size_opt("rope.scaling.original_context_length")?
        .map_or_else(|| keys.size("context_length"), Ok)?;
    let mut yarn = Map::new();
    yarn.insert("rope_type".into(), "yarn".into());
    yarn.insert("factor".into(), decimal(factor));
    yarn.insert("original_max_position_embeddings".into(), original.into());
    for (key, name) in [
        ("rope.scaling.yarn_attn_factor", "attention_factor"),
        ("rope.scaling.yarn_beta_fast", "beta_fast"),
        ("rope.scaling.yarn_beta_slow", "beta_slow"),
    ] {
        // Negative stands for the default.
        if let Some(x) = keys.optional(key, Field::f32)?.filter(|&x| x >= 0.0 || x.is_nan()) {
            if !x.is_finite() {
                return Err(keys.wanted(key, "a number"));
            }
            yarn.insert(name.into(), decimal(x));
        }
    }
    Ok(yarn.into())
}

/// The divisors of the rotary frequencies.
fn rope_factors(gguf: &Gguf, info: &TensorInfo, heads: &Heads) -> Result<Vec<f32>> {
    let half = heads.dim / 2;
    if info.shape != [half] {
        return Err(Error::Shape { name: info.name.clone(), found: info.shape.clone(), wanted: vec![half] });
    }
    if info.kind.format != Some(Format::Dense(Dense::F32)) {
        return Err(Error::tensor(&info.name, format!("elements of type {}, wanted F32", info.kind.name)));
    }
    let mut bytes = vec![0; info.bytes as usize];
    gguf.source.read_at(&mut bytes, info.offset)?;
    let factors: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    match factors.iter().find(|f| !f.is_finite() || **f <= 0.0) {
        Some(f) => Err(Error::tensor(&info.name, format!("the factor {f}; wanted positive numbers"))),
        None => Ok(factors),
    }
}
