//! The same weights in a GGUF file give the same logits: names, the row order of Llama's queries and keys, and RoPE scaling come back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "../../mlx-lm-common/tests/common/gguf.rs"]
mod writer;

use common::{Reference, cache, fixture, ids, load, near};
use mlx_llm::{
    Config,
    common::config::{RopeConfig, Theta},
};
use mlx_rs::{Array, Dtype, ops};
use serde_json::Value;
use std::fs;
use writer::Builder;

/// Published names and GGUF's.
const NAMES: [(&str, &str); 13] = [
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
];

fn gguf_name(name: &str) -> String {
    let name = name.replace("mlp.down_proj", "ffn_down");
    let (from, to) = NAMES.iter().find(|(from, _)| name.contains(from)).copied().unwrap_or(("", ""));
    name.replacen(from, to, 1).replace("model.layers.", "blk.")
}

/// Rows of each head with the two halves interleaved, as converters store Llama's queries and keys.
fn interleaved(w: &Array, heads: i32) -> Array {
    let (shape, half) = (w.shape().to_vec(), w.dim(0) / heads / 2);
    let split = w.reshape(&[heads, 2, half, -1]).unwrap();
    split.swap_axes(1, 2).unwrap().reshape(&shape).unwrap()
}

/// The fixture `name` as a GGUF file of an architecture.
fn convert(name: &str, architecture: &str) -> Builder {
    let config: Value =
        serde_json::from_slice(&fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    let int = |key: &str| config[key].as_u64().unwrap() as u32;
    let key = |key: &str| format!("{architecture}.{key}");
    let (heads, kv_heads) = (int("num_attention_heads"), int("num_key_value_heads"));
    let mut b = Builder::new()
        .str("general.architecture", architecture)
        .u32(&key("block_count"), int("num_hidden_layers"))
        .u32(&key("context_length"), int("max_position_embeddings"))
        .u32(&key("embedding_length"), int("hidden_size"))
        .u32(&key("feed_forward_length"), int("intermediate_size"))
        .u32(&key("attention.head_count"), heads)
        .u32(&key("attention.head_count_kv"), kv_heads)
        .f32(&key("attention.layer_norm_rms_epsilon"), config["rms_norm_eps"].as_f64().unwrap() as f32)
        .f32(&key("rope.freq_base"), config["rope_theta"].as_f64().unwrap() as f32);
    if let Some(dim) = config["head_dim"].as_u64() {
        b = b.u32(&key("attention.key_length"), dim as u32).u32(&key("attention.value_length"), dim as u32);
    }
    if config["rope_scaling"]["rope_type"] == "llama3" {
        // Converters store this kind of scaling as a divisor for each frequency.
        let config = Config::from_json(config.clone()).unwrap();
        let dims = config.dim("hidden_size").unwrap() / config.dim("num_attention_heads").unwrap();
        let rope = RopeConfig::from_config(&config, None, dims).unwrap();
        let Theta::Wavelengths(wavelengths) = rope.frequencies(1).theta else { panic!("no wavelengths") };
        let plain = |i: usize| (rope.base as f32).powf(2.0 * i as f32 / dims as f32);
        let factors =
            wavelengths.iter().enumerate().flat_map(|(i, w)| (w / plain(i)).to_le_bytes()).collect();
        b = b.tensor("rope_freqs.weight", &[dims as u64 / 2], 0, factors);
    } else if let Some(factor) = config["rope_scaling"]["factor"].as_f64() {
        let kind = config["rope_scaling"]["rope_type"].as_str().unwrap_or("linear");
        b = b.str(&key("rope.scaling.type"), kind).f32(&key("rope.scaling.factor"), factor as f32);
        if let Some(original) = config["rope_scaling"]["original_max_position_embeddings"].as_u64() {
            b = b.u32(&key("rope.scaling.original_context_length"), original as u32);
        }
    }
    let tensors = Array::load_safetensors(fixture(name).join("model.safetensors")).unwrap();
    for (name, w) in tensors {
        let rows = match name.split('.').rev().nth(1) {
            Some("q_proj") if architecture == "llama" => interleaved(&w, heads as i32),
            Some("k_proj") if architecture == "llama" => interleaved(&w, kv_heads as i32),
            _ => w,
        };
        let rows = rows.as_dtype(Dtype::Float32).unwrap().contiguous().unwrap();
        rows.eval().unwrap();
        let data = rows.as_slice::<f32>().iter().flat_map(|v| v.to_le_bytes()).collect();
        let dims: Vec<u64> = rows.shape().iter().rev().map(|d| *d as u64).collect();
        b = b.tensor(&gguf_name(&name), &dims, 0, data);
    }
    b
}

#[test]
fn a_gguf_file_gives_the_logits_of_the_folder_it_was_made_from() {
    let cases = [
        ("llama_linear_rope", "llama"),
        ("llama3", "llama"),
        ("mistral", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, architecture) in cases {
        let path = folder.path().join(format!("{name}.gguf"));
        fs::write(&path, convert(name, architecture).bytes()).unwrap();
        for without_kernels in [false, true] {
            let (model, reference) = (load(&path, without_kernels).model, Reference::of(name));
            let mut cache = cache(model.as_ref());
            let prefill = model.forward(&ids(&reference.tokens("prompt")), &mut cache).unwrap();
            near(&prefill, reference.array("prefill"), name).unwrap();
            let steps: Vec<_> = reference
                .tokens("decode_tokens")
                .iter()
                .map(|t| model.forward(&ids(&[*t]), &mut cache).unwrap())
                .collect();
            near(&ops::concatenate(&steps, 1).unwrap(), reference.array("decode"), name).unwrap();
        }
    }
}
