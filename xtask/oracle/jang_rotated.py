#!/usr/bin/env python3
"""Tiny JANG bundles of turned rows: JANGTQ, whose codes the format's package (`jang`) writes, and `--hadamard`.

usage: jang_rotated.py --out DIR [--only NAMES]

Each folder DIR/<name>/ is a bundle, and beside it
  reference.safetensors   logits as for the parity fixtures (see tiny_archs.py), by mlx-lm on the plain float32 values that the
                          package's own functions make of the codes. (Its loader runs JANGTQ on Metal alone, and turns neither
                          experts nor widths other than 4 and 8 bits back.)
  expected.json           bits    {module, as stored: [bits, group]} of the affine matrices
                          lies    modules about which a configuration file claims something else
                          eos     the ids that end a text
To add a bundle: one entry in BUNDLES. Needs jang, mlx 0.32.2 and mlx_lm 0.32.0.
"""
import importlib
import json
import re
import runpy
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable

import jang_bundles as ways
import mlx.core as mx
import numpy as np
from engine import ARCHS, build, empty, flat, load, references
from safetensors.numpy import save_file

for file in sorted(Path(__file__).parent.glob("archs/*.py")):
    importlib.import_module(f"archs.{file.stem}")

EXPERT = re.compile(r"(.+)\.experts\.(\d+)\.(w[123]|gate_proj|up_proj|down_proj)$")
NAMES = dict(w1="gate_proj", w2="down_proj", w3="up_proj")


@dataclass
class Bundle:
    """How a bundle is made of which model."""

    arch: str
    make: Callable
    """function(source, folder, bundle): writes the bundle."""
    profile: str = "JANG_4M"
    config: dict = field(default_factory=dict)
    """Keys of the model's configuration that differ from the parity fixture's."""
    options: dict = field(default_factory=dict)
    """For `make`."""


# ---- codes -------------------------------------------------------------------------------------------


def signs(columns, seed):
    from jang_tools.turboquant.rotation import generate_random_signs

    return mx.array(generate_random_signs(columns, seed=seed))


def encode(w, bits, seed):
    """Words and norms of a matrix; the package's function, or what it calls where codes do not fill the words of a row."""
    from jang_tools.turboquant.codebook import compute_codebook
    from jang_tools.turboquant.linear import tq_quantize_weight
    from jang_tools.turboquant.pipeline import pack_bits
    from jang_tools.turboquant.rotation import hadamard_rotate

    in_word = 32 // bits
    if w.shape[1] % in_word == 0:
        made = tq_quantize_weight(w, bits=bits, seed=seed)
        return made["packed"], made["norms"]
    turned = np.array(hadamard_rotate(mx.array(w), signs(w.shape[1], seed)))
    norms = np.linalg.norm(turned, axis=1)
    levels = np.array(compute_codebook(w.shape[1], bits), np.float32)
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, turned / norms[:, None]).astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, -w.shape[1] % in_word)))
    return np.array(pack_bits(mx.array(codes), bits)).reshape(w.shape[0], -1), norms.astype(np.float16)


def decode(packed, norms, bits, columns, seed):
    """The plain values of codes."""
    from jang_tools.turboquant.codebook import compute_codebook

    codes = packed[..., None] >> np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits) & np.uint32((1 << bits) - 1)
    codes = codes.reshape(*packed.shape[:-1], -1)[..., :columns]
    levels = np.array(compute_codebook(columns, bits), np.float32)
    return plain(levels[codes] * norms[..., None].astype(np.float32), seed)


def plain(turned, seed):
    from jang_tools.turboquant.rotation import hadamard_inverse

    return np.array(hadamard_inverse(mx.array(turned), signs(turned.shape[-1], seed)))


# ---- ways to make a bundle: function(source, folder, bundle) ------------------------------------------------


