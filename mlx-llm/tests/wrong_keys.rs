//! Values that an architecture cannot have: the error names the key. Of fixtures that have been generated.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::fixtures;
use mlx_llm::{LoadOptions, common::raw::Device, load_local};
use serde_json::{Value, json};
use std::fs;

#[test]
fn errors_name_the_key() {
    // The fixture, the key, its value, and what the error says.
    let cases: [(&str, &str, Value, &[&str]); 34] = [
        ("bitnet", "hidden_act", json!("tanh"), &["hidden_act", "relu2"]),
        ("bitnet", "num_key_value_heads", json!(3), &["num_key_value_heads", "divisor of 4"]),
        ("bitnet", "quantization_config", json!({"quant_method": "hqq"}), &["quant_method", "hqq", "bitnet"]),
        ("deepseek_v2", "kv_lora_rank", json!(0), &["kv_lora_rank"]),
        ("deepseek_v2", "qk_nope_head_dim", json!(0), &["qk_nope_head_dim"]),
        ("deepseek_v2", "qk_rope_head_dim", json!(0), &["qk_rope_head_dim"]),
        ("deepseek_v2", "qk_rope_head_dim", json!(15), &["qk_rope_head_dim", "even"]),
        ("deepseek_v2", "v_head_dim", json!(-1), &["v_head_dim"]),
        ("deepseek_v2", "q_lora_rank", json!(0), &["q_lora_rank"]),
        ("deepseek_v2", "topk_method", json!("noaux_tc"), &["topk_method", "group_limited_greedy"]),
        ("deepseek_v2", "scoring_func", json!("sigmoid"), &["scoring_func", "softmax"]),
        ("deepseek_v2", "n_group", json!(3), &["n_group", "divisor of 8"]),
        ("deepseek_v2", "topk_group", json!(5), &["topk_group", "1 to 4"]),
        ("deepseek_v2", "moe_layer_freq", json!(0), &["moe_layer_freq"]),
        ("deepseek_v3", "topk_method", json!("greedy"), &["topk_method", "noaux_tc"]),
        ("deepseek_v3", "scoring_func", json!("softmax"), &["scoring_func", "sigmoid"]),
        ("deepseek_v3", "n_group", json!(8), &["n_group", "two experts"]),
        ("deepseek_v3", "num_experts_per_tok", json!(5), &["num_experts_per_tok", "from 2 groups of 2"]),
        ("deepseek_v3", "num_experts_per_tok", json!(9), &["num_experts_per_tok", "1 to 8"]),
        ("deepseek_v3", "n_routed_experts", json!(0), &["n_routed_experts"]),
        ("deepseek_v3", "n_shared_experts", json!(-1), &["n_shared_experts"]),
        ("deepseek_v3", "n_shared_experts", json!(1 << 30), &["n_shared_experts"]),
        ("deepseek_v3", "num_attention_heads", json!(1 << 30), &["num_attention_heads"]),
        ("deepseek_v3", "rope_scaling", json!({"type": "yarn"}), &["rope_parameters.factor"]),
        ("gpt_oss", "swiglu_limit", json!(0), &["swiglu_limit", "positive"]),
        ("gpt_oss", "sliding_window", json!(0), &["sliding_window"]),
        ("gpt_oss", "layer_types", json!(["full_attention"]), &["layer_types", "4 layers"]),
        ("gpt_oss", "layer_types", json!(["chunked_attention"]), &["layer_types", "chunked_attention"]),
        ("gpt_oss", "num_experts_per_tok", json!(9), &["num_experts_per_tok", "1 to 8"]),
        ("gpt_oss", "num_key_value_heads", json!(3), &["num_key_value_heads", "divisor of 4"]),
        ("mistral4", "attention_multiplier", json!(1e300), &["attention_multiplier"]),
        (
            "mistral4",
            "rope_parameters",
            json!({"rope_theta": 1e4, "llama_4_scaling_beta": 0.1}),
            &["rope_parameters.original_max_position_embeddings"],
        ),
        (
            "ministral3",
            "rope_parameters",
            json!({"rope_theta": 1e4, "llama_4_scaling_beta": 1e300, "original_max_position_embeddings": 4}),
            &["rope_parameters.llama_4_scaling_beta"],
        ),
        ("mistral_small4", "text_config", json!({"model_type": "mistral5"}), &["mistral5", "mistral4"]),
    ];
    let all = fixtures();
    for (name, key, value, wanted) in cases {
        let Some(folder) = all.iter().find(|f| f.ends_with(name)) else {
            assert!(std::env::var_os("MLX_LM_FIXTURES").is_none(), "there is no fixture {name}");
            continue;
        };
        let copy = tempfile::tempdir().unwrap();
        fs::copy(folder.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
        let mut config: Value =
            serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        config[key] = value.clone();
        fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
        let options = LoadOptions { device: Some(Device::Cpu), ..Default::default() };
        let found = load_local(copy.path(), &options).err().map_or("it loads".into(), |e| e.to_string());
        for part in wanted {
            assert!(found.contains(part), "{name} with {key} = {value}: {found}");
        }
    }
}
