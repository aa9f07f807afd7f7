"""Qwen 2 and 3, dense and with experts."""

import mlx.core as mx
from engine import arch, base
from layouts import unstack_experts

# Biases on q, k and v.
arch("qwen2", base("qwen2", "Qwen2ForCausalLM", rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=64,
                   use_sliding_window=False, max_window_layers=2, tie_word_embeddings=True, torch_dtype="float16"),
     dtype=mx.float16, commit=("",))


def qwen3(**keys):
    return base("qwen3", "Qwen3ForCausalLM", **dict(
        dict(head_dim=32, rms_norm_eps=1e-6, rope_theta=1000000.0, attention_bias=False, tie_word_embeddings=True), **keys))


# Norms over each head's queries and keys.
arch("qwen3", qwen3(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
                    sliding_window=None, use_sliding_window=False, max_window_layers=2), commit=("", "v5", "4bit"), formats=True)
arch("qwen3_v5config", qwen3(rope_theta=..., rope_parameters=dict(rope_theta=50000.0, rope_type="default"),
                             layer_types=["full_attention"] * 2, torch_dtype=..., dtype="bfloat16"), weights="qwen3", commit=("",))
# The first layer is dense.
arch("qwen3_moe", base("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=16, num_experts=6, num_experts_per_tok=2,
                       moe_intermediate_size=32, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[0],
                       rms_norm_eps=1e-6, attention_bias=False, rope_scaling=None, use_sliding_window=False,
                       sliding_window=None, max_window_layers=2, output_router_logits=False, router_aux_loss_coef=0.001),
     layout=unstack_experts(), commit=("", "hf", "4bit"), formats=True)