def turboquant(source, folder, bundle):
    """Experts, or the modules that `bits` finds, as codes; the rest in 8 bits. As converters without an entry for the family would
    write them: each expert alone, or `stacked`."""
    options, config = bundle.options, ways.read(source / "config.json")
    bits_of, seed = options["bits"], options.get("seed", 42)
    stored, stacks = {}, {}
    for name, w in ways.values(source).items():
        module = name.removesuffix(".weight")
        bits = bits_of(module)
        if bits and w.ndim > 1:
            flat = w.reshape(-1, w.shape[-1])
            packed, norms = encode(flat, bits, seed)
            parts = dict(tq_packed=packed.reshape(*w.shape[:-1], -1), tq_norms=norms.reshape(w.shape[:-1]),
                         tq_bits=np.array([bits], np.uint8))
            expert = EXPERT.match(module)
            if expert and options.get("stacked"):
                to = f"{expert[1]}.switch_mlp.{NAMES.get(expert[3], expert[3])}"
                stacks.setdefault(to, {})[int(expert[2])] = parts
            else:
                stored.update({f"{module}.{part}": t for part, t in parts.items()})
        elif w.ndim == 2 and w.shape[1] % 32 == 0 and not re.search(r"norm|\.gate$|bias", module):
            group = 64 if w.shape[1] % 64 == 0 else 32
            packed = mx.quantize(mx.array(w).astype(mx.float16), group_size=group, bits=8)
            stored.update({f"{module}.{part}": np.array(t) for part, t in zip(("weight", "scales", "biases"), packed)})
        else:
            stored[name] = w if "correction_bias" in name else w.astype(np.float16)
    for to, parts in stacks.items():
        each = [parts[i] for i in range(len(parts))]
        stored.update({f"{to}.{part}": np.stack([e[part] for e in each]) for part in ("tq_packed", "tq_norms")})
        stored[f"{to}.tq_bits"] = each[0]["tq_bits"]
    file = "model-00001-of-00001.safetensors"
    save_file(stored, str(folder / file))
    ways.put(folder / ways.INDEX, dict(metadata={}, weight_map=dict.fromkeys(stored, file)))
    ways.put(folder / "config.json", dict(config, quantization=dict(bits=8, group_size=64, mode="affine")))
    ways.put(folder / "jang_config.json", dict(version=2, weight_format="mxtq", profile=bundle.profile, mxtq_seed=seed))


def converter(module):
    """One of the package's converters to JANGTQ, each of which is a script."""

    def make(source, folder, bundle):
        arguments, sys.argv = sys.argv, [module, str(source), str(folder), bundle.profile]
        try:
            runpy.run_module(f"jang_tools.{module}", run_name="__main__")
        finally:
            sys.argv = arguments

    return make


def hadamard(source, folder, bundle):
    """`jang convert --hadamard`."""
    ways.convert(source, folder, replace(bundle, options=dict(hadamard=True)))


# ---- references -----------------------------------------------------------------------------------------


