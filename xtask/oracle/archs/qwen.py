"""Qwen 2, 2 MoE, 3, 3 Next and 3.5, dense and with experts."""

from functools import partial

import mlx.core as mx
from engine import ARCHS, V, arch, base
from formats import encoded, float8_blocks
from layouts import WRAPPED, chain, conv_torch, fuse_gate_up, minus_one, prefix, unstack_experts
from mlx_lm import utils
from mlx_lm.models.rope_utils import initialize_rope

# Biases on q, k and v.
arch("qwen2", base("qwen2", "Qwen2ForCausalLM", rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=64,
                   use_sliding_window=False, max_window_layers=2, tie_word_embeddings=True, torch_dtype="float16"),
     dtype=mx.float16, commit=("",))


def qwen3(**keys):
    return base("qwen3", "Qwen3ForCausalLM", **dict(
        dict(head_dim=32, rms_norm_eps=1e-6, rope_theta=1000000.0, attention_bias=False, tie_word_embeddings=True), **keys))


# Norms over each head's queries and keys.
arch("qwen3", qwen3(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
                    sliding_window=None, use_sliding_window=False, max_window_layers=2),
     commit=("", "v5", "4bit"), formats=True)
arch("qwen3_v5config", qwen3(rope_theta=..., rope_parameters=dict(rope_theta=50000.0, rope_type="default"),
                             layer_types=["full_attention"] * 2, torch_dtype=..., dtype="bfloat16"),
     weights="qwen3", commit=("",))
# The first layer is dense.
arch("qwen3_moe", base("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=16, num_experts=6, num_experts_per_tok=2,
                       moe_intermediate_size=32, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[0],
                       rms_norm_eps=1e-6, attention_bias=False, rope_scaling=None, use_sliding_window=False,
                       sliding_window=None, max_window_layers=2, output_router_logits=False, router_aux_loss_coef=0.001),
     layout=unstack_experts(), commit=("", "hf", "4bit"), formats=True)


# Biases instead of norms; one more expert for all tokens, behind a gate.
arch("qwen2_moe", base("qwen2_moe", "Qwen2MoeForCausalLM", num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32,
                       shared_expert_intermediate_size=64, norm_topk_prob=False, decoder_sparse_step=1, rms_norm_eps=1e-6,
                       rope_theta=1000000.0, use_sliding_window=False, sliding_window=64, max_window_layers=3,
                       output_router_logits=False, router_aux_loss_coef=0.001), layout=unstack_experts())


def scaled_rope(model):
    """mlx-lm ignores `rope_scaling` here."""
    c = model.args
    for layer in model.layers:
        layer.self_attn.rope = initialize_rope(c.head_dim, c.rope_theta, False, c.rope_scaling, c.max_position_embeddings)


arch("qwen3_moe_yarn", dict(ARCHS["qwen3_moe"].config, rope_scaling=dict(
    rope_type="yarn", factor=4.0, original_max_position_embeddings=32)), weights="qwen3_moe", correct=scaled_rope)

# ---- with gated delta rules: three layers of four have a state instead of keys and values ------------------------------

# Their published norms are around 0.
CENTRED = minus_one(".input_layernorm.weight", ".post_attention_layernorm.weight", "model.norm.weight", ".q_norm.weight",
                    ".k_norm.weight")
LINEAR = dict(linear_conv_kernel_dim=4, linear_key_head_dim=32, linear_num_key_heads=2, linear_num_value_heads=6,
              linear_value_head_dim=16, full_attention_interval=4)
EXPERTS = dict(num_experts=8, num_experts_per_tok=3, moe_intermediate_size=32, shared_expert_intermediate_size=32,
               output_router_logits=False, router_aux_loss_coef=0.001)


def float8(*kept):
    """Blocks of 128 x 128, and what the published configuration says of them."""
    kept = ("lm_head", "embed_tokens", "mlp.gate", "mlp.shared_expert_gate", "linear_attn.conv1d", *kept)
    matches = lambda name, w: w.ndim == 2 and name.endswith("proj.weight") or w.ndim == 2 and any(
        name.endswith(f"linear_attn.{part}.weight") for part in ("in_proj_qkvz", "in_proj_qkv", "in_proj_z"))
    return encoded(partial(float8_blocks, dtype=mx.bfloat16), dict(quantization_config=dict(
        activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128],
        modules_to_not_convert=list(kept))), matches)


