//! Routers: which experts a token goes to, and how much each counts.

use super::{Linear, fused::fused, fused::fused_with, fused::scalar, wide::widen};
use crate::{Error, Result, raw, weights::Weights};
use mlx_rs::{Array, Dtype, error::Exception, ops};

/// How logits become scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts; then the best `k` (arXiv 2401.04088 and most since).
    Softmax,
    /// The best `k` logits; then the softmax over them.
    TopKSoftmax,
    /// A sigmoid each, in float32 (arXiv 2408.15664).
    Sigmoid,
}

/// How the weights of the chosen experts are made to sum to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Normalize {
    /// Not at all.
    No,
    /// Divided by their sum and this.
    Sum(f32),
    /// Divided by their sum, or by this if that is more.
    AtLeast(f32),
}

/// What a group of experts counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// As much as its best expert (arXiv 2405.04434).
    Best,
    /// The sum of its two best (arXiv 2412.19437).
    BestTwo,
}

/// Selection within the best groups of experts alone.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// How many groups there are, of neighbouring experts: `n_group`.
    pub count: i32,
    /// How many of them a token may go to: `topk_group`.
    pub kept: i32,
    /// How they are compared.
    pub score: GroupScore,
}

/// The sizes and options of a [`Router`]; [`RouterConfig::new`] gives the usual ones.
#[derive(Clone, Copy, Debug)]
pub struct RouterConfig {
    /// Width of the model.
    pub dim: i32,
    /// Experts in all.
    pub experts: i32,
    /// Experts that a token goes to.
    pub k: i32,
    /// The configuration's key for `k`, for errors.
    pub k_key: &'static str,
    /// Name of the linear layer.
    pub name: &'static str,
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether it computes in float32 whatever the model computes in.
    pub float32: bool,
    /// How logits become scores.
    pub score: Score,
    /// Name of a vector `[E]`, kept in float32, that is added to the scores to select experts, not to weigh them.
    pub correction: Option<&'static str>,
    /// Selection by groups.
    pub groups: Option<Groups>,
    /// What the weights of the chosen sum to.
    pub normalize: Normalize,
    /// Multiplies the weights at the end.
    pub scale: f32,
    /// Name of a vector `[E]` that multiplies the weight of each expert.
    pub expert_scale: Option<&'static str>,
}

impl RouterConfig {
    /// The layer `gate`, softmax, the best `k`, as they are.
    pub fn new(dim: i32, experts: i32, k: i32) -> RouterConfig {
        RouterConfig {
            dim,
            experts,
            k,
            k_key: "num_experts_per_tok",
            name: "gate",
            bias: false,
            float32: false,
            score: Score::Softmax,
            correction: None,
            groups: None,
            normalize: Normalize::No,
            scale: 1.0,
            expert_scale: None,
        }
    }

    fn check(&self) -> Result<()> {
        let (experts, k) = (self.experts, self.k);
        if k < 1 || k > experts {
            return Err(Error::config(
                self.k_key,
                k,
                format!("1 to {experts}, as there are as many experts"),
            ));
        }
        let Some(g) = self.groups else { return Ok(()) };
        if g.count < 1 || experts % g.count != 0 {
            return Err(Error::config("n_group", g.count, format!("a divisor of {experts} experts")));
        }
        if g.kept < 1 || g.kept > g.count {
            return Err(Error::config("topk_group", g.kept, format!("1 to {}, the groups", g.count)));
        }
        let size = experts / g.count;
        if g.score == GroupScore::BestTwo && size < 2 {
            return Err(Error::config("n_group", g.count, "groups of two experts at least"));
        }
        if k > g.kept * size {
            let found = format!("{k}, from {} groups of {size}", g.kept);
            return Err(Error::config(self.k_key, found, "no more experts than those groups have"));
        }
        Ok(())
    }
}

/// Chooses `k` experts for each token.
#[derive(Clone, Debug)]
pub struct Router {
    gate: Linear,
    k: i32,
    /// What the layer computes in.
    dtype: Dtype,
    score: Score,
    correction: Option<Array>,
    groups: Option<Groups>,
    normalize: Normalize,
    scale: f32,
    expert_scale: Option<Array>,
    compile: bool,
}

impl Router {
    /// Loads the layer and the vectors that `c` names below `w`.
    ///
    /// # Errors
    /// [`Error::Config`] for numbers of experts and groups that do not go together.
    pub fn load(w: &Weights, c: &RouterConfig) -> Result<Router> {
        c.check()?;
        let backend = w.backend();
        let dtype = if c.float32 { Dtype::Float32 } else { backend.compute };
        let vector = |name: Option<&str>| name.map(|n| w.tensor(n, &[c.experts])).transpose();
        Ok(Router {
            gate: Linear::load_in(&w.pp(c.name), c.dim, c.experts, c.bias, dtype)?,
            k: c.k,
            dtype,
            score: c.score,
            correction: vector(c.correction)?,
            groups: c.groups.filter(|g| g.kept < g.count),
            normalize: c.normalize,
            scale: c.scale,
            expert_scale: vector(c.expert_scale)?,
            compile: backend.compile,
        })
    }

