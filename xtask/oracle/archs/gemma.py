"""Gemma 3 and 4, alone and inside models that also see and hear."""

from engine import V, Twin, arch, base, saved, v5
from layouts import WRAPPED, chain, fuse_gate_up, same
from mlx_lm import utils

# ---- Gemma 3: sandwich norms, two RoPE bases, embeddings scaled by a square root that bfloat16 rounds ------------------


def gemma3_text(**keys):
    return base("gemma3_text", "Gemma3ForCausalLM", **dict(dict(
        hidden_size=96, num_hidden_layers=4, head_dim=32, rms_norm_eps=1e-6, hidden_act=...,
        hidden_activation="gelu_pytorch_tanh", attention_bias=False, query_pre_attn_scalar=24, sliding_window=4,
        sliding_window_pattern=3, rope_theta=1000000.0, rope_local_base_freq=1000.0,
        rope_scaling=dict(factor=8.0, rope_type="linear"), attn_logit_softcapping=None, final_logit_softcapping=None,
        cache_implementation="hybrid", tie_word_embeddings=...), **keys))


def gemma3_v5(config):
    """A base for each kind of layer, and the kinds as a list."""
    config = dict(config)
    config["dtype"] = config.pop("torch_dtype", "bfloat16")
    period = config.pop("sliding_window_pattern")
    config["_sliding_window_pattern"] = period
    kinds = ["sliding_attention"] * (period - 1) + ["full_attention"]
    config["layer_types"] = [kinds[i % period] for i in range(config["num_hidden_layers"])]
    config["rope_parameters"] = dict(
        full_attention=dict(config.pop("rope_scaling"), rope_theta=config.pop("rope_theta")),
        sliding_attention=dict(rope_type="default", rope_theta=config.pop("rope_local_base_freq")))
    return config


TIED = dict(absent=("lm_head.weight",), scaled=True)
arch("gemma3_text", gemma3_text(), v5=gemma3_v5, **TIED)
# mlx-lm wants the size of the vocabulary beside the text model's configuration, where published ones lack it.
arch("gemma3", dict(model_type="gemma3", architectures=["Gemma3ForConditionalGeneration"], vocab_size=V,
                    image_token_index=120, boi_token_index=121, eoi_token_index=122, mm_tokens_per_image=4,
                    initializer_range=0.02, eos_token_id=[1, 106], torch_dtype="bfloat16",
                    vision_config=dict(model_type="siglip_vision_model", hidden_size=32, num_hidden_layers=1),
                    text_config=gemma3_text(architectures=..., torch_dtype=..., sliding_window=5)),
     v5=gemma3_v5, layout=same, extras={
         "vision_tower.vision_model.post_layernorm.weight": (32,),
         "multi_modal_projector.mm_input_projection_weight": (32, 96)}, twins=dict(saved=saved(WRAPPED)), **TIED)

# ---- Gemma 4: wider heads without windows, keys that are values, shared keys and values, an embedding for each layer ----

ROPE = dict(full_attention=dict(partial_rotary_factor=0.25, rope_theta=1000000.0, rope_type="proportional"),
            sliding_attention=dict(rope_theta=10000.0, rope_type="default"))


def gemma4_text(**keys):
    return dict(dict(
        model_type="gemma4_text", vocab_size=V, vocab_size_per_layer_input=V, hidden_size=64, intermediate_size=96,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, global_head_dim=64, rms_norm_eps=1e-6,
        hidden_activation="gelu_pytorch_tanh", max_position_embeddings=64, attention_bias=False, attention_dropout=0.0,
        sliding_window=4, final_logit_softcapping=5.0, tie_word_embeddings=True, rope_parameters=ROPE, pad_token_id=0,
        bos_token_id=2, eos_token_id=1, initializer_range=0.02, dtype="bfloat16", use_cache=True), **keys)


def gemma4(text, **keys):
    return dict(model_type="gemma4", architectures=["Gemma4ForConditionalGeneration"], vocab_size=V,
                tie_word_embeddings=True, image_token_id=120, audio_token_id=121, video_token_id=122, dtype="bfloat16",
                vision_config=dict(model_type="gemma4_vision", hidden_size=32), text_config=text, **keys)


