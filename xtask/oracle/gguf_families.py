"""Architectures of GGUF files: what llama.cpp's converters do for each. Importing it fills `gguf_tiny.FAMILIES`."""
import math

import gguf
import numpy as np
from gguf_tiny import A, T, Base, family

# ---- Llama and what is like it ---------------------------------------------------------------------


@family("llama", "mistral", "internlm3")
class Llama(Base):
    """Rotary pairs lie side by side."""

    arch = A.LLAMA
    permuted = True

    def keys(self, w):
        super().keys(w)
        w.add_vocab_size(self.c["vocab_size"])
        w.add_rope_dimension_count(self.head_dim())

    def tensors(self, name, x):
        heads, kv_heads = self.heads()
        if self.permuted and name.endswith(("q_proj.weight", "q_proj.bias")):
            x = interleaved(x, heads)
        if self.permuted and name.endswith(("k_proj.weight", "k_proj.bias")):
            x = interleaved(x, kv_heads)
        yield name, x

    def extra(self):
        if self.rope.get("rope_type") == "llama3":
            yield "rope_freqs.weight", llama3_divisors(self.rope, self.head_dim())


def interleaved(x, heads):
    return x.reshape(heads, 2, x.shape[0] // heads // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def llama3_divisors(rope, dim):
    factor, old = rope["factor"], rope["original_max_position_embeddings"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    out = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / dim)
        if wavelength < old / high:
            out.append(1)
        elif wavelength > old / low:
            out.append(factor)
        else:
            smooth = (old / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


@family("smollm3")
class SmolLm3(Llama):
    arch = A.SMOLLM3


@family("ministral3")
class Ministral3(Llama):
    arch = A.MISTRAL3

    def keys(self, w):
        super().keys(w)
        w.add_rope_scaling_yarn_log_mul(self.rope["mscale_all_dim"])
        w.add_attn_temperature_scale(self.rope["llama_4_scaling_beta"])


# ---- Qwen ------------------------------------------------------------------------------------------


@family("qwen2")
class Qwen2(Base):
    arch = A.QWEN2


@family("qwen3")
class Qwen3(Base):
    arch = A.QWEN3


@family("qwen3_moe")
class Qwen3Moe(Base):
    arch = A.QWEN3MOE

    def keys(self, w):
        super().keys(w)
        w.add_expert_feed_forward_length(self.c["moe_intermediate_size"])


@family("qwen3_next")
class Qwen3Next(Qwen3Moe):
    arch = A.QWEN3NEXT

    def keys(self, w):
        c = self.c
        super().keys(w) if c.get("num_experts") else Base.keys(self, w)
        if c.get("shared_expert_intermediate_size"):
            w.add_expert_shared_feed_forward_length(c["shared_expert_intermediate_size"])
        w.add_ssm_conv_kernel(c["linear_conv_kernel_dim"])
        w.add_ssm_state_size(c["linear_key_head_dim"])
        w.add_ssm_group_count(c["linear_num_key_heads"])
        w.add_ssm_time_step_rank(c["linear_num_value_heads"])
        w.add_ssm_inner_size(c["linear_value_head_dim"] * c["linear_num_value_heads"])
        w.add_full_attention_interval(c.get("full_attention_interval", 4))
        share = self.rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 0.25))
        w.add_rope_dimension_count(int(self.head_dim() * share))

    def tensors(self, name, x):
        if "mlp.experts.gate_up_proj" in name:
            gate, up = np.split(x, 2, axis=-2)
            yield name.replace("gate_up_proj", "gate_proj.weight"), gate
            yield name.replace("gate_up_proj", "up_proj.weight"), up
            return
        if name.endswith("mlp.experts.down_proj"):
            name += ".weight"
        elif name.endswith(".A_log"):
            x = -np.exp(x)
        elif name.endswith(".dt_bias"):
            name = name.replace(".dt_bias", ".dt_proj.bias")
        elif "conv1d" in name:
            x = x.squeeze()
        elif name.endswith("shared_expert_gate.weight"):
            x = x.squeeze()
        elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            x = x + 1
        if "in_proj_qkvz.weight" in name:
            c, keys, values = self.c, self.c["linear_key_head_dim"], self.c["linear_value_head_dim"]
            groups = c["linear_num_key_heads"]
            wide = c["linear_num_value_heads"] // groups * values
            parts = np.split(x.reshape(groups, -1, x.shape[-1]), np.cumsum([keys, keys, wide]), axis=1)
            q, k, v, z = (part.reshape(-1, x.shape[-1]) for part in parts)
            layer = int(name.split(".")[2])
            yield self.name(T.ATTN_QKV, layer), np.concatenate([q, k, v])
            yield self.name(T.ATTN_GATE, layer), z
        else:
            yield name, x


@family("qwen3_5", "qwen3_5_text")
class Qwen35(Qwen3Next):
    """Heads of values come in another order: one of each group, instead of group by group."""

    arch = A.QWEN35

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_sections(([*self.rope.get("mrope_section", [11, 11, 10])] + [0])[:4])

    def tensors(self, name, x):
        c = self.c
        groups, each = c["linear_num_key_heads"], c["linear_num_value_heads"] // c["linear_num_key_heads"]
        wide, keys = c["linear_value_head_dim"], 2 * c["linear_key_head_dim"] * c["linear_num_key_heads"]

        def tiled(x, axis, wide):
            shape = x.shape
            x = x.reshape(*shape[:axis], groups, each, wide, *shape[axis + 1:])
            return x.swapaxes(axis, axis + 1).reshape(shape)

        if "linear_attn." in name:
            if ".in_proj_qkv." in name or ".conv1d" in name:
                x = x.squeeze()
                x = np.concatenate([x[:keys], tiled(x[keys:], 0, wide)])
            elif ".in_proj_z." in name:
                x = tiled(x, 0, wide)
            elif ".out_proj." in name:
                x = tiled(x, 1, wide)
            elif any(part in name for part in (".in_proj_a.", ".in_proj_b.", ".A_log", ".dt_bias")):
                x = tiled(x, 0, 1)
        yield from super().tensors(name, x)


