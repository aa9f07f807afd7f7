#!/usr/bin/env python3
"""What mlx-lm computes for a real llama GGUF file whose weights the `gguf` package dequantized to float32.

usage: real_gguf.py MODEL.gguf --prompt 1,2,3 --decode 4,5 --greedy N --out FILE.safetensors

Writes prompt [1, L], decode_tokens [n], prefill [1, L, V], decode [1, n, V], greedy [N] and margin [N] as the fixtures have
them. Needs mlx, mlx_lm and gguf.
"""
import argparse

import mlx.core as mx
import numpy as np
from gguf_llama import Checkpoint
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.models.llama import Model, ModelArgs


def numbers(text):
    return [int(x) for x in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("--prompt", type=numbers, required=True)
    parser.add_argument("--decode", type=numbers, required=True)
    parser.add_argument("--greedy", type=int, required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    checkpoint = Checkpoint(args.gguf)
    model = Model(ModelArgs.from_dict(checkpoint.config))
    model.load_weights(list(checkpoint.dequantized().items()))
    mx.eval(model.parameters())

    cache = make_prompt_cache(model)
    prefill = model(mx.array([args.prompt]), cache=cache)
    decode = mx.concatenate([model(mx.array([[t]]), cache=cache) for t in args.decode], axis=1)
    cache = make_prompt_cache(model)
    logits = model(mx.array([args.prompt]), cache=cache)[0, -1]
    greedy, margin = [], []
    for _ in range(args.greedy):
        second, first = np.sort(np.array(logits))[-2:]
        greedy.append(int(mx.argmax(logits)))
        margin.append(float(first - second))
        logits = model(mx.array([[greedy[-1]]]), cache=cache)[0, -1]
    mx.save_safetensors(args.out, {
        "prompt": mx.array([args.prompt], mx.int32), "decode_tokens": mx.array(args.decode, mx.int32),
        "prefill": prefill, "decode": decode,
        "greedy": mx.array(greedy, mx.int32), "margin": mx.array(margin, mx.float32),
    })


if __name__ == "__main__":
    main()
