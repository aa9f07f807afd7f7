#!/usr/bin/env python3
"""JANG bundles that this project writes, beside those that the format's package makes of the same models.

usage: jang_written.py make DIR            writes DIR/sources, DIR/theirs with logits by the package's loader, and DIR/jobs.json:
                                           [{name, source, profile}]
       jang_written.py compare DIR OURS    of each job, OURS/<name> with DIR/theirs/<name>: one line of JSON {name, error, tensors};
                                           and OURS/<name>.logits.safetensors, by the package's loader from OURS/<name>
A job without DIR/theirs/<name> is one that the package fails at.
Needs jang, mlx 0.32.2 and mlx_lm 0.32.0.
"""
import contextlib
import io
import json
import math
import sys
from pathlib import Path

import jang
import jang_bundles as ways
import mlx.core as mx
import numpy as np
from engine import PROMPT
from jang import Bundle
from mlx_lm.models.cache import make_prompt_cache

LAYERS = dict(num_hidden_layers=6)
PROFILES = "1L 2S 2M 2L 3S 3M 3L 4S 4M 4L 6M 2K 3K 4K 5K 6K".split()

# Model: its configuration, and the profiles that it is written in.
MODELS = {
    "llama": (LAYERS, PROFILES),
    "qwen2": ({}, ["3M"]),
    "gemma3_text": ({}, ["2M", "4K"]),
    "qwen3_moe": ({}, ["2L", "4M", "6M", "2K"]),
    "qwen3_moe=150": (dict(num_experts=150, hidden_size=128, moe_intermediate_size=64), ["2L", "4M"]),
    "qwen3_moe=256": (dict(num_experts=256), ["2L", "3S", "4K"]),
    "mixtral": ({}, ["2S"]),
    "minimax_m2": ({}, ["4L"]),
    "glm4_moe": ({}, ["2L"]),
    "deepseek_v3": (jang.LATENT, ["4M", "2S"]),
    "qwen3_next": ({}, ["4M"]),
    "qwen3_5_text": ({}, ["3M", "4K"]),
    "qwen3_5": ({}, ["2S"]),
    "qwen3_5_moe": (jang.FUSED, ["2S", "4K"]),
    "mistral4": (jang.MISTRAL4, ["4M"]),
    "nemotron_h": ({}, ["2L", "4M"]),
    "nemotron_h_latent": ({}, ["2L"]),
    "falcon_h1": ({}, ["4M", "2L"]),
    "lfm2_moe": ({}, ["4M", "2L"]),
}
# What the package fails at: experts that were published one by one, in a budget that ends within a layer.
ALONE = {"qwen3_moe=budget": (dict(num_hidden_layers=7, num_experts=16, moe_intermediate_size=128), ["4K"])}


def bundles():
    """name -> (bundle, name of its source)"""
    return {
        f"{model}-{profile}": (Bundle(model.partition("=")[0], profile=f"JANG_{profile}", config=config,
                                            by_mlx_lm=model == "gemma3_text"), model)
        for model, (config, profiles) in {**MODELS, **ALONE}.items() for profile in profiles
    }


