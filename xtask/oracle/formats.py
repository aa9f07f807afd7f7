"""Weights as published checkpoints encode them. Each encoder makes twins whose references come from what the stored numbers
mean, worked out here in float32 from the published definitions: mlx-lm rounds some of them to bfloat16, misreads others and does
not know most. An encoder is a function(name, w) -> ({stored name: tensor}, float32 values)."""
import mlx.core as mx
import numpy as np
from checkpoint import Bytes
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


def stored(values, dtype):
    """(tensor of this type, its values in float32)"""
    tensor = mx.array(values, mx.float32).astype(dtype)
    return tensor, numbers(tensor)


# ---- small floats ------------------------------------------------------------------------------------------------------


def magnitudes(mantissa, bias, count):
    """The values of the first `count` codes of a float with so many bits of mantissa."""
    codes = np.arange(count)
    exponent, fraction = codes >> mantissa, (codes & (1 << mantissa) - 1) / (1 << mantissa)
    return np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias)).astype(np.float32)


E4M3, E5M2, E2M1 = magnitudes(3, 7, 127), magnitudes(2, 15, 124), magnitudes(1, 1, 8)
KINDS = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}


def nearest(values, table):
    """(codes of the nearest magnitudes of `table`, with the sign as the bit above, their values)"""
    size = np.abs(values)
    above = np.searchsorted(table, size).clip(1, len(table) - 1)
    codes = np.where(size - table[above - 1] <= table[above] - size, above - 1, above)
    sign = 1 << int(len(table) - 1).bit_length()
    return (codes + sign * (values < 0)).astype(np.uint8), np.where(values < 0, -table[codes], table[codes])


def power_of_two(values):
    """(biased exponents of the least powers of two that are not smaller, the powers)"""
    exponents = np.ceil(np.log2(np.maximum(values, 1e-30))).clip(-127, 127)
    return Bytes((exponents + 127).astype(np.uint8), "F8_E8M0"), np.exp2(exponents).astype(np.float32)


# ---- float8 ------------------------------------------------------------------------------------------------------------


def float8(values, kind="F8_E4M3"):
    codes, means = nearest(values, KINDS[kind])
    return Bytes(codes, kind), means


def float8_blocks(name, w, size=(128, 128), dtype=mx.float32, scale="_scale_inv"):
    """A scale for each block, blocks at the edges being smaller: to multiply with. Of type `dtype`; `None`: a power of two."""
    values = numbers(w)
    down, across = (-(-n // block) for n, block in zip(values.shape, size))
    largest = np.empty((down, across), np.float32)
    for i in range(down):
        for j in range(across):
            largest[i, j] = np.abs(values[i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]]).max()
    scales, spread = stored(largest / E4M3[-1], dtype) if dtype else power_of_two(largest / E4M3[-1])
    spread = spread.repeat(size[0], 0).repeat(size[1], 1)[: values.shape[0], : values.shape[1]]
    codes, means = float8(values / spread)
    return {name: codes, f"{name}{scale}": scales}, mx.array(means * spread)


def float8_tensor(name, w, kind="F8_E4M3", scale="_scale_inv"):
    """One scale for the tensor, or for each expert [E, 1, 1], and one for activations that weights do not need."""
    values = numbers(w)
    axes = (1, 2) if values.ndim == 3 else None
    scales, spread = stored(np.abs(values).max(axes, keepdims=values.ndim == 3) / KINDS[kind][-1], mx.bfloat16)
    codes, means = float8(values / spread, kind)
    activation = name.removesuffix("weight") + ("" if name.endswith("weight") else "_") + (
        "activation_scale" if scale == "_scale_inv" else "input_scale")
    return {name: codes, f"{name}{scale}": scales, activation: mx.array(1.5, mx.bfloat16)}, mx.array(means * spread)


def float8_rows(name, w, dtype=mx.bfloat16):
    """A scale for each row [out, 1]."""
    values = numbers(w)
    scales, spread = stored(np.abs(values).max(-1, keepdims=True) / E4M3[-1], dtype)
    codes, means = float8(values / spread)
    return {name: codes, f"{name}_scale": scales}, mx.array(means * spread)


def mxfp8(name, w):
    """A power of two, in a byte that says nothing of that, for each 32 columns."""
    tensors, means = float8_blocks(name, w, size=(1, 32), dtype=None, scale="_scale")
    return {**tensors, f"{name}_scale": mx.array(tensors[f"{name}_scale"].values)}, means


# ---- float4 ------------------------------------------------------------------------------------------------------------


def pairs(codes):
    """Two codes of four bits in a byte, the first one in the lower half."""
    return mx.array(codes[..., ::2] | codes[..., 1::2] << 4)


def grouped(values, group):
    return values.reshape(*values.shape[:-1], -1, group)


def nvfp4(name, w, compressed=False):
    """An e4m3 scale for each 16 columns, and one for these scales: ModelOpt's multiplies, compressed-tensors' divides. Fused
    experts have one for each expert and part."""
    values = numbers(w)
    parts = values
    if "gate_up_proj" in name and values.ndim == 3:
        parts = values.reshape(len(values), 2, -1, values.shape[-1])
    axes = (-2, -1) if values.ndim == 3 else None
    over = (np.abs(parts).max(axes) / (E2M1[-1] * E4M3[-1])).astype(np.float32)
    # Of each row and group.
    spread = over if values.ndim == 2 else over.reshape(len(values), -1).repeat(values.shape[1] // (over.size // len(values)), 1)
    spread = np.broadcast_to(np.asarray(spread)[..., None], (*values.shape[:-1], values.shape[-1] // 16))
    blocks = grouped(values, 16)
    scales, means = float8(np.abs(blocks).max(-1) / E2M1[-1] / spread)
    scale = (means * spread)[..., None]
    codes, means = nearest(blocks / np.where(scale > 0, scale, 1), E2M1)
    dense = mx.array((means * scale).reshape(values.shape))
    codes = pairs(codes.reshape(values.shape))
    if compressed:
        base = name.removesuffix("weight")
        return {f"{name}_packed": codes, f"{name}_scale": scales, f"{name}_global_scale": mx.array(1 / over).reshape(1),
                f"{base}input_global_scale": mx.array([3.0])}, dense
    # Parameters that are no modules' have their names with `_weight`.
    part, base = ("", name.removesuffix("weight")) if name.endswith("weight") else ("_weight", f"{name}_")
    return {name: codes, f"{name}{part}_scale": scales, f"{name}{part}_scale_2": mx.array(over),
            f"{base}input_scale": mx.array(0.5)}, dense


def mxfp4(name, w):
    """compressed-tensors': a power of two for each 32 columns."""
    values = numbers(w)
    blocks = grouped(values, 32)
    scales, spread = power_of_two(np.abs(blocks).max(-1) / E2M1[-1])
    codes, means = nearest(blocks / spread[..., None], E2M1)
    return {f"{name}_packed": pairs(codes.reshape(values.shape)), f"{name}_scale": mx.array(scales.values)}, mx.array(
        (means * spread[..., None]).reshape(values.shape))