VISION = {"model.vision_tower.patch_embedder.input_proj.weight": (32, 12),
          "model.embed_vision.embedding_projection.weight": (64, 32)}
E2B = dict(num_hidden_layers=6, num_key_value_heads=1, num_global_key_value_heads=None, num_kv_shared_layers=3,
           hidden_size_per_layer_input=32, use_double_wide_mlp=True, attention_k_eq_v=False, enable_moe_block=False,
           num_experts=None, top_k_experts=None, moe_intermediate_size=None, use_bidirectional_attention=None,
           layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2)
BIG = dict(num_hidden_layers=4, num_global_key_value_heads=1, num_kv_shared_layers=0, hidden_size_per_layer_input=0,
           use_double_wide_mlp=False, attention_k_eq_v=True, use_bidirectional_attention="vision",
           layer_types=["sliding_attention"] * 3 + ["full_attention"])
MOE = dict(enable_moe_block=True, num_experts=8, top_k_experts=3, moe_intermediate_size=32)
DENSE = dict(enable_moe_block=False, num_experts=None, top_k_experts=None, moe_intermediate_size=None)


def gemma4_v5(config):
    """Heads that differ by layer are told by layer."""
    config = dict(config)
    own = dict(head_dim=config.pop("global_head_dim"))
    heads = config.pop("num_global_key_value_heads")
    if config["attention_k_eq_v"] and heads != config["num_key_value_heads"]:
        own["num_key_value_heads"] = heads
    config["per_layer_config"] = {str(i): own for i, t in enumerate(config["layer_types"]) if t == "full_attention"}
    return config


FORM = dict(scaled=True, unscaled=True, v5=gemma4_v5, twins=dict(v5=Twin(v5)))
# The published checkpoint has keys and values for layers that share those of others.
arch("gemma4_e2b", gemma4(gemma4_text(**E2B), audio_config=dict(model_type="gemma4_audio", hidden_size=32)),
     layout=WRAPPED, **FORM, extras={**VISION, **{
         f"model.language_model.layers.{i}.self_attn.{name}": shape for i, d in ((3, 32), (4, 32), (5, 64)) for name, shape in
         (("k_proj.weight", (d, 64)), ("v_proj.weight", (d, 64)), ("k_norm.weight", (d,)))},
         "model.audio_tower.output_proj.weight": (32, 32)})
# Twice as wide per layer, without double-wide MLPs; two heads of keys and values.
arch("gemma4_e4b", gemma4(gemma4_text(**{**E2B, "num_kv_shared_layers": 2, "num_key_value_heads": 2,
                                         "hidden_size_per_layer_input": 64, "use_double_wide_mlp": False})),
     layout=WRAPPED, **FORM, extras=VISION)
arch("gemma4_26b_a4b", gemma4(gemma4_text(**BIG, **MOE)), **FORM, extras=VISION,
     layout=chain(fuse_gate_up("experts.switch_glu", "experts"), WRAPPED))
arch("gemma4_31b", gemma4(gemma4_text(**BIG, **DENSE)), **FORM, layout=WRAPPED, extras=VISION)
arch("gemma4_unified", dict(gemma4(gemma4_text(**BIG, **DENSE)), model_type="gemma4_unified",
                            architectures=["Gemma4UnifiedForConditionalGeneration"]), weights="gemma4_31b", **FORM)
# The text model alone: of the small kind, and with experts.
arch("gemma4_text", dict(gemma4_text(**E2B), architectures=["Gemma4ForCausalLM"]), **FORM)
utils.MODEL_REMAPPING["gemma4_unified_text"] = "gemma4_text"
arch("gemma4_unified_text", dict(gemma4_text(**E2B), model_type="gemma4_unified_text",
                                 architectures=["Gemma4UnifiedForCausalLM"]), weights="gemma4_text", **FORM)
arch("gemma4_text_moe", dict(gemma4_text(**BIG, **MOE), architectures=["Gemma4ForCausalLM"]), **FORM,
     layout=fuse_gate_up("experts.switch_glu", "experts"))
