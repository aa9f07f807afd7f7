"""DeepSeek 2 and 3, and what shares their code: latent attention and grouped experts."""

import mlx.core as mx
from engine import arch, base
from formats import encoded, float8_blocks
from layouts import chain, join_kv_b, unstack_experts
from mlx_lm.models import deepseek_v3

LATENT = dict(kv_lora_rank=64, q_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32)
YARN = dict(type="yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=8, beta_slow=1, mscale=1.0,
            mscale_all_dim=0.5)
EXPERTS = dict(first_k_dense_replace=1, moe_intermediate_size=32, moe_layer_freq=1, n_routed_experts=8, n_shared_experts=1,
               num_experts_per_tok=3, n_group=4, topk_group=2, norm_topk_prob=True, routed_scaling_factor=2.5)


def deepseek(kind, cls, **keys):
    return base(kind, cls, **dict(dict(
        num_hidden_layers=3, num_key_value_heads=4, intermediate_size=160, rms_norm_eps=1e-6, attention_bias=False,
        rope_scaling=YARN, ep_size=1, **LATENT, **EXPERTS), **keys))


# ---- DeepSeek 2: experts by softmax, of the best groups -------------------------------------------------------------------

V2 = dict(aux_loss_alpha=0.001, seq_aux=True, scoring_func="softmax", norm_topk_prob=False)
arch("deepseek_v2", deepseek("deepseek_v2", "DeepseekV2ForCausalLM", **{
    **V2, "topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5, "moe_layer_freq": 2, "num_hidden_layers": 4}),
    layout=unstack_experts())
# As "Lite": queries without a low rank, all experts in one group.
arch("deepseek_v2_lite", deepseek("deepseek_v2", "DeepseekV2ForCausalLM", **{
    **V2, "q_lora_rank": None, "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
    "n_shared_experts": 2}), layout=unstack_experts())

# ---- DeepSeek 3: experts by sigmoid and a bias that chooses only ----------------------------------------------------------


def select(gates, bias, top_k, n_group, topk_group, scale, normalized):
    """mlx-lm lets experts of other groups through where the biased scores of the chosen groups are negative, because it
    replaces theirs by 0, not by -inf."""
    scores = mx.sigmoid(gates.astype(mx.float32))
    biased = scores + bias
    if n_group > 1:
        grouped = mx.unflatten(biased, -1, (n_group, -1))
        best = mx.topk(grouped, 2, axis=-1).sum(-1, keepdims=True)
        worst = mx.argpartition(best, n_group - topk_group - 1, axis=-2)[..., : n_group - topk_group, :]
        biased = mx.flatten(mx.put_along_axis(grouped, worst, mx.array(-mx.inf), axis=-2), -2, -1)
    chosen = mx.argpartition(-biased, top_k - 1, axis=-1)[..., :top_k]
    scores = mx.take_along_axis(scores, chosen, axis=-1)
    if top_k > 1 and normalized:
        scores = scores / scores.sum(-1, keepdims=True)
    return chosen, scores * scale


deepseek_v3.group_expert_select = select

V3 = dict(num_nextn_predict_layers=1, scoring_func="sigmoid", topk_method="noaux_tc")
V3_LAYOUT = chain(unstack_experts(), join_kv_b)
# A layer that predicts the token after the next.
NEXT = {"model.layers.61.eh_proj.weight": (64, 128), "model.layers.61.enorm.weight": (64,)}
FP8 = encoded(float8_blocks, dict(quantization_config=dict(
    activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128])),
    lambda name, w: w.ndim == 2 and "proj" in name)
arch("deepseek_v3", deepseek("deepseek_v3", "DeepseekV3ForCausalLM", **V3), layout=V3_LAYOUT, extras=NEXT, formats=True,
     twins=dict(fp8=FP8))
# No RoPE scaling, queries without a low rank, biases.
arch("deepseek_v3_plain", deepseek("deepseek_v3", "DeepseekV3ForCausalLM", **{
    **V3, "q_lora_rank": None, "rope_scaling": None, "attention_bias": True, "n_group": 1, "topk_group": 1,
    "norm_topk_prob": False}), layout=V3_LAYOUT)
arch("kimi_k2", deepseek("kimi_k2", "DeepseekV3ForCausalLM", **{
    **V3, "rope_scaling": dict(YARN, mscale_all_dim=1.0), "n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.827}),
    layout=V3_LAYOUT)
