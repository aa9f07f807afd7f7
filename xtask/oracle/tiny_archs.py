#!/usr/bin/env python3
"""Parity fixtures: one small entry per architecture, in a file per family under archs/; engine.py does the rest.

usage: tiny_archs.py --out DIR [--all] [--only NAMES]

Each folder DIR/<name>[-<twin>]/ holds config.json, model.safetensors and reference.safetensors:
  prompt [1, L], decode_tokens [n]   int32 inputs
  prefill [1, L, V]                  float32 logits of the prompt in one pass
  decode [1, n, V]                   logits of the decode tokens, fed one by one after it
  greedy [N], margin [N]             the most likely continuation; the gap between the two best logits of each step
  long [1, 40], long_logits          logits of many tokens in one pass (not in the committed set)
To add an architecture: an `arch(name, config)` in archs/, and a layout (see layouts.py) where published names or shapes differ
from mlx-lm's.
FIXTURE_SEED=N draws other weights and tokens. Needs mlx and mlx_lm.
"""
import argparse
import importlib
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import gguf_twins
import toolkits
from engine import ARCHS, TWINS, write

for file in sorted(Path(__file__).parent.glob("archs/*.py")):
    importlib.import_module(f"archs.{file.stem}")
toolkits.register()
gguf_twins.register()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--all", action="store_true", help="every twin of every architecture")
    parser.add_argument("--only", default="", help="architectures, comma separated")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(ARCHS)
    if unknown := [n for n in only if n not in ARCHS]:
        sys.exit(f"there is no architecture {', '.join(unknown)}; there are {', '.join(ARCHS)}")
    families = {}
    for name in only:
        families.setdefault(ARCHS[name].weights, []).append(name)
    # Models are small, so that one of them keeps one core busy at most.
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        counts = list(pool.map(write_family, families.values(), repeat(args.out), repeat(args.all)))
    written, failed = (sum(n) for n in zip(*counts))
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"{written} fixtures in {args.out}, {size / 1e6:.2f} MB; {failed} failed")
    sys.exit(failed != 0)


def write_family(names, out, everything):
    """Writes the fixtures of entries that share weights: how many there are, and how many failed."""
    written = failed = 0
    for name in names:
        a = ARCHS[name]
        for suffix, twin in {**TWINS, **a.twins}.items():
            if not (suffix in a.commit or everything and twin.applies(a)):
                continue
            folder = f"{name}-{suffix}" if suffix else name
            try:
                write(folder, a, twin, out, shared_with(name, suffix, out))
                written += 1
            except Exception as e:  # one failure does not stop the rest
                print(f"{folder}: {type(e).__name__}: {e}", file=sys.stderr)
                failed += 1
    return written, failed


def shared_with(name, suffix, out):
    """The fixture, written before, that holds the same tensors."""
    if suffix == "mixed-bare":
        other = f"{name}-mixed"
    elif suffix == "v5":
        other = ARCHS[name].weights
    elif suffix == "" and ARCHS[name].weights != name:
        other = ARCHS[name].weights
    else:
        return None
    return other if Path(out, other, "model.safetensors").exists() else None


if __name__ == "__main__":
    main()
