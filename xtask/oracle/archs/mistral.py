"""Mistral 3 and 4, alone and as the language model of one that also sees."""

from engine import arch, base, saved
from formats import encoded, float8_tensor
from layouts import WRAPPED, chain, fuse_gate_up, join_kv_b, same

# From position 4 on, queries grow with the logarithm of how often the text is longer than that.
ROPE = dict(type="yarn", rope_type="yarn", rope_theta=1000000.0, factor=16.0, original_max_position_embeddings=4,
            beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0, llama_4_scaling_beta=0.1)
FP8 = dict(quantization_config=dict(
    activation_scheme="static", dequantize=False, quant_method="fp8", weight_block_size=None,
    modules_to_not_convert=["model.vision_tower", "model.multi_modal_projector", "lm_head"]))


def ministral3(**keys):
    return base("ministral3", "Ministral3ForCausalLM", **dict(dict(
        num_hidden_layers=3, head_dim=32, rope_theta=..., sliding_window=None, rope_parameters=ROPE, torch_dtype=...,
        dtype="bfloat16"), **keys))


def wrapped(text, **keys):
    """The configuration of a model that also sees."""
    text = {k: v for k, v in text.items() if k not in ("architectures", "dtype", "torch_dtype")}
    return dict(model_type="mistral3", architectures=["Mistral3ForConditionalGeneration"], image_token_index=10,
                spatial_merge_size=2, vision_feature_layer=-1, multimodal_projector_bias=False,
                projector_hidden_act="gelu", vision_config=dict(model_type="pixtral", hidden_size=32), text_config=text,
                **(keys or dict(dtype="bfloat16")))


VISION = {"model.vision_tower.ln_pre.weight": (32,), "model.multi_modal_projector.linear_1.weight": (64, 32)}
OLD_VISION = {name.removeprefix("model."): shape for name, shape in VISION.items()}
# mlx-lm multiplies the codes of float8 numbers, not the numbers.
arch("ministral3", ministral3(), twins=dict(
    fp8=encoded(float8_tensor, FP8, lambda name, w: name.endswith("_proj.weight"))))
arch("ministral3_swa", ministral3(num_hidden_layers=4, sliding_window=4, layer_types=[
    "full_attention", "sliding_attention"] * 2))
arch("mistral3_ministral", wrapped(ministral3(tie_word_embeddings=True), tie_word_embeddings=True, dtype="bfloat16"),
     layout=WRAPPED, extras=VISION, twins=dict(fp8=encoded(float8_tensor, FP8, lambda name, w: name.endswith("_proj.weight"))))
# Mistral Small 3.1 and 3.2: a Llama inside. Published before names began with "model.".
arch("mistral3_small", wrapped(base(
    "mistral", "MistralForCausalLM", head_dim=32, sliding_window=None, rope_theta=1000000000.0, hidden_size=96),
    torch_dtype="bfloat16"), layout=same, extras=OLD_VISION, twins=dict(saved=saved(WRAPPED)))

# ---- Mistral 4: latent attention, experts by softmax -------------------------------------------------------------------

MISTRAL4 = base(
    "mistral4", "Mistral4ForCausalLM", num_hidden_layers=3, num_key_value_heads=4, intermediate_size=160, rms_norm_eps=1e-6,
    head_dim=48, qk_head_dim=48, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, kv_lora_rank=64, q_lora_rank=32,
    rope_interleave=True, rope_theta=..., rope_parameters=dict(ROPE, rope_theta=10000.0, factor=4.0, beta_fast=8.0),
    attention_bias=False, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1,
    norm_topk_prob=True, routed_scaling_factor=1.0, first_k_dense_replace=1, moe_intermediate_size=32, torch_dtype=...,
    dtype="bfloat16")
STACKED = chain(fuse_gate_up("mlp.switch_mlp", "mlp.experts"), join_kv_b)
arch("mistral4", MISTRAL4, layout=STACKED)
arch("mistral_small4", wrapped(dict(MISTRAL4, n_group=2, topk_group=1, first_k_dense_replace=0)),
     layout=chain(STACKED, WRAPPED), extras=VISION, twins=dict(
         fp8=encoded(float8_tensor, FP8, lambda name, w: "_proj" in name and "kv_a_proj" not in name)))
