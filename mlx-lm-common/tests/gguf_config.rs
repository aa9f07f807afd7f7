//! GGUF metadata as a configuration, and tensors under their published names.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/gguf.rs"]
mod builder;
mod memory;

use builder::{Builder, kind, list, tokens};
use serde_json::json;

#[test]
fn config_of_each_architecture() {
    let llama = tokens(Builder::model("llama")).open().unwrap().config().unwrap();
    let wanted = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0, "vocab_size": 40, "max_position_embeddings": 512, "tie_word_embeddings": true,
        "attention_bias": false, "mlp_bias": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    assert_eq!(llama, wanted);

    let qwen2 = Builder::model("qwen2").zeros("blk.0.attn_q.bias", &[64]).zeros("output.weight", &[64, 40]);
    let config = qwen2.open().unwrap().config().unwrap();
    assert_eq!(config["model_type"], "qwen2");
    assert_eq!(config["attention_bias"], true);
    assert_eq!(config["tie_word_embeddings"], false);
    assert!(config.get("eos_token_id").is_none() && config.get("bos_token_id").is_none());

    // Integers of other widths, heads that are wider than their share, and defaults.
    let qwen3 = Builder::model("qwen3")
        .u32("qwen3.attention.key_length", 32)
        .u32("qwen3.attention.value_length", 32)
        .u32("qwen3.rope.dimension_count", 32)
        .without("qwen3.block_count")
        .pair("qwen3.block_count", kind::U8, [2])
        .without("qwen3.context_length")
        .pair("qwen3.context_length", kind::I64, 40960_i64.to_le_bytes())
        .without("qwen3.rope.freq_base")
        .without("qwen3.attention.head_count_kv");
    let config = tokens(qwen3)
        .u32("tokenizer.ggml.eot_token_id", 3)
        .u32("tokenizer.ggml.eom_token_id", 2)
        .open()
        .unwrap()
        .config()
        .unwrap();
    assert_eq!(config["head_dim"], 32);
    assert_eq!(config["num_hidden_layers"], 2);
    assert_eq!(config["max_position_embeddings"], 40960);
    assert_eq!(config["rope_theta"], 10000.0);
    assert_eq!(config["num_key_value_heads"], 4);
    assert_eq!(config["eos_token_id"], json!([2, 3]));
}

#[test]
fn rope_scaling() {
    let scaling = |b: Builder| b.open().unwrap().config().unwrap()["rope_scaling"].clone();
    let typed = |kind: &str| Builder::model("llama").str("llama.rope.scaling.type", kind);
    let factor = |b: Builder, x| b.f32("llama.rope.scaling.factor", x);
    let linear = json!({"rope_type": "linear", "factor": 2.5});
    assert!(scaling(Builder::model("llama")).is_null());
    assert!(scaling(factor(typed("none"), 4.0)).is_null());
    assert!(scaling(factor(typed("linear"), 0.0)).is_null());
    assert!(scaling(factor(typed("linear"), 1.0)).is_null());
    assert_eq!(scaling(factor(typed("linear"), 2.5)), linear);
    assert_eq!(scaling(factor(Builder::model("llama"), 2.5)), linear);
    assert_eq!(scaling(Builder::model("llama").f32("llama.rope.scale_linear", 2.5)), linear);
    assert_eq!(
        scaling(factor(typed("yarn"), 4.0)),
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512})
    );
    let yarn = factor(typed("yarn"), 4.0)
        .u32("llama.rope.scaling.original_context_length", 128)
        .f32("llama.rope.scaling.yarn_ext_factor", -1.0)
        .f32("llama.rope.scaling.yarn_attn_factor", 1.2)
        .f32("llama.rope.scaling.yarn_beta_fast", 30.0)
        .f32("llama.rope.scaling.yarn_beta_slow", 2.0);
    assert_eq!(
        scaling(yarn),
        json!({
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
            "attention_factor": 1.2, "beta_fast": 30.0, "beta_slow": 2.0,
        })
    );
    let factors: Vec<f32> = (0..8).map(|i| 1.0 + i as f32 * 0.1).collect();
    let bytes: Vec<u8> = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
    let llama3 = Builder::model("llama").tensor("rope_freqs.weight", &[8], 0, bytes);
    let found = scaling(llama3.clone());
    assert_eq!(found["rope_type"], "freq_factors");
    let found: Vec<f32> =
        found["factors"].as_array().unwrap().iter().map(|f| f.as_f64().unwrap() as f32).collect();
    assert_eq!(found, factors);
    assert!(llama3.open().unwrap().tensors().unwrap().iter().all(|t| !t.name().contains("rope")));
}

