"""OLMoE; OLMo 2 and 3, EXAONE 4: norms after blocks."""

from engine import arch, base
from layouts import unstack_experts

arch("olmoe", base("olmoe", "OlmoeForCausalLM", intermediate_size=32, num_experts=8, num_experts_per_tok=3,
                   norm_topk_prob=False, clip_qkv=None, attention_bias=False, rope_scaling=None,
                   output_router_logits=False, router_aux_loss_coef=0.01), layout=unstack_experts())
arch("olmo2", base("olmo2", "Olmo2ForCausalLM", attention_bias=False, rope_scaling=None, rope_theta=500000.0,
                   rms_norm_eps=1e-6))
# Only layers that see everything have their rotation scaled.
arch("olmo3", base("olmo3", "Olmo3ForCausalLM", num_hidden_layers=4, attention_bias=False, sliding_window=4,
                   rms_norm_eps=1e-6, layer_types=["sliding_attention"] * 3 + ["full_attention"], rope_theta=500000.0,
                   rope_scaling=dict(attention_factor=1.2079441541679836, beta_fast=8.0, beta_slow=1.0, factor=8.0,
                                     original_max_position_embeddings=32, rope_type="yarn")))


def exaone4(**keys):
    return base("exaone4", "Exaone4ForCausalLM", **dict(dict(
        head_dim=32, rope_theta=1000000.0, tie_word_embeddings=True, rope_scaling=dict(
            factor=16.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=16,
            rope_type="llama3")), **keys))


# As "32B": layers that see everything rotate nothing.
arch("exaone4", exaone4(num_hidden_layers=4, sliding_window=4, sliding_window_pattern="LLLG",
                        layer_types=["sliding_attention"] * 3 + ["full_attention"]))
# As "1.2B": all layers see everything.
arch("exaone4_full", exaone4(sliding_window=None, sliding_window_pattern=None))
