#!/usr/bin/env python3
"""What the package `jang` makes of lists of tensors: widths, groups and names. Lines like those of published models, with few layers.

usage: jang_allocations.py FILE     (mlx-lm-common/src/quantize/jang/allocations.json)

Each case has `config` and `tensors`, [name, shape] in the package's order; ranges `{0-3}` in names stand for all numbers in them. And
  experts    routed experts, as the package counts them
  gateless   whether its rules for experts without a gate hold
  groups     per tensor: a group of 128, 64 or 32 as C, B or A, or - for none
  written    per tensor: its name in a bundle, of an expert that of its stack; null if it keeps its name
  widths     {profile: a digit per tensor}
Needs jang.
"""
import json
import re
import sys

from jang_tools import allocate as al
from jang_tools import convert as cv
from jang_tools.architectures import _classify_architecture


def spread(pattern):
    m = re.search(r"\{(\d+)-(\d+)\}", pattern)
    if not m:
        return [pattern]
    return [n for i in range(int(m[1]), int(m[2]) + 1) for n in spread(pattern[:m.start()] + str(i) + pattern[m.end():])]


def attention(p, h, q, kv):
    return [(f"{p}.q_proj.weight", (q, h)), (f"{p}.k_proj.weight", (kv, h)), (f"{p}.v_proj.weight", (kv, h)),
            (f"{p}.o_proj.weight", (h, q))]


def mlp(p, h, i):
    return [(f"{p}.gate_proj.weight", (i, h)), (f"{p}.up_proj.weight", (i, h)), (f"{p}.down_proj.weight", (h, i))]


def ends(h, v=32000, m="model"):
    return [(f"{m}.embed_tokens.weight", (v, h)), ("lm_head.weight", (v, h))]


LATENT = dict(kv_lora_rank=512, q_lora_rank=1536, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128)


def latent(p, h, heads):
    return [(f"{p}.q_a_proj.weight", (1536, h)), (f"{p}.q_b_proj.weight", (heads * 192, 1536)),
            (f"{p}.kv_a_proj_with_mqa.weight", (576, h)), (f"{p}.kv_b_proj.weight", (heads * 256, 512)),
            (f"{p}.o_proj.weight", (h, heads * 128))]