def values(folder, columns):
    """The plain values of a bundle by name. `columns` are those of modules, by name."""
    jang = ways.read(folder / "jang_config.json")
    seed = jang.get("mxtq_seed", 42)
    turns = jang.get("quantization", {}).get("hadamard_rotation", False)
    stored, all = ways.tensors(folder), {}
    for name, t in stored.items():
        module, _, part = name.rpartition(".")
        if part == "tq_packed":
            bits = int(stored[f"{module}.tq_bits"].flat[0])
            dense = decode(t, stored[f"{module}.tq_norms"], bits, columns[module], seed)
            # Fused experts are published as plain parameters.
            all[module if re.search(r"\.experts\.(gate_up|down)_proj$", module) else f"{module}.weight"] = dense
        elif part == "weight" and f"{module}.scales" in stored:
            scales, biases = (mx.array(stored[f"{module}.{p}"]).astype(mx.float32) for p in ("scales", "biases"))
            # By what it is known to have been packed with: codes of all widths fill their words.
            n = columns[module]
            bits = t.shape[-1] * 32 // n
            dense = np.array(mx.dequantize(mx.array(t), scales, biases, group_size=n // scales.shape[-1], bits=bits))
            whole = re.search(r"embed|lm_head|norm|\.gate\.", name.lower())
            all[name] = plain(dense, 42) if turns and bits >= 3 and not whole else dense
        elif not (part in ("tq_norms", "tq_bits") or part in ("scales", "biases") and f"{module}.weight" in stored):
            all[name] = t
    return {name: mx.array(t) for name, t in all.items()}


def widths(source, a):
    """The columns of all modules, under published names and mlx-lm's."""
    names = {**{n: w.shape for n, w in ways.values(source).items()}, **{n: w.shape for n, w in flat(empty(a)).items()}}
    return {name.removesuffix(".weight"): shape[-1] for name, shape in names.items() if len(shape) > 1}


def write(name, bundle, out, work):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    a = ARCHS[bundle.arch]
    config = json.loads(json.dumps(a.config))
    config.get("text_config", config).update(bundle.config)
    a = replace(a, config=config, commit=(), chunks=False)
    source = ways.source(a, work / name)
    bundle.make(source, folder, bundle)
    columns = widths(source, a)
    written = {k: v for k, v in ways.read(folder / "config.json").items() if k != "quantization"}
    model = empty(replace(a, config=written))
    dense = values(folder, columns)
    load(model, dense)
    mx.save_safetensors(str(folder / "reference.safetensors"), references(model, a))
    stored, bits = ways.tensors(folder), {}
    for module in (name.removesuffix(".scales") for name in stored if name.endswith(".scales")):
        n, words, groups = columns[module], stored[f"{module}.weight"].shape[-1], stored[f"{module}.scales"].shape[-1]
        bits[module] = words * 32 // n, n // groups
    ways.put(folder / "expected.json", dict(bits=dict(sorted(bits.items())), lies=[], eos=ways.eos(folder)))


def all_of(bits, which=r"\.experts\."):
    return lambda module: bits if re.search(which, module) else None


def mixture(module):
    """Two bits, but four where the result enters the residual stream."""
    return (4 if re.search(r"down_proj|w2", module) else 2) if ".experts." in module else None


TQ = dict(make=turboquant, profile="JANGTQ2")
BUNDLES = {
    "qwen3_moe-tq2": Bundle("qwen3_moe", **TQ, options=dict(bits=all_of(2))),
    "qwen3_moe-tq4": Bundle("qwen3_moe", **TQ, options=dict(bits=all_of(4), stacked=True, seed=2**40 + 7)),
    "qwen3_moe-tq3": Bundle("qwen3_moe", **TQ, options=dict(bits=all_of(3), stacked=True)),
    "deepseek_v3-tqk": Bundle("deepseek_v3", **TQ, options=dict(bits=mixture)),
    "glm4_moe-tq3": Bundle("glm4_moe", **TQ, options=dict(bits=all_of(3))),
    "minimax_m2-tq8": Bundle("minimax_m2", **TQ, options=dict(bits=all_of(8))),
    "minimax_m2-tq1": Bundle("minimax_m2", **TQ, options=dict(bits=all_of(1), stacked=True)),
    "qwen3_5_moe-tq2": Bundle("qwen3_5_moe", **TQ, options=dict(bits=all_of(2))),
    "llama-tq4": Bundle("llama", **TQ, options=dict(bits=all_of(4, r"_proj$|embed|lm_head"))),
    "minimax_m2-tq2-package": Bundle("minimax_m2", converter("convert_minimax_jangtq"), "JANGTQ2"),
    "minimax_m2-tqk-package": Bundle("minimax_m2", converter("convert_minimax_jangtq"), "JANGTQ_K",
                                     config=dict(num_local_experts=32)),
    "llama-hadamard-3": Bundle("llama", hadamard, "JANG_3M"),
    "llama-hadamard-4": Bundle("llama", hadamard, "JANG_4M"),
    "llama-hadamard-6": Bundle("llama", hadamard, "JANG_2L"),
    "qwen3_moe-hadamard-4": Bundle("qwen3_moe", hadamard, "JANG_4M"),
    "qwen3_moe-hadamard-6": Bundle("qwen3_moe", hadamard, "JANG_6M"),
    "deepseek_v3-hadamard-3": Bundle("deepseek_v3", hadamard, "JANG_3M"),
}


if __name__ == "__main__":
    ways.main(__doc__, BUNDLES, write)
