"""More architectures of GGUF files: latent attention, states, and those that differ from others by little."""
import math

import gguf
import numpy as np
from gguf_families import Gemma2, Llama, Qwen3Moe, interleaved
from gguf_tiny import A, T, Base, family

# ---- Latent attention ------------------------------------------------------------------------------


@family("deepseek_v2", "deepseek_v3", "kimi_k2")
class DeepSeek(Base):
    arch = A.DEEPSEEK2

    def keys(self, w):
        c = self.c
        self.c = dict(c, num_key_value_heads=1, head_dim=None)
        super().keys(w)
        self.c = c
        w.add_leading_dense_block_count(c["first_k_dense_replace"])
        w.add_vocab_size(c["vocab_size"])
        if c.get("q_lora_rank"):
            w.add_q_lora_rank(c["q_lora_rank"])
        w.add_kv_lora_rank(c["kv_lora_rank"])
        w.add_key_length(c["kv_lora_rank"] + c["qk_rope_head_dim"])
        w.add_value_length(c["kv_lora_rank"])
        w.add_key_length_mla(c["qk_nope_head_dim"] + c["qk_rope_head_dim"])
        w.add_value_length_mla(c["v_head_dim"])
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
        w.add_expert_shared_count(c["n_shared_experts"])
        if c.get("routed_scaling_factor") is not None:
            w.add_expert_weights_scale(c["routed_scaling_factor"])
        if c.get("norm_topk_prob"):
            w.add_expert_weights_norm(True)
        w.add_rope_dimension_count(c["qk_rope_head_dim"])
        if (all_dim := self.rope.get("mscale_all_dim")) is not None:
            w.add_rope_scaling_yarn_log_mul(0.1 * all_dim)

    def tensors(self, name, x):
        if name.endswith("kv_b_proj.weight"):
            c = self.c
            both = x.reshape(c["num_attention_heads"], -1, x.shape[-1])
            k, v = np.split(both, [c["qk_nope_head_dim"]], axis=1)
            yield name.replace("kv_b_proj", "k_b_proj"), k.swapaxes(1, 2)
            yield name.replace("kv_b_proj", "v_b_proj"), v
        elif name.endswith(("embed_q.weight", "unembed_out.weight")):
            # The same, taken apart by mlx-lm.
            yield name.replace("embed_q", "k_b_proj").replace("unembed_out", "v_b_proj"), x
        elif name.endswith("e_score_correction_bias"):
            yield name.replace("_bias", ".bias"), x
        elif name.endswith((".down_proj", ".gate_up_proj")):
            yield name + ".weight", x
        else:
            yield name, x


@family("mistral4")
class Mistral4(DeepSeek):
    arch = A.MISTRAL4

    def keys(self, w):
        super().keys(w)
        w.add_attn_temperature_scale(self.rope["llama_4_scaling_beta"])
        w.add_attn_temperature_length(self.rope["original_max_position_embeddings"])


# ---- Convolutions and states -----------------------------------------------------------------------