CASES = {
    "llama": (dict(model_type="llama"),
              ends(2048, 128256) + attention("model.layers.{0-5}.self_attn", 2048, 2048, 512)
              + mlp("model.layers.{0-5}.mlp", 2048, 8192)),
    "gemma3": (dict(model_type="gemma3_text", tie_word_embeddings=True),
               ends(640)[:1] + attention("model.layers.{0-5}.self_attn", 640, 1024, 256)
               + mlp("model.layers.{0-5}.mlp", 640, 2048)),
    "qwen3_moe": (dict(model_type="qwen3_moe", num_experts=16),
                  ends(128, 128) + attention("model.layers.{0-6}.self_attn", 128, 128, 64)
                  + [("model.layers.{0-6}.mlp.gate.weight", (16, 128))]
                  + mlp("model.layers.{0-6}.mlp.experts.{0-5}", 128, 512)),
    "qwen3_moe-150": (dict(model_type="qwen3_moe", num_experts=150),
                      ends(2048) + attention("model.layers.{0-1}.self_attn", 2048, 4096, 512)
                      + [("model.layers.{0-1}.mlp.gate.weight", (150, 2048))]
                      + mlp("model.layers.{0-1}.mlp.experts.{0-2}", 2048, 96)),
    "minimax-256": (dict(model_type="minimax_m2", num_local_experts=256),
                    ends(3072) + attention("model.layers.{0-4}.self_attn", 3072, 6144, 1024)
                    + [("model.layers.{0-4}.block_sparse_moe.gate.weight", (256, 3072))]
                    + [(f"model.layers.{{0-4}}.block_sparse_moe.experts.{{0-2}}.w{n}.weight", s)
                       for n, s in ((1, (1536, 3072)), (2, (3072, 1536)), (3, (1536, 3072)))]),
    "deepseek_v3": (dict(model_type="deepseek_v3", n_routed_experts=256, architectures=["DeepseekV3ForCausalLM"], **LATENT),
                    ends(7168) + latent("model.layers.{0-4}.self_attn", 7168, 128) + mlp("model.layers.{0-2}.mlp", 7168, 18432)
                    + [("model.layers.{3-4}.mlp.gate.weight", (256, 7168))]
                    + mlp("model.layers.{3-4}.mlp.experts.{0-3}", 7168, 2048)
                    + mlp("model.layers.{3-4}.mlp.shared_experts", 7168, 2048)),
    "glm_moe_dsa": (dict(model_type="glm_moe_dsa", n_routed_experts=256, **{**LATENT, "qk_nope_head_dim": 192}),
                    ends(6144) + latent("model.layers.{0-2}.self_attn", 6144, 64)
                    + [("model.layers.{0-2}.self_attn.indexer.wk.weight", (128, 6144)),
                       ("model.layers.{0-2}.self_attn.indexer.wq_b.weight", (4096, 1536)),
                       ("model.layers.{0-2}.self_attn.indexer.weights_proj.weight", (32, 6144))]
                    + mlp("model.layers.0.mlp", 6144, 12288) + mlp("model.layers.{1-2}.mlp.experts.{0-1}", 6144, 2048)),
    "nemotron_h": (dict(model_type="nemotron_h", mlp_hidden_act="relu2", n_routed_experts=128),
                   [("backbone.embeddings.weight", (32000, 2688)), ("lm_head.weight", (32000, 2688)),
                    ("backbone.layers.{0-5}.mixer.in_proj.weight", (10304, 2688)),
                    ("backbone.layers.{0-5}.mixer.out_proj.weight", (2688, 4096)),
                    ("backbone.layers.{0-5}.mixer.conv1d.weight", (30000, 1, 4)),
                    ("backbone.layers.{6-8}.mixer.gate.weight", (128, 2688)),
                    ("backbone.layers.{6-8}.mixer.experts.{0-2}.up_proj.weight", (1856, 2688)),
                    ("backbone.layers.{6-8}.mixer.experts.{0-2}.down_proj.weight", (2688, 1856)),
                    ("backbone.layers.{6-8}.mixer.shared_experts.up_proj.weight", (3712, 2688)),
                    ("backbone.layers.{6-8}.mixer.fc1_latent_proj.weight", (1024, 2688)),
                    ("mtp.layers.0.eh_proj.weight", (2688, 5376))]
                   + attention("backbone.layers.9.mixer", 2688, 4096, 256)),
    "falcon_h1": (dict(model_type="falcon_h1"),
                  ends(1280) + attention("model.layers.{0-4}.self_attn", 1280, 1024, 256)
                  + [("model.layers.{0-4}.mamba.in_proj.weight", (3352, 1280)),
                     ("model.layers.{0-4}.mamba.out_proj.weight", (1280, 1536))]
                  + mlp("model.layers.{0-4}.feed_forward", 1280, 3840)),
    "qwen3_5_moe": (dict(model_type="qwen3_5_moe", text_config=dict(
                         model_type="qwen3_5_moe_text", num_experts=256, layer_types=["linear_attention"])),
                    ends(2048, m="model.language_model") + attention("model.language_model.layers.3.self_attn", 2048, 8192, 512)
                    + [(f"model.language_model.layers.{{0-2}}.linear_attn.{n}.weight", s) for n, s in
                       (("in_proj_qkv", (8192, 2048)), ("in_proj_z", (4096, 2048)), ("in_proj_b", (32, 2048)),
                        ("in_proj_a", (32, 2048)), ("out_proj", (2048, 4096)))]
                    + [("model.language_model.layers.{0-3}.mlp.gate.weight", (256, 2048)),
                       ("model.language_model.layers.{0-3}.mlp.experts.gate_up_proj", (256, 1024, 2048)),
                       ("model.language_model.layers.{0-3}.mlp.experts.down_proj", (256, 2048, 512)),
                       ("model.language_model.layers.{0-3}.mlp.shared_expert_gate.weight", (1, 2048)),
                       ("mtp.fc.weight", (2048, 4096))]
                    + mlp("model.language_model.layers.{0-3}.mlp.shared_expert", 2048, 512)),
    "lfm2_moe": (dict(model_type="lfm2_moe", num_experts=32),
                 ends(2048)[:1]
                 + [("model.layers.{0-4}.conv.in_proj.weight", (6144, 2048)), ("model.layers.{0-4}.conv.out_proj.weight", (2048, 2048)),
                    ("model.layers.5.self_attn.out_proj.weight", (2048, 2048))] + attention("model.layers.5.self_attn", 2048, 2048, 512)[:3]
                 + [(f"model.layers.{{0-1}}.feed_forward.w{n}.weight", s) for n, s in
                    ((1, (7168, 2048)), (2, (2048, 7168)), (3, (7168, 2048)))]
                 + [("model.layers.{2-5}.feed_forward.gate.weight", (32, 2048))]
                 + [(f"model.layers.{{2-5}}.feed_forward.experts.{{0-3}}.w{n}.weight", s) for n, s in
                    ((1, (1792, 2048)), (2, (2048, 1792)), (3, (1792, 2048)))]),
    "others": (dict(model_type="jamba", num_experts=16, architectures=["JambaForCausalLM"]),
               [(f"model.layers.{{0-4}}.{n}.weight", (512, 512)) for n in
                ("mamba.in_proj", "mamba.x_proj", "mamba.dt_proj", "mamba.out_proj", "feed_forward.router", "attn.c_attn", "attn.qkv",
                 "mlp.fc1", "mlp.dense_h_to_4h", "attn.wo", "ffn.wi_0", "self_attn.g_proj", "delta_net.a", "block.gate", "something")]
               + [("transformer.wte.weight", (1000, 512)), ("connector.weight", (64, 48)), ("model.layers.0.odd.weight", (64, 40)),
                  ("model.layers.4.odd.weight", (64, 96))]),
}


