"""Records what the package gguf says that blocks of every quantized type mean, for mlx-lm-common/tests/gguf_types.rs, and which blocks
it makes of values, for mlx-lm-common/src/gguf/write/blocks.

    pip install gguf==0.19.0 numpy
    python xtask/oracle/gguf_blocks.py

Blocks and values look random, and both sides make them from the same numbers; so a hash of each block's values is all that is recorded.
"""

import json
import pathlib

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type, quants

DATA = pathlib.Path(__file__).parents[2] / "mlx-lm-common" / "tests" / "data"
BLOCKS = 64
MASK = 2**64 - 1

# Where a block's float16 numbers are.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [],
    "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "MXFP4": [], "NVFP4": [],
}  # fmt: skip
# Bytes that must not be all ones: they would be no number.
SCALES = {"MXFP4": 1, "NVFP4": 4}
# Those that become floats: the signs of zeros count too.
FLOATS = {"Q2_K", "Q3_K", "Q6_K", "IQ2_XS", "IQ2_S", "IQ1_M"}
# The smallest, the largest and the oddest: zero, subnormal, normal at both ends, either sign.
EXTREMES = [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x87FF, 0x3C00, 0xBC01, 0x5BFF, 0x7BFF, 0xFBFF]


def random(seed):
    """splitmix64"""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = ((seed ^ seed >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        yield z ^ z >> 31


def block(name, size, draw, odd):
    data = bytearray(next(draw) & 0xFF for _ in range(size))

    def half():
        bits = next(draw) & 0xFFFF
        bits = EXTREMES[bits % len(EXTREMES)] if odd else bits
        return bits ^ 0x4000 if bits & 0x7C00 == 0x7C00 else bits

    for at in HALVES[name]:
        data[at : at + 2] = half().to_bytes(2, "little")
    if name == "IQ1_M":
        bits = half()
        for i in range(4):
            data[49 + 2 * i] = data[49 + 2 * i] & 15 | (bits >> 4 * i & 15) << 4
    for at in range(SCALES.get(name, 0)):
        data[at] = min(data[at], 0xFE)
    return bytes(data)


def fnv(data):
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return f"{value:016x}"


WRITTEN = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]


def written_values():
    """Blocks of values: zeros of either sign, halves between codes, equal magnitudes, values of one size and of many."""
    blocks = [[0.0] * 32, [-0.0] * 32]
    blocks += [[127.0] + [i / 2 - 7.75 for i in range(31)], [-8.0] + [i / 4 - 3.75 for i in range(31)]]
    blocks += [[-3.0, 3.0] * 16, [3.0, -3.0] * 16]
    draw = random(7)
    for i in range(58):
        row = [next(draw) for _ in range(32)]
        powers = [i % 20 - 10] * 32 if i % 2 else [r % 32 - 16 for r in row]
        blocks.append([((r >> 40) - 2**23) * 2.0 ** (power - 23) for r, power in zip(row, powers)])
    return np.array(blocks, np.float32)


def record_written():
    values = written_values()
    record = {name: [fnv(quants.quantize(block, Type[name]).tobytes()) for block in values] for name in WRITTEN}
    (DATA / "gguf_written.json").write_text(json.dumps(record).replace("], ", "],\n") + "\n")


def main():
    record = {}
    for name, halves in HALVES.items():
        kind = Type[name]
        values, size = GGML_QUANT_SIZES[kind]
        draw = random(kind.value)
        hashes = []
        for i in range(BLOCKS):
            data = np.frombuffer(block(name, size, draw, i % 2 == 1), np.uint8)
            with np.errstate(over="ignore"):
                out = quants.dequantize(data, kind).reshape(values)
            hashes.append(fnv((out if name in FLOATS else out + np.float32(0)).tobytes()))
        record[name] = {"id": kind.value, "values": values, "bytes": size, "halves": halves, "hashes": hashes}
    text = json.dumps(record).replace('"hashes"', '\n  "hashes"').replace("]}, ", "]},\n")
    (DATA / "gguf_blocks.json").write_text(text + "\n")
    record_written()


main()
