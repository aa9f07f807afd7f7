"""Architectures of GGUF files that differ from others by little."""
import math

import gguf
import numpy as np
from gguf_families import Gemma2, Llama, Qwen3Moe
from gguf_tiny import A, T, Base, family


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


def granite_multipliers(w, c):
    w.add_attention_scale(c["attention_multiplier"])
    w.add_embedding_scale(c["embedding_multiplier"])
    w.add_residual_scale(c["residual_multiplier"])
    w.add_logit_scale(c["logits_scaling"])


@family("granite", "granitemoe")
class Granite(Llama):
    arch = A.GRANITE

    def __init__(self, config, weights):
        if config["model_type"] == "granitemoe":
            self.arch = A.GRANITE_MOE
        super().__init__(config, weights)

    def keys(self, w):
        super().keys(w)
        granite_multipliers(w, self.c)

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


@family("exaone")
class Exaone3(Exaone4):
    arch = A.EXAONE

    def __init__(self, config, weights):
        c = dict(config, num_hidden_layers=config["num_layers"], rms_norm_eps=config["layer_norm_epsilon"])
        super().__init__(c, weights)


@family("ernie4_5")
class Ernie(Base):
    arch = A.ERNIE4_5


@family("seed_oss")
class SeedOss(Base):
    arch = A.SEED_OSS


class LayerNorms(Base):
    def keys(self, w):
        super().keys(w)
        epsilon = next(self.c[k] for k in ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps") if k in self.c)
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


@family("stablelm")
class StableLm(LayerNorms):
    arch = A.STABLELM

    def __init__(self, config, weights):
        weights = {name.replace("layernorm.norms.", "layernorm.experts."): w for name, w in weights.items()}
        super().__init__(config, weights)

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_count(int(self.c["partial_rotary_factor"] * self.head_dim()))
        w.add_parallel_residual(self.c["use_parallel_residual"])

    def tensors(self, name, x):
        yield name.replace("layernorm.experts.", "layernorm."), x


@family("nemotron")
class Nemotron(LayerNorms):
    arch = A.NEMOTRON

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_count(int(self.c["partial_rotary_factor"] * self.head_dim()))

    def tensors(self, name, x):
        yield name, x + 1 if name.endswith("norm.weight") else x


@family("minicpm")
class MiniCpm(Llama):
    arch = A.MINICPM

    def keys(self, w):
        super().keys(w)
        w.add_embedding_scale(self.c["scale_emb"])
        w.add_residual_scale(self.c["scale_depth"] / self.layers**0.5)
        w.add_logit_scale(self.c["hidden_size"] / self.c["dim_model_base"])


@family("qwen2_moe")
class Qwen2Moe(Qwen3Moe):
    arch = A.QWEN2MOE

    def keys(self, w):
        super().keys(w)
        w.add_expert_shared_feed_forward_length(self.c["shared_expert_intermediate_size"])

    def tensors(self, name, x):
        yield name, x.squeeze(0) if name.endswith("shared_expert_gate.weight") else x


@family("olmoe")
class OlMoe(Base):
    arch = A.OLMOE


@family("dots1")
class Dots1(Qwen3Moe):
    arch = A.DOTS1

    def keys(self, w):
        c = self.c
        super().keys(w)
        w.add_leading_dense_block_count(c["first_k_dense_replace"])
        w.add_expert_shared_count(c["n_shared_experts"])
        w.add_expert_weights_scale(c["routed_scaling_factor"])
        w.add_expert_weights_norm(c["norm_topk_prob"])

    def tensors(self, name, x):
        yield name.replace("e_score_correction_bias", "e_score_correction.bias"), x


@family("starcoder2")
class StarCoder2(LayerNorms):
    arch = A.STARCODER2


@family("phi")
class Phi2(LayerNorms):
    arch = A.PHI2

    def keys(self, w):
        super().keys(w)
        w.add_rope_dimension_count(int(self.c["partial_rotary_factor"] * self.head_dim()))
