#!/usr/bin/env python3
"""mlx-lm's side of prompt-cache files.

usage: prompt_caches.py save OUT FIXTURE...    runs each fixture's texts, saves OUT/<fixture>.<text>.safetensors and the logits of what
                                               follows, .wanted.safetensors beside it, and prints a line of JSON for each
       prompt_caches.py load OUT FIXTURE...    continues from such files and writes the logits, .logits.safetensors

Texts are `short`, the fixture's prompt and its decode tokens; `long`, of which the last tokens are what follows; and `bounded`, with
a cache of a few positions, where mlx-lm has that.
"""
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache
from mlx_lm.utils import load_model

import tiny_archs

FOLLOWING = 3


@dataclass
class Text:
    name: str
    first: mx.array
    """What the file knows."""
    following: mx.array
    logits: Optional[mx.array] = None
    """Of `following`, where the fixture has them."""
    chunk: int = 1024
    """How many tokens of `first` go in at a time."""
    at_once: int = 2
    """How many tokens of `following` go in together; the others go in one by one."""
    max_size: Optional[int] = None

    def run_first(self, model, cache):
        for i in range(0, self.first.shape[1], self.chunk):
            mx.eval(model(self.first[:, i : i + self.chunk], cache=cache))

    def run_following(self, model, cache):
        together, rest = self.following[:, : self.at_once], self.following[:, self.at_once :]
        parts = [together, *mx.split(rest, rest.shape[1], axis=1)]
        return mx.concatenate([model(part, cache=cache) for part in parts], axis=1)


def texts(model, folder):
    reference = mx.load(str(folder / "reference.safetensors"))
    prompt, decode = reference["prompt"], reference["decode_tokens"][None]
    yield Text("short", prompt, decode, reference["decode"])
    if "long" in reference:
        long, logits = reference["long"], reference["long_logits"]
        yield Text("long", long[:, :-FOLLOWING], long[:, -FOLLOWING:], logits[:, -FOLLOWING:])
    if not hasattr(model, "make_cache"):
        # Of several tokens at once, mlx-lm's mask hides some that a bounded cache keeps.
        yield Text("bounded", mx.tile(prompt, (1, 4)), decode, chunk=1, at_once=1, max_size=12)


def model_of(folder):
    model, _ = load_model(folder)
    floating = lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p
    model.update(tree_map(floating, model.parameters()))
    if correct := tiny_archs.ARCHS[folder.name].correct:
        correct(model)
    return model


def save(model, fixture, text, file):
    cache = make_prompt_cache(model, text.max_size)
    text.run_first(model, cache)
    save_prompt_cache(f"{file}.safetensors", cache, {"text": text.name})
    classes = sorted({name(c) for c in cache})
    logits = text.run_following(model, cache) if text.logits is None else text.logits
    mx.save_safetensors(f"{file}.wanted.safetensors", {"logits": logits})
    print(json.dumps({
        "fixture": fixture, "text": text.name, "first": text.first[0].tolist(), "following": text.following[0].tolist(),
        "chunk": text.chunk, "at_once": text.at_once, "max_size": text.max_size, "classes": classes,
    }))


def name(cache):
    parts = [name(c) for c in getattr(cache, "caches", [])]
    return type(cache).__name__ + (f"({', '.join(parts)})" if parts else "")


def main():
    command, out = sys.argv[1], Path(sys.argv[2])
    for folder in map(Path, sys.argv[3:]):
        model = model_of(folder)
        for text in texts(model, folder):
            file = out / f"{folder.name}.{text.name}"
            if command == "save":
                save(model, folder.name, text, file)
            else:
                logits = text.run_following(model, load_prompt_cache(f"{file}.safetensors"))
                mx.save_safetensors(f"{file}.logits.safetensors", {"logits": logits})


if __name__ == "__main__":
    main()
