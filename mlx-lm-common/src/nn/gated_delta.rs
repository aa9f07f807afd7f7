//! The gated delta rule (arXiv 2412.06464): linear attention whose state forgets, and replaces what it knows of a key.
//!
//! For each head, with a state S [Dv, Dk], keys and queries of length 1, a decay g and a rate β, both in 0..1:
//!
//! ```text
//! S ← g · S;   S ← S + β (v - S k) kᵀ;   y = S q
//! ```

use super::{
    Activation, CausalConv, Linear, Norm, Projections,
    activation::silu,
    fused::fused,
    scan::{decays, exactly, padded, split},
    wide::widen,
};
use crate::{
    At, Error, Result,
    cache::{CacheSpec, Recurrence, StateCache},
    raw,
    weights::Weights,
};
use mlx_rs::{Array, Dtype, error::Exception, ops, transforms};

/// So many positions are computed at once.
const CHUNK: i32 = 64;

/// The sizes of a [`GatedDeltaNet`].
#[derive(Clone, Copy, Debug)]
pub struct GatedDeltaConfig {
    /// Width of the model.
    pub dim: i32,
    /// Heads of queries and keys: `linear_num_key_heads`.
    pub key_heads: i32,
    /// Heads of values, a multiple: `linear_num_value_heads`.
    pub value_heads: i32,
    /// Width of a head of queries or keys: `linear_key_head_dim`.
    pub key_dim: i32,
    /// Width of a head of values: `linear_value_head_dim`.
    pub value_dim: i32,
    /// Width of the convolution: `linear_conv_kernel_dim`.
    pub conv_width: i32,
    /// Epsilon of the norm of the output.
    pub eps: f32,
}

/// A mixer of the gated delta rule: a short convolution over queries, keys and values, the recurrence, a gated norm.
#[derive(Clone, Debug)]
pub struct GatedDeltaNet {
    /// Queries, keys and values in one; the gate z of the output; b for the rate; a for the decay.
    inputs: Projections,
    conv: CausalConv,
    /// Makes heads of queries and keys vectors of length 1.
    unit: Norm,
    /// -exp(A_log), of each head.
    neg_a: Array,
    dt_bias: Array,
    norm: Norm,
    output: Linear,
    config: GatedDeltaConfig,
    compile: bool,
}

impl GatedDeltaNet {
    /// What it needs remembered.
    pub const CACHE: CacheSpec = CacheSpec::State(2);

    /// Loads `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`, `conv1d`, `A_log`, `dt_bias`, `norm` and `out_proj` below `w`.
    ///
    /// # Errors
    /// [`Error::Config`] for heads that do not go together, or sizes too large.
    pub fn load(w: &Weights, c: GatedDeltaConfig) -> Result<GatedDeltaNet> {
        if c.value_heads % c.key_heads != 0 {
            let wanted = format!("a multiple of {} heads of keys", c.key_heads);
            return Err(Error::config("linear_num_value_heads", c.value_heads, wanted));
        }
        let width = |key: &str, heads: i32, dim: i32| {
            let width = heads.checked_mul(dim).filter(|n| *n < i32::MAX / 4);
            width.ok_or_else(|| Error::config(key, heads, format!("fewer heads of {dim}")))
        };
        let keys = width("linear_num_key_heads", c.key_heads, c.key_dim)?;
        let values = width("linear_num_value_heads", c.value_heads, c.value_dim)?;
        let (qkv, heads, key_dim) = (2 * keys + values, c.value_heads, c.key_dim as f32);
        let inputs =
            [("in_proj_qkv", qkv), ("in_proj_z", values), ("in_proj_b", heads), ("in_proj_a", heads)];
        let backend = w.backend();
        let of_heads =
            |name: &str| -> Result<Array> { Ok(w.tensor(name, &[heads])?.reshape(&[1, 1, heads])?) };
        let (neg_a, dt_bias) = (ops::exp(of_heads("A_log")?)?.negative()?, of_heads("dt_bias")?);
        // They have the widths that are declared, so that what is made of these below is no larger.
        let inputs = Projections::load(w, c.dim, &inputs, false)?;
        // An RMS norm over D gives √D times the vector of length 1. Its epsilon adds to a mean, the rule's to a sum.
        let unit = Array::full::<f32>(&[c.key_dim], Array::from_f32(key_dim.powf(-0.5)))?;
        transforms::eval([&neg_a, &dt_bias, &unit])?;
        let norm = w.pp("norm").tensor_in("weight", &[c.value_dim], Dtype::Float32)?;
        Ok(GatedDeltaNet {
            inputs,
            conv: CausalConv::load(&w.pp("conv1d"), qkv, c.conv_width, false)?,
            unit: Norm::Rms { weight: unit, eps: 1e-6 / key_dim, fused: backend.kernels },
            neg_a,
            dt_bias,
            // Queries are to be multiplied by Dk^-½. A norm undoes that, but for its epsilon.
            norm: Norm::Rms { weight: norm, eps: c.eps * key_dim, fused: backend.kernels },
            output: Linear::load(&w.pp("out_proj"), values, c.dim, false)?,
            config: c,
            compile: backend.compile,
        })
    }

