"""GPT-OSS: attention sinks, windows in every other layer, experts in MXFP4."""

import math

import mlx.core as mx
import numpy as np
from engine import Twin, arch, base, build, empty, flat, load
from formats import numbers


def whole_range(model):
    """mlx-lm rounds the bounds of YaRN's ramp to whole dimensions; `truncate: false` says not to."""
    c = model.args
    s, n = c.rope_scaling, c.head_dim
    bound = lambda turns: n * math.log(s["original_max_position_embeddings"] / (turns * 2 * math.pi)) / (
        2 * math.log(c.rope_theta))
    low, high = max(bound(s["beta_fast"]), 0), min(bound(s["beta_slow"]), n - 1)
    slow = c.rope_theta ** (mx.arange(0, n, 2) / n)
    ramp = mx.clip((mx.arange(n // 2) - low) / (high - low), 0, 1)
    for layer in model.layers:
        layer.self_attn.rope._freqs = 1 / (ramp / (slow * s["factor"]) + (1 - ramp) / slow)


MXFP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
NOT_EXPERTS = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]


def mxfp4(w):
    """(codes [..., groups, 16] of two numbers each, scales [..., groups], float32 values)"""
    packed, scales = mx.quantize(w, group_size=32, bits=4, mode="mxfp4")
    blocks = np.array(packed).view(np.uint8).reshape(*scales.shape, 16)
    scales = np.array(scales)
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*scales.shape, 32)
    means = MXFP4[codes] * np.exp2(scales.astype(np.float32) - 127)[..., None]
    return mx.array(blocks), mx.array(scales), mx.array(means.reshape(w.shape))


def experts(weights, store):
    """Gate and up rows take turns in one tensor, biases in another. `store(name, w)` -> ({name: tensor}, float32 values)."""
    stored, dense = {}, {}
    for name, w in weights.items():
        base, _, part = name.rpartition(".experts.")
        if not base:
            stored[name] = dense[name] = w
        elif part.startswith("gate_proj"):
            up = weights[name.replace("gate_proj", "up_proj")]
            both = mx.flatten(mx.stack([w, up], axis=2), 1, 2)
            if part.endswith("bias"):
                stored[f"{base}.experts.gate_up_proj_bias"] = both
                dense[name], dense[name.replace("gate_proj", "up_proj")] = w, up
            else:
                tensors, means = store(f"{base}.experts.gate_up_proj", both)
                stored.update(tensors)
                dense[name], dense[name.replace("gate_proj", "up_proj")] = means[:, ::2], means[:, 1::2]
        elif part == "down_proj.bias":
            stored[f"{base}.experts.down_proj_bias"] = dense[name] = w
        elif part == "down_proj.weight":
            tensors, dense[name] = store(f"{base}.experts.down_proj", w)
            stored.update(tensors)
    return stored, dense


def twin(store, **config):
    def make(a):
        stored, dense = experts(flat(build(a)), store)
        model = empty(a)
        load(model, dense)
        return stored, {**a.config, **config}, model

    return Twin(make)


def blocks(name, w):
    codes, scales, means = mxfp4(w)
    return {f"{name}_blocks": codes, f"{name}_scales": scales}, means


def transposed(name, w):
    """As transformers saves what it has widened: [E, in, out]. (mlx-lm does not read that.)"""
    return {name: mx.contiguous(mx.swapaxes(w, 1, 2))}, mx.array(numbers(w))


PUBLISHED = dict(mxfp4=twin(blocks, quantization_config=dict(quant_method="mxfp4", modules_to_not_convert=NOT_EXPERTS)),
                 hf=twin(transposed))
arch("gpt_oss", base("gpt_oss", "GptOssForCausalLM", num_hidden_layers=4, head_dim=32, intermediate_size=32,
                     num_local_experts=8, num_experts_per_tok=3, experts_per_token=3, sliding_window=4,
                     attention_bias=True, rope_theta=150000, rope_scaling=dict(
                         beta_fast=8.0, beta_slow=1.0, factor=4.0, original_max_position_embeddings=32,
                         rope_type="yarn", truncate=False), initial_context_length=32, swiglu_limit=7.0,
                     output_router_logits=False, router_aux_loss_coef=0.9,
                     layer_types=["sliding_attention", "full_attention"] * 2), correct=whole_range, twins=PUBLISHED)
