"""Phi 1 and 2; Phi 3 and 4: matrices of one input are one."""

from engine import arch, base
from layouts import windows

# Attention and MLP side by side.
arch("phi", base("phi", "PhiForCausalLM", hidden_act="gelu_new", partial_rotary_factor=0.5, layer_norm_eps=1e-5,
                 qk_layernorm=False, resid_pdrop=0.1, embd_pdrop=0.0, rope_scaling=None, rms_norm_eps=...))

LONG = [1.0, 1.3, 1.9, 2.6, 3.4, 4.9, 6.1, 7.7]
SHORT = [1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6]


def phi3(**keys):
    return base("phi3", "Phi3ForCausalLM", **dict(dict(
        resid_pdrop=0.0, embd_pdrop=0.0, attention_bias=False, sliding_window=64), **keys))


arch("phi3", phi3(original_max_position_embeddings=8, max_position_embeddings=32,
                  rope_scaling=dict(long_factor=LONG, short_factor=SHORT, type="longrope")))
# As "mini 4k": every layer has a window, which mlx-lm does not know.
arch("phi3_window", phi3(original_max_position_embeddings=64, rope_scaling=None, sliding_window=5),
     correct=windows([5]))
# As Phi 4 "mini": a part of each head is rotated.
arch("phi4_mini", phi3(original_max_position_embeddings=8, max_position_embeddings=32, partial_rotary_factor=0.75,
                       tie_word_embeddings=True, mlp_bias=False, lm_head_bias=False, full_attn_mod=1,
                       interpolate_factor=1, sliding_window=262144,
                       rope_scaling=dict(long_factor=LONG[:6], short_factor=SHORT[:6], type="longrope")))
