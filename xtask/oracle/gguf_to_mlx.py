#!/usr/bin/env python3
"""A llama GGUF file as a folder that mlx-lm loads: quantized blocks keep their codes and scales, so both hold the same model.

usage: gguf_to_mlx.py MODEL.gguf FOLDER
"""
import json
import sys
from pathlib import Path

import mlx.core as mx
from gguf_llama import Checkpoint


def main():
    checkpoint, folder = Checkpoint(sys.argv[1]), Path(sys.argv[2])
    weights = checkpoint.affine()
    quantization = {"group_size": 32, "bits": 4}
    for name in weights:
        if name.endswith(".scales"):
            base = name.removesuffix(".scales")
            # 32 values in a group, so each scale stands for 4 words of 8-bit codes, or for 8 codes to a word.
            bits = weights[f"{base}.weight"].shape[1] // weights[name].shape[1]
            if bits != 4:
                quantization[base] = {"group_size": 32, "bits": bits}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(dict(checkpoint.config, quantization=quantization), indent=1) + "\n")


if __name__ == "__main__":
    main()
