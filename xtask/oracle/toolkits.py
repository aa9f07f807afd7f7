"""Which models are written in which encodings of other toolkits, as twins of their fixtures."""
from functools import partial

import mlx.core as mx
from engine import ARCHS, Twin, flat, quantized
from formats import encoded, float8_blocks, float8_rows, float8_tensor, mxfp4, mxfp8, nvfp4
from integers import awq, by_activation, gptq, packed, signed
from mlx.utils import tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear


def method(name, **keys):
    return dict(quantization_config=dict(quant_method=name, **keys))


def compressed(format, **weights):
    """What compressed-tensors writes into config.json."""
    weights = dict(actorder=None, block_structure=None, dynamic=False, observer="minmax", observer_kwargs={}, **weights)
    group = dict(input_activations=None, output_activations=None, targets=["Linear"], weights=weights)
    return method("compressed-tensors", config_groups=dict(group_0=group), format=format, ignore=["lm_head"],
                  kv_cache_scheme=None, quantization_status="compressed")


def integers(bits, group, symmetric, format="pack-quantized"):
    strategy = "group" if group else "channel"
    return compressed(format, num_bits=bits, group_size=group, strategy=strategy, symmetric=symmetric, type="int")


def floats(bits, group, strategy, format):
    return compressed(format, num_bits=bits, group_size=group, strategy=strategy, symmetric=True, type="float")


def modelopt(algorithm, bits, group=None):
    side = dict(dynamic=False, num_bits=bits, type="float", **(dict(group_size=group) if group else {}))
    return method("modelopt", quant_algo=algorithm, ignore=["lm_head"], producer=dict(name="modelopt", version="0.29.0"),
                  config_groups=dict(group_0=dict(input_activations=side, weights=side, targets=["Linear"])))


def of_gptq(bits, group=32, order=False, format="gptq"):
    return method("gptq", bits=bits, group_size=group or -1, desc_act=order, checkpoint_format=format, damp_percent=0.01,
                  lm_head=False, pack_dtype="int32", static_groups=False, sym=False, true_sequential=True)


BLOCKS = dict(activation_scheme="dynamic", fmt="e4m3", weight_block_size=[128, 128])
# What each is called: the encoder, and what config.json says.
KINDS = {
    "awq": (awq, method("awq", bits=4, group_size=32, modules_to_not_convert=None, version="gemm", zero_point=True)),
    "e5m2": (partial(float8_tensor, kind="F8_E5M2", scale="_scale"), method("fp8", activation_scheme="dynamic", fmt="e5m2")),
    "fbgemm": (partial(float8_rows, dtype=mx.float32), method("fbgemm_fp8", activation_scale_ub=1200.0)),
    "fp8-rows": (float8_rows, floats(8, None, "channel", "float-quantized")),
    "fp8-modelopt": (partial(float8_tensor, scale="_scale"), modelopt("FP8", 8)),
    "fp8-ue8m0": (partial(float8_blocks, dtype=None), method("fp8", scale_fmt="ue8m0", **BLOCKS)),
    "int4-asymmetric": (partial(packed, symmetric=False), integers(4, 32, False)),
    "int4-group": (packed, integers(4, 32, True)),
    "int4-order": (partial(packed, index=by_activation), integers(4, 32, True)),
    "int4-rows": (partial(packed, group=None), integers(4, None, True)),
    "int8-group": (partial(packed, bits=8), integers(8, 32, True)),
    "mxfp4-compressed": (mxfp4, floats(4, 32, "group", "mxfp4-pack-quantized")),
    "mxfp8-compressed": (mxfp8, floats(8, 32, "group", "mxfp8-quantized")),
    "nvfp4-compressed": (partial(nvfp4, compressed=True), floats(4, 16, "tensor_group", "nvfp4-pack-quantized")),
    "nvfp4-modelopt": (nvfp4, modelopt("NVFP4", 4, 16)),
    "w8a8": (signed, integers(8, None, True, "int-quantized")),
    "w8a8-asymmetric": (partial(signed, symmetric=False), integers(8, None, False, "int-quantized")),
    **{f"gptq{bits}": (partial(gptq, bits=bits), of_gptq(bits)) for bits in (2, 3, 4, 8)},
    **{f"gptq{bits}-order": (partial(gptq, bits=bits, index=by_activation), of_gptq(bits, order=True)) for bits in (2, 3, 4, 8)},
    "gptq-bare": (partial(gptq, listed=False, symmetric=True), of_gptq(4)),
    "gptq-rows": (partial(gptq, group=None), of_gptq(4, None)),
    "gptq-v2": (partial(gptq, version=2), of_gptq(4, format="gptq_v2")),
}


def projections(name, w):
    return name.endswith("proj.weight") and w.ndim == 2


def experts(name, w):
    return ".experts." in name


# Of each model what its matrices and layout may bring out: which are encoded, and how.
MODELS = {
    "llama": (lambda name, w: projections(name, w) or name == "lm_head.weight", ["gptq4", "int4-asymmetric", "w8a8"]),
    "llama3": (projections, list(KINDS)),
    # Fused rows.
    "phi3": (projections, ["awq", "fp8-rows", "gptq4", "gptq4-order", "int4-group", "nvfp4-modelopt"]),
    # Experts that are stacked.
    "qwen3_moe": (projections, ["awq", "fp8-rows", "gptq4", "gptq4-order", "int4-group", "int4-asymmetric",
                                "mxfp4-compressed", "nvfp4-compressed", "nvfp4-modelopt", "w8a8"]),
    "mixtral": (experts, ["awq", "gptq4"]),
    "glm4_moe": (projections, ["fp8-rows"]),
    # One tensor for all experts.
    "mistral_small4": (experts, ["nvfp4-modelopt"]),
    # Matrices that are split by heads.
    "deepseek_v3": (projections, ["awq", "fp8-ue8m0", "gptq4", "nvfp4-modelopt"]),
    "kimi_k2": (experts, ["int4-group"]),
    # Rows that are put in another order, factors that are folded in, torch's convolutions.
    "qwen3_next": (projections, ["awq", "gptq4", "int4-group"]),
    "falcon_h1": (projections, ["int4-group", "int4-asymmetric", "nvfp4-modelopt"]),
    "nemotron_h": (projections, ["fp8-modelopt", "nvfp4-modelopt"]),
}


def global_scales(a):
    """As mlx-lm writes NVFP4: each expert has a scale of its scales, which MLX multiplies with on GPUs only."""
    model, config = quantized(a, mode="nvfp4", global_scale=True)
    stored, dense = flat(model), []
    for name, module in model.named_modules():
        if isinstance(module, QuantizedSwitchLinear):
            parts = zip(module.weight, module.scales, module.global_scale)
            values = mx.stack([mx.dequantize(w, s, mode="nvfp4", global_scale=g, dtype=mx.float32) for w, s, g in parts])
            plain = SwitchLinear(*values.shape[:0:-1], len(values), bias="bias" in module)
            plain.update(dict(weight=values, **({"bias": module.bias} if "bias" in module else {})))
            dense.append((name, plain))
    model.update_modules(tree_unflatten(dense))
    return stored, config, model


def register():
    """Adds these twins to those of their fixtures."""
    for name, (matches, kinds) in MODELS.items():
        twins = {kind: encoded(*KINDS[kind], matches) for kind in kinds}
        ARCHS[name].twins = {**ARCHS[name].twins, **twins}
    for name in ("qwen3_moe", "deepseek_v3", "gpt_oss"):
        ARCHS[name].twins["nvfp4-global"] = Twin(global_scales)
