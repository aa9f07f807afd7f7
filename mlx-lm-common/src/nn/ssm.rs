//! Mamba-2 (arXiv 2405.21060): a state space model whose states decay by a scalar for each head.
//!
//! With a state S [P, N] for each head, a time step Δ, a rate A < 0, and vectors B and C that the heads of a group share:
//!
//! ```text
//! S ← exp(Δ A) · S + (Δ x) Bᵀ;   y = S C + D x
//! ```

use super::{
    CausalConv, Linear, Norm,
    activation::silu,
    fused::{fused, fused_with, scalar},
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
const CHUNK: i32 = 256;

/// The sizes and options of a [`Mamba2`].
#[derive(Clone, Copy, Debug)]
pub struct Mamba2Config {
    /// Width of the model.
    pub dim: i32,
    /// Heads.
    pub heads: i32,
    /// Width of a head, P.
    pub head_dim: i32,
    /// Width of the state, N.
    pub state: i32,
    /// Groups of heads that share B and C.
    pub groups: i32,
    /// How many positions the convolution sees.
    pub kernel: i32,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Whether the input projection has one.
    pub input_bias: bool,
    /// Whether the output projection has one.
    pub output_bias: bool,
    /// Least and greatest time step.
    pub time_step_limit: (f32, f32),
    /// The norm of the output; without one, it is gated alone.
    pub norm: Option<GatedNorm>,
}

/// An RMS norm and the gate silu(z).
#[derive(Clone, Copy, Debug)]
pub struct GatedNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// So many parts of equal width are normalized each on its own.
    pub groups: i32,
    /// Whether the gate comes after the norm.
    pub before_gate: bool,
}

/// A mixer of Mamba-2: a short convolution over x, B and C, the recurrence, a gate with or without a norm.
#[derive(Clone, Debug)]
pub struct Mamba2 {
    input: Linear,
    conv: CausalConv,
    /// [1, 1, channels]
    conv_bias: Option<Array>,
    dt_bias: Array,
    /// -exp(A_log): [1, heads, 1, 1] of one group, else [1, groups, heads / groups, 1, 1].
    neg_a: Array,
    /// D for each channel.
    skip: Array,
    norm: Option<Normed>,
    output: Linear,
    config: Mamba2Config,
    compile: bool,
}

#[derive(Clone, Debug)]
struct Normed {
    norm: Norm,
    /// Follows where groups are normalized without weights.
    weight: Option<Array>,
    groups: i32,
    before_gate: bool,
}

impl Mamba2 {
    /// What it needs remembered.
    pub const CACHE: CacheSpec = CacheSpec::State(2);

    /// Loads `in_proj` (to z, to x, B and C, to Δ), `conv1d`, `A_log`, `D`, `dt_bias`, `norm` if there is one, and `out_proj` below
    /// `w`.
    ///
    /// # Errors
    /// [`Error::Config`] for groups that do not divide the heads, sizes too large, or time steps out of order.
    pub fn load(w: &Weights, c: &Mamba2Config) -> Result<Mamba2> {
        let (heads, groups) = (c.heads, c.groups);
        if groups < 1 || heads % groups != 0 {
            return Err(Error::config("n_groups", groups, format!("a divisor of {heads} heads")));
        }
        let (least, most) = c.time_step_limit;
        if least > most || least.is_nan() || most.is_nan() {
            let found = format!("{least} and {most}");
            return Err(Error::config("time_step_limit", found, "the least and the greatest time step"));
        }
        let width = heads.checked_mul(c.head_dim).filter(|n| *n < i32::MAX / 8);
        let width = width
            .ok_or_else(|| Error::config("mamba_num_heads", heads, format!("fewer of {}", c.head_dim)))?;
        let shared = groups.checked_mul(c.state).filter(|n| *n < i32::MAX / 8);
        let shared =
            shared.ok_or_else(|| Error::config("n_groups", groups, format!("fewer of {}", c.state)))?;
        let channels = width + 2 * shared;
        let float = |name: &str, n: i32| w.tensor(name, &[n]);
        let neg_a = ops::exp(float("A_log", heads)?)?.negative()?;
        let neg_a = match groups {
            1 => neg_a.reshape(&[1, heads, 1, 1])?,
            _ => neg_a.reshape(&[1, groups, heads / groups, 1, 1])?,
        };
        let skip = ops::repeat_axis::<f32>(float("D", heads)?, c.head_dim, 0)?.reshape(&[1, 1, width])?;
        let dt_bias = float("dt_bias", heads)?.reshape(&[1, 1, heads])?;
        let conv = w.pp("conv1d");
        let conv_bias = c.conv_bias.then(|| conv.tensor("bias", &[channels])).transpose()?;
        let conv_bias = conv_bias.map(|b| b.reshape(&[1, 1, channels])).transpose()?;
        transforms::eval([&neg_a, &skip, &dt_bias].into_iter().chain(&conv_bias))?;
        Ok(Mamba2 {
            input: Linear::load(&w.pp("in_proj"), c.dim, width + channels + heads, c.input_bias)?,
            conv: CausalConv::load(&conv, channels, c.kernel, false)?,
            conv_bias,
            dt_bias,
            neg_a,
            skip,
            norm: c.norm.map(|norm| Normed::load(&w.pp("norm"), width, norm)).transpose()?,
            output: Linear::load(&w.pp("out_proj"), width, c.dim, c.output_bias)?,
            config: *c,
            compile: w.backend().compile,
        })
    }

