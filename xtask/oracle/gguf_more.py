"""More architectures of GGUF files: latent attention, convolutions and states."""
import gguf
import numpy as np
from gguf_families import interleaved
from gguf_others import granite_multipliers
from gguf_tiny import A, Base, T, family

# ---- Latent attention ------------------------------------------------------------------------------


@family("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite")
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
    def sizes(self, w, kernel, state, groups, heads, inner):
        w.add_ssm_conv_kernel(kernel)
        w.add_ssm_state_size(state)
        w.add_ssm_group_count(groups)
        w.add_ssm_inner_size(inner)
        w.add_ssm_time_step_rank(heads)

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
        heads = c["mamba_num_heads"]
        self.sizes(w, c["conv_kernel"], c["ssm_state_size"], c["n_groups"], heads, heads * c["mamba_head_dim"])
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
        self.sizes(w, c["mamba_d_conv"], c["mamba_d_state"], c["mamba_n_groups"], c["mamba_n_heads"], c["mamba_d_ssm"])

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


@family("granitemoehybrid")
class GraniteHybrid(Mamba2):
    """Layers without keys have a mixer. Rows of queries and keys as in Llama, whether they are rotated or not."""

    arch = A.GRANITE_HYBRID

    def keys(self, w):
        c = self.c
        self.c = {k: v for k, v in c.items() if k != "num_key_value_heads"}
        super().keys(w)
        self.c = c
        kinds = c["layer_types"]
        w.add_head_count_kv([c["num_key_value_heads"] if kind == "attention" else 0 for kind in kinds])
        w.add_rope_dimension_count(self.head_dim())
        w.add_rope_scaling_finetuned(c["position_embedding_type"] == "rope")
        w.add_vocab_size(c["vocab_size"])
        granite_multipliers(w, c)
        heads = c["mamba_n_heads"]
        self.sizes(w, c["mamba_d_conv"], c["mamba_d_state"], c["mamba_n_groups"], heads, heads * c["mamba_d_head"])
        if c["num_local_experts"]:
            w.add_expert_shared_feed_forward_length(c["shared_intermediate_size"])

    def tensors(self, name, x):
        name, x = self.mixer(name, x, self.c["mamba_n_groups"])
        heads, kv_heads = self.heads()
        layer = int(name.split(".")[2]) if ".layers." in name else None
        shared = (T.FFN_GATE_SHEXP, T.FFN_UP_SHEXP, T.FFN_DOWN_SHEXP)
        dense = (T.FFN_GATE, T.FFN_UP, T.FFN_DOWN)
        gate, up, down = shared if self.c["num_local_experts"] else dense
        if name.endswith("q_proj.weight"):
            yield name, interleaved(x, heads)
        elif name.endswith("k_proj.weight"):
            yield name, interleaved(x, kv_heads)
        elif name.endswith("block_sparse_moe.input_linear.weight"):
            yield from zip((self.name(T.FFN_GATE_EXP, layer), self.name(T.FFN_UP_EXP, layer)), np.split(x, 2, axis=-2))
        elif name.endswith("shared_mlp.input_linear.weight"):
            yield from zip((self.name(gate, layer), self.name(up, layer)), np.split(x, 2, axis=-2))
        elif name.endswith("shared_mlp.output_linear.weight"):
            yield self.name(down, layer), x
        else:
            yield name, x
