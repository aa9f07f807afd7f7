#!/usr/bin/env python3
"""Counts the operations of one of mlx-lm's decoding steps as `llm-tool nodes` counts this project's, and prints the
same line of JSON for each model.

usage: nodes_mlx_lm.py [--metal] FOLDER...

--metal: with the kernels that mlx-lm has for Metal alone, whether there is Metal or not
"""
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

OPERATION = re.compile(r'\{ (\d+) \[label ="(\w+)", shape=rectangle\]; \}')
# Longer than the windows and chunks of the fixtures.
PROMPT = list(range(1, 13))


def operations(arrays):
    """The names of all operations that lead to these arrays, by address."""
    dot = io.StringIO()
    mx.export_to_dot(dot, *arrays)
    return dict(OPERATION.findall(dot.getvalue()))


def step(model):
    """How often each operation is in a step: a token, its successor, and what the cache keeps.

    Nothing is evaluated: what was there before the step is left out by address."""
    cache = make_prompt_cache(model)
    kept = lambda: [a for _, a in tree_flatten([c.state for c in cache]) if isinstance(a, mx.array)]
    successor = lambda tokens: mx.argmax(model(mx.array([tokens]), cache=cache), axis=-1)
    for tokens in (PROMPT, PROMPT[:1]):
        successor(tokens)
    before = operations(kept())
    token = successor(PROMPT[:1])
    after = operations([token, *kept()])
    return Counter(name for address, name in after.items() if address not in before)


def main():
    folders = sys.argv[1:]
    if folders[:1] == ["--metal"]:
        del folders[0]
        mx.metal.is_available = lambda: True
        mx.default_device = lambda: mx.gpu
    for folder in map(Path, folders):
        try:
            model, _ = load_model(folder)
            counts = step(model)
            figures = {"layers": len(model.layers), "nodes_per_token": counts.total(), "operations": counts}
        except Exception as e:
            figures = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
