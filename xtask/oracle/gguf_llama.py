"""A llama GGUF file as mlx-lm sees it: configuration and weights under the published names."""
import mlx.core as mx
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


class Checkpoint:
    def __init__(self, path):
        self.reader = GGUFReader(path)
        self.config = self._config()

    def _config(self):
        get = lambda key: self.reader.fields[key].contents() if key in self.reader.fields else None
        if get("general.architecture") != "llama":
            raise SystemExit(f"{get('general.architecture')}: only llama is read here")
        shapes = {t.name: t.shape for t in self.reader.tensors}
        heads, hidden = get("llama.attention.head_count"), get("llama.embedding_length")
        return dict(
            model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=hidden,
            intermediate_size=get("llama.feed_forward_length"), num_hidden_layers=get("llama.block_count"),
            num_attention_heads=heads, num_key_value_heads=get("llama.attention.head_count_kv"),
            head_dim=get("llama.attention.key_length") or hidden // heads,
            rms_norm_eps=get("llama.attention.layer_norm_rms_epsilon"), vocab_size=int(shapes["token_embd.weight"][1]),
            rope_theta=get("llama.rope.freq_base"), max_position_embeddings=get("llama.context_length"),
            tie_word_embeddings="output.weight" not in shapes,
            bos_token_id=get("tokenizer.ggml.bos_token_id"), eos_token_id=get("tokenizer.ggml.eos_token_id"),
        )

    def tensors(self):
        """(published name, GGUF tensor, order of rows): q and k are stored with the halves of each head interleaved."""
        for t in self.reader.tensors:
            p = t.name.split(".")
            name = f"model.layers.{p[1]}.{LAYER[p[2]]}.{p[3]}" if p[0] == "blk" else f"{TOP[p[0]]}.{p[1]}"
            rows = np.arange(int(t.shape[-1]))
            if p[-2] in ("attn_q", "attn_k"):
                heads = self.config["num_attention_heads" if p[-2] == "attn_q" else "num_key_value_heads"]
                rows = rows.reshape(heads, -1, 2).swapaxes(1, 2).ravel()
            yield name, t, rows

    def dequantized(self):
        """name -> float32 array."""
        out = {}
        for name, t, rows in self.tensors():
            w = dequantize(np.array(t.data), t.tensor_type).astype(np.float32).reshape([int(s) for s in t.shape[::-1]])
            out[name] = mx.array(w[rows])
        return out

    def affine(self):
        """name -> array, with Q4_1, Q4_0 and Q8_0 blocks as MLX's affine quantization in groups of 32: the same codes and
        scales, so the same values. Other types become float32."""
        out = {}
        for name, t, rows in self.tensors():
            kind = t.tensor_type.name
            if kind not in ("Q4_0", "Q4_1", "Q8_0") or len(t.shape) != 2:
                w = dequantize(np.array(t.data), t.tensor_type).astype(np.float32)
                out[name] = mx.array(w.reshape([int(s) for s in t.shape[::-1]])[rows])
                continue
            size = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}[kind]
            blocks = np.array(t.data).view(np.uint8).reshape(len(rows), -1, size)[rows]
            head = blocks[..., : size % 16].copy().view(np.float16).astype(np.float32)
            scales = head[..., 0]
            if kind == "Q8_0":
                codes = (blocks[..., 2:].view(np.int8).astype(np.int16) + 128).astype(np.uint8)
                packed, biases = np.ascontiguousarray(codes), scales * -128
            else:  # 16 bytes: elements 0-15 in the low halves, 16-31 in the high ones; MLX: neighbours share a byte
                halves = np.concatenate([blocks[..., size % 16:] & 15, blocks[..., size % 16:] >> 4], axis=-1)
                packed = np.ascontiguousarray(halves[..., 0::2] | halves[..., 1::2] << 4)
                biases = head[..., 1] if kind == "Q4_1" else scales * -8
            base = name.removesuffix(".weight")
            out[name] = mx.array(packed.reshape(len(rows), -1).view(np.uint32))
            out[f"{base}.scales"], out[f"{base}.biases"] = mx.array(scales), mx.array(biases)
        return out