/// Models whose header is sound and whose contents are not: what is wrong, the file, what the error says.
fn bad_models() -> Vec<(&'static str, Builder, &'static str)> {
    let model = || Builder::model("llama");
    let key = |name: &str| format!("llama.{name}");
    let u32 = |name: &str, value| tokens(model()).u32(&key(name), value);
    let f32 = |name: &str, value| model().f32(&key(name), value);
    let i32 =
        |name: &str, value: i32| model().without(&key(name)).pair(key(name), kind::I32, value.to_le_bytes());
    let scaling = |kind: &str| model().str("llama.rope.scaling.type", kind);
    let yarn = || scaling("yarn").f32("llama.rope.scaling.factor", 4.0);
    let freqs = |bytes: Vec<u8>| model().tensor("rope_freqs.weight", &[bytes.len() as u64 / 4], 0, bytes);
    vec![
        ("no architecture", model().without("general.architecture"), "`general.architecture`: found nothing"),
        (
            "another architecture",
            model().str("general.architecture", "rwkv7"),
            "found \"rwkv7\", wanted llama, qwen2, qwen3",
        ),
        ("architecture 3", model().u32("general.architecture", 3), "found 3, wanted a string"),
        (
            "width 0",
            u32("embedding_length", 0),
            "`llama.embedding_length`: found 0, wanted an integer from 1",
        ),
        ("width 2^32-1", u32("embedding_length", u32::MAX), "`llama.embedding_length`: found 4294967295"),
        ("negative width", i32("embedding_length", -64), "`llama.embedding_length`: found -64"),
        (
            "another width",
            u32("embedding_length", 128),
            "tensor `token_embd.weight`: found shape [40, 64], wanted [40, 128]",
        ),
        (
            "no embedding",
            model().edit(|b| b.tensors.retain(|t| t.name != "token_embd.weight")),
            "`token_embd.weight` is not in the checkpoint",
        ),
        ("no layers", u32("block_count", 0), "`llama.block_count`: found 0"),
        (
            "two billion layers",
            u32("block_count", 2_000_000_000),
            "`llama.block_count`: found 2000000000, wanted no more than the 20 tensors",
        ),
        ("no heads", u32("attention.head_count", 0), "`llama.attention.head_count`: found 0"),
        (
            "heads that do not divide",
            u32("attention.head_count", 6),
            "`llama.attention.head_count`: found 6, wanted a divisor of the width 64",
        ),
        (
            "heads for each layer",
            model().i32s("llama.attention.head_count", &[4, 4]),
            "found an array of 2 int32, wanted an integer",
        ),
        (
            "key heads that do not divide",
            u32("attention.head_count_kv", 3),
            "`llama.attention.head_count_kv`: found 3, wanted a divisor of the 4 query heads",
        ),
        ("no key heads", u32("attention.head_count_kv", 0), "`llama.attention.head_count_kv`: found 0"),
        (
            "odd heads",
            u32("attention.key_length", 15),
            "`llama.attention.key_length`: found 15, wanted heads of an even",
        ),
        (
            "enormous heads",
            u32("attention.key_length", 1 << 30),
            "`llama.attention.key_length`: found 1073741824",
        ),
        (
            "values unlike keys",
            u32("attention.value_length", 32),
            "`llama.attention.value_length`: found 32, wanted 16",
        ),
        (
            "partial rotation",
            u32("rope.dimension_count", 8),
            "`llama.rope.dimension_count`: found 8, wanted 16",
        ),
        (
            "no feed-forward width",
            model().without("llama.feed_forward_length"),
            "`llama.feed_forward_length`: found nothing",
        ),
        ("no context", u32("context_length", 0), "`llama.context_length`: found 0"),
        (
            "eps NaN",
            f32("attention.layer_norm_rms_epsilon", f32::NAN),
            "`llama.attention.layer_norm_rms_epsilon`: found NaN, wanted a positive number",
        ),
        ("eps negative", f32("attention.layer_norm_rms_epsilon", -1e-5), "found -9.99"),
        ("base infinite", f32("rope.freq_base", f32::INFINITY), "`llama.rope.freq_base`: found inf"),
        ("experts", u32("expert_count", 8), "`llama.expert_used_count`: found nothing"),
        (
            "enormous vocabulary, no tokens",
            model().u32("llama.vocab_size", u32::MAX),
            "`llama.vocab_size`: found 4294967295",
        ),
        (
            "vocabulary beyond the embedding",
            u32("vocab_size", 41),
            "`llama.vocab_size`: found 41, wanted at most 40",
        ),
        (
            "tokens beyond the embedding",
            model().strings("tokenizer.ggml.tokens", &["x"; 41]),
            "found 41 tokens, wanted at most 40",
        ),
        (
            "tokens as bytes",
            model().pair("tokenizer.ggml.tokens", kind::LIST, list(kind::U8, 2, &[1, 2])),
            "wanted an array of strings",
        ),
        (
            "end beyond the vocabulary",
            model().u32("tokenizer.ggml.eos_token_id", 40),
            "`tokenizer.ggml.eos_token_id`: found 40, wanted a token id below 40",
        ),
        (
            "start -1",
            model().pair("tokenizer.ggml.bos_token_id", kind::I32, (-1_i32).to_le_bytes()),
            "`tokenizer.ggml.bos_token_id`: found -1",
        ),
        (
            "unknown scaling",
            scaling("longrope"),
            "`llama.rope.scaling.type`: found \"longrope\", wanted none, linear or yarn",
        ),
        ("yarn without factor", scaling("yarn"), "`llama.rope.scaling.factor`: found nothing"),
        ("negative factor", f32("rope.scaling.factor", -2.0), "`llama.rope.scaling.factor`: found -2.0"),
        ("factor NaN", f32("rope.scaling.factor", f32::NAN), "`llama.rope.scaling.factor`: found NaN"),
        (
            "yarn with another extrapolation",
            yarn().f32("llama.rope.scaling.yarn_ext_factor", 0.5),
            "yarn_ext_factor`: found 0.5, wanted 1",
        ),
        ("beta NaN", yarn().f32("llama.rope.scaling.yarn_beta_fast", f32::NAN), "yarn_beta_fast`: found NaN"),
        (
            "frequencies for other heads",
            freqs(vec![0; 16]),
            "tensor `rope_freqs.weight`: found shape [4], wanted [8]",
        ),
        ("frequencies zero", freqs(vec![0; 32]), "tensor `rope_freqs.weight`: the factor 0"),
        (
            "frequencies in half precision",
            model().tensor("rope_freqs.weight", &[8], 1, vec![0; 16]),
            "elements of type F16, wanted F32",
        ),
    ]
}

