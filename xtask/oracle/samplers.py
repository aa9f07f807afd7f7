"""Records what mlx-lm's samplers and logits processors do, for mlx-lm-common/tests/generate_parity.rs.

    pip install 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
    python xtask/oracle/samplers.py

Filters only remove tokens, so the surviving ids are recorded; of long rows, their number, sum and smallest logit.
"""

import json
import pathlib

import mlx.core as mx
import mlx_lm.sample_utils as su
import numpy as np

DATA = pathlib.Path(__file__).parents[2] / "mlx-lm-common" / "tests" / "data"
mx.set_default_device(mx.cpu)


def survivors(logits, settings):
    """What `make_sampler` hands to its last stage: the chain itself, in its own order."""
    seen = []
    draw, su.categorical_sampling = su.categorical_sampling, lambda x, temp: seen.append(x)
    su.make_sampler(temp=1.0, **settings)(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    su.categorical_sampling = draw
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in np.array(seen[0])]


def spread(n, multiplier, scale):
    """The rows of `n` logits that the test builds from the same integers: 256 values, exact in float32, so that many tokens
    tie and no threshold hangs on how a sum of thousands of probabilities was rounded."""
    ids = np.arange(n, dtype=np.uint64)
    return ((ids * multiplier % 2**32 >> 24).astype(np.float32) / 256 - 0.5) * scale


def sampler_cases():
    rng = np.random.default_rng(7)
    peaked = np.round(rng.standard_normal((2, 48)) * 3, 3).astype(np.float32)
    flat = np.round(rng.standard_normal((2, 48)) * 0.3, 3).astype(np.float32)
    tied = rng.integers(0, 4, (2, 48)).astype(np.float32)  # few values, many ties
    alike = np.zeros((2, 48), np.float32)
    settings = [
        {"top_p": 0.9}, {"top_p": 0.5}, {"top_p": 0.01}, {"top_p": 0.999}, {"top_p": 1.0}, {"top_p": 0.0},
        {"min_p": 0.1}, {"min_p": 0.5}, {"min_p": 1.0}, {"min_p": 1e-4}, {"min_p": 0.9, "min_tokens_to_keep": 5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.1}, {"xtc_probability": 1.0, "xtc_threshold": 0.02},
        {"xtc_probability": 1.0, "xtc_threshold": 0.0}, {"xtc_probability": 1.0, "xtc_threshold": 0.5},
        {"xtc_probability": 1.0, "xtc_threshold": 0.02, "xtc_special_tokens": [0, 5, 17, 40]},
        {"top_k": 1}, {"top_k": 7}, {"top_k": 47},
        {"top_p": 0.9, "min_p": 0.05}, {"top_p": 0.8, "top_k": 6}, {"top_p": 0.5, "top_k": 30}, {"top_p": 0.9, "top_k": 40},
        {"top_p": 0.9, "min_p": 0.2, "min_tokens_to_keep": 3, "top_k": 12}, {"min_p": 0.9, "min_tokens_to_keep": 9, "top_k": 4},
        {"min_p": 0.02, "top_k": 9},
        {"top_p": 0.95, "min_p": 0.02, "xtc_probability": 1.0, "xtc_threshold": 0.05},
        {"top_p": 0.95, "min_p": 0.02, "xtc_probability": 1.0, "xtc_threshold": 0.05, "top_k": 4},
    ]
    rows = [
        {"name": name, "logits": x.tolist(), "cases": [{"settings": s, "kept": survivors(mx.array(x), s)} for s in settings]}
        for name, x in [("peaked", peaked), ("flat", flat), ("tied", tied), ("alike", alike)]
    ]
    long = []
    for n, multiplier, scale in [(3000, 2654435761, 20.0), (20001, 2654435761, 12.0), (49152, 40503 * 2 + 1, 1.0)]:
        x = spread(n, multiplier, scale)
        for s in [{"top_p": p} for p in (0.1, 0.5, 0.9, 0.99)] + [{"min_p": 0.05}, {"top_p": 0.9, "min_p": 0.3}]:
            kept = survivors(mx.array(x[None]), s)[0]
            long.append({
                "n": n, "multiplier": multiplier, "scale": scale, "settings": s,
                "count": len(kept), "sum": sum(kept), "least": float(x[kept].min()),
            })
    return {"rows": rows, "long": long}


def processor_cases():
    rng = np.random.default_rng(11)
    logits = np.round(rng.standard_normal((1, 32)) * 4, 3).astype(np.float32)
    history = rng.integers(0, 32, 40).tolist()
    history[-6:] = [3, 3, 9, 3, 9, 30]
    settings = [
        {"logit_bias": {"3": 1.5, "0": -100.0, "31": 0.25}},
        {"repetition_penalty": 1.3}, {"repetition_penalty": 0.7, "repetition_context_size": 6}, {"repetition_penalty": 0.0},
        {"presence_penalty": 0.6}, {"presence_penalty": -0.6, "presence_context_size": 3},
        {"frequency_penalty": 0.4}, {"frequency_penalty": 1.1, "frequency_context_size": 100},
        {"logit_bias": {"3": 1.5, "9": -2.0}, "repetition_penalty": 1.1, "repetition_context_size": 8,
         "presence_penalty": 0.5, "presence_context_size": 30, "frequency_penalty": 0.2, "frequency_context_size": 1},
    ]
    cases = []
    for s in settings:
        for length in (0, 1, 5, 40):
            given = dict(s)
            if "logit_bias" in given:
                given["logit_bias"] = {int(k): v for k, v in given["logit_bias"].items()}
            out = mx.array(logits)
            for processor in su.make_logits_processors(**given):
                out = processor(mx.array(history[:length], dtype=mx.int32) if length else mx.array([], dtype=mx.int32), out)
            cases.append({"settings": s, "length": length, "out": np.array(out)[0].tolist()})
    return {"logits": logits[0].tolist(), "history": history, "cases": cases}


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    for name, cases in [("samplers", sampler_cases()), ("processors", processor_cases())]:
        (DATA / f"{name}.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")
