"""Nemotron H: each layer is a Mamba 2 mixer, attention, an MLP or a mixture of experts.

`time_step_min` is there to be ignored: time steps lie within `time_step_limit`, as NVIDIA's code and mlx-lm have it.
(transformers takes it as a bound in prompts, but not when it goes on token by token, so it contradicts itself.)
"""

import math

from archs.deepseek import select
from engine import V, arch
from layouts import chain, conv_torch, unstack_experts
from mlx_lm.models import nemotron_h

nemotron_h.group_expert_select = select


def nemotron(**keys):
    config = dict(
        model_type="nemotron_h", architectures=["NemotronHForCausalLM"], attention_bias=False, attention_dropout=0.0,
        attention_head_dim=32, head_dim=32, bos_token_id=1, eos_token_id=2, chunk_size=16, conv_kernel=4, expand=2,
        hidden_size=64, hybrid_override_pattern="M-M*E", initializer_range=0.02, intermediate_size=96,
        layer_norm_epsilon=1e-5, mamba_head_dim=16, mamba_hidden_act="silu", mamba_num_heads=8, mamba_proj_bias=False,
        max_position_embeddings=64, mlp_bias=False, mlp_hidden_act="relu2", n_groups=2, num_attention_heads=4,
        num_hidden_layers=5, num_key_value_heads=2, ssm_state_size=32, tie_word_embeddings=False, time_step_floor=1e-4,
        time_step_limit=[0.0, math.inf], time_step_max=0.1, time_step_min=0.1, torch_dtype="bfloat16", use_bias=False,
        use_cache=True, use_conv_bias=True, use_mamba_kernels=True, vocab_size=V, residual_in_fp32=False,
        rescale_prenorm_residual=True)
    config.update(keys)
    return {k: v for k, v in config.items() if v is not ...}


KINDS = {"M": "linear_attention", "*": "full_attention", "-": "mlp", "E": "moe"}


def listed(config):
    """The kinds of the layers as a list, which tells their number, too."""
    config = dict(config)
    config["dtype"] = config.pop("torch_dtype")
    config["layers_block_type"] = [KINDS[c] for c in config.pop("hybrid_override_pattern")]
    del config["num_hidden_layers"]
    return config


EXPERTS = dict(moe_intermediate_size=32, moe_shared_expert_intermediate_size=96, n_group=4, n_routed_experts=8,
               n_shared_experts=1, norm_topk_prob=True, num_experts_per_tok=3, routed_scaling_factor=2.5, topk_group=2)
LAYOUT = chain(unstack_experts("mixer.switch_mlp", "mixer.experts", dict(fc1="up_proj", fc2="down_proj")), conv_torch())
OPTIONS = dict(v5=listed, layout=LAYOUT)
arch("nemotron_h", nemotron(**EXPERTS), extras={"mtp.layers.0.eh_proj.weight": (64, 128)}, **OPTIONS)
# As Nemotron H 8B: no experts; biases where there can be some, and bounds that some time steps meet.
arch("nemotron_h_dense", nemotron(hybrid_override_pattern="M-*-M", time_step_limit=[0.1, 0.3], attention_bias=True,
                                  mlp_bias=True, mamba_proj_bias=True), **OPTIONS)
# As Nemotron 3 Super: experts work in fewer dimensions. The kinds of layers in an older spelling.
arch("nemotron_h_latent", nemotron(
    hybrid_override_pattern=..., layers_block_type=["mamba", "moe", "attention", "mamba", "moe"], moe_latent_size=32,
    time_step_limit=..., **dict(EXPERTS, n_group=1, topk_group=1)), **dict(OPTIONS, v5=None))
