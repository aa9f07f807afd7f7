"""Writes `mlx-lm-common/src/gguf/unpack/grids.bin`: the grids of the IQ types, as little-endian uint16 numbers that hold eight codes of two
bits or four of three, the first lowest. A code is the place of a value in the type's list of magnitudes.

usage: gguf_grids.py OUT
"""

import sys

import numpy as np
from gguf import quants

# In the order of `grids.rs`.
GRIDS = ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ1_S"]


def points(name):
    kind = getattr(quants, name)
    kind.init_grid()
    grid, values = kind.grid.reshape(kind.grid_shape), np.array(kind.grid_map, np.float32)
    codes = np.argmax(grid[..., None] == values, axis=-1)
    assert (values[codes] == grid).all(), name
    bits = 2 if grid.shape[1] == 8 else 3
    return (codes << (bits * np.arange(grid.shape[1]))).sum(axis=-1).astype("<u2")


def main():
    with open(sys.argv[1], "wb") as out:
        for name in GRIDS:
            out.write(points(name).tobytes())


main()
