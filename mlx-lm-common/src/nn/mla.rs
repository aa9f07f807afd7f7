//! Multi-head latent attention (arXiv 2405.04434): keys and values of all heads are made from one latent of each position.

use super::{Linear, MultiLinear, Norm, Projections, Rope};
use crate::{
    At, Error, Result,
    cache::{LatentSpec, LayerCache, PositionScale},
    weights::Weights,
};
use mlx_rs::Array;

/// The sizes and options of an [`Mla`].
#[derive(Clone, Debug)]
pub struct MlaConfig {
    /// Width of the model.
    pub dim: i32,
    /// Heads.
    pub heads: i32,
    /// Width that queries are squeezed through, `q_lora_rank`, if they are.
    pub query_rank: Option<i32>,
    /// Width of a latent, `kv_lora_rank`.
    pub rank: i32,
    /// Width of the part of queries and keys that is not rotated, `qk_nope_head_dim`.
    pub nope_dim: i32,
    /// Width of the part that is, `qk_rope_head_dim`.
    pub rope_dim: i32,
    /// Width of a head's values, `v_head_dim`.
    pub value_dim: i32,
    /// Whether the layers next to the residual stream have biases (queries that are not squeezed excepted).
    pub bias: bool,
    /// Epsilon of the norms of latents and squeezed queries.
    pub eps: f32,
    /// Multiplies the scores.
    pub scale: f32,
    /// Rotates a part of queries and keys.
    pub rope: Option<Rope>,
    /// Makes queries longer as the text grows.
    pub q_scale: Option<PositionScale>,
}

/// Latent attention.
#[derive(Clone, Debug)]
pub struct Mla {
    /// To queries, squeezed or not, and to entries of the cache.
    inputs: Projections,
    /// From squeezed queries to queries.
    queries: Option<(Norm, Projections)>,
    output: Linear,
    spec: LatentSpec,
}

impl Mla {
    /// Loads below `w`: `q_proj`, or `q_a_proj`, `q_a_layernorm` and `q_b_proj`; `kv_a_proj_with_mqa` and `kv_a_layernorm`;
    /// `o_proj`. And what makes keys and values, either as mlx-lm keeps it, `embed_q` [heads, rank, nope] and `unembed_out`
    /// [heads, value, rank], or as the two parts of the published `kv_b_proj`, `k_b_proj` [heads · nope, rank] and `v_b_proj`
    /// [heads · value, rank]: the same matrices, but packed along other axes where they are packed.
    pub fn load(w: &Weights, c: &MlaConfig) -> Result<Mla> {
        let times = |n: i32| {
            c.heads.checked_mul(n).ok_or_else(|| {
                Error::config("num_attention_heads", c.heads, format!("fewer heads of {n} channels"))
            })
        };
        let sum = |a: i32, b: i32, key: &str| {
            a.checked_add(b).ok_or_else(|| Error::config(key, a, format!("less, as {b} is added")))
        };
        let query_width = times(sum(c.nope_dim, c.rope_dim, "qk_nope_head_dim")?)?;
        let entry_width = sum(c.rank, c.rope_dim, "kv_lora_rank")?;
        let value_width = times(c.value_dim)?;
        let linear = |name: &str, input, output, bias| Linear::load(&w.pp(name), input, output, bias);
        let query = match c.query_rank {
            Some(rank) => linear("q_a_proj", c.dim, rank, c.bias)?,
            None => linear("q_proj", c.dim, query_width, false)?,
        };
        let queries = |rank: i32| -> Result<_> {
            let norm = Norm::rms(&w.pp("q_a_layernorm"), rank, c.eps)?;
            Ok((norm, Projections::new(vec![linear("q_b_proj", rank, query_width, false)?])))
        };
        let [(embed, unembed), (keys, values)] =
            [("embed_q", "unembed_out"), ("k_b_proj", "v_b_proj")].map(|(a, b)| (w.pp(a), w.pp(b)));
        let (embed, unembed) = if keys.has("weight") {
            let embed = MultiLinear::load_flipped_rows(&keys, c.heads, c.nope_dim, c.rank)?;
            (embed, MultiLinear::load_rows(&values, c.heads, c.rank, c.value_dim)?)
        } else if embed.has("weight") || unembed.has("weight") {
            let embed = MultiLinear::load(&embed, c.heads, c.nope_dim, c.rank)?;
            (embed, MultiLinear::load(&unembed, c.heads, c.rank, c.value_dim)?)
        } else {
            return Err(Error::MissingTensor(w.path("kv_b_proj.weight")));
        };
        Ok(Mla {
            inputs: Projections::new(vec![query, linear("kv_a_proj_with_mqa", c.dim, entry_width, c.bias)?]),
            queries: c.query_rank.map(queries).transpose()?,
            output: linear("o_proj", value_width, c.dim, c.bias)?,
            spec: LatentSpec {
                heads: c.heads,
                rank: c.rank,
                nope_dim: c.nope_dim,
                rope_dim: c.rope_dim,
                value_dim: c.value_dim,
                scale: c.scale,
                norm: Norm::rms(&w.pp("kv_a_layernorm"), c.rank, c.eps)?,
                rope: c.rope.clone(),
                q_scale: c.q_scale,
                embed,
                unembed,
                copies: w.backend().device.is_cuda(),
            },
        })
    }

    /// x + attention(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array, cache: &mut LayerCache) -> Result<Array> {
        let [query, entries] = two(self.inputs.forward(Some(norm), x).at("qkv_a")?)?;
        let query = match &self.queries {
            Some((norm, linear)) => linear.forward(Some(norm), &query).at("q_b_proj")?.remove(0),
            None => query,
        };
        let y = cache.latent()?.attend(&query, &entries, &self.spec).at("attend")?;
        self.output.forward_add(&y, x).at("o_proj")
    }
}

fn two(projected: Vec<Array>) -> Result<[Array; 2]> {
    projected.try_into().map_err(|p: Vec<_>| {
        Error::Unsupported(format!("latent attention wants two projections, but got {}", p.len()))
    })
}