    /// x + mixer(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array, cache: &mut StateCache) -> Result<Array> {
        let c = &self.config;
        let (batch, len) = (x.dim(0), x.dim(1));
        let [qkv, z, b, a] = exactly(self.inputs.forward(Some(norm), x).at("in_proj")?)?;
        let qkv = Activation::Silu.forward(&self.conv.forward(&qkv, cache, 0).at("conv1d")?, self.compile)?;
        let [qk, v] = split(&qkv, -1, &[2 * c.key_heads * c.key_dim])?;
        let qk = self.unit.forward(&qk.reshape(&[batch, len, 2, c.key_heads, c.key_dim])?)?;
        let [mut decay, mut rate] = fused(self.compile, gates, [&a, &b, &self.dt_bias, &self.neg_a])?;
        if let Some(mask) = cache.mask(len)? {
            // Padding neither decays nor enters the state.
            let mask = mask.expand_dims(-1)?.as_dtype(Dtype::Float32)?;
            (decay, rate) = (decay.multiply(&mask)?, rate.multiply(&mask)?);
        }
        let rule: Recurrence = if self.compile { gated_delta::<true> } else { gated_delta::<false> };
        let y = cache.scan(1, rule, &[qk, v, decay, rate], &[]).at("gated_delta")?;
        cache.advance(len);
        let y = self.norm.forward(&y)?.reshape(&[batch, len, -1])?;
        let [y] = fused(self.compile, gate, [&z, &y])?;
        self.output.forward_add(&y, x).at("out_proj")
    }
}

/// From a, b, dt_bias and -exp(A_log), the logarithm of the decay, -exp(A_log) · softplus(a + dt_bias), and the rate σ(b); in float32.
fn gates([a, b, dt_bias, neg_a]: [&Array; 4]) -> Result<[Array; 2], Exception> {
    let x = widen(a)?.add(dt_bias)?;
    let decay = ops::logaddexp(&x, Array::from_f32(0.0))?.multiply(neg_a)?;
    Ok([decay, ops::sigmoid(widen(b)?)?])
}

/// silu(z) · y in float32, in z's type.
fn gate([z, y]: [&Array; 2]) -> Result<[Array; 1], Exception> {
    let gated = silu(&widen(z)?)?.multiply(y)?;
    Ok([gated.as_dtype(z.dtype())?])
}

