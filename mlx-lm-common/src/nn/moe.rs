//! Mixtures of experts (arXiv 1701.06538).

use super::{Experts, ExpertsConfig, Linear, Mlp, MlpConfig, Norm, Router, RouterConfig, fused::fused};
use crate::{At, Result, weights::Weights};
use mlx_rs::{Array, error::Exception, ops};

/// The parts of a [`Moe`]; [`MoeConfig::new`] gives the usual ones.
#[derive(Clone, Copy, Debug)]
pub struct MoeConfig {
    /// What chooses.
    pub router: RouterConfig,
    /// What is chosen.
    pub experts: ExpertsConfig,
    /// Where the experts are.
    pub experts_name: &'static str,
    /// Whether weights multiply what goes into an expert (Llama 4), rather than what comes out. For one expert a token alone.
    pub weigh_input: bool,
    /// A block that every token goes through besides.
    pub shared: Option<SharedConfig>,
}

/// The block of a mixture that every token goes through.
#[derive(Clone, Copy, Debug)]
pub struct SharedConfig {
    /// Where it is: `shared_experts` or `shared_expert`, as a rule.
    pub name: &'static str,
    /// The block.
    pub mlp: MlpConfig,
    /// Name of a linear layer to one value, whose sigmoid multiplies the block's output.
    pub gate: Option<&'static str>,
}

impl MoeConfig {
    /// A mixture of `router` and `experts`, which are below `switch_mlp`.
    pub fn new(router: RouterConfig, experts: ExpertsConfig) -> MoeConfig {
        MoeConfig { router, experts, experts_name: "switch_mlp", weigh_input: false, shared: None }
    }
}

/// A router, experts, and what all tokens share.
#[derive(Clone, Debug)]
pub struct Moe {
    router: Router,
    experts: Experts,
    weigh_input: bool,
    shared: Option<Shared>,
    compile: bool,
}

#[derive(Clone, Debug)]
struct Shared {
    mlp: Mlp,
    gate: Option<Linear>,
}

impl Moe {
    /// Loads the parts that `c` names below `w`.
    ///
    /// # Errors
    /// As [`Router::load`].
    pub fn load(w: &Weights, c: &MoeConfig) -> Result<Moe> {
        if c.weigh_input && c.router.k != 1 {
            return Err(crate::Error::config(
                c.router.k_key,
                c.router.k,
                "1: weights multiply the experts' input",
            ));
        }
        let shared = |s: SharedConfig| {
            let gate = s.gate.map(|name| Linear::load(&w.pp(name), s.mlp.dim, 1, false));
            Mlp::load(&w.pp(s.name), &s.mlp).and_then(|mlp| Ok(Shared { mlp, gate: gate.transpose()? }))
        };
        Ok(Moe {
            router: Router::load(w, &c.router)?,
            experts: Experts::load(&w.pp(c.experts_name), &c.experts)?,
            weigh_input: c.weigh_input,
            shared: c.shared.map(shared).transpose()?,
            compile: w.backend().compile,
        })
    }

    /// mixture(x), for x [B, L, dim].
    pub fn forward(&self, x: &Array) -> Result<Array> {
        let (ids, weights) = self.router.forward(x).at("router")?;
        let mixed = if self.weigh_input {
            self.experts.forward(&x.multiply(weights)?, &ids)?.squeeze_axes(&[-2])?
        } else {
            self.experts.mixed(x, &ids, &weights).at("experts")?
        };
        match &self.shared {
            None => Ok(mixed),
            Some(Shared { mlp, gate: None }) => mlp.forward_onto(x, &mixed).at("shared"),
            Some(Shared { mlp, gate: Some(gate) }) => {
                let shared = mlp.forward(None, x).at("shared")?;
                let [y] = fused(self.compile, gated_sum, [&mixed, &gate.forward(x)?, &shared])?;
                Ok(y)
            }
        }
    }

    /// x + mixture(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array) -> Result<Array> {
        Ok(x.add(self.forward(&norm.forward(x)?)?)?)
    }
}

/// mixed + σ(gate) · shared.
fn gated_sum([mixed, gate, shared]: [&Array; 3]) -> Result<[Array; 1], Exception> {
    Ok([mixed.add(ops::sigmoid(gate)?.multiply(shared)?)?])
}