arch("qwen3_next", base("qwen3_next", "Qwen3NextForCausalLM", num_hidden_layers=4, head_dim=32, rms_norm_eps=1e-6,
                        intermediate_size=160, partial_rotary_factor=0.25, rope_scaling=None, attention_bias=False,
                        decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True, **EXPERTS, **LINEAR),
     layout=chain(unstack_experts(), conv_torch(), CENTRED), formats=True, bounded=True, twins=dict(
         fp8=float8("linear_attn.in_proj_ba")), extras={
         "mtp.fc.weight": (64, 128), "mtp.layers.0.input_layernorm.weight": (64,)})
# Some layers are dense; heads tied.
arch("qwen3_next_dense", base("qwen3_next", "Qwen3NextForCausalLM", num_hidden_layers=4, head_dim=32, rms_norm_eps=1e-6,
                              partial_rotary_factor=0.5, rope_scaling=None, attention_bias=False, decoder_sparse_step=2,
                              mlp_only_layers=[3], norm_topk_prob=False, tie_word_embeddings=True, **EXPERTS, **LINEAR),
     layout=chain(unstack_experts(), conv_torch(), CENTRED), bounded=True)


def qwen3_5(kind, text, tied=False):
    return dict(
        model_type=kind, architectures=[f"{'Qwen3_5Moe' if 'moe' in kind else 'Qwen3_5'}ForConditionalGeneration"],
        image_token_id=120, video_token_id=121, vision_start_token_id=122, vision_end_token_id=123,
        vision_config=dict(model_type=kind, hidden_size=32), tie_word_embeddings=tied, text_config=dict(dict(
            model_type=f"{kind}_text", vocab_size=V, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, rms_norm_eps=1e-6, hidden_act="silu", max_position_embeddings=64,
            attention_bias=False, attention_dropout=0.0, attn_output_gate=True, initializer_range=0.02, dtype="bfloat16",
            mamba_ssm_dtype="float32", mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False, eos_token_id=2,
            layer_types=["linear_attention"] * 3 + ["full_attention"], tie_word_embeddings=tied, rope_parameters=dict(
                mrope_interleaved=True, mrope_section=[2, 1, 1], rope_type="default", rope_theta=10000.0,
                partial_rotary_factor=0.25), **LINEAR), **text))


NOT_TEXT = {"model.visual.patch_embed.proj.weight": (32, 3, 2, 4, 4), "mtp.fc.weight": (64, 128)}
SEPARATE = ("linear_attn.in_proj_a", "linear_attn.in_proj_b", "model.visual")
arch("qwen3_5", qwen3_5("qwen3_5", dict(intermediate_size=160)), layout=chain(conv_torch(), CENTRED, WRAPPED),
     bounded=True,
     extras=NOT_TEXT, twins=dict(fp8=float8(*SEPARATE)))
arch("qwen3_5_tied", qwen3_5("qwen3_5", dict(intermediate_size=96), tied=True),
     layout=chain(conv_torch(), CENTRED, WRAPPED), bounded=True, extras=NOT_TEXT)
arch("qwen3_5_moe", qwen3_5("qwen3_5_moe", EXPERTS), bounded=True, extras=NOT_TEXT, layout=chain(
    fuse_gate_up("mlp.switch_mlp", "mlp.experts"), conv_torch(), CENTRED, WRAPPED))
# The text models alone, whose type mlx-lm does not know by name.
utils.MODEL_REMAPPING.update(qwen3_5_text="qwen3_5", qwen3_5_moe_text="qwen3_5_moe")
ALONE = prefix(("language_model.", ""))
arch("qwen3_5_text", dict(ARCHS["qwen3_5"].config["text_config"], architectures=["Qwen3_5ForCausalLM"]), bounded=True,
     layout=chain(conv_torch(), CENTRED, ALONE))
arch("qwen3_5_moe_text", dict(ARCHS["qwen3_5_moe"].config["text_config"], architectures=["Qwen3_5MoeForCausalLM"]),
     bounded=True, layout=chain(fuse_gate_up("mlp.switch_mlp", "mlp.experts"), conv_torch(), CENTRED, ALONE))
