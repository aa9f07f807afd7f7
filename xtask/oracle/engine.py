"""Writes tiny random models and what mlx-lm computes with them. Architectures are entries of archs/*.py.

Weights depend only on (seed, weights' name, parameter path, shape), so an architecture can be written alone. Norm weights are
not 1, biases are not 0, router logits are well separated, windows are shorter than the prompt, RoPE scaling bites within the
first ten positions: a loader that ignores any of them gives other logits.

Reference values are float32 throughout: stored bfloat16 or float16 values (quantization scales too) are widened first.
"""
import contextlib
import copy
import io
import json
import math
import os
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from checkpoint import save
from mlx.utils import tree_flatten, tree_map
from mlx_lm import utils
from mlx_lm.generate import generate_step
from mlx_lm.models.cache import make_prompt_cache

SEED = int(os.environ.get("FIXTURE_SEED", "20260101"))
V = 128
PROMPT = [3, 17, 92, 41, 8, 77, 110]
DECODE = [5, 17, 42]
if "FIXTURE_SEED" in os.environ:  # another seed draws other tokens, too
    _draw = np.random.default_rng(SEED)
    PROMPT, DECODE = (_draw.integers(3, V, n).tolist() for n in (7, 3))
# For windows that must wrap, states that must last, and experts that are sorted.
LONG = np.random.default_rng([SEED, 40]).integers(3, V, 40).tolist()
GREEDY = 6


@dataclass
class Arch:
    """One tiny model."""

    name: str
    config: dict
    """config.json as published, with tiny numbers."""
    weights: str
    """Whose weights it takes; entries that differ in configuration alone share them."""
    dtype: mx.Dtype = mx.bfloat16
    """How floating-point weights are stored."""
    layout: Optional[Callable] = None
    """function(weights, config) -> the same weights under published names; None: mlx-lm's names are the published ones."""
    commit: tuple = ()
    """Which twins (see TWINS) belong to the small committed set; "" is the plain model."""
    chunks: bool = True
    """Whether a prompt in two chunks must give the same logits (not where RoPE depends on the length so far)."""
    absent: tuple = ()
    """Parameters that checkpoints lack, where mlx-lm only sees by that that heads are tied."""
    extras: dict = field(default_factory=dict)
    """Tensors of the published checkpoint that are not the text model's: name -> shape."""
    scaled: bool = False
    """Embeddings are tied and scaled up. (Of full rank, they would make the last token the likeliest one always.)"""
    bounded: bool = False
    """Norm weights lie between 0.5 and 2, where bfloat16 loses nothing when 1 is taken off."""
    unscaled: bool = False
    """Scores have no scale: the norms of queries make up for it. (Else attention is all or nothing, and magnifies rounding.)"""
    correct: Optional[Callable] = None
    """function(model): makes mlx-lm's model compute what the published one does."""
    v5: Optional[Callable] = None
    """function(config) -> the configuration as transformers 5 writes it, where `nested_rope` is not enough."""
    formats: bool = False
    """Whether `--all` writes the rarer ways of quantization, too."""
    twins: dict = field(default_factory=dict)
    """Twins of its own."""


ARCHS: dict[str, Arch] = {}


def arch(name, config, weights=None, **options):
    ARCHS[name] = Arch(name, config, weights or name, **options)


def base(model_type, cls, **keys):
    """Keys that nearly every published decoder config has. A key given as `...` is left out."""
    config = dict(
        model_type=model_type, architectures=[cls], vocab_size=V, hidden_size=64, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5,
        max_position_embeddings=64, rope_theta=10000.0, hidden_act="silu", initializer_range=0.02,
        attention_dropout=0.0, use_cache=True, bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16",
        tie_word_embeddings=False,
    )
    config.update(keys)
    return {k: v for k, v in config.items() if v is not ...}


# ---- weights ---------------------------------------------------------------------------------------


