#!/usr/bin/env python3
"""Tiny JANG bundles that the format's own package (`jang`) writes and loads; jang_bundles.py has the ways to make them.

usage: jang.py --out DIR [--only NAMES]

Each folder DIR/<name>/ is a bundle, and beside it
  reference.safetensors   logits as for the parity fixtures (see tiny_archs.py), by the package's loader: float32 over the values
                          in the files. Where the package rounds what it loads, without that rounding.
  expected.json           bits    {module, as stored: [bits, group]}: what the writer was told to use
                          lies    modules about which a configuration file claims something else
                          eos     the ids that end a text
To add a bundle: one entry in BUNDLES. Needs jang, mlx 0.32.2 and mlx_lm 0.32.0.
"""
import copy
import importlib
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

os.environ.update(TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error")

import jang_bundles as ways
import mlx.core as mx
import mlx.nn as nn
from engine import ARCHS, flat, references
from mlx_lm.utils import load_model

for file in sorted(Path(__file__).parent.glob("archs/*.py")):
    importlib.import_module(f"archs.{file.stem}")


@dataclass
class Bundle:
    """How a bundle is made of which model."""

    arch: str
    make: Callable = ways.convert
    """function(source, folder, bundle) -> {module: (bits, group)}; writes the bundle."""
    profile: str = "JANG_4M"
    config: dict = field(default_factory=dict)
    """Keys of the model's configuration that differ from the parity fixture's."""
    options: dict = field(default_factory=dict)
    """For `make`."""
    tensors: list = field(default_factory=list)
    """functions(folder, bits) that change what is stored; before the references are computed."""
    claims: list = field(default_factory=list)
    """functions(folder, bits) -> modules lied about; they change configuration files, after that."""
    by_mlx_lm: bool = False
    """Whether mlx-lm's loader reads it, where the package's fails."""


# Experts that are large enough to be quantized where they are published fused.
FUSED = dict(num_experts=32, moe_intermediate_size=64)
# Heads that mlx-lm can pack in groups of 64, as it does when it splits `kv_b_proj`.
LATENT = dict(qk_nope_head_dim=64, v_head_dim=64)
MISTRAL4 = dict(LATENT, head_dim=80, qk_head_dim=80, n_routed_experts=32, moe_intermediate_size=64)


BUNDLES = {
    # ---- the converter's own output
    "llama-2l": Bundle("llama", profile="JANG_2L"),
    "llama-4k": Bundle("llama", profile="JANG_4K", config=dict(num_hidden_layers=6)),
    "llama-1l-groups32": Bundle("llama", profile="JANG_1L", options=dict(block_size=32)),
    "qwen2-3m": Bundle("qwen2", profile="JANG_3M"),
    "qwen3-6m": Bundle("qwen3", profile="JANG_6M"),
    "gemma3_text-4m": Bundle("gemma3_text", by_mlx_lm=True),
    "mixtral-2l": Bundle("mixtral", profile="JANG_2L"),
    "qwen3_moe-4m": Bundle("qwen3_moe"),
    "qwen3_moe-150": Bundle("qwen3_moe", profile="JANG_2L", config=dict(
        num_experts=150, hidden_size=128, moe_intermediate_size=64)),
    "qwen3_moe-256": Bundle("qwen3_moe", profile="JANG_2L", config=dict(num_experts=256)),
    "qwen3_moe-sharded": Bundle("qwen3_moe", ways.sharded),
    "qwen3_next-4m": Bundle("qwen3_next"),
    "qwen3_5-text": Bundle("qwen3_5_text", profile="JANG_3M"),
    "qwen3_5-wrapped": Bundle("qwen3_5", profile="JANG_2S"),
    "qwen3_5_moe-2s": Bundle("qwen3_5_moe", profile="JANG_2S", config=FUSED),
    "qwen3_5_moe-split": Bundle("qwen3_5_moe", profile="JANG_2L", config=FUSED, options=dict(split_gate_up_quant=True)),
    "deepseek_v3-4m": Bundle("deepseek_v3", config=LATENT),
    "glm4_moe-2l": Bundle("glm4_moe", profile="JANG_2L"),
    "minimax_m2-4m": Bundle("minimax_m2"),
    "mistral4-4m": Bundle("mistral4", config=MISTRAL4),
    "nemotron_h-4m": Bundle("nemotron_h"),
    "nemotron_h_latent-2l": Bundle("nemotron_h_latent", profile="JANG_2L"),
    "falcon_h1-4m": Bundle("falcon_h1"),
    "lfm2_moe-4m": Bundle("lfm2_moe"),
    # ---- what older and other writers left
    "llama-v1.0": Bundle("llama", ways.streams, "JANG_3M", options=dict(version="1.0")),
    "qwen3_moe-v1.1": Bundle("qwen3_moe", ways.streams, config=dict(moe_intermediate_size=64), options=dict(version="1.1")),
    "qwen3_5-v1.2": Bundle("qwen3_5_text", ways.streams, "JANG_2L", options=dict(version="1.2")),
    "llama-upgraded": Bundle("llama", ways.upgraded, "JANG_2L", options=dict(version="1.1")),
    "llama-single-bits": Bundle("llama", ways.single_bits),
    "qwen3_moe-old": Bundle("qwen3_moe", tensors=[ways.packed_routers], claims=[ways.only_global_claims]),
    "nemotron_h-old": Bundle("nemotron_h", tensors=[ways.packed_routers, ways.old_nemotron_names],
                             claims=[ways.only_global_claims]),
    "mistral4-old": Bundle("mistral4", config=MISTRAL4,
                           tensors=[ways.packed_routers], claims=[ways.only_global_claims]),
    "llama-without-claims": Bundle("llama", profile="JANG_4K", claims=[ways.no_claims]),
    "qwen2-jjqf": Bundle("qwen2", claims=[ways.named("jjqf_config.json", "jjqf")]),
    "qwen3-jang_cfg": Bundle("qwen3", claims=[ways.named("jang_cfg.json", "jang"), ways.no_version]),
    "lfm2-mxq": Bundle("lfm2", claims=[ways.named("mxq_config.json", "mxq")]),
    # ---- files that contradict each other
    "llama-lies": Bundle("llama", profile="JANG_3M", claims=[ways.lies]),
    "qwen3_next-eos": Bundle("qwen3_5", claims=[ways.ends_of_text]),
}


def entry(bundle):
    """The model of a bundle as an entry of the parity fixtures."""
    a = ARCHS[bundle.arch]
    config = copy.deepcopy(a.config)
    config.get("text_config", config).update(bundle.config)
    # The parity fixtures have long texts and texts in pieces. The multipliers of Falcon H1 are in the weights here.
    correct = None if bundle.arch == "falcon_h1" else a.correct
    return replace(a, config=config, commit=("",), chunks=False, correct=correct)


def load(folder, by_mlx_lm):
    """The package's model, with parameters as stored: not rounded."""
    from jang_tools import loader

    if by_mlx_lm:
        return load_model(folder)[0]
    keep, nn.Module.set_dtype = nn.Module.set_dtype, lambda self, *_, **__: self
    try:
        model = loader._load_jang_v2(folder, json.loads((folder / "jang_config.json").read_text()))[0]
    finally:
        nn.Module.set_dtype = keep
    ways.unround(model, folder)
    return model


def write(name, bundle, out, work):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    a = entry(bundle)
    source = ways.source(a, work / name)
    bits = bundle.make(source, folder, bundle)
    for change in bundle.tensors:
        change(folder, bits)
    loadable = ways.loadable(folder, work / f"{name}-loadable")
    mx.random.seed(1)
    before = flat(load(loadable, bundle.by_mlx_lm))
    mx.random.seed(2)
    model = load(loadable, bundle.by_mlx_lm)
    if left := [path for path, p in flat(model).items() if not mx.array_equal(p, before[path])]:
        raise RuntimeError(f"left at random by the loader: {left[:3]}")
    mx.save_safetensors(str(folder / "reference.safetensors"), references(model, a))
    lies = [module for change in bundle.claims for module in change(folder, bits) or ()]
    expected = dict(bits=dict(sorted(bits.items())), lies=lies, eos=ways.eos(folder))
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    ways.main(__doc__, BUNDLES, write)
