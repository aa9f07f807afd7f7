//! How sensitive a matrix is, by its published name.

/// How much of its precision a matrix needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    /// What every token depends on: attention, heads, routers, shared experts.
    Critical,
    /// Embeddings, and the projections of recurrent mixers.
    Important,
    /// Feed-forward layers, routed experts, and what has no other tier.
    Compress,
}

use Tier::{Compress, Critical, Important};

/// Parts of names in lower case. The first that a name contains decides.
const RULES: [(&str, Tier); 64] = [
    ("layernorm", Critical),
    ("rmsnorm", Critical),
    ("lm_head", Critical),
    // Latent attention.
    ("kv_a_proj_with_mqa", Critical),
    ("kv_b_proj", Critical),
    ("q_a_proj", Critical),
    ("q_b_proj", Critical),
    // What chooses the positions of sparse attention.
    ("indexer.wk", Critical),
    ("indexer.wq_b", Critical),
    ("indexer.weights_proj", Critical),
    ("indexers_proj", Critical),
    // Attention.
    ("q_proj", Critical),
    ("k_proj", Critical),
    ("v_proj", Critical),
    ("o_proj", Critical),
    ("self_attn.out_proj", Critical),
    ("self_attn.g_proj", Critical),
    // Recurrences.
    ("a_log", Critical),
    ("dt_proj", Important),
    ("shared_expert_gate", Critical),
    ("shared_expert", Critical),
    ("embed_tokens", Important),
    ("wte", Important),
    ("word_embeddings", Important),
    ("backbone.embeddings", Important),
    // Between images and text.
    ("visual.merger", Important),
    ("multi_modal_projector", Important),
    ("patch_embed", Important),
    ("pos_embed", Important),
    ("latent_proj", Critical),
    ("mixer.in_proj", Important),
    ("mixer.out_proj", Important),
    ("conv.in_proj", Important),
    ("conv.out_proj", Important),
    ("conv.conv", Critical),
    ("x_proj", Important),
    ("conv1d", Compress),
    ("router.proj", Critical),
    ("router", Critical),
    ("gate_up_proj", Compress),
    ("gate_proj", Compress),
    ("up_proj", Compress),
    ("down_proj", Compress),
    ("mlp.fc1", Compress),
    ("mlp.fc2", Compress),
    ("w1", Compress),
    ("w2", Compress),
    ("w3", Compress),
    ("wi_0", Compress),
    ("wi_1", Compress),
    ("wo", Compress),
    // Delta-rule mixers.
    ("in_proj_qkv", Important),
    ("in_proj_z", Important),
    ("in_proj_a", Important),
    ("in_proj_b", Important),
    ("linear_attn.out_proj", Important),
    ("delta_net", Important),
    ("linear_fc1", Compress),
    ("linear_fc2", Compress),
    ("out_proj", Compress),
    ("qkv", Compress),
    ("proj", Compress),
    ("fc", Compress),
    (".gate.", Critical),
];

/// Feed-forward layers that every token of a mixture of experts goes through.
const DENSE: [&str; 8] = [
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
    "mlp.fc1",
    "mlp.fc2",
    ".feed_forward.w1.",
    ".feed_forward.w2.",
    ".feed_forward.w3.",
];

impl Tier {
    /// The tier of the tensor `name` of a model with so many experts.
    pub(super) fn of(name: &str, experts: u64) -> Tier {
        let name = name.to_lowercase();
        let has = |part: &&str| name.contains(*part);
        if experts > 0 && !name.contains("experts") && DENSE.iter().any(has) {
            return Critical;
        }
        if let Some((_, tier)) = RULES.iter().find(|(part, _)| has(part)) {
            return *tier;
        }
        // What multiplies the input of a recurrence, or a router.
        if [".d", ".gate"].iter().any(|end| name.ends_with(end)) { Critical } else { Compress }
    }
}
