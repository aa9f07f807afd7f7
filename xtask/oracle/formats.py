"""Weights as published checkpoints encode them. Each encoder makes twins whose references come from what the stored numbers
mean, worked out here in float32: mlx-lm rounds some of them to bfloat16 and misreads others."""
import mlx.core as mx
import numpy as np
from checkpoint import Float8
from engine import Twin, build, empty, flat, load


def encoded(encode, config, matches, layout=None):
    """A twin: published tensors for which `matches(name, w)` holds become `encode(name, w)`: ({name: stored}, float32 values).
    `config`: keys of config.json that say so. `layout`: of the checkpoint, if it is not the entry's own."""

    def make(a):
        published = (layout or a.layout or (lambda weights, config: weights))(flat(build(a)), a.config)
        stored, dense = {}, {}
        for name, w in published.items():
            if matches(name, w):
                tensors, dense[name] = encode(name, w)
                stored.update(tensors)
            else:
                stored[name] = dense[name] = w
        if len(stored) == len(published):
            raise RuntimeError("nothing is encoded")
        model = empty(a)
        load(model, dense)
        return stored, {**a.config, **config}, model

    return Twin(make)


def numbers(w):
    return np.array(w.astype(mx.float32))


# ---- float8 ------------------------------------------------------------------------------------------------------------

E4M3_MAX = 448.0


def to_float8(values):
    """(stored, what it means in float32)"""
    stored = mx.to_fp8(mx.array(values, mx.float32))
    return Float8(np.array(stored)), np.array(mx.from_fp8(stored, mx.float32))


def float8_blocks(name, w, size=128, dtype=mx.float32):
    """A scale (of type `dtype`) for each block of 128 x 128, blocks at the edges being smaller:
    `<name>_scale_inv`, to multiply with."""
    values = numbers(w)
    rows, columns = (-(-n // size) for n in values.shape)
    scales = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            block = values[i * size : (i + 1) * size, j * size : (j + 1) * size]
            scales[i, j] = np.abs(block).max() / E4M3_MAX
    scales = mx.array(scales).astype(dtype)
    spread = numbers(scales).repeat(size, 0).repeat(size, 1)[: values.shape[0], : values.shape[1]]
    stored, means = to_float8(values / spread)
    return {name: stored, f"{name}_scale_inv": scales}, mx.array(means * spread)


def float8_tensor(name, w):
    """One scale for the tensor, or for each expert [E, 1, 1], and one for activations that weights do not need."""
    values = numbers(w)
    axes = (1, 2) if values.ndim == 3 else None
    scale = mx.array(np.abs(values).max(axes, keepdims=values.ndim == 3) / E4M3_MAX).astype(mx.bfloat16)
    stored, means = to_float8(values / numbers(scale))
    activation = name.removesuffix("weight") + ("" if name.endswith("weight") else "_") + "activation_scale"
    tensors = {name: stored, f"{name}_scale_inv": scale, activation: mx.array(1.5, mx.bfloat16)}
    return tensors, mx.array(means * numbers(scale))


# ---- four bits ---------------------------------------------------------------------------------------------------------


def pack(codes, order):
    """Eight codes of 4 bits in each int32 along the last axis."""
    codes = codes.reshape(*codes.shape[:-1], -1, 8)[..., order].astype(np.uint32)
    return mx.array((codes << np.arange(0, 32, 4, dtype=np.uint32)).sum(-1, dtype=np.uint32).view(np.int32))


def awq(name, w, group=32):
    """AutoAWQ's "gemm": transposed, with codes out of order; value = (code - zero) * scale."""
    values = numbers(w)
    grouped = values.reshape(len(values), -1, group)
    low, high = grouped.min(-1), grouped.max(-1)
    scales = ((high - low) / 15).astype(np.float16)
    spread = scales.astype(np.float32)
    zeros = np.clip(np.round(-low / spread), 0, 15)
    codes = np.clip(np.round(grouped / spread[..., None] + zeros[..., None]), 0, 15)
    means = ((codes - zeros[..., None]) * spread[..., None]).reshape(values.shape)
    base, order = name.removesuffix("weight"), [0, 2, 4, 6, 1, 3, 5, 7]
    return {f"{base}qweight": pack(codes.reshape(values.shape).T, order), f"{base}qzeros": pack(zeros.T, order),
            f"{base}scales": mx.array(np.ascontiguousarray(scales.T))}, mx.array(means)


def int4(name, w, group=32):
    """compressed-tensors' "pack-quantized": value = (code - 8) * scale."""
    values = numbers(w)
    grouped = values.reshape(len(values), -1, group)
    scales = mx.array(np.abs(grouped).max(-1) / 7.5).astype(mx.bfloat16)
    spread = numbers(scales)[..., None]
    codes = np.clip(np.round(grouped / spread), -8, 7)
    means = (codes * spread).reshape(values.shape)
    return {f"{name}_packed": pack((codes + 8).reshape(values.shape), list(range(8))), f"{name}_scale": scales,
            f"{name}_shape": mx.array(values.shape, mx.int32)}, mx.array(means)