def case(config, listed):
    tensors = sorted((name, shape) for pattern, shape in listed for name in spread(pattern))
    arch = _classify_architecture(config["model_type"], config.get("architectures", []), config)
    experts = arch.num_experts
    group = 64
    if arch.has_moe_layers and experts >= 150:
        group = 64 if config.get("qk_nope_head_dim", 0) % 128 else 128
    gateless = config.get("mlp_hidden_act") == "relu2" and experts > 0 and not any("gate_proj" in n for n, _ in tensors)
    info = []
    for name, shape in tensors:
        size = 1
        for d in shape:
            size *= d
        info.append((name, -(-size // group)))
    wrapped = any(name.startswith("model.language_model.") for name, _ in tensors)
    widths = {}
    for profile in (*al.JANG_PROFILES, *al.JANG_K_TARGETS):
        if al.is_k_quant(profile):
            bits = al.allocate_bits_budget_compact(info, al.k_quant_target(profile), experts)
        else:
            bits = al.allocate_bits_profile_compact(info, profile, experts, gateless_relu2=gateless)
        widths[profile] = "".join(str(bits[name]) for name, _ in tensors)
    letters = {128: "C", 64: "B", 32: "A", None: "-"}
    groups = "".join(letters[cv._get_mlx_compatible_group_size(shape[-1], cv._get_tensor_group_size(name, group, experts))]
                     for name, shape in tensors)
    written = []
    for name, _ in tensors:
        if m := cv._PER_EXPERT_PATTERN.match(name):
            written.append(f"{m[1]}.switch_mlp.{cv._expert_name_map(gateless).get(m[3], m[3])}.weight")
        else:
            written.append(cv._sanitize_output_tensor_name(name, wrapped))
        written[-1] = None if written[-1] == name else written[-1]
    return dict(config=config, experts=experts, gateless=gateless, tensors=[[n, list(s)] for n, s in tensors], groups=groups,
                written=written, widths=widths)


if __name__ == "__main__":
    out = {name: case(config, listed) for name, (config, listed) in CASES.items()}
    with open(sys.argv[1], "w") as f:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(c, separators=(',', ':'))}" for name, c in out.items())
        f.write("{\n" + lines + "\n}\n")
    print({n: len(c["tensors"]) for n, c in out.items()})
