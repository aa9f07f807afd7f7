"""Command R: attention and MLP side by side, neighbouring channels rotated together."""

from engine import arch, base


def cohere(kind, cls, **keys):
    return base(kind, cls, **dict(dict(layer_norm_eps=1e-5, logit_scale=0.5, layer_norm_bias=False, attention_bias=False,
                                       rms_norm_eps=..., tie_word_embeddings=...), **keys))


# Norms of heads, as in "plus".
arch("cohere", cohere("cohere", "CohereForCausalLM", use_qk_norm=True, rope_theta=8000000.0))
arch("cohere_biases", cohere("cohere", "CohereForCausalLM", use_qk_norm=False, layer_norm_bias=True, attention_bias=True))
# The layer that sees everything rotates nothing.
arch("cohere2", cohere(
    "cohere2", "Cohere2ForCausalLM", num_hidden_layers=4, head_dim=16, sliding_window=4, sliding_window_pattern=4,
    rope_theta=50000.0, rotary_pct=1.0, use_embedding_sharing=True, use_gated_activation=True, use_parallel_block=True,
    use_parallel_embedding=False, use_qk_norm=False, position_embedding_type="rope_gptj",
    order_of_interleaved_layers="local_attn_first"))
