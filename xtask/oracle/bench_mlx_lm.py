#!/usr/bin/env python3
"""Measures mlx-lm as `llm-tool bench` measures this project, and prints the same line of JSON.

usage: bench_mlx_lm.py FOLDER PROMPT_TOKENS GENERATED_TOKENS
"""
import json
import resource
import sys
import time
from pathlib import Path

import mlx.core as mx
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model


def main():
    folder, prompt_tokens, generated = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    start = time.perf_counter()
    model, config = load_model(folder)
    load = time.perf_counter() - start
    prompt = mx.array([(100 + i * 7919) % config["vocab_size"] for i in range(prompt_tokens)])

    def run(count):
        """(seconds to the first token, seconds for `count` more)"""
        start = time.perf_counter()
        times = [time.perf_counter() - start for _ in generate_step(prompt, model, max_tokens=count + 1)]
        return times[0], times[-1] - times[0]

    # The first pass after loading is what a person waits for; the second is measured for speed.
    first, _ = run(0)
    prefill, decode = run(generated)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps({
        "prefill_tok_s": prompt_tokens / prefill, "decode_tok_s": generated / decode, "peak_bytes": peak,
        "ttft_s": first, "load_s": load,
    }))


if __name__ == "__main__":
    main()
