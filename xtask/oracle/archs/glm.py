"""GLM 4, dense and with experts."""

from archs.deepseek import select
from engine import arch, base
from layouts import unstack_experts
from mlx_lm.models import glm4_moe

glm4_moe.group_expert_select = select

HALF = dict(head_dim=32, attention_bias=True, partial_rotary_factor=0.5)
arch("glm", base("glm", "GlmForCausalLM", **HALF))
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
