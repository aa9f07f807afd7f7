#!/usr/bin/env python3
"""A model of the shape of Qwen3-0.6B with fewer tokens in its vocabulary and random 4-bit weights: for measuring, not for talking.

usage: random_qwen3.py FOLDER
"""
import json
import sys
from pathlib import Path

import mlx.core as mx

HIDDEN, LAYERS, INNER, HEADS, KV_HEADS, HEAD_DIM, VOCABULARY = 1024, 28, 3072, 16, 8, 128, 32000
GROUP, BITS = 64, 4


def main():
    folder = Path(sys.argv[1])
    mx.random.seed(0)
    weights = {}

    def quantized(name, outputs, inputs):
        # Codes of all values with scales that give the product of a unit vector unit variance. (float32: MLX computes in the
        # type of the scales.)
        spread = (sum((q - 7.5) ** 2 for q in range(16)) / 16 * inputs) ** -0.5
        bits = mx.random.randint(-(2**31), 2**31 - 1, (outputs, inputs * BITS // 32), mx.int32)
        weights[f"{name}.weight"] = bits.view(mx.uint32)
        weights[f"{name}.scales"] = mx.full((outputs, inputs // GROUP), spread, mx.float32)
        weights[f"{name}.biases"] = mx.full((outputs, inputs // GROUP), -7.5 * spread, mx.float32)

    quantized("model.embed_tokens", VOCABULARY, HIDDEN)
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        quantized(f"{layer}.self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN)
        quantized(f"{layer}.self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        quantized(f"{layer}.self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        quantized(f"{layer}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM)
        quantized(f"{layer}.mlp.gate_proj", INNER, HIDDEN)
        quantized(f"{layer}.mlp.up_proj", INNER, HIDDEN)
        quantized(f"{layer}.mlp.down_proj", HIDDEN, INNER)
        for norm, size in (("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN),
                           ("self_attn.q_norm", HEAD_DIM), ("self_attn.k_norm", HEAD_DIM)):
            weights[f"{layer}.{norm}.weight"] = mx.ones(size)
    weights["model.norm.weight"] = mx.ones(HIDDEN)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    config = dict(
        model_type="qwen3", architectures=["Qwen3ForCausalLM"], hidden_size=HIDDEN, num_hidden_layers=LAYERS,
        intermediate_size=INNER, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HEAD_DIM,
        vocab_size=VOCABULARY, rms_norm_eps=1e-6, rope_theta=1000000.0, max_position_embeddings=40960,
        tie_word_embeddings=True, attention_bias=False, bos_token_id=1, eos_token_id=2,
        quantization=dict(group_size=GROUP, bits=BITS),
    )
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
