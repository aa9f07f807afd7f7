"""BitNet: ternary weights, four to a byte."""

import mlx.core as mx
from engine import arch, base
from mlx_lm.models.bitlinear_layers import BitLinear


def multiply(self, x):
    """mlx-lm multiplies with these weights on Metal only: the same with weights that are spelt out."""
    codes = mx.concatenate([(self.weight >> (2 * i)) & 3 for i in range(4)])
    return x @ (codes.astype(x.dtype) - 1).T * self.weight_scale


BitLinear.__call__ = multiply

arch("bitnet", base("bitnet", "BitNetForCausalLM", num_hidden_layers=3, hidden_act="relu2", attention_bias=False,
                    rope_theta=500000.0, tie_word_embeddings=True, quantization_config=dict(
                        quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline")))
