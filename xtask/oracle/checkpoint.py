"""Files of a checkpoint."""
import json
import struct
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass
class Bytes:
    """A tensor of 8-bit floats, which MLX cannot hold."""

    values: np.ndarray
    kind: str
    """What safetensors calls them."""


def save(folder, weights, shards):
    """model.safetensors, or several files with an index."""
    metadata = {"format": "mlx"}
    if any(isinstance(w, Bytes) for w in weights.values()):
        return save_bytes(folder / "model.safetensors", weights)
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata=metadata)
        return
    names = sorted(weights)
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {k: weights[k] for k in names[i::shards]}
        mx.save_safetensors(str(folder / file), part, metadata=metadata)
        index.update(dict.fromkeys(part, file))
    total = sum(w.nbytes for w in weights.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}, indent=1)
    (folder / "model.safetensors.index.json").write_text(text + "\n")


DTYPES = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32", mx.int8: "I8", mx.int32: "I32", mx.int64: "I64",
          mx.uint8: "U8", mx.uint32: "U32"}


def save_bytes(file, weights):
    """A safetensors file in which some tensors are Bytes."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name in sorted(weights):
        w = weights[name]
        if isinstance(w, Bytes):
            kind, shape, content = w.kind, w.values.shape, w.values.tobytes()
        else:
            kind, shape, content = DTYPES[w.dtype], w.shape, np.array(mx.contiguous(w.reshape(-1)).view(mx.uint8)).tobytes()
        header[name] = dict(dtype=kind, shape=list(shape), data_offsets=[len(data), len(data) + len(content)])
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