# Between which bounds some parameters are drawn, and around what with which spread others: time steps that differ, sums of
# scores and selection biases that are often negative.
BETWEEN = {"dt_bias": (-3.0, -0.5), "layer_scalar": (0.6, 1.2), "weight_scale": (0.1, 0.2)}
AROUND = {"sinks": (0.0, 1.0), "e_score_correction_bias": (-0.7, 0.5), "expert_bias": (0.0, 0.5)}
CENTRED = {"mlx_lm.models.gemma3_text": "RMSNorm"}  # norms that add 1 to their weights


def draw(a, path, shape, owner, tied):
    g = np.random.default_rng([SEED, zlib.crc32(f"{a.weights}/{path}".encode())])
    normal = lambda scale: (g.standard_normal(shape) * scale).astype(np.float32)
    parent, leaf = ("." + path).split(".")[-2:]
    fan_in = 1.0 / math.sqrt(shape[-1])
    if leaf == "A_log":
        return np.log(g.uniform(1.0, 8.0, shape))
    if leaf in BETWEEN:
        return g.uniform(*BETWEEN[leaf], shape)
    if leaf in AROUND:
        return AROUND[leaf][0] + normal(AROUND[leaf][1])
    if leaf.endswith("bias"):
        return normal(0.2)
    if len(shape) == 1 or parent in ("q_norm", "k_norm"):
        around = normal(0.2).clip(-0.5, 1.0) if a.bounded else normal(0.2)
        weight = around + (CENTRED.get(type(owner).__module__) != type(owner).__name__)
        return weight * fan_in if a.unscaled and parent == "q_norm" else weight
    if isinstance(owner, nn.Conv1d):
        return normal(1.0 / math.sqrt(shape[1]))
    if isinstance(owner, nn.Embedding):
        if a.scaled and parent == "embed_tokens":
            return g.standard_normal((shape[0], 5)) @ g.standard_normal((5, shape[1])) * 0.3 * fan_in
        return normal(2.0 * fan_in if tied else 1.0)
    if parent in ("lm_head", "gate", "router") or path.endswith("router.proj.weight"):
        return normal(2.0 * fan_in)  # well separated logits, well separated routing
    return normal(fan_in)


def empty(a):
    """mlx-lm's model before anything is loaded."""
    Model, Args = utils._get_classes(config=copy.deepcopy(a.config))
    return Model(Args.from_dict(copy.deepcopy(a.config)))


def build(a):
    """The model of an entry, with its stored weights (`a.dtype`, or float32 where mlx-lm keeps that)."""
    model = empty(a)
    owners = dict(model.named_modules())
    parameters = {path: p for path, p in tree_flatten(model.parameters()) if not path.endswith(a.absent or " ")}
    tied = not any("lm_head" in path for path in parameters)
    casts = getattr(model, "cast_predicate", lambda path: True)
    weights = {}
    for path, p in parameters.items():
        if p.dtype == mx.uint8:
            weights[path] = mx.array(draw_ternary(a, path, p.shape))
        else:
            values = draw(a, path, tuple(p.shape), owners[path.rpartition(".")[0]], tied)
            weights[path] = mx.array(values, mx.float32).astype(a.dtype if casts(path) else mx.float32)
    load(model, weights)
    return model


def draw_ternary(a, path, shape):
    """Four codes 0, 1 or 2 in each byte."""
    g = np.random.default_rng([SEED, zlib.crc32(f"{a.weights}/{path}".encode())])
    return sum(g.integers(0, 3, shape) << (2 * i) for i in range(4)).astype(np.uint8)


def load(model, weights):
    model.load_weights(list(sanitized(model, weights).items()), strict=True)
    model.eval()
    mx.eval(model.parameters())


def sanitized(model, weights):
    """Published names and shapes -> mlx-lm's, by mlx-lm. (It changes arrays in place.)"""
    copies = {name: mx.array(w) for name, w in weights.items()}
    return model.sanitize(copies) if hasattr(model, "sanitize") else copies


def flat(model):
    return dict(tree_flatten(model.parameters()))


# ---- reference values ------------------------------------------------------------------------------


