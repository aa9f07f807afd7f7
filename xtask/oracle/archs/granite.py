"""Granite and MiniCPM: Llamas with multipliers."""

import mlx.core as mx
from engine import arch, base
from layouts import chain, conv_torch, fuse_gate_up, rename

MULTIPLIERS = dict(attention_multiplier=0.125, embedding_multiplier=3.0, logits_scaling=0.5, residual_multiplier=0.6)
# o_proj and down_proj are quantized in groups of 64.
arch("granite", base("granite", "GraniteForCausalLM", intermediate_size=128, attention_bias=True, mlp_bias=True,
                     rope_scaling=None, tie_word_embeddings=True, **MULTIPLIERS), scaled=True)
EXPERTS = chain(fuse_gate_up("block_sparse_moe.switch_mlp", "block_sparse_moe"), rename(
    (".gate_up_proj", ".input_linear.weight"), (".block_sparse_moe.down_proj", ".block_sparse_moe.output_linear.weight")))
arch("granitemoe", base("granitemoe", "GraniteMoeForCausalLM", intermediate_size=64, attention_bias=False,
                        num_local_experts=8, num_experts_per_tok=3, output_router_logits=False, rope_scaling=None,
                        router_aux_loss_coef=0.01, tie_word_embeddings=False, **MULTIPLIERS), layout=EXPERTS)
# Divisors of rotary frequencies as of Phi 3.
arch("minicpm", base("minicpm", "MiniCPMForCausalLM", dim_model_base=32, scale_depth=1.4, scale_emb=12,
                     max_position_embeddings=32, rope_scaling=dict(
                         rope_type="longrope", original_max_position_embeddings=8,
                         long_factor=[1.0, 1.3, 1.9, 2.6, 3.4, 4.9, 6.1, 7.7],
                         short_factor=[1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6])))


# ---- Granite 4: most layers have a state -------------------------------------------------------------------------------


def hybrid(**keys):
    return base("granitemoehybrid", "GraniteMoeHybridForCausalLM", num_hidden_layers=4, attention_bias=False,
                mamba_chunk_size=16, mamba_conv_bias=True, mamba_d_conv=4, mamba_d_head=16, mamba_d_state=32, mamba_expand=2,
                mamba_n_groups=2, mamba_n_heads=8, mamba_proj_bias=False, normalization_function="rmsnorm",
                output_router_logits=False, rope_scaling=None, router_aux_loss_coef=0.01, **MULTIPLIERS, **keys)


def fuse_shared(weights, config):
    """Gate and up of the only block are one."""
    out = {}
    for name, w in weights.items():
        head, found, part = name.partition(".mlp.")
        if not found:
            out[name] = w
        elif part == "gate_proj.weight":
            both = mx.concatenate([w, weights[f"{head}.mlp.up_proj.weight"]])
            out[f"{head}.shared_mlp.input_linear.weight"] = both
        elif part == "down_proj.weight":
            out[f"{head}.shared_mlp.output_linear.weight"] = w
    return out


arch("granitemoehybrid", hybrid(layer_types=["mamba", "attention", "mamba", "mamba"], num_local_experts=8,
                                num_experts_per_tok=3, intermediate_size=64, shared_intermediate_size=96,
                                position_embedding_type="nope"), layout=chain(conv_torch(), EXPERTS))
# As "H Micro" with positions: no experts.
arch("granitemoehybrid_dense", hybrid(layer_types=["attention", "mamba", "attention", "mamba"], num_local_experts=0,
                                      num_experts_per_tok=0, shared_intermediate_size=96, tie_word_embeddings=True,
                                      position_embedding_type="rope"), layout=chain(conv_torch(), fuse_shared), scaled=True)
