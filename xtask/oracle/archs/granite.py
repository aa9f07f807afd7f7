"""Granite: a Llama with multipliers."""

from engine import arch, base
from layouts import chain, fuse_gate_up, rename

MULTIPLIERS = dict(attention_multiplier=0.125, embedding_multiplier=3.0, logits_scaling=0.5, residual_multiplier=0.6)
# o_proj and down_proj are quantized in groups of 64.
arch("granite", base("granite", "GraniteForCausalLM", intermediate_size=128, attention_bias=True, mlp_bias=True,
                     rope_scaling=None, tie_word_embeddings=True, **MULTIPLIERS), scaled=True)
EXPERTS = chain(fuse_gate_up("block_sparse_moe.switch_mlp", "block_sparse_moe"), rename(
    (".gate_up_proj", ".input_linear.weight"), (".block_sparse_moe.down_proj", ".block_sparse_moe.output_linear.weight")))
arch("granitemoe", base("granitemoe", "GraniteMoeForCausalLM", intermediate_size=64, attention_bias=False,
                        num_local_experts=8, num_experts_per_tok=3, output_router_logits=False, rope_scaling=None,
                        router_aux_loss_coef=0.01, tie_word_embeddings=False, **MULTIPLIERS), layout=EXPERTS)