def references(model, a):
    """Values for reference.safetensors. Changes the model's floating-point parameters to float32."""
    floating = lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p
    model.update(tree_map(floating, model.parameters()))
    if a.correct:
        a.correct(model)
    ids = mx.array([PROMPT])
    cache = make_prompt_cache(model)
    prefill = model(ids, cache=cache)
    decode = mx.concatenate([model(mx.array([[t]]), cache=cache) for t in DECODE], axis=1)
    greedy, margin = [], []
    for (token, logprobs), _ in zip(generate_step(mx.array(PROMPT), model, max_tokens=GREEDY), range(GREEDY)):
        second, first = np.sort(np.array(logprobs))[-2:]
        greedy.append(int(token))
        margin.append(float(first - second))
    logits = np.array(mx.concatenate([prefill, decode], axis=1))[0]
    if not np.isfinite(logits).all() or logits.std(-1).mean() < 0.05 or logits.std(0).mean() < 0.02:
        raise RuntimeError("degenerate logits: choose another seed or larger weights")
    if a.chunks:
        check(model, PROMPT + DECODE, mx.concatenate([prefill, decode], axis=1))
    values = {
        "prompt": mx.array([PROMPT], mx.int32),
        "decode_tokens": mx.array(DECODE, mx.int32),
        "prefill": prefill,
        "decode": decode,
        "greedy": mx.array(greedy, mx.int32),
        "margin": mx.array(margin, mx.float32),
    }
    if not a.commit:  # the committed set is to be small
        values["long"] = mx.array([LONG], mx.int32)
        values["long_logits"] = model(mx.array([LONG]), cache=make_prompt_cache(model))
        if a.chunks:
            check(model, LONG, values["long_logits"])
    return values


def check(model, tokens, logits):
    """Refuses references that contradict themselves: without a cache, in chunks, and token by token."""
    found = {"uncached": model(mx.array([tokens]))}
    for size in (5, 1):
        cache = make_prompt_cache(model)
        parts = []
        for i in range(0, len(tokens), size):
            parts.append(model(mx.array([tokens[i : i + size]]), cache=cache))
            mx.eval(parts[-1], [c.state for c in cache])
        found[f"in chunks of {size}"] = mx.concatenate(parts, axis=1)
    for what, other in found.items():
        difference = mx.abs(other - logits).max().item()
        if difference > 2e-4:
            raise RuntimeError(f"logits {what} differ by {difference:.1e}")


# ---- quantized twins -------------------------------------------------------------------------------


def quantized(a, mode="affine", bits=None, group=None, predicate=None, **options):
    """(model, config) of mlx-lm's own quantization."""
    model = build(a)
    with contextlib.redirect_stdout(io.StringIO()):
        return utils.quantize_model(model, copy.deepcopy(a.config), group, bits, mode, quant_predicate=predicate,
                                    **options)


def mixed(path, module):
    """Bits and group size as mixed-precision recipes choose them: by place."""
    if re.search(r"embed_tokens|lm_head", path):
        return dict(group_size=64, bits=8)
    if "v_proj" in path or "layers.0.mlp.down_proj" in path:
        return dict(group_size=32, bits=6)
    if "layers.1.self_attn" in path:
        return False
    return dict(group_size=32, bits=3 if "layers.1" in path else 4)


@dataclass
class Twin:
    """Another checkpoint of the same model."""

    make: Callable
    """function(arch) -> (weights, config, model for the references)."""
    applies: Callable = lambda a: True
    shards: int = 1
    save: Optional[Callable] = None
    """function(folder, weights, config) that writes the checkpoint, if it is no folder in the usual layout."""
    strays: dict = field(default_factory=dict)
    """Files beside the checkpoint that do not belong to it: name -> tensors."""


def plain(a):
    model = build(a)
    return flat(model), a.config, model


def published(a):
    model = build(a)
    weights = a.layout(flat(model), a.config)
    back = sanitized(empty(a), weights)
    if set(back) != set(flat(model)) or not all(mx.array_equal(back[k], v) for k, v in flat(model).items()):
        raise RuntimeError("mlx-lm does not read the published layout back as the same model")
    extras = {name: mx.ones(shape, a.dtype) for name, shape in a.extras.items()}
    return {**weights, **extras}, a.config, model


