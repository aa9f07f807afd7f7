//! Feed-forward blocks.

use super::{Activation, Glu, Linear, Norm, Projections};
use crate::{At, Result, weights::Weights};
use mlx_lm_kernels as kernels;
use mlx_rs::Array;

/// What a feed-forward block, or an expert, does between its matrices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// down(glu(gate(x), up(x))).
    Gated(Glu),
    /// down(act(up(x))).
    Plain(Activation),
}

/// The sizes and options of an [`Mlp`]; [`MlpConfig::new`] gives the usual ones.
#[derive(Clone, Copy, Debug)]
pub struct MlpConfig {
    /// Width of the model.
    pub dim: i32,
    /// Width inside.
    pub hidden: i32,
    /// Whether the layers have biases.
    pub bias: bool,
    /// What happens inside.
    pub form: Form,
    /// Names of gate (not read if there is none), up and down.
    pub names: [&'static str; 3],
    /// Name and epsilon of an RMS norm before the last layer, where the model has one.
    pub inner_norm: Option<(&'static str, f32)>,
}

impl MlpConfig {
    /// SwiGLU without biases from `gate_proj`, `up_proj` and `down_proj`.
    pub fn new(dim: i32, hidden: i32) -> MlpConfig {
        MlpConfig {
            dim,
            hidden,
            bias: false,
            form: Form::Gated(Glu::SILU),
            names: ["gate_proj", "up_proj", "down_proj"],
            inner_norm: None,
        }
    }
}

/// Two or three matrices with an activation between them (arXiv 1706.03762, 2002.05202).
#[derive(Clone, Debug)]
pub struct Mlp {
    form: Form,
    /// Gate (if there is one) and up.
    inputs: Projections,
    inner_norm: Option<Norm>,
    down: Linear,
    compile: bool,
}

impl Mlp {
    /// Loads the layers that `c` names below `w`.
    pub fn load(w: &Weights, c: &MlpConfig) -> Result<Mlp> {
        let [gate, up, down] = c.names;
        let inputs = [(gate, c.hidden), (up, c.hidden)];
        let inputs = match c.form {
            Form::Gated(_) => &inputs[..],
            Form::Plain(_) => &inputs[1..],
        };
        let inner_norm = c.inner_norm.map(|(name, eps)| Norm::rms(&w.pp(name), c.hidden, eps));
        Ok(Mlp {
            form: c.form,
            inputs: Projections::load(w, c.dim, inputs, c.bias)?,
            inner_norm: inner_norm.transpose()?,
            down: Linear::load(&w.pp(down), c.hidden, c.dim, c.bias)?,
            compile: w.backend().compile,
        })
    }

    /// block(norm(x)), or block(x) without a norm, for x [B, L, dim].
    pub fn forward(&self, norm: Option<&Norm>, x: &Array) -> Result<Array> {
        self.down.forward(&self.inner(norm, x)?).at("down_proj")
    }

    /// x + block(norm(x)), for x [B, L, dim].
    pub fn forward_add(&self, norm: &Norm, x: &Array) -> Result<Array> {
        match self.kernel(norm) {
            Some(kernel) => Ok(kernel.forward_add(x)?),
            None => self.down.forward_add(&self.inner(Some(norm), x)?, x).at("down_proj"),
        }
    }

    /// residual + block(x), for x and a residual [B, L, dim].
    pub fn forward_onto(&self, x: &Array, residual: &Array) -> Result<Array> {
        self.down.forward_add(&self.inner(None, x)?, residual).at("down_proj")
    }

    /// What goes into the last layer: [B, L, hidden].
    fn inner(&self, norm: Option<&Norm>, x: &Array) -> Result<Array> {
        let inputs = self.inputs.forward(norm, x).at("gate_up")?;
        let inner = match (self.form, &inputs[..]) {
            (Form::Gated(glu), [gate, up]) => glu.forward(gate, up, self.compile)?,
            (Form::Plain(act), [up]) => act.forward(up, self.compile)?,
            _ => return Err(crate::Error::Unsupported("an MLP of other layers".into())),
        };
        match &self.inner_norm {
            Some(norm) => norm.forward(&inner),
            None => Ok(inner),
        }
    }

    /// The block as the CPU kernels take it, if they do.
    fn kernel<'a>(&'a self, norm: &'a Norm) -> Option<kernels::Mlp<'a>> {
        let ([gate, up], Form::Gated(Glu::SILU), None) = (self.inputs.linears(), self.form, &self.inner_norm)
        else {
            return None;
        };
        Some(kernels::Mlp {
            norm: Some(norm.kernel()?),
            gate: gate.kernel()?,
            up: up.kernel()?,
            down: self.down.kernel()?,
        })
    }
}
