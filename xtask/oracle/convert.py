#!/usr/bin/env python3
"""mlx-lm's side of conversions.

usage: convert.py convert JOBS THEIRS          converts the source of every job into THEIRS/<job>
       convert.py compare JOBS THEIRS OURS     compares with OURS/<job> what mlx-lm wrote, has it load both, and prints a line of JSON
                                               for each job; logits go to OURS/<job>.logits.safetensors

JOBS is a JSON file: a list of {"name", "source", "options"}, with the options of mlx_lm.convert's function `convert`.
"""
import importlib
import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm import utils

# The package has a function of this name.
conversion = importlib.import_module("mlx_lm.convert")

TOKENS = mx.array([[1, 5, 9, 2, 7, 3, 11, 4]])


class NoTokenizer:
    """The sources have none."""

    def save_pretrained(self, folder):
        pass


def load(path, lazy, return_config, **_):
    model, config = utils.load_model(Path(path), lazy=lazy)
    return model, NoTokenizer(), config


def converts(job):
    """Whether mlx-lm can."""
    return not job["source"].endswith(".gguf")


def convert(job, folder):
    conversion.load = load
    utils.create_model_card = lambda *_: None
    conversion.convert(job["source"], mlx_path=str(folder), **job["options"])


def tensors(folder):
    found = {}
    for file in sorted(folder.glob("model*.safetensors")):
        found |= mx.load(str(file))
    return found


def difference(theirs, ours):
    """What is not the same in two folders, in words."""
    wanted, found = tensors(theirs), tensors(ours)
    if wanted.keys() != found.keys():
        return f"lacks {sorted(wanted.keys() - found.keys())[:4]}, has {sorted(found.keys() - wanted.keys())[:4]} besides"
    for name, w in wanted.items():
        f = found[name]
        if (w.shape, w.dtype) != (f.shape, f.dtype):
            return f"{name}: found {f.dtype} {f.shape}, wanted {w.dtype} {w.shape}"
        if w.size and not mx.array_equal(w.reshape(-1).view(mx.uint8), f.reshape(-1).view(mx.uint8)).item():
            return f"{name}: other bytes"
    wanted, found = (json.loads((folder / "config.json").read_text()) for folder in (theirs, ours))
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            return f"config.json: {key}: found {found.get(key)}, wanted {wanted.get(key)}"
    wanted, found = (
        json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (theirs, ours)
    )
    # mlx-lm does not count parameters of modules that have others in them.
    for index in (wanted, found):
        del index["metadata"]["total_parameters"]
    if wanted != found:
        return f"the index: found {found['metadata']}, wanted {wanted['metadata']}"
    return None


def logits(folder):
    model, _ = utils.load_model(folder)
    floating = lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p
    model.update(tree_map(floating, model.parameters()))
    return model(TOKENS)


def compare(job, theirs, ours):
    try:
        error = difference(theirs, ours) if converts(job) else None
        if error is None:
            found = logits(ours)
            wanted = logits(theirs) if converts(job) else found
            mx.save_safetensors(f"{ours}.logits.safetensors", {"logits": wanted})
            if not mx.array_equal(wanted, found).item():
                error = "mlx-lm computes other logits with it"
    except Exception as e:
        error = f"mlx-lm does not load it: {e!r}"
    print(json.dumps({"name": job["name"], "error": error, "tensors": len(tensors(ours))}))


def main():
    command, jobs, theirs, *ours = sys.argv[1:]
    mx.set_default_device(mx.cpu)
    for job in json.loads(Path(jobs).read_text()):
        folder = Path(theirs) / job["name"]
        if command == "convert":
            if converts(job):
                convert(job, folder)
        else:
            compare(job, folder, Path(ours[0]) / job["name"])


if __name__ == "__main__":
    main()