@family("lfm2")
class Lfm2(Base):
    arch = A.LFM2

    def keys(self, w):
        c = self.c
        heads = c["num_key_value_heads"]
        kinds = c.get("layer_types") or ["full_attention" if i in c["full_attn_idxs"] else "conv" for i in range(self.layers)]
        self.c = dict(c, num_key_value_heads=[heads if kind != "conv" else 0 for kind in kinds])
        super().keys(w)
        self.c = c
        w.add_vocab_size(c["vocab_size"])
        w.add_shortconv_l_cache(c["conv_L_cache"])
        self.feed_forward(w)

    def feed_forward(self, w):
        c = self.c
        width = c.get("block_ff_dim") or c["intermediate_size"]
        if c["block_auto_adjust_ff_dim"]:
            width = int(c.get("block_ffn_dim_multiplier", 1) * int(2 * width / 3))
            width = c["block_multiple_of"] * -(-width // c["block_multiple_of"])
        w.add_feed_forward_length(width)

    def tensors(self, name, x):
        yield name, x.squeeze(1) if "conv.conv" in name else x


@family("lfm2_moe")
class Lfm2Moe(Lfm2):
    arch = A.LFM2MOE

    def feed_forward(self, w):
        w.add_expert_feed_forward_length(self.c["moe_intermediate_size"])
        w.add_leading_dense_block_count(self.c["num_dense_layers"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)

    def tensors(self, name, x):
        name = name.replace(".expert_bias", ".expert_bias.bias")
        yield from super().tensors(name.removeprefix("model.") if ".experts." in name else name, x)


class Mamba2(Base):
    def mixer(self, name, x, groups):
        if "conv1d.weight" in name:
            x = x.squeeze()
        elif name.endswith(".A_log"):
            x = -np.exp(x)
        if name.endswith((".A_log", ".D")):
            x = x.reshape(-1, 1)
        if name.endswith((".mamba.norm.weight", ".mixer.norm.weight")):
            x = x.reshape(groups, -1)
        return name.replace(".dt_bias", ".dt_proj.bias"), x


@family("nemotron_h")
class NemotronH(Mamba2):
    def __init__(self, config, weights):
        c = config
        self.arch = A.NEMOTRON_H_MOE if "num_experts_per_tok" in c else A.NEMOTRON_H
        super().__init__(config, weights)
        words = dict(mamba="M", linear_attention="M", attention="*", full_attention="*", moe="E", mlp="-")
        self.pattern = c.get("hybrid_override_pattern") or [words[kind] for kind in c["layers_block_type"]]

    def keys(self, w):
        c = self.c
        width = c.get("moe_intermediate_size") if "n_routed_experts" in c else c["intermediate_size"]
        listed = lambda n, kinds: [n if kind in kinds else 0 for kind in self.pattern]
        self.c = {k: v for k, v in c.items() if k not in ("intermediate_size", "num_key_value_heads")}
        super().keys(w)
        self.c = c
        w.add_layer_norm_rms_eps(c["layer_norm_epsilon"])
        w.add_head_count_kv(listed(c["num_key_value_heads"], "*"))
        w.add_feed_forward_length(listed(width, "-E"))
        w.add_ssm_conv_kernel(c["conv_kernel"])
        w.add_ssm_state_size(c["ssm_state_size"])
        w.add_ssm_group_count(c["n_groups"])
        w.add_ssm_inner_size(c["mamba_num_heads"] * c["mamba_head_dim"])
        w.add_ssm_time_step_rank(c["mamba_num_heads"])
        if "n_routed_experts" in c:
            w.add_expert_feed_forward_length(c["moe_intermediate_size"])
            w.add_expert_shared_feed_forward_length(c["moe_shared_expert_intermediate_size"])
            w.add_expert_shared_count(c["n_shared_experts"])
            w.add_expert_weights_norm(c["norm_topk_prob"])
            w.add_expert_weights_scale(c["routed_scaling_factor"])
            if c.get("moe_latent_size"):
                w.add_moe_latent_size(c["moe_latent_size"])

    def tensors(self, name, x):
        name, x = self.mixer(name, x, self.c["n_groups"])
        heads, kv_heads = self.heads()
        if name.endswith(("q_proj.weight", "q_proj.bias")):
            x = interleaved(x, heads)
        if name.endswith(("k_proj.weight", "k_proj.bias")):
            x = interleaved(x, kv_heads)
        name = name.replace("e_score_correction_bias", "e_score_correction.bias").replace(".dt_proj.", ".dt.")
        yield name.replace(".mixer.experts.", ".mlp.experts.").replace("backbone.layers", "model.layers") if ".experts." in name else name, x


@family("falcon_h1")
class FalconH1(Mamba2):
    """All multipliers are folded into the weights."""

    arch = A.FALCON_H1

    def keys(self, w):
        c = self.c
        super().keys(w)
        w.add_vocab_size(c["vocab_size"])
        w.add_ssm_conv_kernel(c["mamba_d_conv"])
        w.add_ssm_inner_size(c["mamba_d_ssm"])
        w.add_ssm_state_size(c["mamba_d_state"])
        w.add_ssm_time_step_rank(c["mamba_n_heads"])
        w.add_ssm_group_count(c["mamba_n_groups"])

    def tensors(self, name, x):
        c = self.c
        name, x = self.mixer(name, x, c["mamba_n_groups"])
        of = {
            "down_proj": c["mlp_multipliers"][1], "gate_proj": c["mlp_multipliers"][0],
            "k_proj": c["key_multiplier"] * c["attention_in_multiplier"], "q_proj": c["attention_in_multiplier"],
            "v_proj": c["attention_in_multiplier"], "o_proj": c["attention_out_multiplier"],
            "out_proj": c["ssm_out_multiplier"], "in_proj": c["ssm_in_multiplier"],
            "lm_head": c["lm_head_multiplier"], "embed_tokens": c["embedding_multiplier"],
        }
        x = x * of.get(name.split(".")[-2], 1.0)
        if "in_proj" in name:
            inner, shared = c["mamba_d_ssm"], c["mamba_n_groups"] * c["mamba_d_state"]
            ends = np.cumsum([inner, inner, shared, shared])
            x = np.concatenate([part * m for part, m in zip(np.split(x, ends), c["ssm_multipliers"])])
        yield name, x


# ---- Others ----------------------------------------------------------------------------------------


@family("llama4", "llama4_text")
class Llama4(Llama):
    arch = A.LLAMA4
    permuted = False

    def keys(self, w):
        c = self.c
        self.c = dict(c, intermediate_size=c["intermediate_size_mlp"])
        super().keys(w)
        self.c = c
        w.add_interleave_moe_layer_step(c["interleave_moe_layer_step"])
        w.add_expert_feed_forward_length(c["intermediate_size"])

    def tensors(self, name, x):
        if name.endswith("gate_up_proj"):
            gate, up = np.split(x.swapaxes(-1, -2), 2, axis=-2)
            yield name.replace("gate_up_proj", "gate_proj.weight"), gate
            yield name.replace("gate_up_proj", "up_proj.weight"), up
        elif name.endswith("experts.down_proj"):
            yield name + ".weight", x.swapaxes(-1, -2)
        else:
            yield name, x


@family("granite", "granitemoe")
class Granite(Llama):
    arch = A.GRANITE

    def __init__(self, config, weights):
        if config["model_type"] == "granitemoe":
            self.arch = A.GRANITE_MOE
        super().__init__(config, weights)

    def keys(self, w):
        super().keys(w)
        w.add_attention_scale(self.c["attention_multiplier"])
        w.add_embedding_scale(self.c["embedding_multiplier"])
        w.add_residual_scale(self.c["residual_multiplier"])
        w.add_logit_scale(self.c["logits_scaling"])

    def tensors(self, name, x):
        layer = int(name.split(".")[2]) if ".layers." in name else None
        if name.endswith("block_sparse_moe.input_linear.weight"):
            gate, up = np.split(x, 2, axis=-2)
            yield self.name(T.FFN_GATE_EXP, layer), gate
            yield self.name(T.FFN_UP_EXP, layer), up
        else:
            yield from super().tensors(name, x)


@family("glm4")
class Glm4(Base):
    arch = A.GLM4

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_count(int(self.head_dim() * self.c.get("partial_rotary_factor", 0.5)))


@family("phi3")
class Phi3(Base):
    arch = A.PHI3

    def keys(self, w):
        c = self.c
        rope, self.rope = self.rope, {"rope_theta": self.rope["rope_theta"]}
        self.c = dict(c, head_dim=None)
        super().keys(w)
        self.c, self.rope = c, rope
        w.add_rope_dimension_count(self.rotated())
        w.add_rope_scaling_orig_ctx_len(c["original_max_position_embeddings"])
        w.add_sliding_window(c.get("sliding_window") or 0)
        if "long_factor" in rope:
            scale = c["max_position_embeddings"] / c["original_max_position_embeddings"]
            factor = math.sqrt(1 + math.log(scale) / math.log(c["original_max_position_embeddings"])) if scale > 1 else 1.0
            w.add_rope_scaling_attn_factors(factor)

    def rotated(self):
        return int(self.c.get("partial_rotary_factor", 1.0) * self.c["hidden_size"]) // self.c["num_attention_heads"]

    def extra(self):
        for kind in ("long", "short"):
            if factors := self.rope.get(f"{kind}_factor"):
                yield f"rope_factors_{kind}.weight", np.array(factors, np.float32)


@family("bitnet")
class BitNet(Base):
    arch = A.BITNET


@family("mixtral")
class Mixtral(Llama):
    """Merged experts have names of their own: those of the first converters."""

    def tensors(self, name, x):
        yield from super().tensors(name.removeprefix("model.").replace("block_sparse_moe", "feed_forward")
                                   if ".experts." in name else name, x)


@family("minimax_m2")
class MiniMaxM2(Base):
    arch = A.MINIMAXM2

    def keys(self, w):
        super().keys(w)
        w.add_expert_feed_forward_length(self.c["intermediate_size"])
        w.add_rope_dimension_count(self.c["rotary_dim"])

    def tensors(self, name, x):
        yield name.replace("e_score_correction_bias", "e_score_correction.bias"), x


@family("glm")
class ChatGlm(Base):
    arch = A.CHATGLM

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_count(int(self.head_dim() * self.c.get("partial_rotary_factor", 0.5)))


@family("glm4_moe")
class Glm4Moe(Base):
    arch = A.GLM4_MOE

    def __init__(self, config, weights):
        super().__init__(dict(config, num_nextn_predict_layers=0), weights)

    def keys(self, w):
        c = self.c
        super().keys(w)
        w.add_rope_dimension_count(int(self.head_dim() * c.get("partial_rotary_factor", 0.5)))
        w.add_expert_feed_forward_length(c["moe_intermediate_size"])
        w.add_expert_shared_count(c["n_shared_experts"])
        w.add_leading_dense_block_count(c["first_k_dense_replace"])
        w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
        w.add_expert_weights_scale(c["routed_scaling_factor"])
        w.add_expert_weights_norm(c["norm_topk_prob"])

    def tensors(self, name, x):
        yield name.replace("e_score_correction_bias", "e_score_correction.bias"), x


@family("gemma")
class Gemma(Gemma2):
    arch = A.GEMMA

    def keys(self, w):
        Base.keys(self, w)


@family("olmo2", "olmo3")
class Olmo2(Base):
    arch = A.OLMO2

    def keys(self, w):
        super().keys(w)
        if window := self.c.get("sliding_window"):
            w.add_sliding_window(window)
            kinds = self.c.get("layer_types") or [
                "full_attention" if i % 4 == 3 else "sliding_attention" for i in range(self.layers)]
            w.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])