/// The rule as a [`Recurrence`]. Inputs: queries and keys [B, L, 2, Hk, Dk] of length 1; values [B, L, Hv · Dv]; logarithms of decays
/// and rates [B, L, Hv] in float32. Where these two are zero, the state stays as it is. Outputs [B, L, Hv, Dv] and the state [B, Hv,
/// Dv, Dk] are float32; head h of values belongs to head h · Hk / Hv of keys. `COMPILE` is as in [`fused`], and tells a
/// GPU from a CPU.
pub fn gated_delta<const COMPILE: bool>(
    state: Option<&Array>,
    inputs: &[Array],
    _: &[Array],
) -> Result<(Array, Array)> {
    let [qk, v, decay, rate] = exactly(inputs)?;
    let (batch, heads, key_dim) = (qk.dim(0), decay.dim(2), qk.dim(4));
    let shape = [batch, heads, v.dim(2) / heads, key_dim];
    let state = match state {
        Some(state) => state.clone(),
        None => ops::zeros::<f32>(&shape)?,
    };
    if state.shape() != shape {
        return Err(Error::Cache(format!(
            "a layer remembers {:?}, this model wants {shape:?}",
            state.shape()
        )));
    }
    if qk.dim(1) == 1 {
        step::<COMPILE>(&state, &qk, &v, &decay, &rate)
    } else {
        chunks(&state, &qk, &v, &decay, &rate)
    }
}

/// One position.
fn step<const COMPILE: bool>(
    state: &Array,
    qk: &Array,
    v: &Array,
    decay: &Array,
    rate: &Array,
) -> Result<(Array, Array)> {
    let &[batch, heads, value_dim, key_dim] = state.shape() else { return Err(shapes()) };
    let (key_heads, each) = (qk.dim(3), [batch, heads, 1, 1]);
    let qk = widen(qk)?;
    let qk = if key_heads == heads {
        qk
    } else {
        let qk = qk.reshape(&[batch, 2, key_heads, 1, key_dim])?;
        ops::broadcast_to(&qk, &[batch, 2, key_heads, heads / key_heads, key_dim])?
    };
    let vector = if COMPILE { [key_dim, 1] } else { [1, key_dim] };
    let [q, k] = split(&qk.reshape(&[batch, 2 * heads, vector[0], vector[1]])?, 1, &[heads])?;
    // MLX's product of a matrix and a vector is slow on the CPU.
    let product = |state: &Array, vector: &Array| match COMPILE {
        true => ops::matmul(state, vector),
        false => state.multiply(vector)?.sum_axis(-1, true),
    };
    let (v, decay, rate) =
        (v.reshape(&[batch, heads, value_dim, 1])?, decay.reshape(&each)?, rate.reshape(&each)?);
    let known = product(state, &k)?;
    let key_row = if COMPILE { k.swap_axes(-1, -2)? } else { k };
    let [state] = fused(COMPILE, update, [state, &known, &decay, &rate, &v, &key_row])?;
    let y = product(&state, &q)?.reshape(&[batch, 1, heads, value_dim])?;
    Ok((y, state))
}

/// g · S + β (v - g · S k) kᵀ.
fn update([state, known, decay, rate, v, k]: [&Array; 6]) -> Result<[Array; 1], Exception> {
    let g = ops::exp(decay)?;
    let new = widen(v)?.subtract(known.multiply(&g)?)?.multiply(rate)?;
    Ok([state.multiply(&g)?.add(new.multiply(k)?)?])
}

