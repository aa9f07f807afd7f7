"""Falcon H1: Mamba 2 and attention side by side, with a multiplier for everything."""

import mlx.core as mx
import mlx.nn as nn
from engine import arch, base
from mlx_lm.models import falcon_h1
from mlx_lm.models.falcon_h1 import compute_mup_vector, swiglu

# ---- What mlx-lm leaves out --------------------------------------------------------------------------------------------


def scale(linear, by, bias_by):
    """Multiplies the weights of a linear, whether quantized or not, and its bias."""
    for name in ("scales", "biases") if isinstance(linear, nn.QuantizedLinear) else ("weight",):
        linear[name] = linear[name] * by
    if "bias" in linear:
        linear.bias = linear.bias * bias_by


def multipliers(model):
    """mlx-lm folds most multipliers into the weights, but not those of keys and of what values are made from; and it folds
    none into biases."""
    c = model.args
    gate, down = c.mlp_multipliers
    for layer in model.layers:
        attention, mamba, mlp = layer.self_attn, layer.mamba, layer.feed_forward
        # Of the scores, so that caches hold mlx-lm's keys.
        attention.scale = attention.scale * c.key_multiplier
        scale(attention.v_proj, c.attention_in_multiplier, 1)
        scale(attention.o_proj, 1, c.attention_out_multiplier)
        scale(mamba.in_proj, 1, compute_mup_vector(c))
        scale(mamba.out_proj, 1, c.ssm_out_multiplier)
        scale(mlp.gate_proj, 1, gate)
        scale(mlp.down_proj, 1, down)


def grouped_norm(self, x, gate=None):
    """mlx-lm normalizes over all channels, the published model over those of a group."""
    if not self.norm_before_gate and gate is not None:
        x = swiglu(gate, x)
    grouped = mx.unflatten(x, -1, (self.n_groups, -1))
    x = self.weight * mx.flatten(mx.fast.rms_norm(grouped, None, self.variance_epsilon), -2, -1)
    return swiglu(gate, x) if self.norm_before_gate and gate is not None else x


falcon_h1.FalconH1RMSNormGated.__call__ = grouped_norm

# ---- Entries -----------------------------------------------------------------------------------------------------------


def unfolded(weights, config):
    """Weights without the multipliers. These are powers of two, so nothing is lost."""
    c = config
    sizes = [c["mamba_d_ssm"]] * 2 + [c["mamba_n_groups"] * c["mamba_d_state"]] * 2 + [c["mamba_n_heads"]]
    parts = mx.concatenate([mx.full((n, 1), m) for n, m in zip(sizes, c["ssm_multipliers"])])
    folded = {
        "embed_tokens": c["embedding_multiplier"], "lm_head": c["lm_head_multiplier"], "q_proj": c["attention_in_multiplier"],
        "k_proj": c["attention_in_multiplier"], "o_proj": c["attention_out_multiplier"], "out_proj": c["ssm_out_multiplier"],
        "gate_proj": c["mlp_multipliers"][0], "down_proj": c["mlp_multipliers"][1], "in_proj": c["ssm_in_multiplier"] * parts,
    }
    out = {}
    for name, w in weights.items():
        if name.endswith("conv1d.weight"):
            w = mx.contiguous(mx.moveaxis(w, 1, 2))
        elif name.endswith(".weight") and (by := folded.get(name.split(".")[-2])) is not None:
            w = (w / by).astype(w.dtype)
        out[name] = w
    return out


def falcon(**keys):
    return base("falcon_h1", "FalconH1ForCausalLM", **dict(dict(
        num_hidden_layers=3, head_dim=32, attention_bias=False, attention_in_multiplier=0.5, attention_out_multiplier=2.0,
        embedding_multiplier=2.0, key_multiplier=0.5, lm_head_multiplier=0.25, mamba_chunk_size=16, mamba_conv_bias=True,
        mamba_d_conv=4, mamba_d_head=16, mamba_d_ssm=96, mamba_d_state=32, mamba_expand=2, mamba_n_groups=2,
        mamba_n_heads=6, mamba_norm_before_gate=False, mamba_proj_bias=False, mamba_rms_norm=True, mamba_use_mlp=True,
        mlp_bias=False, mlp_expansion_factor=8, mlp_multipliers=[0.5, 2.0], projectors_bias=False, rope_scaling=None,
        rope_theta=100000000000.0, ssm_in_multiplier=2.0, ssm_multipliers=[0.5, 0.25, 4.0, 2.0, 0.125],
        ssm_out_multiplier=0.5, num_logits_to_keep=1), **keys))


OPTIONS = dict(correct=multipliers, layout=unfolded)
arch("falcon_h1", falcon(), **OPTIONS)
# Biases, tied embeddings, a gate without a norm.
arch("falcon_h1_biases", falcon(attention_bias=True, mlp_bias=True, mamba_proj_bias=True, projectors_bias=True,
                                mamba_rms_norm=False, tie_word_embeddings=True), **OPTIONS)
arch("falcon_h1_norm_first", falcon(mamba_norm_before_gate=True, mamba_conv_bias=False), **OPTIONS)