@family("exaone4")
class Exaone4(Llama):
    arch = A.EXAONE4
    permuted = False

    def keys(self, w):
        c = self.c
        super().keys(w)
        if window := c.get("sliding_window"):
            w.add_sliding_window(window)
            letters = c.get("sliding_window_pattern")
            if isinstance(letters, str):
                w.add_sliding_window_pattern([letters[i % len(letters)] == "L" for i in range(self.layers)])
            elif letters:
                w.add_sliding_window_pattern([(i + 1) % letters != 0 for i in range(self.layers)])


class LayerNorms(Base):
    def keys(self, w):
        super().keys(w)
        epsilon = next(self.c[k] for k in ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon") if k in self.c)
        w.add_layer_norm_eps(epsilon)


@family("cohere")
class CommandR(LayerNorms):
    arch = A.COMMAND_R

    def keys(self, w):
        super().keys(w)
        w.add_logit_scale(self.c["logit_scale"])
        w.add_rope_scaling_type(gguf.RopeScalingType.NONE)


@family("cohere2")
class Cohere2(CommandR):
    arch = A.COHERE2

    def keys(self, w):
        super().keys(w)
        w.add_sliding_window(self.c["sliding_window"])
        w.add_vocab_size(self.c["vocab_size"])
        w.add_rope_dimension_count(int(self.c.get("rotary_pct", 1.0) * self.head_dim()))


@family("starcoder2")
class StarCoder2(LayerNorms):
    arch = A.STARCODER2


@family("phi")
class Phi2(LayerNorms):
    arch = A.PHI2

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_count(int(self.c["partial_rotary_factor"] * self.head_dim()))
