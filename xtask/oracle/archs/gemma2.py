"""Gemma 1 and 2."""

import mlx.nn as nn
from engine import CENTRED, arch, base
from layouts import windows
from mlx_lm.models import gemma

CENTRED.update({"mlx_lm.models.gemma": "RMSNorm", "mlx_lm.models.gemma2": "RMSNorm"})


def gemma_base(kind, cls, **keys):
    return base(kind, cls, **dict(dict(
        num_hidden_layers=4, head_dim=32, rms_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh", attention_bias=False, tie_word_embeddings=...), **keys))


# mlx-lm takes the exact GELU.
gemma.MLP.__call__ = lambda self, x: self.down_proj(nn.gelu_approx(self.gate_proj(x)) * self.up_proj(x))
arch("gemma", gemma_base("gemma", "GemmaForCausalLM", num_hidden_layers=2, num_key_value_heads=1), scaled=True)

# mlx-lm knows no windows here. The first layer has one.
arch("gemma2", gemma_base("gemma2", "Gemma2ForCausalLM", attn_logit_softcapping=5.0, final_logit_softcapping=4.0,
                          query_pre_attn_scalar=24, sliding_window=4, cache_implementation="hybrid"),
     scaled=True, correct=windows([4, None]))
# Heads of which each has keys of its own.
arch("gemma2_heads", gemma_base("gemma2", "Gemma2ForCausalLM", num_hidden_layers=2, num_key_value_heads=4,
                                attn_logit_softcapping=5.0, final_logit_softcapping=4.0, query_pre_attn_scalar=32,
                                sliding_window=64), scaled=True)