def saved(layout):
    """Names that transformers writes since it renamed them, and mlx-lm does not read."""

    def make(a):
        model = build(a)
        return layout(flat(model), a.config), a.config, model

    return Twin(make)


def by_quantization(**options):
    def make(a):
        model, config = quantized(a, **options)
        return flat(model), config, model

    return make


def bare_mixed(a):
    """Bits and group sizes that only the tensors' shapes tell."""
    model, _ = quantized(a, bits=4, group=32, predicate=mixed)
    return flat(model), a.config, model


def v5(a):
    """The configuration as transformers 5 writes it. (mlx-lm reads it for few architectures, so the references come from the
    older spelling.)"""
    weights, config, model = plain(a)
    change = a.v5 or nested_rope
    config = dict(config)
    if "text_config" in config:
        config["text_config"] = change(config["text_config"])
        config["dtype"] = config.pop("torch_dtype", "bfloat16")
    else:
        config = change(config)
    return weights, config, model


def nested_rope(config):
    """`rope_parameters` for everything about RoPE, `dtype` for `torch_dtype`."""
    config = dict(config)
    config["dtype"] = config.pop("torch_dtype", "bfloat16")
    scaling = dict(config.pop("rope_scaling", None) or {})
    kind = scaling.pop("type", None)
    kind = scaling.pop("rope_type", None) or kind or "default"
    config["rope_parameters"] = dict(scaling, rope_type=kind, rope_theta=config.pop("rope_theta"))
    if "partial_rotary_factor" in config:
        config["rope_parameters"]["partial_rotary_factor"] = config.pop("partial_rotary_factor")
    return config


def has_v5(a):
    text = a.config.get("text_config", a.config)
    return "rope_parameters" not in text and (a.v5 is not None or "rope_theta" in text)


def rare(**options):
    return Twin(by_quantization(**options), applies=lambda a: a.formats)


TWINS = {
    "": Twin(plain),
    "hf": Twin(published, applies=lambda a: a.layout is not None),
    "v5": Twin(v5, applies=has_v5),
    "4bit": Twin(by_quantization(bits=4, group=32), applies=lambda a: a.weights == a.name),
    "mxfp4": rare(mode="mxfp4"),
    "mxfp8": rare(mode="mxfp8"),
    "nvfp4": rare(mode="nvfp4"),
    "mixed": rare(bits=4, group=32, predicate=mixed),
    "mixed-bare": Twin(bare_mixed, applies=lambda a: a.formats),
    "sharded": Twin(by_quantization(bits=4, group=32), lambda a: a.formats, shards=2,
                    strays={"adapters.safetensors": {"model.layers.0.lora_a": mx.ones((4, 2))}}),
    **{f"{bits}bit": rare(bits=bits, group=32) for bits in (2, 3, 5, 6, 8)},
}


# ---- files -----------------------------------------------------------------------------------------


def write(name, a, twin, out, share=None):
    """Writes one fixture folder. `share`: a fixture whose model.safetensors holds these very weights."""
    folder = Path(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    weights, config, model = twin.make(a)
    if twin.save is not None:
        twin.save(folder, weights, config)
        return mx.save_safetensors(str(folder / "reference.safetensors"), references(model, a))
    if share is not None:
        stored = mx.load(str(Path(out, share, "model.safetensors")))
        if set(stored) != set(weights) or not all(mx.array_equal(stored[k], w) for k, w in weights.items()):
            raise RuntimeError(f"{name} has not the weights of {share}")
        (folder / "model.safetensors").symlink_to(Path("..", share, "model.safetensors"))
    else:
        save(folder, weights, twin.shards)
    for file, tensors in twin.strays.items():
        mx.save_safetensors(str(folder / file), tensors)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    mx.save_safetensors(str(folder / "reference.safetensors"), references(model, a))
