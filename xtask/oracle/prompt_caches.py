#!/usr/bin/env python3
"""mlx-lm's side of prompt-cache files.

usage: prompt_caches.py save OUT FIXTURE...    runs each fixture's prompts and saves OUT/<fixture>.<text>.safetensors
       prompt_caches.py load OUT FIXTURE...    continues from such files and writes the logits to OUT/<fixture>.<text>.logits

Texts are `short`, the fixture's prompt and the decode tokens that follow it, and `long`, whose last tokens are what follows. What
follows goes in as two tokens at once and then one by one. Prints the classes of each saved cache.
"""
import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache
from mlx_lm.utils import load_model

import tiny_archs

FOLLOWING = 3


def texts(folder):
    """What is said first, and what follows, of each text."""
    reference = mx.load(str(folder / "reference.safetensors"))
    yield "short", reference["prompt"], reference["decode_tokens"][None]
    if "long" in reference:
        yield "long", reference["long"][:, :-FOLLOWING], reference["long"][:, -FOLLOWING:]


def model_of(folder):
    model, _ = load_model(folder)
    floating = lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p
    model.update(tree_map(floating, model.parameters()))
    if correct := tiny_archs.ARCHS[folder.name].correct:
        correct(model)
    return model


def main():
    command, out = sys.argv[1], Path(sys.argv[2])
    for folder in map(Path, sys.argv[3:]):
        model = model_of(folder)
        for text, first, following in texts(folder):
            file = str(out / f"{folder.name}.{text}")
            if command == "save":
                cache = make_prompt_cache(model)
                mx.eval(model(first, cache=cache))
                save_prompt_cache(file + ".safetensors", cache, {"text": text})
                classes = sorted({name(c) for c in cache})
                print(json.dumps({"fixture": folder.name, "text": text, "classes": classes}))
            else:
                cache, user = load_prompt_cache(file + ".safetensors", return_metadata=True)
                parts = [following[:, :2], *mx.split(following[:, 2:], following.shape[1] - 2, axis=1)]
                logits = mx.concatenate([model(part, cache=cache) for part in parts], axis=1)
                mx.save_safetensors(file + ".logits.safetensors", {"logits": logits})


def name(cache):
    parts = [name(c) for c in getattr(cache, "caches", [])]
    return type(cache).__name__ + (f"({', '.join(parts)})" if parts else "")


if __name__ == "__main__":
    main()
