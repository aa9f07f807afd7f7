"""StableLM 2."""

from engine import arch, base


def stablelm(**keys):
    return base("stablelm", "StableLmForCausalLM", **dict(dict(
        layer_norm_eps=1e-5, partial_rotary_factor=0.25, use_qkv_bias=True, use_parallel_residual=False, qk_layernorm=False,
        hidden_dropout=0.0, rms_norm_eps=...), **keys))


arch("stablelm", stablelm())
# As "12B": attention and MLP side by side, norms of heads.
arch("stablelm_parallel", stablelm(use_qkv_bias=False, use_parallel_residual=True, qk_layernorm=True))
