"""Twins of fixtures as GGUF files: `<name>-gguf` in float32, `<name>-gguf-q8_0` … in blocks, of whose values the references are made.

llama.cpp takes for granted some of what configurations say, so a twin may be of a model that differs in that.
"""
import dataclasses

import gguf_more  # noqa: F401
import gguf_others  # noqa: F401
import gguf_tiny
import mlx.core as mx
import numpy as np
from archs import deepseek
from engine import ARCHS, Twin, build, empty, flat, load
from gguf import GGMLQuantizationType as Q

EVERY_FOURTH = dict(no_rope_layers=[1, 1, 1, 0, 1], no_rope_layer_interval=4, num_hidden_layers=5,
                    layer_types=["full_attention"] * 5)
# One factor for the scores and for what is rotated.
YARN = dict(deepseek.YARN, mscale=0.5)
# Fixture -> what differs, and kinds of blocks.
MODELS = {
    "llama3": ({}, [Q.Q8_0, Q.Q4_0]),
    "mistral": ({}, [Q.Q8_0]),
    "llama_linear_rope": ({}, []),
    "llama_yarn": ({}, []),
    "smollm3": (EVERY_FOURTH, [Q.Q8_0]),
    "ministral3": ({}, [Q.Q4_0]),
    "qwen2": ({}, [Q.Q8_0]),
    "qwen3": ({}, [Q.Q4_0]),
    "qwen3_moe": (dict(mlp_only_layers=[]), [Q.Q8_0]),
    "qwen3_next": (dict(linear_value_head_dim=32), [Q.Q8_0]),
    "qwen3_5_text": (dict(linear_value_head_dim=32), [Q.Q8_0]),
    "qwen3_5_moe_text": (dict(linear_value_head_dim=32), [Q.Q4_0]),
    "gemma2": (dict(query_pre_attn_scalar=32), [Q.Q8_0]),
    "gemma3_text": (dict(query_pre_attn_scalar=32), [Q.Q8_0]),
    "gemma4_e2b": ({}, [Q.Q8_0]),
    "gemma4_31b": ({}, [Q.Q8_0]),
    "gemma4_26b_a4b": ({}, [Q.Q4_0]),
    "gpt_oss": ({}, [Q.Q8_0]),
    "deepseek_v2": (dict(moe_layer_freq=1, topk_method="greedy", n_group=1, topk_group=1, rope_scaling=YARN), [Q.Q8_0]),
    "deepseek_v3": (dict(rope_scaling=YARN), [Q.Q8_0]),
    "kimi_k2": ({}, [Q.Q4_0]),
    "mistral4": ({}, [Q.Q8_0]),
    "lfm2": ({}, [Q.Q8_0]),
    "lfm2_moe": (dict(routed_scaling_factor=1.0), [Q.Q8_0]),
    "nemotron_h": (dict(hybrid_override_pattern="MEM*E"), [Q.Q8_0]),
    "nemotron_h_dense": (dict(time_step_limit=[0.0, float("inf")], mamba_proj_bias=False), [Q.Q8_0]),
    "nemotron_h_latent": ({}, []),
    "falcon_h1": ({}, [Q.Q8_0]),
    "granite": ({}, [Q.Q8_0]),
    "granitemoe": ({}, [Q.Q8_0]),
    "granitemoehybrid": (dict(mamba_n_groups=1, time_step_limit=[0.0, float("inf")]), [Q.Q8_0]),
    "granitemoehybrid_dense": (
        dict(mamba_n_groups=1, time_step_limit=[0.0, float("inf")], intermediate_size=96), [Q.Q8_0]),
    "glm4_moe_lite": ({}, [Q.Q8_0]),
    "internlm3": (dict(rope_scaling=None), [Q.Q8_0]),
    "glm4": ({}, [Q.Q8_0]),
    "phi3": ({}, [Q.Q8_0]),
    "mixtral": ({}, [Q.Q8_0]),
    "minimax_m2": ({}, [Q.Q8_0]),
    "glm": (dict(head_dim=16), [Q.Q8_0]),
    "glm4_moe": ({}, [Q.Q8_0]),
    "gemma": ({}, [Q.Q8_0]),
    "olmo2": ({}, [Q.Q8_0]),
    "olmo3": ({}, []),
    "exaone4": ({}, [Q.Q8_0]),
    "exaone": ({}, [Q.Q8_0]),
    "ernie4_5": ({}, [Q.Q8_0]),
    "seed_oss": ({}, [Q.Q8_0]),
    "cohere": ({}, [Q.Q8_0]),
    "cohere2": ({}, [Q.Q8_0]),
    "stablelm": ({}, []),
    "stablelm_parallel": ({}, [Q.Q8_0]),
    "nemotron": ({}, [Q.Q8_0]),
    "minicpm": (dict(rope_scaling=None), [Q.Q8_0]),
    "qwen2_moe": ({}, [Q.Q8_0]),
    "olmoe": ({}, [Q.Q8_0]),
    "dots1": (dict(n_group=1, topk_group=1), [Q.Q8_0]),
    "starcoder2_full": ({}, [Q.Q8_0]),
    "phi": ({}, [Q.Q8_0]),
    "llama4": (dict(attention_chunk_size=8192, floor_scale=8192), [Q.Q8_0]),
}


def twin(changes, kind):
    def make(a):
        inner = lambda c: {**c, **changes}
        config = dict(a.config)
        config = dict(config, text_config=inner(config["text_config"])) if "text_config" in config else inner(config)
        a = dataclasses.replace(a, config=config)
        model = build(a)
        weights = a.layout(flat(model), config) if a.layout else flat(model)
        weights = {name: np.array(w.astype(mx.float32)) for name, w in weights.items()}
        if kind is not None:
            for name, w in weights.items():
                if gguf_tiny.can_quantize(name, w):
                    weights[name] = gguf_tiny.rounded(w, kind)
            model = empty(a)
            load(model, {name: mx.array(w) for name, w in weights.items()})
        return weights, config, model

    def save(folder, weights, config):
        gguf_tiny.write(folder / "model.gguf", config, weights, kind)

    return Twin(make, save=save)


def register():
    """Adds these twins to those of their fixtures."""
    for name, (changes, kinds) in MODELS.items():
        if name in ARCHS:
            twins = {f"gguf-{kind.name.lower()}": twin(changes, kind) for kind in kinds}
            ARCHS[name].twins.update({"gguf": twin(changes, None), **twins})