    /// mixer(x), for a normalized x [B, L, dim].
    pub fn forward(&self, x: &Array, cache: &mut StateCache) -> Result<Array> {
        self.output.forward(&self.mix(x, cache)?).at("out_proj")
    }

    /// residual + mixer(x), for a normalized x and a residual [B, L, dim].
    pub fn forward_add(&self, x: &Array, residual: &Array, cache: &mut StateCache) -> Result<Array> {
        self.output.forward_add(&self.mix(x, cache)?, residual).at("out_proj")
    }

    /// What goes into the output projection: [B, L, heads · P].
    fn mix(&self, x: &Array, cache: &mut StateCache) -> Result<Array> {
        let c = &self.config;
        let (len, width, shared) = (x.dim(1), c.heads * c.head_dim, c.groups * c.state);
        let [z, xbc, dt] =
            split(&self.input.forward(x).at("in_proj")?, -1, &[width, 2 * width + 2 * shared])?;
        let xbc = self.conv.forward(&xbc, cache, 0).at("conv1d")?;
        let [xbc] = match &self.conv_bias {
            Some(bias) => fused(self.compile, |[x, bias]| Ok([silu(&x.add(bias)?)?]), [&xbc, bias])?,
            None => fused(self.compile, |[x]| Ok([silu(x)?]), [&xbc])?,
        };
        let [x, b, c] = split(&xbc, -1, &[width, width + shared])?;
        let (least, most) = self.config.time_step_limit;
        let [mut dt] = fused_with(self.compile, time_steps, [&dt, &self.dt_bias], [least, most])?;
        if let Some(mask) = cache.mask(len)? {
            // In no time, nothing decays and nothing enters.
            dt = dt.multiply(mask.expand_dims(-1)?.as_dtype(Dtype::Float32)?)?;
        }
        let scan: Recurrence = if self.compile { ssd::<true> } else { ssd::<false> };
        let constants = std::slice::from_ref(&self.neg_a);
        let y = cache.scan(1, scan, &[x.clone(), b, c, dt], constants).at("ssd")?;
        cache.advance(len);
        let gate_last = self.norm.as_ref().is_some_and(|norm| norm.before_gate);
        let skip = if gate_last { skipped } else { skipped_and_gated };
        let [y] = fused(self.compile, skip, [&y, &x, &self.skip, &z])?;
        match &self.norm {
            None => Ok(y),
            Some(norm) => norm.forward(&y, gate_last.then_some(&z), self.compile),
        }
    }
}

impl Normed {
    fn load(w: &Weights, width: i32, c: GatedNorm) -> Result<Normed> {
        let GatedNorm { eps, groups, before_gate } = c;
        if groups < 1 || width % groups != 0 {
            return Err(Error::config("n_groups", groups, format!("a divisor of {width} channels")));
        }
        let (norm, weight) = match groups {
            1 => (Norm::rms(w, width, eps)?, None),
            _ => {
                let weight = w.tensor("weight", &[width])?.reshape(&[1, 1, width])?;
                weight.eval()?;
                (Norm::rms_unit(w.backend(), width / groups, eps)?, Some(weight))
            }
        };
        Ok(Normed { norm, weight, groups, before_gate })
    }