def make(root):
    jobs = []
    for kind in ("sources", "theirs"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for name, (bundle, model) in bundles().items():
        source, theirs = root / "sources" / model, root / "theirs" / name
        if not source.exists():
            ways.source(jang.entry(bundle), source)
        jobs.append(dict(name=name, source=f"sources/{model}", profile=bundle.profile))
        if model in ALONE:
            continue
        # The package writes a mended generation_config.json before it makes the folder.
        theirs.mkdir()
        with contextlib.redirect_stdout(io.StringIO()):
            ways.convert(source, theirs, bundle)
        save(logits(theirs, bundle), theirs)
    (root / "jobs.json").write_text(json.dumps(jobs))


def save(found, folder):
    mx.save_safetensors(f"{folder}.logits.safetensors", {"logits": mx.array(found)})


def logits(folder, bundle):
    with contextlib.redirect_stdout(io.StringIO()):
        model = jang.load(folder, bundle.by_mlx_lm)
    model.set_dtype(mx.float32)
    if correct := jang.entry(bundle).correct:
        correct(model)
    return np.array(model(mx.array([PROMPT]), cache=make_prompt_cache(model)))


def stored(folder):
    all = {}
    for file in sorted(folder.glob("model*.safetensors")):
        all.update(mx.load(str(file)))
    return all


def tagged(value):
    """Floats that are not finite as mlx-lm and transformers write them; the package copies what Python's JSON has for them."""
    if isinstance(value, list):
        return [tagged(each) for each in value]
    return {"__float__": "Infinity"} if value == math.inf else value


def differing(ours, theirs, path=""):
    """The first place where two JSON values differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if keys := ours.keys() ^ theirs.keys():
            return f"{path}: keys {sorted(keys)[:4]}"
        return next((found for key in ours if (found := differing(ours[key], theirs[key], f"{path}.{key}"))), None)
    return None if ours == tagged(theirs) else f"{path}: {ours} instead of {theirs}"


# What the package notes besides, of options that are not offered, or for one program.
NOTES = dict(
    quantization={"calibration_method", "quantization_method", "scoring_method", "passthrough_bit_widths_used",
                  "passthrough_tensor_count", "split_gate_up_quant", "split_gate_bits", "split_up_bits", "expert_prune_keep",
                  "expert_prune_map", "expert_prune_method"},
    source_model={"dtype", "parameters"},
)


def comparable(provenance):
    all = {key: value for key, value in provenance.items() if key != "capabilities"}
    # Sizes: of files, or of tensors alone.
    all["runtime"] = {key: v for key, v in all["runtime"].items() if not key.startswith("total_weight")}
    for key, notes in NOTES.items():
        all[key] = {k: v for k, v in all[key].items() if k not in notes and not k.startswith("n2_")}
    return all


def unlike(ours, theirs):
    """What is not the same in two bundles, or None."""
    a, b = stored(ours), stored(theirs)
    if names := a.keys() ^ b.keys():
        return f"tensors {sorted(names)[:4]} are in one of them"
    for name in a:
        if a[name].dtype != b[name].dtype or a[name].shape != b[name].shape:
            return f"{name}: {a[name].dtype} {a[name].shape} instead of {b[name].dtype} {b[name].shape}"
        if not np.array_equal(*(np.array(t[name].view(mx.uint8)) for t in (a, b))):
            return f"{name}: other bytes"
    for file in ("config.json", "jang_config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        x, y = ways.read(ours / file), ways.read(theirs / file)
        if file == "jang_config.json":
            x, y = comparable(x), comparable(y)
        if found := differing(x, y):
            return f"{file}{found}"
    (x, y) = (ways.read(folder / ways.INDEX)["metadata"] for folder in (ours, theirs))
    return differing({**x, "total_size": 0}, {**y, "total_size": 0})


def stacks_differ(ours):
    """A stack whose experts do not all have the width that the manifest says, or None."""
    bits = {m["bits"] for n, m in ways.read(ours / "jang_config.json")["quantization"]["tensor_quantization_manifest"].items()
            if "switch_mlp" in n}
    return None if len(bits) > 1 else f"all stacks have {bits} bits: the budget does not end within a layer"


def compare(root, written):
    for job in json.loads((root / "jobs.json").read_text()):
        name = job["name"]
        bundle, model = bundles()[name]
        ours, theirs = written / name, root / "theirs" / name
        try:
            error = stacks_differ(ours) if model in ALONE else unlike(ours, theirs)
            found = logits(ours, bundle)
            save(found, ours)
            if not np.isfinite(found).all():
                error = error or "logits are not finite"
            if theirs.exists() and not np.array_equal(found, np.array(mx.load(f"{theirs}.logits.safetensors")["logits"])):
                error = error or "the package's loader finds other logits than in its own bundle"
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        print(json.dumps(dict(name=name, error=error, tensors=len(stored(ours)))), flush=True)


if __name__ == "__main__":
    {"make": make, "compare": compare}[sys.argv[1]](*map(Path, sys.argv[2:]))
