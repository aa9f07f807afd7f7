"""The fixtures' models as GGUF files, by the rules of llama.cpp's converters (its folder `conversion`), of which this is a small
counterpart without torch: a class for each, with what it writes as metadata and what it does to tensors.

Values are exact: float32, or blocks of which the reference values were computed, too.
"""
import re

import gguf
import numpy as np
from gguf import MODEL_ARCH as A
from gguf import MODEL_TENSOR as T

FAMILIES = {}
"""model_type -> class."""


def family(*model_types):
    def register(cls):
        FAMILIES.update(dict.fromkeys(model_types, cls))
        return cls

    return register


class Base:
    """What most have in common. `tensors` turns one published tensor into some of the file."""

    arch = None

    def __init__(self, config, weights):
        self.c = text(config)
        self.rope = rope_parameters(self.c)
        self.layers = self.c["num_hidden_layers"]
        self.names = gguf.get_tensor_name_map(self.arch, self.layers)
        self.weights = stacked({published(name): w for name, w in weights.items()})

    def heads(self):
        return self.c["num_attention_heads"], self.c.get("num_key_value_heads") or self.c["num_attention_heads"]

    def head_dim(self):
        return self.c.get("head_dim") or self.c["hidden_size"] // self.c["num_attention_heads"]

    def keys(self, w):
        c, rope = self.c, self.rope.get("full_attention", self.rope)
        get = lambda *names: next((c[n] for n in names if c.get(n) is not None), None)
        add = lambda write, value: write(value) if value is not None else None
        w.add_block_count(self.layers)
        w.add_context_length(c["max_position_embeddings"])
        w.add_embedding_length(c["hidden_size"])
        add(w.add_feed_forward_length, get("intermediate_size"))
        add(w.add_head_count, get("num_attention_heads"))
        add(w.add_head_count_kv, get("num_key_value_heads"))
        if rope.get("rope_type") in ("linear", "yarn"):
            w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
            w.add_rope_scaling_factor(rope["factor"])
        if rope.get("rope_type") == "yarn":
            w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
            add(w.add_rope_scaling_yarn_attn_factor, rope.get("attention_factor"))
            add(w.add_rope_scaling_yarn_beta_fast, rope.get("beta_fast"))
            add(w.add_rope_scaling_yarn_beta_slow, rope.get("beta_slow"))
        add(w.add_rope_freq_base, rope.get("rope_theta"))
        add(w.add_rope_freq_base_swa, self.rope.get("sliding_attention", {}).get("rope_theta"))
        add(w.add_layer_norm_rms_eps, get("rms_norm_eps", "norm_eps"))
        add(w.add_layer_norm_eps, get("layer_norm_epsilon"))
        add(w.add_expert_count, get("num_local_experts", "num_experts", "n_routed_experts"))
        add(w.add_expert_used_count, get("num_experts_per_tok", "top_k_experts"))
        add(w.add_expert_group_count, c.get("n_group"))
        add(w.add_expert_group_used_count, c.get("topk_group"))
        if c.get("scoring_func"):
            w.add_expert_gating_func(gguf.ExpertGatingFuncType[c["scoring_func"].upper()])
        if c.get("head_dim"):
            w.add_key_length(c["head_dim"])
            w.add_value_length(c["head_dim"])

    def tensors(self, name, x):
        yield name, x

    def extra(self):
        """Tensors that no published one becomes, under their names in the file."""
        return ()

    def file(self):
        """Name in the file -> values, and the published name that they have alone, if they are all of it."""
        out = {}
        for name, x in self.weights.items():
            made = list(self.tensors(name, x))
            for part, value in made:
                new = self.names.get_name(part, try_suffixes=(".weight", ".bias")) or part
                if not new.startswith(("blk.", "token_embd", "output", "rope_", "per_layer")):
                    raise RuntimeError(f"{part} has no name in {self.arch.name}")
                out[new] = value
        out.update(self.extra())
        return out

    def name(self, tensor, layer=None, suffix=".weight"):
        return gguf.TENSOR_NAMES[tensor].format(bid=layer) + suffix


def text(config):
    return {**config, **config.get("text_config", {})}


def published(name):
    """Names of the text model alone."""
    name = re.sub(r"^(model\.)?language_model\.(model\.)?", "model.", name)
    return name.replace("model.lm_head", "lm_head")


def rope_parameters(c):
    if "rope_parameters" in c:
        return c["rope_parameters"]
    rope = dict(c.get("rope_scaling") or {})
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type")
    return {**rope, "rope_theta": c.get("rope_theta")}


def stacked(weights):
    """One tensor for all experts."""
    out, experts = {}, {}
    for name, w in weights.items():
        if found := re.fullmatch(r"(.*\.experts)\.(\d+)\.(.*)", name):
            experts.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = w
        else:
            out[name] = w
    for name, parts in experts.items():
        out[name] = np.stack([parts[i] for i in range(len(parts))])
    return out


# ---- the file --------------------------------------------------------------------------------------


def vocabulary(w, size, c):
    """A byte-pair encoding of characters, and a few merges."""
    merged = ["Ġt", "he", "Ġthe"]
    letters = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"] + [chr(i) for i in range(161, 173)] + [chr(i) for i in range(174, 300)]
    tokens = ["<unk>", "<s>", "</s>", *merged, *letters][:size]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(tokens)
    w.add_token_types([3, 3, 3] + [1] * (size - 3))
    w.add_token_merges(["Ġ t", "h e", "Ġt he"])
    first = lambda ids: ids[0] if isinstance(ids, list) else ids
    if (bos := first(c.get("bos_token_id"))) is not None:
        w.add_bos_token_id(bos)
    if (eos := first(c.get("eos_token_id"))) is not None and eos < size:
        w.add_eos_token_id(eos)


def can_quantize(name, w):
    """Whether the rows of a tensor stay what they are in the file."""
    odd = ("gate.weight", "router", "conv", "kv_b_proj", "sinks", "norm", "_bias", "embed_q", "unembed_out", "per_layer_model")
    return w.ndim >= 2 and w.shape[-1] % 32 == 0 and not any(part in name for part in odd)


def rounded(w, kind):
    """What blocks of this kind hold of the values."""
    return gguf.dequantize(gguf.quantize(w.reshape(-1, w.shape[-1]), kind), kind).reshape(w.shape)


def write(path, config, weights, kind=None):
    """Writes published weights (name -> float32) as a GGUF file. `kind`: how matrices are stored that hold values of such blocks."""
    model = FAMILIES[text(config)["model_type"]](config, weights)
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[model.arch])
    model.keys(w)
    tensors = model.file()
    vocabulary(w, tensors["token_embd.weight"].shape[0], model.c)
    for name, x in tensors.items():
        x = np.ascontiguousarray(x, np.float32)
        matrix = x.ndim >= 2 and x.shape[-1] % 32 == 0 and not name.endswith(".bias")
        if kind is not None and matrix and np.array_equal(rounded(x, kind), x):
            w.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
        else:
            w.add_tensor(name, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