    /// For x [B, L, dim] the experts [B, L, k] of each token, in no order, and their weights [B, L, k] in x's type.
    pub fn forward(&self, x: &Array) -> Result<(Array, Array)> {
        let input = if self.dtype == Dtype::Float32 { widen(x)? } else { x.as_dtype(self.dtype)? };
        let logits = self.gate.forward(&input)?;
        let (scores, selection) = self.scores(&logits)?;
        let selection = match self.groups {
            Some(groups) => in_groups(&selection, groups)?,
            None => selection,
        };
        let experts = selection.dim(-1);
        let ids =
            raw::slice(&ops::argpartition_axis(&selection, -self.k, -1)?, 2, experts - self.k, experts)?;
        let mut weights = scores.take_along_axis(&ids, -1)?;
        if self.score == Score::TopKSoftmax {
            weights = ops::softmax_axis(&weights, -1, true)?;
        }
        let weights = self.weights(&weights, x)?;
        let weights = match &self.expert_scale {
            Some(scale) => weights.multiply(scale.take(&ids)?)?,
            None => weights,
        };
        Ok((ids, weights))
    }

    /// What weighs the experts, and what selects them.
    fn scores(&self, logits: &Array) -> Result<(Array, Array)> {
        let scores = match (self.score, &self.correction) {
            (Score::Sigmoid, Some(correction)) => {
                let [scores, selection] = fused(self.compile, corrected_sigmoid, [logits, correction])?;
                return Ok((scores, selection));
            }
            (Score::Sigmoid, None) => {
                let [scores] = fused(self.compile, sigmoid, [logits])?;
                scores
            }
            (Score::Softmax, _) => ops::softmax_axis(logits, -1, true)?,
            (Score::TopKSoftmax, _) => logits.clone(),
        };
        let selection = match (&self.correction, &self.groups) {
            (Some(correction), _) => scores.add(correction)?,
            (None, Some(_)) => scores.clone(),
            // In the same order, and still apart where scores round to one.
            (None, None) => logits.clone(),
        };
        Ok((scores, selection))
    }

    /// The chosen scores, normalized and scaled, in x's type.
    fn weights(&self, chosen: &Array, x: &Array) -> Result<Array> {
        let [weights] = match self.normalize {
            Normalize::No => fused_with(self.compile, scaled, [chosen, x], [self.scale])?,
            Normalize::Sum(epsilon) => {
                let sum = chosen.sum_axis(-1, true)?;
                fused_with(self.compile, over_sum, [chosen, &sum, x], [epsilon, self.scale])?
            }
            Normalize::AtLeast(least) => {
                let sum = chosen.sum_axis(-1, true)?;
                fused_with(self.compile, over_at_least, [chosen, &sum, x], [least, self.scale])?
            }
        };
        Ok(weights)
    }
}

/// The scores [B, L, E], with -∞ outside the best groups.
fn in_groups(scores: &Array, g: Groups) -> Result<Array> {
    let grouped = ops::unflatten(scores, -1, &[g.count, -1])?;
    let values = match g.score {
        GroupScore::Best => grouped.max_axis(-1, true)?,
        GroupScore::BestTwo => {
            let size = grouped.dim(-1);
            raw::slice(&ops::partition_axis(&grouped, -2, -1)?, 3, size - 2, size)?.sum_axis(-1, true)?
        }
    };
    let others = g.count - g.kept;
    let worst = raw::slice(&ops::argpartition_axis(&values, others - 1, -2)?, 2, 0, others)?;
    let none = scalar(f32::NEG_INFINITY, scores)?;
    Ok(grouped.put_along_axis(&worst, &none, -2)?.flatten(-2, -1)?)
}

fn sigmoid([logits]: [&Array; 1]) -> Result<[Array; 1], Exception> {
    Ok([ops::sigmoid(widen(logits)?)?])
}

fn corrected_sigmoid([logits, correction]: [&Array; 2]) -> Result<[Array; 2], Exception> {
    let [scores] = sigmoid([logits])?;
    let selection = scores.add(correction)?;
    Ok([scores, selection])
}

fn scaled([chosen, x]: [&Array; 2], [scale]: [f32; 1]) -> Result<[Array; 1], Exception> {
    let scaled = if scale == 1.0 { chosen.clone() } else { chosen.multiply(scalar(scale, chosen)?)? };
    Ok([scaled.as_dtype(x.dtype())?])
}

fn over_sum([chosen, sum, x]: [&Array; 3], [epsilon, scale]: [f32; 2]) -> Result<[Array; 1], Exception> {
    let sum = if epsilon == 0.0 { sum.clone() } else { sum.add(scalar(epsilon, sum)?)? };
    scaled([&chosen.divide(sum)?, x], [scale])
}

fn over_at_least([chosen, sum, x]: [&Array; 3], [least, scale]: [f32; 2]) -> Result<[Array; 1], Exception> {
    scaled([&chosen.divide(ops::maximum(sum, scalar(least, sum)?)?)?, x], [scale])
}
