"""BitNet: ternary weights, four to a byte."""

import mlx.core as mx
from engine import Twin, arch, base, build, flat
from mlx_lm.models.bitlinear_layers import BitLinear


def multiply(self, x):
    """mlx-lm multiplies with these weights on Metal only: the same with weights that are spelt out."""
    codes = mx.concatenate([(self.weight >> (2 * i)) & 3 for i in range(4)])
    scale = 1 / self.weight_scale if self.invert_weight_scales else self.weight_scale
    return x @ (codes.astype(x.dtype) - 1).T * scale


BitLinear.__call__ = multiply


def divided(a):
    """The same model for the layer that divides by its scale."""
    model = build(a)
    for _, module in model.named_modules():
        if isinstance(module, BitLinear):
            module.invert_weight_scales = True
            module.weight_scale = 1 / module.weight_scale
    settings = dict(a.config["quantization_config"], linear_class="bitlinear")
    return flat(model), {**a.config, "quantization_config": settings}, model



arch("bitnet", base("bitnet", "BitNetForCausalLM", num_hidden_layers=3, hidden_act="relu2", attention_bias=False,
                    rope_theta=500000.0, tie_word_embeddings=True, quantization_config=dict(
                        quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline")), twins=dict(divided=Twin(divided)))