/// Many positions, in chunks (arXiv 2406.06484, 2412.06464). With γ the decay from a chunk's beginning and D that from one position to
/// another, what enters the state at the positions of a chunk solves a triangular system:
///
/// ```text
/// (1 + A) U = β V - β γ K Sᵀ,   A = β (K Kᵀ ∘ D) below the diagonal
/// Y = γ Q Sᵀ + (Q Kᵀ ∘ D) U,    S ← γ_end S + Uᵀ (D_end K)
/// ```
///
/// All but the last line is computed for all chunks at once.
fn chunks(state: &Array, qk: &Array, v: &Array, decay: &Array, rate: &Array) -> Result<(Array, Array)> {
    let &[batch, heads, value_dim, key_dim] = state.shape() else { return Err(shapes()) };
    let (len, key_heads) = (qk.dim(1), qk.dim(3));
    let group = heads / key_heads;
    let size = len.min(CHUNK);
    let count = (len + size - 1) / size;
    let all = count * size;

    // As [B, Hk, Hv / Hk, chunk, position, ..].
    let qk = padded(qk, all)?.reshape(&[batch, count, size, 2, key_heads, 1, key_dim])?;
    let [q, k] = split(&qk.transpose_axes(&[3, 0, 4, 5, 1, 2, 6])?, 0, &[1])?;
    let (q, k) = (q.squeeze_axes(&[0])?, k.squeeze_axes(&[0])?);
    let v = padded(v, all)?.reshape(&[batch, count, size, key_heads, group, value_dim])?;
    let v = v.transpose_axes(&[0, 3, 4, 1, 2, 5])?;
    let of_head = |x: &Array| -> Result<Array> {
        let x = padded(x, all)?.reshape(&[batch, count, size, key_heads, group])?;
        Ok(x.transpose_axes(&[0, 3, 4, 1, 2])?)
    };
    let (decay, rate) = (of_head(decay)?, of_head(rate)?.expand_dims(-1)?);

    let k_t = k.swap_axes(-1, -2)?;
    let between = decays(&decay)?;
    let since_start = ops::exp(decay.cumsum(-1, None, None)?)?.expand_dims(-1)?;
    let to_end = raw::slice(&between, 4, size - 1, size)?.swap_axes(-1, -2)?;
    let system = ops::tril(ops::matmul(&k, &k_t)?.multiply(&between)?.multiply(&rate)?, -1)?;
    let solve = unit_lower_inverse(&system)?;
    let values = ops::matmul(&solve, v.multiply(&rate)?)?;
    let keys = ops::matmul(&solve, k.multiply(rate.multiply(&since_start)?)?)?;
    let within = ops::matmul(&q, &k_t)?.multiply(&between)?;
    let queries = q.multiply(&since_start)?;
    let leaving = k.multiply(to_end)?;
    let kept = raw::slice(&since_start, 4, size - 1, size)?;

    let by_chunk = |x: &Array| x.split_equal(count, 3);
    let (values, keys, within) = (by_chunk(&values)?, by_chunk(&keys)?, by_chunk(&within)?);
    let (queries, leaving, kept) = (by_chunk(&queries)?, by_chunk(&leaving)?, by_chunk(&kept)?);
    let mut state = state.reshape(&[batch, key_heads, group, 1, value_dim, key_dim])?;
    let mut outputs = Vec::with_capacity(values.len());
    for i in 0..values.len() {
        let state_t = state.swap_axes(-1, -2)?;
        let new = ops::addmm(&values[i], &keys[i], &state_t, -1.0, None)?;
        outputs.push(ops::addmm(ops::matmul(&queries[i], &state_t)?, &within[i], &new, None, None)?);
        state = ops::addmm(state.multiply(&kept[i])?, new.swap_axes(-1, -2)?, &leaving[i], None, None)?;
    }
    let y = ops::concatenate(&outputs, 3)?.transpose_axes(&[0, 3, 4, 1, 2, 5])?;
    let y = raw::slice(&y.reshape(&[batch, all, heads, value_dim])?, 1, 0, len)?;
    Ok((y, state.reshape(&[batch, heads, value_dim, key_dim])?))
}

/// (1 + A)⁻¹ for A [.., n, n] that is zero on and above the diagonal. The inverse of diagonal blocks, X, gives that of blocks twice as
/// large: X - X A' X, with A' what lies between each two. Powers of A would do with fewer products, but they grow beyond all
/// precision where keys are alike.
fn unit_lower_inverse(a: &Array) -> Result<Array> {
    let n = a.dim(-1);
    let between = |size: i32| -> Result<Array> {
        let joins = |i: i32, j: i32| i / size == j / size + 1 && (i / size) % 2 == 1;
        let mask: Vec<f32> = (0..n * n).map(|at| f32::from(joins(at / n, at % n))).collect();
        Ok(a.multiply(Array::from_slice(&mask, &[n, n]))?)
    };
    let mut inverse = ops::eye::<f32>(n, None, None)?.subtract(between(1)?)?;
    let mut size = 2;
    while size < n {
        let product = ops::matmul(&inverse, between(size)?)?;
        inverse = ops::addmm(&inverse, &product, &inverse, -1.0, None)?;
        size *= 2;
    }
    Ok(inverse)
}

fn shapes() -> Error {
    Error::Unsupported("a state of other axes than [B, heads, Dv, Dk]".into())
}

#[cfg(test)]
mod tests;