#[test]
fn bad_models_are_errors() {
    for (what, b, wanted) in bad_models() {
        let gguf = b.open().unwrap_or_else(|e| panic!("{what}: {e}"));
        let (result, largest) = memory::largest(|| gguf.config());
        let message = result.err().unwrap_or_else(|| panic!("{what}: accepted")).to_string();
        assert!(message.contains(wanted), "{what}: {message}");
        assert!(largest <= 1 << 16, "{what}: {largest} bytes at once");
    }
    let model = || Builder::model("llama");
    for (what, b, wanted) in [
        (
            "type without equal",
            model().entry("blk.0.x", &[256], 15, 0),
            "tensor `blk.0.x`: elements of type Q8_K; F32, F16, Q4_0",
        ),
        (
            "one name twice",
            model().entry("model.norm.weight", &[1], 0, 0),
            "another tensor of the file is `model.norm.weight` too",
        ),
        (
            "too few query rows",
            model().zeros("blk.0.attn_q.weight", &[64, 48]),
            "found shape [48, 64], wanted [64, 64]",
        ),
        (
            "too many key rows",
            model().zeros("blk.1.attn_k.weight", &[64, 64]),
            "found shape [64, 64], wanted [32, 64]",
        ),
        (
            "packed bias",
            model().tensor("blk.0.attn_q.bias", &[64], 2, vec![0; 36]),
            "blocks of type Q4_0 that span rows",
        ),
    ] {
        // The added entries shall not lie on other tensors.
        let mut b = b;
        for t in b.tensors.iter_mut().filter(|t| t.offset.is_some()) {
            (t.offset, t.data) = (None, vec![0; 292]);
        }
        let message =
            b.open().unwrap().tensors().err().unwrap_or_else(|| panic!("{what}: accepted")).to_string();
        assert!(message.contains(wanted), "{what}: {message}");
    }
}

#[test]
fn published_names() {
    let names = |b: Builder| -> Vec<String> {
        b.open().unwrap().tensors().unwrap().iter().map(|t| t.name().to_string()).collect()
    };
    let mut b = Builder::model("qwen3").edit(|b| b.tensors.truncate(11)).zeros("output.weight", &[64, 40]);
    let extra =
        ["blk.11.attn_q_norm.weight", "blk.0.attn_k_norm.weight", "blk.0.attn_q.bias", "blk.0.ffn_down.bias"];
    let foreign = [
        "blk.01.attn_q.weight",
        "blk.0.ffn_gate_exps.weight",
        "blk.0.attn_q.lora_a",
        "blk.x.attn_q.weight",
        "output.scale",
        "v.patch_embd.weight",
        "blk.0",
        "token_embd",
    ];
    for name in extra.iter().chain(&foreign) {
        b = b.zeros(name, &[64]);
    }
    let mut wanted = vec![
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
        "model.layers.0.post_attention_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "lm_head.weight",
        "model.layers.11.self_attn.q_norm.weight",
        "model.layers.0.self_attn.k_norm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.mlp.down_proj.bias",
    ];
    wanted.extend(foreign);
    assert_eq!(names(b), wanted);
}
