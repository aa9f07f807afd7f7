"""Mixtral and MiniMax M2: experts with numbers for the names of their matrices."""

from engine import arch, base
from formats import encoded, float8_blocks
from layouts import W123, unstack_experts, windows

LAYOUT = unstack_experts("block_sparse_moe.switch_mlp", "block_sparse_moe.experts", W123)


def mixtral(**keys):
    return base("mixtral", "MixtralForCausalLM", **dict(dict(
        num_local_experts=8, num_experts_per_tok=2, sliding_window=None, rope_theta=1000000.0, output_router_logits=False,
        router_aux_loss_coef=0.02), **keys))


arch("mixtral", mixtral(), layout=LAYOUT)
# The window of the first configurations, which mlx-lm does not know.
arch("mixtral_window", mixtral(sliding_window=5), weights="mixtral", correct=windows([5]))

FP8 = encoded(float8_blocks, dict(quantization_config=dict(
    activation_scheme="dynamic", fmt="float8_e4m3fn", quant_method="fp8", weight_block_size=[128, 128],
    modules_to_not_convert=["gate", "e_score_correction_bias", "lm_head"])),
    lambda name, w: name.endswith(("_proj.weight", "w1.weight", "w2.weight", "w3.weight")))
arch("minimax_m2", base("minimax_m2", "MiniMaxM2ForCausalLM", head_dim=32, rotary_dim=16, use_qk_norm=True,
                        qk_norm_type="per_layer", num_local_experts=8, num_experts_per_tok=3, scoring_func="sigmoid",
                        use_routing_bias=True, shared_intermediate_size=0, use_mtp=True, num_mtp_modules=3,
                        attn_type_list=[1, 1], rms_norm_eps=1e-6, rope_theta=5000000, layernorm_full_attention_beta=1.0,
                        router_jitter_noise=0.0), layout=LAYOUT, twins=dict(fp8=FP8))
