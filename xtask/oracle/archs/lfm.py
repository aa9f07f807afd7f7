"""LFM 2: short convolutions and attention, dense and with experts."""

from engine import arch, base
from layouts import W123, chain, conv_torch, rename, unstack_experts
from mlx_lm.models.rope_utils import initialize_rope


def lfm2(kind, cls, **keys):
    return base(kind, cls, **dict(dict(
        num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, conv_L_cache=3, conv_bias=False, norm_eps=1e-5,
        rope_theta=1000000.0, hidden_act=..., rms_norm_eps=..., tie_word_embeddings=...), **keys))


def dense(**keys):
    """Its width is two thirds of `block_ff_dim`, rounded up."""
    return lfm2("lfm2", "Lfm2ForCausalLM", **dict(dict(
        intermediate_size=..., block_auto_adjust_ff_dim=True, block_dim=64, block_ff_dim=128, block_ffn_dim_multiplier=1.0,
        block_mlp_init_scale=1.0, block_multiple_of=32, block_norm_eps=1e-5, block_out_init_scale=1.0,
        block_use_swiglu=True, block_use_xavier_init=True, conv_dim=64, conv_dim_out=64, conv_use_xavier_init=True,
        use_pos_enc=True, tie_embedding=True), **keys))


def scaled_rope(model):
    """mlx-lm takes the base alone from `rope_parameters`."""
    c = model.args
    for layer in model.layers:
        if layer.is_attention_layer:
            layer.self_attn.rope = initialize_rope(layer.self_attn.head_dim, c.rope_theta, False, c.rope_parameters)


CONV = conv_torch(".conv.conv.weight")
arch("lfm2", dense(full_attn_idxs=[1, 3]), layout=CONV)
# Biases in convolutions, a width as it is, RoPE scaling.
arch("lfm2_yarn", dense(layer_types=["conv", "full_attention", "conv", "full_attention"], conv_bias=True,
                        block_auto_adjust_ff_dim=False, block_ff_dim=..., intermediate_size=96, rope_theta=...,
                        torch_dtype=..., dtype="bfloat16", rope_parameters=dict(
                            rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)),
     layout=CONV, correct=scaled_rope)
arch("lfm2_moe", lfm2("lfm2_moe", "Lfm2MoeForCausalLM", moe_intermediate_size=32, num_experts=8, num_experts_per_tok=3,
                      num_dense_layers=1, norm_topk_prob=True, use_expert_bias=True, routed_scaling_factor=1.5,
                      layer_types=["conv", "conv", "full_attention", "conv"]),
     layout=chain(unstack_experts("feed_forward.switch_mlp", "feed_forward.experts", W123), CONV, rename(
         *((f".feed_forward.{old}.", f".feed_forward.{new}.") for old, new in W123.items()))))
