"""Llama and what shares its code."""

from engine import arch, base
from layouts import same


def llama(**keys):
    return base("llama", "LlamaForCausalLM", **dict(
        dict(attention_bias=False, mlp_bias=False, pretraining_tp=1, rope_scaling=None, tie_word_embeddings=True), **keys))


# Biases everywhere, its own output head.
arch("llama", llama(head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=False),
     commit=("", "4bit"), formats=True)
arch("llama3", llama(rope_theta=500000.0, rope_scaling=dict(
    factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=16, rope_type="llama3")),
    commit=("", "v5", "4bit", "mxfp4", "mxfp8", "nvfp4", "mixed", "mixed-bare", "sharded"), formats=True)
arch("llama_linear_rope", llama(rope_scaling=dict(type="linear", factor=2.0)), weights="llama3", commit=("",))
arch("llama_yarn", llama(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32,
                                           beta_fast=8.0, beta_slow=1.0)), weights="llama3", commit=("", "v5"))
# The base depends on the length so far: keys before and after position 8 use different ones.
arch("llama_dynamic_ntk", llama(max_position_embeddings=8, rope_scaling=dict(type="dynamic", factor=2.0)),
     weights="llama3", chunks=False, commit=("",))
arch("llama_longrope", llama(max_position_embeddings=64, rope_scaling=dict(
    rope_type="longrope", original_max_position_embeddings=32, short_factor=[1.0 + 0.1 * i for i in range(8)],
    long_factor=[1.5 + 0.5 * i for i in range(8)])), weights="llama3", commit=("",))
arch("llama_swa", llama(sliding_window=4, layer_types=["sliding_attention", "full_attention"]), weights="llama3", commit=("",))
# The same, with a text long enough for the window to wrap.
arch("llama_window", llama(sliding_window=5, layer_types=["sliding_attention", "full_attention"]), weights="llama3")
# heads * head_dim is not the hidden size.
arch("mistral", base("mistral", "MistralForCausalLM", num_attention_heads=3, num_key_value_heads=1, head_dim=32,
                     sliding_window=None, rope_theta=1000000.0), commit=("",))
# No RoPE in every n-th layer.
arch("smollm3", base("smollm3", "SmolLM3ForCausalLM", no_rope_layers=[1, 0], no_rope_layer_interval=2,
                     attention_bias=False, mlp_bias=False, rope_scaling=None, rope_theta=50000.0, pretraining_tp=1,
                     tie_word_embeddings=True, layer_types=["full_attention"] * 2, use_sliding_window=False,
                     sliding_window=None, max_window_layers=28), weights="llama3", commit=("",))
# Llamas in other words: neighbouring channels rotated together, a bias of the output projection or none, names of their own.
arch("ernie4_5", base("ernie4_5", "Ernie4_5_ForCausalLM", head_dim=32, use_bias=True, compression_ratio=1.0,
                      tie_word_embeddings=True, rope_scaling=None))
arch("seed_oss", base("seed_oss", "SeedOssForCausalLM", head_dim=32, attention_bias=True, attention_out_bias=False,
                      mlp_bias=False, rope_scaling=dict(rope_type="default"), residual_dropout=0.1, pretraining_tp=1))
arch("mimo", base("mimo", "MiMoForCausalLM", attention_bias=True, num_nextn_predict_layers=1, rope_scaling=None,
                  rope_theta=640000.0, use_sliding_window=False, sliding_window=None, max_window_layers=3),
     layout=same, extras={"model.mtp_layers.0.input_proj.weight": (64, 128)})
arch("exaone", base("exaone", "ExaoneForCausalLM", num_layers=2, num_hidden_layers=..., activation_function="silu",
                    hidden_act=..., layer_norm_epsilon=1e-5, head_dim=16, embed_dropout=0.0, rms_norm_eps=...,
                    rope_scaling=dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0,
                                      original_max_position_embeddings=16, rope_type="llama3")))
arch("helium", base("helium", "HeliumForCausalLM", head_dim=16, attention_bias=True, mlp_bias=False, rope_theta=100000.0))
arch("internlm3", base("internlm3", "InternLM3ForCausalLM", head_dim=16, qkv_bias=True, bias=True, rope_scaling=dict(
    factor=6.0, rope_type="dynamic")))
