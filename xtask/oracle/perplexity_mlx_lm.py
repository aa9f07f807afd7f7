#!/usr/bin/env python3
"""What mlx_lm.perplexity makes of a text, and numpy of two models.

usage: perplexity_mlx_lm.py TOKENS.json --model MODEL [--against MODEL] --sequence-length N --num-samples N --batch-size N

A model is a folder or a real llama GGUF file, whose weights the `gguf` package dequantizes; all floating numbers become float32. Prints
the figures as `llm-tool eval --json` does. Needs mlx, mlx_lm and gguf.
"""
import argparse
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map
from mlx_lm import perplexity
from mlx_lm.models.llama import Model, ModelArgs
from mlx_lm.utils import load_model

from gguf_llama import Checkpoint


class Text:
    """One document, in the way of mlx-lm's data sets."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return self.tokens

    def process(self, tokens):
        return tokens, 0


def model_of(path):
    if Path(path).is_dir():
        model, _ = load_model(Path(path))
        floating = lambda p: p.astype(mx.float32) if mx.issubdtype(p.dtype, mx.floating) else p
        model.update(tree_map(floating, model.parameters()))
        return model
    checkpoint = Checkpoint(path)
    model = Model(ModelArgs.from_dict(checkpoint.config))
    model.load_weights(list(checkpoint.dequantized().items()))
    return model


def log_softmax(logits):
    logits = np.array(logits.astype(mx.float32)).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def apart(model, reference, data):
    """KL(reference || model) and agreement of every token."""
    divergences, agreements = [], []
    for row in data:
        p, q = log_softmax(reference(row[None, :-1])), log_softmax(model(row[None, :-1]))
        divergences.append((np.exp(p) * (p - q)).sum(axis=-1))
        agreements.append(p.argmax(axis=-1) == q.argmax(axis=-1))
    return np.concatenate(divergences, axis=None), np.concatenate(agreements, axis=None).astype(np.float64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokens")
    parser.add_argument("--model", required=True)
    parser.add_argument("--against")
    parser.add_argument("--sequence-length", type=int, required=True)
    parser.add_argument("--num-samples", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    args = parser.parse_args()

    text = Text(json.loads(Path(args.tokens).read_text()))
    perplexity.load_dataset = lambda *_: (text,)
    perplexity.print = lambda *_, **__: None  # its progress
    data = perplexity.load_data(None, "", args.num_samples, args.sequence_length)
    model = model_of(args.model)
    figures = {"tokens": data[:, 1:].size}

    def add(name, value, error):
        figures[name], figures[f"{name}_standard_error"] = float(value), float(error)

    add("perplexity", *perplexity.eval_ppl(model, data, args.batch_size))
    if args.against:
        for name, values in zip(("kl_divergence", "top1_agreement"), apart(model, model_of(args.against), data)):
            add(name, values.mean(), values.std(ddof=1) / np.sqrt(values.size))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