    /// The norm of y [B, L, width], times silu(z) if there is a z.
    fn forward(&self, y: &Array, z: Option<&Array>, compile: bool) -> Result<Array> {
        let &[batch, len, width] = y.shape() else {
            return Err(Error::Unsupported("a norm of other axes than [B, L, width]".into()));
        };
        let y = match &self.weight {
            None => self.norm.forward(y)?,
            Some(_) => {
                let parts = y.reshape(&[batch, len, self.groups, width / self.groups])?;
                self.norm.forward(&parts)?.reshape(&[batch, len, width])?
            }
        };
        let [y] = match (&self.weight, z) {
            (None, None) => [y],
            (Some(weight), None) => [y.multiply(weight)?],
            (None, Some(z)) => fused(compile, |[y, z]| Ok([silu(z)?.multiply(y)?]), [&y, z])?,
            (Some(weight), Some(z)) => {
                let chain = |[y, z, w]: [&Array; 3]| Ok([silu(z)?.multiply(y.multiply(w)?)?]);
                fused(compile, chain, [&y, z, weight])?
            }
        };
        Ok(y)
    }
}

/// softplus(dt + bias) within limits, in float32.
fn time_steps([dt, bias]: [&Array; 2], [least, most]: [f32; 2]) -> Result<[Array; 1], Exception> {
    let dt = widen(dt)?.add(bias)?;
    let mut dt = ops::logaddexp(&dt, scalar(0.0, &dt)?)?;
    if least > 0.0 {
        dt = ops::maximum(&dt, scalar(least, &dt)?)?;
    }
    if most < f32::INFINITY {
        dt = ops::minimum(&dt, scalar(most, &dt)?)?;
    }
    Ok([dt])
}

/// y + D x, in z's type.
fn skipped([y, x, skip, z]: [&Array; 4]) -> Result<[Array; 1], Exception> {
    Ok([y.add(widen(x)?.multiply(skip)?)?.as_dtype(z.dtype())?])
}

/// silu(z) · (y + D x), in z's type.
fn skipped_and_gated([y, x, skip, z]: [&Array; 4]) -> Result<[Array; 1], Exception> {
    let gated = widen(&silu(z)?)?.multiply(y.add(widen(x)?.multiply(skip)?)?)?;
    Ok([gated.as_dtype(z.dtype())?])
}

/// The recurrence without D x, as a [`Recurrence`]. Inputs: x [B, L, heads · P], B and C [B, L, groups · N], and time steps [B, L, heads]
/// in float32; where these are zero, the state stays as it is. The constant is A, [1, heads, 1, 1] of one group or else [1, groups,
/// heads / groups, 1, 1]. Outputs [B, L, heads · P] and the state [B, heads, P, N] are float32. `COMPILE` is as in [`fused`],
/// and tells a GPU from a CPU.
pub fn ssd<const COMPILE: bool>(
    state: Option<&Array>,
    inputs: &[Array],
    constants: &[Array],
) -> Result<(Array, Array)> {
    let [x, b, c, dt] = exactly(inputs)?;
    let [neg_a] = exactly(constants)?;
    let (heads, groups) = (dt.dim(2), if neg_a.ndim() == 4 { 1 } else { neg_a.dim(1) });
    let shape = [x.dim(0), heads, x.dim(2) / heads, b.dim(2) / groups];
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
    let sizes = Sizes { batch: shape[0], groups, each: heads / groups, head_dim: shape[2], state: shape[3] };
    if x.dim(1) == 1 {
        step::<COMPILE>(&state, [&x, &b, &c, &dt], &neg_a, sizes)
    } else {
        chunks(&state, [&x, &b, &c, &dt], &neg_a, sizes)
    }
}

#[derive(Clone, Copy)]
struct Sizes {
    batch: i32,
    groups: i32,
    /// Heads of a group.
    each: i32,
    head_dim: i32,
    state: i32,
}

