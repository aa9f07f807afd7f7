"""StarCoder 2 and Nemotron: layer norms, no gates."""

import mlx.nn as nn
from engine import CENTRED, arch, base
from layouts import windows
from mlx_lm.models import starcoder2

# mlx-lm takes the exact GELU, and knows no windows.
starcoder2.MLP.__call__ = lambda self, x: self.c_proj(nn.gelu_approx(self.c_fc(x)))
STARCODER2 = base("starcoder2", "Starcoder2ForCausalLM", hidden_act="gelu_pytorch_tanh", norm_epsilon=1e-5,
                  norm_type="layer_norm", mlp_type="default", use_bias=True, sliding_window=5, rope_theta=100000.0,
                  tie_word_embeddings=True, rms_norm_eps=...)
arch("starcoder2", STARCODER2, correct=windows([5]))
# llama.cpp knows none, either.
arch("starcoder2_full", dict(STARCODER2, sliding_window=None), weights="starcoder2")
# Norms around 0, as they are published.
CENTRED["mlx_lm.models.nemotron"] = "NemotronLayerNorm1P"
arch("nemotron", base("nemotron", "NemotronForCausalLM", hidden_act="relu2", norm_eps=1e-5, attention_bias=False,
                      mlp_bias=False, partial_rotary_factor=0.5, head_dim=16, rope_scaling=None, rms_norm_eps=...))
