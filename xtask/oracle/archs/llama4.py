"""Llama 4: attention in chunks, layers without RoPE, one expert of many beside a shared one."""

import mlx.core as mx
from engine import arch, base
from layouts import fuse_gate_up
from mlx_lm.models import llama4_text


class NormedRoPE:
    """RoPE, then a norm without weights."""

    def __init__(self, rope, eps):
        self.rope, self.eps = rope, eps

    def __call__(self, x, offset):
        return mx.fast.rms_norm(self.rope(x, offset=offset), None, self.eps)


def norm_eps(model):
    """mlx-lm always adds 1e-6 where `rms_norm_eps` is meant."""
    for layer in model.layers:
        attention = layer.self_attn
        if attention.use_qk_norm:
            attention.use_qk_norm = False
            attention.rope = NormedRoPE(attention.rope, layer.args.rms_norm_eps)


arch("llama4", dict(
    model_type="llama4", architectures=["Llama4ForConditionalGeneration"], boi_token_index=120, eoi_token_index=121,
    image_token_index=122, tie_word_embeddings=False, torch_dtype="bfloat16",
    vision_config=dict(model_type="llama4_vision_model", hidden_size=32), text_config=base(
        "llama4_text", "", architectures=..., num_hidden_layers=4, head_dim=32, attention_bias=False, attention_chunk_size=4,
        attn_scale=0.1, attn_temperature_tuning=True, floor_scale=4, for_llm_compressor=False, interleave_moe_layer_step=2,
        intermediate_size=32, intermediate_size_mlp=96, no_rope_layers=[1, 1, 1, 0], num_experts_per_tok=1,
        num_local_experts=6, output_router_logits=False, router_aux_loss_coef=0.001, router_jitter_noise=0.0,
        rms_norm_eps=1e-3, rope_theta=500000.0, use_qk_norm=True, rope_scaling=dict(
            factor=16.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=16,
            rope_type="llama3"))),
    correct=norm_eps, layout=fuse_gate_up("feed_forward.experts", "feed_forward.experts", transposed=True),
    extras={"vision_model.class_embedding": (32,), "multi_modal_projector.linear_1.weight": (64, 32)})


def tied_head(self, inputs, cache=None):
    """mlx-lm multiplies with the stored embeddings, which fails where they are quantized."""
    return self.model.embed_tokens.as_linear(self.model(inputs, cache))


llama4_text.Model.__call__ = tied_head


def norms_with_rope(model):
    """mlx-lm normalizes queries and keys without RoPE, too."""
    for layer in model.layers:
        layer.self_attn.use_qk_norm = layer.self_attn.use_qk_norm and layer.self_attn.use_rope


# As MobileLLM-R1: dense, and chunks longer than the text.
arch("llama4_text", base(
    "llama4_text", "Llama4ForCausalLM", num_hidden_layers=4, head_dim=32, intermediate_size_mlp=96, interleave_moe_layer_step=0,
    num_local_experts=0, num_experts_per_tok=0, no_rope_layers=[1, 1, 1, 0], use_qk_norm=True, attention_bias=False,
    attn_temperature_tuning=False, attention_chunk_size=64, tie_word_embeddings=True, rope_scaling=None),
    correct=norms_with_rope)