@family("qwen3_5_moe", "qwen3_5_moe_text")
class Qwen35Moe(Qwen35):
    arch = A.QWEN35MOE


# ---- Gemma -----------------------------------------------------------------------------------------


@family("gemma2")
class Gemma2(Base):
    arch = A.GEMMA2

    def keys(self, w):
        super().keys(w)
        w.add_attn_logit_softcapping(self.c["attn_logit_softcapping"])
        w.add_final_logit_softcapping(self.c["final_logit_softcapping"])
        w.add_sliding_window(self.c["sliding_window"])

    def tensors(self, name, x):
        if name != "lm_head.weight":
            yield name, x + 1 if name.endswith("norm.weight") else x


@family("gemma3", "gemma3_text")
class Gemma3(Base):
    arch = A.GEMMA3

    def keys(self, w):
        super().keys(w)
        if cap := self.c.get("final_logit_softcapping"):
            w.add_final_logit_softcapping(cap)
        w.add_sliding_window(self.c["sliding_window"])
        if base := self.c.get("rope_local_base_freq"):
            w.add_rope_freq_base_swa(base)
        if period := self.c.get("sliding_window_pattern"):
            w.add_sliding_window_pattern(period)

    def tensors(self, name, x):
        yield name, x + 1 if name.endswith("norm.weight") else x


@family("gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text")
class Gemma4(Base):
    arch = A.GEMMA4

    def keys(self, w):
        c = self.c
        kinds = [kind == "sliding_attention" for kind in c["layer_types"]]
        wide, shared = c["global_head_dim"], c["num_kv_shared_layers"]
        c = self.c = dict(c)
        own = {k: c.pop(k) for k in ("head_dim", "intermediate_size", "num_key_value_heads")}
        super().keys(w)
        w.add_shared_kv_layers(shared)
        w.add_embedding_length_per_layer_input(c.get("hidden_size_per_layer_input") or 0)
        w.add_sliding_window(c["sliding_window"])
        w.add_sliding_window_pattern(kinds)
        if cap := c.get("final_logit_softcapping"):
            w.add_final_logit_softcapping(cap)
        w.add_key_length(wide)
        w.add_value_length(wide)
        w.add_key_length_swa(own["head_dim"])
        w.add_value_length_swa(own["head_dim"])
        if c.get("moe_intermediate_size"):
            w.add_expert_feed_forward_length(c["moe_intermediate_size"])
        width = own["intermediate_size"]
        if c.get("use_double_wide_mlp"):
            width = [width if i < self.layers - shared else 2 * width for i in range(self.layers)]
        w.add_feed_forward_length(width)
        heads = own["num_key_value_heads"]
        if full := c.get("num_global_key_value_heads"):
            heads = [heads if sliding else full for sliding in kinds]
        w.add_head_count_kv(heads)
        w.add_rope_dimension_count(wide)
        w.add_rope_dimension_count_swa(own["head_dim"])

    def extra(self):
        wide, rope = self.c["global_head_dim"], self.rope["full_attention"]
        rotated = int(wide * rope["partial_rotary_factor"] / 2)
        yield "rope_freqs.weight", np.array([1.0] * rotated + [1e30] * (wide // 2 - rotated), np.float32)

    def tensors(self, name, x):
        layer = int(name.split(".")[2]) if ".layers." in name else None
        if name.endswith("router.scale"):
            yield self.name(T.FFN_GATE_INP, layer, ".scale"), x
        elif ".per_expert_scale" in name:
            yield self.name(T.FFN_DOWN_EXP, layer, ".scale"), x
        else:
            bare = name.endswith(("per_dim_scale", "layer_scalar")) or ".experts." in name and not name.endswith(".weight")
            yield name + ".weight" if bare else name, x


# ---- GPT-OSS ---------------------------------------------------------------------------------------


@family("gpt_oss")
class GptOss(Base):
    arch = A.GPT_OSS

    def keys(self, w):
        super().keys(w)
        w.add_sliding_window(self.c["sliding_window"])
        w.add_expert_feed_forward_length(self.c["intermediate_size"])

    def tensors(self, name, x):
        if "sinks" in name:
            name += ".weight"
        elif name.endswith("down_proj_bias"):
            name = name.replace("down_proj_bias", "down_proj.bias")
        elif name.endswith("experts.down_proj"):
            name, x = name + ".weight", x.swapaxes(-1, -2)
        elif name.endswith("gate_up_proj_bias"):
            yield name.replace("gate_up_proj_bias", "gate_proj.bias"), x[..., ::2]
            yield name.replace("gate_up_proj_bias", "up_proj.bias"), x[..., 1::2]
            return
        elif name.endswith("gate_up_proj"):
            yield name.replace("gate_up_proj", "gate_proj.weight"), x.swapaxes(-1, -2)[:, ::2]
            yield name.replace("gate_up_proj", "up_proj.weight"), x.swapaxes(-1, -2)[:, 1::2]
            return
        yield name, x