/// One position.
fn step<const COMPILE: bool>(
    state: &Array,
    [x, b, c, dt]: [&Array; 4],
    neg_a: &Array,
    s: Sizes,
) -> Result<(Array, Array)> {
    // One group needs no axis of its own.
    let one = s.groups == 1;
    let of_heads = |rows: i32, columns: i32| match one {
        true => vec![s.batch, s.each, rows, columns],
        false => vec![s.batch, s.groups, s.each, rows, columns],
    };
    let of_groups = if one { vec![s.batch, 1, 1, s.state] } else { vec![s.batch, s.groups, 1, 1, s.state] };
    let whole = state.shape().to_vec();
    let state = if one { state.clone() } else { state.reshape(&of_heads(s.head_dim, s.state))? };
    let (x, dt) = (x.reshape(&of_heads(s.head_dim, 1))?, dt.reshape(&of_heads(1, 1))?);
    let [state] = fused(COMPILE, update, [&state, &x, &b.reshape(&of_groups)?, &dt, neg_a])?;
    let c = widen(c)?;
    let y = if COMPILE {
        let rows = state.reshape(&[s.batch, s.groups, s.each * s.head_dim, s.state])?;
        ops::matmul(&rows, c.reshape(&[s.batch, s.groups, s.state, 1])?)?
    } else {
        // MLX's product of a matrix and a vector is slow on the CPU.
        state.multiply(c.reshape(&of_groups)?)?.sum_axis(-1, false)?
    };
    let y = y.reshape(&[s.batch, 1, -1])?;
    Ok((y, if one { state } else { state.reshape(&whole)? }))
}

/// exp(Δ A) · S + (Δ x) Bᵀ.
fn update([state, x, b, dt, neg_a]: [&Array; 5]) -> Result<[Array; 1], Exception> {
    let kept = state.multiply(ops::exp(dt.multiply(neg_a)?)?)?;
    Ok([kept.add(dt.multiply(widen(x)?)?.multiply(widen(b)?)?)?])
}

/// Many positions, chunk by chunk: within a chunk as a masked product like attention's, between chunks through the state. With γ the
/// decay from the chunk's beginning and D that from one position to another:
///
/// ```text
/// Y = (C Bᵀ ∘ D) Δx + γ C Sᵀ,   S ← γ_end S + (D_end Δx)ᵀ B
/// ```
fn chunks(state: &Array, [x, b, c, dt]: [&Array; 4], neg_a: &Array, s: Sizes) -> Result<(Array, Array)> {
    let len = x.dim(1);
    let whole = state.shape().to_vec();
    // As [B, groups, heads of a group, position, ..].
    let of_heads = |x: &Array, width: i32| -> Result<Array> {
        let x = padded(x, len)?.reshape(&[s.batch, len, s.groups, s.each, width])?;
        Ok(x.transpose_axes(&[0, 2, 3, 1, 4])?)
    };
    let of_groups = |x: &Array| -> Result<Array> {
        let x = padded(x, len)?.reshape(&[s.batch, len, s.groups, 1, s.state])?;
        Ok(x.transpose_axes(&[0, 2, 3, 1, 4])?)
    };
    let (dt, b, c) = (of_heads(dt, 1)?, of_groups(b)?, of_groups(c)?);
    let x = of_heads(x, s.head_dim)?.multiply(&dt)?;
    let log = dt.multiply(neg_a.reshape(&[1, s.groups, s.each, 1, 1])?)?.squeeze_axes(&[-1])?;
    let mut state = state.reshape(&[s.batch, s.groups, s.each, s.head_dim, s.state])?;
    let mut outputs = Vec::new();
    for from in (0..len).step_by(CHUNK as usize) {
        let to = len.min(from + CHUNK);
        let part = |x: &Array| raw::slice(x, 3, from, to);
        let (x, b, c, log) = (part(&x)?, part(&b)?, part(&c)?, part(&log)?);
        let between = decays(&log)?;
        let since_start = ops::exp(log.cumsum(-1, None, None)?)?.expand_dims(-1)?;
        let last = to - from - 1;
        let to_end = raw::slice(&between, 3, last, last + 1)?.swap_axes(-1, -2)?;
        let kept = raw::slice(&since_start, 3, last, last + 1)?;

        let within = ops::matmul(&c, b.swap_axes(-1, -2)?)?.multiply(between)?;
        let before = ops::matmul(&c, state.swap_axes(-1, -2)?)?.multiply(since_start)?;
        outputs.push(ops::addmm(before, within, &x, None, None)?);
        let entering = x.multiply(to_end)?.swap_axes(-1, -2)?;
        state = state.multiply(kept)?.add(ops::matmul(entering, &b)?)?;
    }
    let y = ops::concatenate(&outputs, 3)?.transpose_axes(&[0, 3, 1, 2, 4])?;
    Ok((y.reshape(&[s.batch, len, -1])?, state.reshape(&whole)?))
}

#[cfg(test)]
mod tests;
