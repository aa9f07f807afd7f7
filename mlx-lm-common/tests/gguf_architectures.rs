//! Metadata of GGUF files as configurations, for each architecture: what they become, and that whatever they say wrong is an error
//! that names the key.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/gguf.rs"]
mod builder;
mod memory;

use builder::{Builder, kind, list, string};
use serde_json::{Value, json};

/// Keys of an architecture, with its name in front.
struct Keys(&'static str, Builder);

impl Keys {
    fn of(architecture: &'static str) -> Keys {
        Keys(architecture, Builder::model(architecture))
    }

    fn u32s(self, pairs: &[(&str, u32)]) -> Keys {
        pairs.iter().fold(self, |Keys(a, b), (key, n)| Keys(a, b.u32(&format!("{a}.{key}"), *n)))
    }

    fn f32s(self, pairs: &[(&str, f32)]) -> Keys {
        pairs.iter().fold(self, |Keys(a, b), (key, x)| Keys(a, b.f32(&format!("{a}.{key}"), *x)))
    }

    fn i32s(self, key: &str, values: &[i32]) -> Keys {
        let Keys(a, b) = self;
        Keys(a, b.i32s(&format!("{a}.{key}"), values))
    }

    fn bools(self, key: &str, values: &[u8]) -> Keys {
        let Keys(a, b) = self;
        let key = format!("{a}.{key}");
        Keys(a, b.without(&key).pair(key, kind::LIST, list(kind::BOOL, values.len() as u64, values)))
    }

    fn flag(self, key: &str, value: bool) -> Keys {
        let Keys(a, b) = self;
        Keys(a, b.bool(&format!("{a}.{key}"), value))
    }

    fn str(self, key: &str, value: &str) -> Keys {
        let Keys(a, b) = self;
        Keys(a, b.str(&format!("{a}.{key}"), value))
    }

    fn zeros(self, name: &str, dims: &[u64]) -> Keys {
        Keys(self.0, self.1.zeros(name, dims))
    }

    fn without(self, key: &str) -> Keys {
        let Keys(a, b) = self;
        Keys(a, b.without(&format!("{a}.{key}")))
    }

    fn config(&self) -> Result<Value, String> {
        let gguf = self.1.open().map_err(|e| e.to_string())?;
        let (config, largest) = memory::largest(|| gguf.config());
        assert!(largest <= 1 << 16, "{}: {largest} bytes at once", self.0);
        config.map_err(|e| e.to_string())
    }
}

const EXPERTS: [(&str, u32); 3] =
    [("expert_count", 8), ("expert_used_count", 3), ("expert_feed_forward_length", 32)];

fn gemma3() -> Keys {
    Keys::of("gemma3")
        .u32s(&[("attention.sliding_window", 8), ("attention.sliding_window_pattern", 3)])
        .f32s(&[("rope.freq_base_swa", 1e3), ("final_logit_softcapping", 30.0)])
}

fn gemma4() -> Keys {
    let freqs: Vec<u8> = [1.0_f32, 1.0, 1e30, 1e30].iter().flat_map(|f| f.to_le_bytes()).collect();
    let Keys(a, b) = Keys::of("gemma4")
        .u32s(&EXPERTS)
        .u32s(&[
            ("attention.sliding_window", 8),
            ("attention.key_length", 8),
            ("attention.value_length", 8),
            ("attention.key_length_swa", 4),
            ("attention.value_length_swa", 4),
            ("rope.dimension_count", 8),
            ("rope.dimension_count_swa", 4),
            ("attention.shared_kv_layers", 1),
            ("embedding_length_per_layer_input", 16),
        ])
        .f32s(&[("rope.freq_base_swa", 1e4), ("final_logit_softcapping", 30.0)])
        .i32s("attention.head_count_kv", &[2, 1])
        .i32s("feed_forward_length", &[96, 192])
        .bools("attention.sliding_window_pattern", &[1, 0]);
    Keys(a, b.tensor("rope_freqs.weight", &[4], 0, freqs))
}

fn deepseek() -> Keys {
    latent("deepseek2").u32s(&[("expert_gating_func", 2)])
}

fn latent(architecture: &'static str) -> Keys {
    Keys::of(architecture)
        .u32s(&EXPERTS)
        .u32s(&[
            ("attention.key_length_mla", 24),
            ("attention.value_length_mla", 16),
            ("attention.kv_lora_rank", 32),
            ("attention.q_lora_rank", 48),
            ("rope.dimension_count", 8),
            ("leading_dense_block_count", 1),
            ("expert_shared_count", 2),
            ("expert_group_count", 4),
            ("expert_group_used_count", 2),
            ("rope.scaling.original_context_length", 32),
        ])
        .str("rope.scaling.type", "yarn")
        .f32s(&[
            ("rope.scaling.factor", 4.0),
            ("rope.scaling.yarn_log_multiplier", 0.1),
            ("expert_weights_scale", 2.5),
        ])
        .flag("expert_weights_norm", true)
        .zeros("blk.0.attn_q_a.weight", &[64, 48])
        .without("attention.head_count_kv")
}

fn mistral4() -> Keys {
    latent("mistral4")
        .f32s(&[("attention.temperature_scale", 0.1)])
        .u32s(&[("attention.temperature_length", 16)])
}

fn mistral3() -> Keys {
    Keys::of("mistral3")
        .str("rope.scaling.type", "yarn")
        .f32s(&[
            ("rope.scaling.factor", 4.0),
            ("rope.scaling.yarn_log_multiplier", 1.0),
            ("attention.temperature_scale", 0.1),
        ])
        .u32s(&[("rope.scaling.original_context_length", 32)])
}

fn granite(architecture: &'static str) -> Keys {
    Keys::of(architecture).f32s(&[
        ("attention.scale", 0.1),
        ("embedding_scale", 12.0),
        ("residual_scale", 0.22),
        ("logit_scale", 8.0),
    ])
}

fn lfm2(architecture: &'static str) -> Keys {
    Keys::of(architecture).u32s(&[("shortconv.l_cache", 3)]).i32s("attention.head_count_kv", &[0, 2])
}

const MIXER: [(&str, u32); 5] = [
    ("ssm.conv_kernel", 4),
    ("ssm.inner_size", 128),
    ("ssm.state_size", 16),
    ("ssm.time_step_rank", 8),
    ("ssm.group_count", 2),
];

fn nemotron(architecture: &'static str) -> Keys {
    Keys::of(architecture)
        .u32s(&MIXER)
        .i32s("attention.head_count_kv", &[2, 0])
        .i32s("feed_forward_length", &[0, 96])
        .without("rope.freq_base")
}

fn nemotron_moe() -> Keys {
    nemotron("nemotron_h_moe")
        .u32s(&EXPERTS)
        .u32s(&[
            ("expert_shared_count", 1),
            ("expert_shared_feed_forward_length", 48),
            ("expert_group_count", 4),
            ("expert_group_used_count", 2),
            ("moe_latent_size", 24),
        ])
        .f32s(&[("expert_weights_scale", 2.5)])
        .flag("expert_weights_norm", true)
        .zeros("blk.1.ffn_up_shexp.weight", &[64, 48])
        .zeros("blk.1.ffn_latent_down.weight", &[64, 24])
}

fn qwen_next(architecture: &'static str) -> Keys {
    Keys::of(architecture)
        .u32s(&EXPERTS)
        .u32s(&MIXER)
        .u32s(&[
            ("expert_shared_feed_forward_length", 48),
            ("full_attention_interval", 2),
            ("rope.dimension_count", 4),
        ])
        .bools("attention.recurrent_layers", &[1, 0])
}

fn gpt_oss() -> Keys {
    Keys::of("gpt-oss")
        .u32s(&EXPERTS)
        .u32s(&[("attention.sliding_window", 8), ("rope.scaling.original_context_length", 32)])
        .str("rope.scaling.type", "yarn")
        .f32s(&[("rope.scaling.factor", 4.0)])
}

/// With layer norms instead of RMS norms.
fn layer_norms(architecture: &'static str) -> Keys {
    Keys::of(architecture)
        .without("attention.layer_norm_rms_epsilon")
        .f32s(&[("attention.layer_norm_epsilon", 1e-5)])
}

/// With a window in the first of the two layers.
fn windows(keys: Keys) -> Keys {
    keys.u32s(&[("attention.sliding_window", 8)]).bools("attention.sliding_window_pattern", &[1, 0])
}

/// With DeepSeek's mixtures.
fn scored_by_sigmoid(architecture: &'static str) -> Keys {
    Keys::of(architecture)
        .u32s(&EXPERTS)
        .u32s(&[
            ("expert_gating_func", 2),
            ("leading_dense_block_count", 1),
            ("expert_shared_count", 1),
            ("expert_group_count", 4),
            ("expert_group_used_count", 2),
        ])
        .f32s(&[("expert_weights_scale", 2.5)])
        .flag("expert_weights_norm", true)
}

fn qwen2_moe() -> Keys {
    Keys::of("qwen2moe").u32s(&EXPERTS).u32s(&[("expert_shared_feed_forward_length", 48)])
}

fn minimax() -> Keys {
    Keys::of("minimax-m2").u32s(&EXPERTS).u32s(&[("expert_gating_func", 2), ("rope.dimension_count", 8)])
}

/// A model of each architecture with all keys that are read of it.
fn models() -> Vec<Keys> {
    vec![
        Keys::of("bitnet"),
        Keys::of("chatglm").u32s(&[("rope.dimension_count", 8)]),
        windows(layer_norms("cohere2")).f32s(&[("logit_scale", 0.25)]),
        layer_norms("command-r").f32s(&[("logit_scale", 0.0625)]),
        deepseek(),
        scored_by_sigmoid("dots1"),
        Keys::of("ernie4_5"),
        Keys::of("exaone"),
        windows(Keys::of("exaone4")),
        Keys::of("falcon-h1").u32s(&MIXER),
        Keys::of("gemma"),
        Keys::of("gemma2")
            .u32s(&[("attention.sliding_window", 8)])
            .f32s(&[("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)]),
        gemma3(),
        gemma4(),
        Keys::of("glm4").u32s(&[("rope.dimension_count", 8)]),
        scored_by_sigmoid("glm4moe"),
        gpt_oss(),
        granite("granite"),
        granite("granitemoe").u32s(&EXPERTS[..2]),
        lfm2("lfm2"),
        lfm2("lfm2moe").u32s(&EXPERTS).u32s(&[("leading_dense_block_count", 1), ("expert_gating_func", 2)]),
        Keys::of("llama"),
        Keys::of("llama").u32s(&EXPERTS),
        Keys::of("llama4")
            .u32s(&EXPERTS)
            .u32s(&[("interleave_moe_layer_step", 2), ("attention.sliding_window", 8)]),
        granite("minicpm"),
        minimax(),
        mistral3(),
        mistral4(),
        layer_norms("nemotron"),
        nemotron("nemotron_h"),
        nemotron_moe(),
        windows(Keys::of("olmo2")),
        Keys::of("olmoe").u32s(&EXPERTS[..2]),
        layer_norms("phi2").u32s(&[("rope.dimension_count", 8)]),
        Keys::of("phi3").u32s(&[("rope.dimension_count", 8)]),
        Keys::of("qwen2"),
        qwen2_moe(),
        Keys::of("qwen3").u32s(&[("attention.key_length", 32), ("attention.value_length", 32)]),
        qwen_next("qwen35"),
        qwen_next("qwen35moe"),
        Keys::of("qwen3moe").u32s(&EXPERTS),
        qwen_next("qwen3next"),
        Keys::of("seed_oss"),
        Keys::of("smollm3"),
        layer_norms("stablelm"),
        layer_norms("starcoder2"),
    ]
}

/// What a configuration must hold, at least.
fn assert_holds(what: &str, config: &Value, wanted: Value) {
    for (key, value) in wanted.as_object().unwrap() {
        assert_eq!(&config[key], value, "{what}: {key}");
    }
}

/// What is expected of architectures that differ from others by little.
fn others() -> [(Keys, Value); 11] {
    [
        (
            windows(layer_norms("cohere2")).f32s(&[("logit_scale", 0.25)]),
            json!({
                "model_type": "cohere2", "logit_scale": 0.25, "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            }),
        ),
        (
            layer_norms("command-r").f32s(&[("logit_scale", 0.5)]),
            json!({"model_type": "cohere", "use_qk_norm": false}),
        ),
        (
            scored_by_sigmoid("dots1"),
            json!({
                "model_type": "dots1", "n_routed_experts": 8, "num_experts_per_tok": 3, "first_k_dense_replace": 1,
                "n_shared_experts": 1, "norm_topk_prob": true, "routed_scaling_factor": 2.5, "n_group": 4, "topk_group": 2,
            }),
        ),
        (scored_by_sigmoid("glm4moe"), json!({"model_type": "glm4_moe", "use_qk_norm": false, "n_group": 4})),
        (
            Keys::of("llama").u32s(&EXPERTS),
            json!({"model_type": "mixtral", "num_local_experts": 8, "intermediate_size": 32}),
        ),
        (
            minimax(),
            json!({
                "model_type": "minimax_m2", "num_local_experts": 8, "intermediate_size": 32, "partial_rotary_factor": 0.5,
            }),
        ),
        (windows(Keys::of("olmo2")), json!({"model_type": "olmo3", "sliding_window": 8})),
        (Keys::of("olmo2"), json!({"model_type": "olmo2"})),
        (
            Keys::of("olmoe").u32s(&EXPERTS[..2]),
            json!({"model_type": "olmoe", "num_experts": 8, "moe_intermediate_size": 96, "norm_topk_prob": false}),
        ),
        (
            qwen2_moe(),
            json!({
                "model_type": "qwen2_moe", "num_experts": 8, "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 48, "norm_topk_prob": false,
            }),
        ),
        (
            layer_norms("stablelm"),
            json!({"model_type": "stablelm", "use_qkv_bias": false, "use_parallel_residual": false, "qk_layernorm": false}),
        ),
    ]
}

#[test]
fn metadata_become_configurations() {
    let expected = [
        (
            gemma3(),
            json!({
                "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8,
                "sliding_window_pattern": 3, "rope_local_base_freq": 1000.0, "final_logit_softcapping": 30.0,
            }),
        ),
        (
            gemma4(),
            json!({
                "model_type": "gemma4_text", "head_dim": 4, "global_head_dim": 8, "num_kv_shared_layers": 1,
                "use_double_wide_mlp": true, "intermediate_size": 96, "enable_moe_block": true, "num_experts": 8,
                "top_k_experts": 3, "layer_types": ["sliding_attention", "full_attention"],
                "per_layer_config": {"0": {"head_dim": 4, "num_key_value_heads": 2}, "1": {"head_dim": 8, "num_key_value_heads": 1}},
                "rope_parameters": {
                    "full_attention": {"rope_type": "proportional", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                },
            }),
        ),
        (
            deepseek(),
            json!({
                "model_type": "deepseek_v3", "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "kv_lora_rank": 32,
                "q_lora_rank": 48, "n_group": 4, "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
                "n_shared_experts": 2, "first_k_dense_replace": 1, "n_routed_experts": 8,
                "rope_scaling": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                },
            }),
        ),
        (
            mistral4(),
            json!({
                "model_type": "mistral4",
                "rope_parameters": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0,
                    "mscale_all_dim": 1.0, "rope_theta": 500000.0, "llama_4_scaling_beta": 0.1,
                },
            }),
        ),
        (
            mistral3(),
            json!({
                "model_type": "ministral3",
                "rope_parameters": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
                    "llama_4_scaling_beta": 0.1, "rope_theta": 500000.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                },
            }),
        ),
        (Keys::of("mistral3"), json!({"model_type": "mistral"})),
        (
            granite("granite"),
            json!({
                "model_type": "granite", "attention_multiplier": 0.1, "embedding_multiplier": 12.0,
                "residual_multiplier": 0.22, "logits_scaling": 8.0,
            }),
        ),
        (granite("granite").without("attention.scale"), json!({"attention_multiplier": 0.25})),
        (
            lfm2("lfm2"),
            json!({
                "model_type": "lfm2", "layer_types": ["conv", "full_attention"], "num_key_value_heads": 2,
                "block_auto_adjust_ff_dim": false, "intermediate_size": 96, "conv_L_cache": 3,
            }),
        ),
        (
            nemotron_moe(),
            json!({
                "model_type": "nemotron_h", "hybrid_override_pattern": "*E", "mamba_num_heads": 8, "mamba_head_dim": 16,
                "n_groups": 2, "moe_latent_size": 24, "moe_shared_expert_intermediate_size": 48, "n_group": 4,
            }),
        ),
        (nemotron("nemotron_h"), json!({"hybrid_override_pattern": "*-", "num_key_value_heads": 2})),
        (
            qwen_next("qwen35moe"),
            json!({
                "model_type": "qwen3_5_moe_text", "layer_types": ["linear_attention", "full_attention"],
                "linear_num_key_heads": 2, "linear_num_value_heads": 8, "linear_key_head_dim": 16,
                "linear_value_head_dim": 16, "partial_rotary_factor": 0.25, "shared_expert_intermediate_size": 48,
            }),
        ),
        (
            gpt_oss(),
            json!({
                "model_type": "gpt_oss", "intermediate_size": 32, "num_local_experts": 8, "sliding_window": 8,
                "sliding_window_pattern": 2,
                "rope_scaling": {
                    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": false,
                },
            }),
        ),
        (
            Keys::of("phi3").u32s(&[("rope.dimension_count", 8)]),
            json!({"model_type": "phi3", "partial_rotary_factor": 0.5}),
        ),
        (
            Keys::of("qwen3moe").u32s(&EXPERTS),
            json!({
                "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32,
                "norm_topk_prob": true,
            }),
        ),
        (
            Keys::of("llama4").u32s(&EXPERTS).u32s(&[("interleave_moe_layer_step", 2)]),
            json!({
                "model_type": "llama4_text", "intermediate_size": 32, "intermediate_size_mlp": 96, "use_qk_norm": true,
                "attention_chunk_size": 8192, "interleave_moe_layer_step": 2,
            }),
        ),
    ];
    for (model, wanted) in expected.into_iter().chain(others()) {
        assert_holds(model.0, &model.config().unwrap(), wanted);
    }
}

#[test]
fn layers_that_predict_further_tokens_are_left_out() {
    let model = Keys::of("qwen3").u32s(&[("nextn_predict_layers", 1)]);
    assert_eq!(model.config().unwrap()["num_hidden_layers"], 1);
    let names: Vec<String> =
        model.1.open().unwrap().tensors().unwrap().iter().map(|t| t.name().to_string()).collect();
    assert!(names.iter().any(|name| name.starts_with("model.layers.0.")));
    assert!(names.iter().all(|name| !name.contains("layers.1.") && !name.contains("blk")), "{names:?}");
}

/// Every key is read, and refuses what it cannot be: text, a negative number, one beyond all sizes, one that is none.
#[test]
fn every_key_refuses_what_it_cannot_be() {
    for model in models() {
        let a = model.0;
        model.config().unwrap_or_else(|e| panic!("{a}: {e}"));
        let keys: Vec<String> =
            model.1.pairs.iter().map(|(key, ..)| String::from_utf8(key.clone()).unwrap()).collect();
        for key in keys.iter().filter(|key| key.starts_with(&format!("{a}."))) {
            let (_, old, _) = model.1.pairs.iter().find(|(k, ..)| k == key.as_bytes()).unwrap();
            let bad: &[(u32, Vec<u8>)] = match *old {
                kind::STR => &[(kind::U32, 1_u32.to_le_bytes().into()), (kind::STR, string("nonsense"))],
                kind::F32 => &[(kind::STR, string("1")), (kind::F32, f32::NAN.to_le_bytes().into())],
                kind::BOOL => &[(kind::STR, string("true")), (kind::U32, 1_u32.to_le_bytes().into())],
                kind::LIST => &[(kind::STR, string("1")), (kind::LIST, list(kind::I32, 1, &[1, 0, 0, 0]))],
                _ => &[
                    (kind::STR, string("1")),
                    (kind::I32, (-1_i32).to_le_bytes().into()),
                    (kind::U32, u32::MAX.to_le_bytes().into()),
                ],
            };
            for (kind, value) in bad {
                let changed = Keys(a, model.1.clone().without(key).pair(key.clone(), *kind, value.clone()));
                let found = changed.config().err().unwrap_or_else(|| panic!("{key}: {value:?} is accepted"));
                assert!(found.contains(&format!("config key `{key}`")), "{key}: {found}");
            }
        }
    }
}

#[test]
fn what_contradicts_itself_is_named() {
    let cases = [
        (
            Keys::of("qwen3moe").u32s(&EXPERTS).u32s(&[("expert_used_count", 9)]),
            "expert_used_count",
            "no more than the 8",
        ),
        (
            Keys::of("qwen3moe").u32s(&EXPERTS).f32s(&[("expert_weights_scale", 2.0)]),
            "expert_weights_scale",
            "wanted 1",
        ),
        (Keys::of("qwen3").u32s(&[("nextn_predict_layers", 2)]), "nextn_predict_layers", "fewer than the 2"),
        (Keys::of("glm4").u32s(&[("rope.dimension_count", 18)]), "rope.dimension_count", "found 18"),
        (Keys::of("glm4").u32s(&[("rope.dimension_count", 7)]), "rope.dimension_count", "found 7"),
        (deepseek().u32s(&[("expert_gating_func", 3)]), "expert_gating_func", "1 (softmax) or 2 (sigmoid)"),
        (deepseek().u32s(&[("expert_gating_func", 1)]), "expert_weights_norm", "wanted false"),
        (deepseek().u32s(&[("rope.dimension_count", 24)]), "rope.dimension_count", "below 24"),
        (deepseek().u32s(&[("expert_group_used_count", 5)]), "expert_group_used_count", "the 4 groups"),
        (deepseek().without("attention.kv_lora_rank"), "attention.kv_lora_rank", "found nothing"),
        (mistral3().str("rope.scaling.type", "none"), "rope.scaling.type", "wanted yarn"),
        (granite("granite").u32s(&EXPERTS), "expert_count", "wanted 0"),
        (granite("granite").without("logit_scale"), "logit_scale", "found nothing"),
        (
            lfm2("lfm2").i32s("attention.head_count_kv", &[2]),
            "attention.head_count_kv",
            "each of the 2 layers",
        ),
        (lfm2("lfm2").i32s("attention.head_count_kv", &[2, 1]), "attention.head_count_kv", "found 1, too"),
        (lfm2("lfm2").u32s(&[("attention.key_length", 32)]), "attention.head_count", "share the width"),
        (
            lfm2("lfm2moe").u32s(&EXPERTS).u32s(&[("expert_gating_func", 1)]),
            "expert_gating_func",
            "found 1, wanted 2",
        ),
        (nemotron("nemotron_h").u32s(&[("ssm.time_step_rank", 7)]), "ssm.time_step_rank", "a divisor of 128"),
        (nemotron("nemotron_h").i32s("feed_forward_length", &[-1, 96]), "feed_forward_length", "from 0 on"),
        (qwen_next("qwen35").u32s(&[("ssm.time_step_rank", 7)]), "ssm.time_step_rank", "a multiple of the 2"),
        (qwen_next("qwen35").u32s(&[("ssm.inner_size", 100)]), "ssm.inner_size", "a multiple of the 8"),
        (
            qwen_next("qwen35").bools("attention.recurrent_layers", &[1]),
            "attention.recurrent_layers",
            "each of the 2 layers",
        ),
        (
            gemma4().u32s(&[("attention.shared_kv_layers", 2)]),
            "attention.shared_kv_layers",
            "fewer than the 2",
        ),
        (gemma4().i32s("feed_forward_length", &[96, 97]), "feed_forward_length", "one width, or twice"),
        (gemma4().i32s("feed_forward_length", &[0, 0]), "feed_forward_length", "one width"),
        (gemma4().i32s("attention.head_count_kv", &[2, 0]), "attention.head_count_kv", "a positive number"),
        (gemma4().u32s(&[("rope.dimension_count", 4)]), "rope.dimension_count", "found 4, wanted 8"),
        (
            gemma4().u32s(&[("attention.value_length_swa", 8)]),
            "attention.value_length_swa",
            "found 8, wanted 4",
        ),
        (
            gemma4().without("attention.sliding_window_pattern"),
            "attention.sliding_window_pattern",
            "found nothing",
        ),
        (
            gemma3().u32s(&[("attention.sliding_window_pattern", 0)]),
            "attention.sliding_window_pattern",
            "found 0",
        ),
    ];
    for (model, key, wanted) in cases {
        let key = format!("config key `{}.{key}`", model.0);
        let found = model.config().err().unwrap_or_else(|| panic!("{key}: accepted"));
        assert!(found.contains(&key) && found.contains(wanted), "{key}: {found}");
    }
}
