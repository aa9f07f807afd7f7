#!/usr/bin/env python3
"""Parity fixtures: one small entry per architecture; engine.py does the rest.

usage: tiny_archs.py --out DIR [--all] [--only NAMES]

Each folder DIR/<name>[-<twin>]/ holds config.json, model.safetensors and reference.safetensors:
  prompt [1, L], decode_tokens [n]   int32 inputs
  prefill [1, L, V]                  float32 logits of the prompt in one pass
  decode [1, n, V]                   logits of the decode tokens, fed one by one after it
  greedy [N], margin [N]             the most likely continuation; the gap between the two best logits of each step
To add an architecture: an `arch(name, config)`, and a layout function where published names or shapes differ from mlx-lm's.
FIXTURE_SEED=N draws other weights and tokens. Needs mlx and mlx_lm.
"""
import argparse
import sys
from pathlib import Path

import mlx.core as mx
from engine import ARCHS, TWINS, arch, base, write

# ---- Llama and what shares its code ------------------------------------------------------------------


def llama(**keys):
    return base("llama", "LlamaForCausalLM", **dict(
        dict(attention_bias=False, mlp_bias=False, pretraining_tp=1, rope_scaling=None, tie_word_embeddings=True), **keys))


# Biases everywhere, its own output head.
arch("llama", llama(head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=False), commit=("", "4bit"))
arch("llama3", llama(rope_theta=500000.0, rope_scaling=dict(
    factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=16, rope_type="llama3")),
    commit=("", "v5", "4bit", "mxfp4", "mxfp8", "nvfp4", "mixed", "mixed-bare", "sharded"))
arch("llama_linear_rope", llama(rope_scaling=dict(type="linear", factor=2.0)), weights="llama3")
arch("llama_yarn", llama(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32,
                                           beta_fast=8.0, beta_slow=1.0)), weights="llama3", commit=("", "v5"))
# The base depends on the length so far: keys before and after position 8 use different ones.
arch("llama_dynamic_ntk", llama(max_position_embeddings=8, rope_scaling=dict(type="dynamic", factor=2.0)),
     weights="llama3", chunks=False)
arch("llama_longrope", llama(max_position_embeddings=64, rope_scaling=dict(
    rope_type="longrope", original_max_position_embeddings=32, short_factor=[1.0 + 0.1 * i for i in range(8)],
    long_factor=[1.5 + 0.5 * i for i in range(8)])), weights="llama3")
arch("llama_swa", llama(sliding_window=4, layer_types=["sliding_attention", "full_attention"]), weights="llama3")
# heads * head_dim is not the hidden size.
arch("mistral", base("mistral", "MistralForCausalLM", num_attention_heads=3, num_key_value_heads=1, head_dim=32,
                     sliding_window=None, rope_theta=1000000.0))
# No RoPE in every n-th layer.
arch("smollm3", base("smollm3", "SmolLM3ForCausalLM", no_rope_layers=[1, 0], no_rope_layer_interval=2,
                     attention_bias=False, mlp_bias=False, rope_scaling=None, rope_theta=50000.0, pretraining_tp=1,
                     tie_word_embeddings=True, layer_types=["full_attention"] * 2, use_sliding_window=False,
                     sliding_window=None, max_window_layers=28), weights="llama3")

# ---- Qwen --------------------------------------------------------------------------------------------


def unstack_experts(weights, config):
    """mlp.switch_mlp.<part>.weight [E, out, in] -> mlp.experts.<e>.<part>.weight [out, in]"""
    out = {}
    for name, w in weights.items():
        if ".switch_mlp." in name:
            for e in range(w.shape[0]):
                out[name.replace("switch_mlp", f"experts.{e}")] = w[e]
        else:
            out[name] = w
    return out


# Biases on q, k and v.
arch("qwen2", base("qwen2", "Qwen2ForCausalLM", rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=64,
                   use_sliding_window=False, max_window_layers=2, tie_word_embeddings=True, torch_dtype="float16"),
     dtype=mx.float16)


def qwen3(**keys):
    return base("qwen3", "Qwen3ForCausalLM", **dict(
        dict(head_dim=32, rms_norm_eps=1e-6, rope_theta=1000000.0, attention_bias=False, tie_word_embeddings=True), **keys))


# Norms over each head's queries and keys.
arch("qwen3", qwen3(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
                    sliding_window=None, use_sliding_window=False, max_window_layers=2), commit=("", "v5", "4bit"))
arch("qwen3_v5config", qwen3(rope_theta=..., rope_parameters=dict(rope_theta=50000.0, rope_type="default"),
                             layer_types=["full_attention"] * 2, torch_dtype=..., dtype="bfloat16"), weights="qwen3")
# The first layer is dense.
arch("qwen3_moe", base("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=16, num_experts=6, num_experts_per_tok=2,
                       moe_intermediate_size=32, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[0],
                       rms_norm_eps=1e-6, attention_bias=False, rope_scaling=None, use_sliding_window=False,
                       sliding_window=None, max_window_layers=2, output_router_logits=False, router_aux_loss_coef=0.001),
     layout=unstack_experts, commit=("", "hf", "4bit"))

# ------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--all", action="store_true", help="every twin of every architecture")
    parser.add_argument("--only", default="", help="architectures, comma separated")
    args = parser.parse_args()
    only = args.only.split(",") if args.only else list(ARCHS)
    if unknown := [n for n in only if n not in ARCHS]:
        sys.exit(f"there is no architecture {', '.join(unknown)}; there are {', '.join(ARCHS)}")
    written = failed = 0
    for name in only:
        a = ARCHS[name]
        for suffix, twin in TWINS.items():
            if not (suffix in a.commit or args.all and twin.applies(a)):
                continue
            folder = f"{name}-{suffix}" if suffix else name
            try:
                write(folder, a, twin, args.out, shared_with(name, suffix, args.out))
                written += 1
            except Exception as e:  # one failure does not stop the rest
                print(f"{folder}: {type(e).__name__}: {e}", file=sys.stderr)
                failed += 1
    size = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file() and not f.is_symlink())
    print(f"{written} fixtures in {args.out}, {size / 1e6:.2f} MB; {failed} failed")
    sys.exit(failed != 0)


def shared_with(name, suffix, out):
    """The fixture, written before, that holds the same tensors."""
    if suffix == "mixed-bare":
        other = f"{name}-mixed"
    elif suffix == "v5":
        other = ARCHS[name].weights
    elif suffix == "" and ARCHS[name].weights != name:
        other = ARCHS[name].weights
    else:
        return None
    return other if Path(out, other, "model.safetensors").exists() else None


if __name__ == "__main__":
    main()
