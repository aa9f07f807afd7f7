"""Integer codes of GPTQ, AWQ and compressed-tensors: value = (code - zero) * scale. Encoders as in formats.py."""
import mlx.core as mx
import numpy as np
from formats import numbers, stored


def words(codes, bits):
    """Codes along the last axis one after the other, lowest bits first, in int32 words: filled up, if they end within one."""
    stream = (codes.astype(np.uint32)[..., None] >> np.arange(bits, dtype=np.uint32) & 1).astype(np.uint8)
    stream = stream.reshape(*codes.shape[:-1], -1)
    stream = np.pad(stream, [(0, 0)] * (codes.ndim - 1) + [(0, -stream.shape[-1] % 32)])
    return np.packbits(stream, axis=-1, bitorder="little").view(np.int32)


def turned(x):
    return mx.array(np.ascontiguousarray(np.swapaxes(x, -1, -2)))


def in_groups(width, group):
    return np.arange(width) // group


def by_activation(width, group):
    """The group of each column where columns were sorted by how much they matter: those of a group lie apart."""
    return np.random.default_rng(width).permutation(width) // group


def quantize(values, bits, index, symmetric, dtype, least=0):
    """(codes [out, in], zero points [out, groups] from `least` on, scales as stored, float32 values)"""
    largest = (1 << bits) - 1
    low, high = (np.stack([f(values[:, index == g], axis=1) for g in range(index.max() + 1)], 1) for f in (np.min, np.max))
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    if symmetric:
        scales, spread = stored(2 * np.maximum(-low, high) / largest, dtype)
        zeros = np.full(spread.shape, 1 << bits - 1)
    else:
        scales, spread = stored((high - low) / largest, dtype)
        zeros = np.round(-low / spread).clip(least, largest)
    codes = (np.round(values / spread[:, index]) + zeros[:, index]).clip(0, largest)
    return codes, zeros, scales, mx.array(((codes - zeros[:, index]) * spread[:, index]).astype(np.float32))


def gptq(name, w, bits=4, group=32, index=in_groups, listed=True, version=1, symmetric=False):
    """AutoGPTQ's: codes along the inputs, zero points along the outputs, less one in version 1; `listed`: with `g_idx`."""
    values, base = numbers(w), name.removesuffix("weight")
    index = index(values.shape[1], group or values.shape[1])
    offset = 1 if version == 1 else 0
    codes, zeros, scales, means = quantize(values, bits, index, symmetric, mx.float16, offset)
    tensors = {f"{base}qweight": turned(words(codes, bits)), f"{base}qzeros": mx.array(words(zeros.T - offset, bits)),
               f"{base}scales": mx.contiguous(scales.T)}
    return {**tensors, **({f"{base}g_idx": mx.array(index, mx.int32)} if listed else {})}, means


def awq(name, w, group=32):
    """AutoAWQ's "gemm": transposed, with codes out of order."""
    values, base = numbers(w), name.removesuffix("weight")
    codes, zeros, scales, means = quantize(values, 4, in_groups(values.shape[1], group), False, mx.float16)
    ordered = lambda x: mx.array(words(x.T.reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].reshape(x.T.shape), 4))
    return {f"{base}qweight": ordered(codes), f"{base}qzeros": ordered(zeros), f"{base}scales": mx.contiguous(scales.T)}, means


def packed(name, w, bits=4, group=32, symmetric=True, index=None):
    """compressed-tensors' "pack-quantized"; `group` None: a scale for each row; `index`: which group columns are of."""
    values = numbers(w)
    groups = (index or in_groups)(values.shape[1], group or values.shape[1])
    codes, zeros, scales, means = quantize(values, bits, groups, symmetric, mx.bfloat16)
    tensors = {f"{name}_packed": mx.array(words(codes, bits)), f"{name}_scale": scales,
               f"{name}_shape": mx.array(values.shape, mx.int64)}
    if not symmetric:
        tensors[f"{name}_zero_point"] = turned(words(zeros.T, bits))
    if index is not None:
        tensors[f"{name}_g_idx"] = mx.array(groups, mx.int32)
    return tensors, means


def signed(name, w, symmetric=True):
    """compressed-tensors' "int-quantized": bytes with a sign, a scale for each row."""
    values = numbers(w)
    codes, zeros, scales, means = quantize(values, 8, in_groups(values.shape[1], values.shape[1]), symmetric, mx.bfloat16)
    tensors = {name: mx.array((codes - 128).astype(np.int8)), f"{name}_scale": scales}
    return {**tensors, **({} if symmetric else {f"{name}_zero_point": mx.array((zeros - 128).astype(np.int8))})}, means
