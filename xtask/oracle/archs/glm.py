"""GLM 4, dense and with experts; dots.llm1."""

from archs.deepseek import V3, V3_LAYOUT, deepseek, select
from engine import arch, base
from layouts import unstack_experts
from mlx_lm.models import dots1, glm4_moe, glm4_moe_lite

for module in (dots1, glm4_moe, glm4_moe_lite):
    module.group_expert_select = select

HALF = dict(head_dim=32, attention_bias=True, partial_rotary_factor=0.5)


def half(model):
    """mlx-lm rotates the whole of each head."""
    for layer in model.layers:
        layer.self_attn.rope.dims //= 2


arch("glm", base("glm", "GlmForCausalLM", **HALF), correct=half)
arch("glm4", base("glm4", "Glm4ForCausalLM", **HALF))
EXPERTS = dict(num_hidden_layers=3, first_k_dense_replace=1, moe_intermediate_size=32, n_routed_experts=8,
               n_shared_experts=1, num_experts_per_tok=3, norm_topk_prob=True, routed_scaling_factor=2.5, rope_scaling=None,
               num_nextn_predict_layers=1)
# A layer that predicts the token after the next.
NEXT = {"model.layers.3.eh_proj.weight": (64, 128), "model.layers.3.enorm.weight": (64,)}
arch("glm4_moe", base("glm4_moe", "Glm4MoeForCausalLM", use_qk_norm=True, n_group=4, topk_group=2, **HALF, **EXPERTS),
     layout=unstack_experts(), extras=NEXT)
# As "Air": no norms of heads, one group.
arch("glm4_moe_air", base("glm4_moe", "Glm4MoeForCausalLM", use_qk_norm=False, n_group=1, topk_group=1,
                          **dict(HALF, **EXPERTS) | dict(n_shared_experts=2)),
     layout=unstack_experts(), extras=NEXT)
# Always with norms of heads. mlx-lm's experts have their published name.
arch("dots1", base("dots1", "Dots1ForCausalLM", head_dim=32, attention_bias=False, n_group=4, topk_group=2,
                   use_sliding_window=False, sliding_window=None, max_window_layers=3,
                   **{k: v for k, v in EXPERTS.items() if k != "num_nextn_predict_layers"}),
     layout=unstack_experts("mlp.experts"))
# DeepSeek 3 without YaRN.
arch("glm4_moe_lite", deepseek("glm4_moe_lite", "Glm4MoeLiteForCausalLM", **{
    **V3, "partial_rotary_factor": 1.0, "rope_scaling": None, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 1.8}), layout=V3_LAYOUT)
