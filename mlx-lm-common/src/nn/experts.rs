//! The experts of a mixture.

use super::{
    Form,
    linear::{plain, rotation, with_factor},
};
use crate::{
    Result, raw,
    weights::{Matrix, Weights},
};
use mlx_rs::{Array, ops};
use std::{cell::RefCell, collections::HashMap};

/// From so many (token, expert) pairs on, pairs are sorted by expert, so that each expert's weights are read once.
const SORT_FROM: usize = 64;

/// The sizes and options of [`Experts`]; [`ExpertsConfig::new`] gives the usual ones.
#[derive(Clone, Copy, Debug)]
pub struct ExpertsConfig {
    /// Width of what goes in and comes out.
    pub dim: i32,
    /// Width inside.
    pub hidden: i32,
    /// How many there are.
    pub count: i32,
    /// Whether their layers have biases.
    pub bias: bool,
    /// What happens inside each.
    pub form: Form,
    /// Names of gate (not read if there is none), up and down.
    pub names: [&'static str; 3],
}

impl ExpertsConfig {
    /// `count` experts of the form SwiGLU, without biases, from `gate_proj`, `up_proj` and `down_proj`.
    pub fn new(dim: i32, hidden: i32, count: i32) -> ExpertsConfig {
        let names = ["gate_proj", "up_proj", "down_proj"];
        ExpertsConfig { dim, hidden, count, bias: false, form: Form::Gated(super::Glu::SILU), names }
    }
}

/// Feed-forward blocks of one shape, of which each token goes to a few. Their matrices are stacked: [E, out, in].
#[derive(Clone, Debug)]
pub struct Experts {
    form: Form,
    /// Gate (if there is one) and up.
    inputs: Vec<SwitchLinear>,
    down: SwitchLinear,
    compile: bool,
}

impl Experts {
    /// Loads the stacked layers that `c` names below `w`.
    pub fn load(w: &Weights, c: &ExpertsConfig) -> Result<Experts> {
        let layer =
            |name: &str, input, output| SwitchLinear::load(&w.pp(name), &[c.count, output, input], c.bias);
        let [gate, up, down] = c.names;
        let inputs = match c.form {
            Form::Gated(_) => &[gate, up][..],
            Form::Plain(_) => &[up],
        };
        Ok(Experts {
            form: c.form,
            inputs: inputs.iter().map(|name| layer(name, c.dim, c.hidden)).collect::<Result<_>>()?,
            down: layer(down, c.hidden, c.dim)?,
            compile: w.backend().compile,
        })
    }

    /// The outputs of the experts `ids` [B, L, k] for x [B, L, dim], as [B, L, k, dim].
    pub fn forward(&self, x: &Array, ids: &Array) -> Result<Array> {
        let x = x.expand_dims_axes(&[-2, -3])?;
        if ids.size() < SORT_FROM {
            let [tokens, pairs] = numbers(ids.shape())?;
            let inner = self.inner(&x, Some(&tokens), ids, false)?;
            return Ok(self.down.forward(&inner, Some(&pairs), ids, false)?.squeeze_axes(&[-2])?);
        }
        let flat = ids.flatten(None, None)?;
        let order = ops::argsort(&flat)?;
        let k = Array::from_slice(&[ids.dim(-1) as u32], &[]);
        let rows = x.flatten(0, -3)?.take_axis(order.floor_divide(k)?, 0)?;
        let ids_in_order = flat.take_axis(&order, 0)?;
        let inner = self.inner(&rows, None, &ids_in_order, true)?;
        let y = self.down.forward(&inner, None, &ids_in_order, true)?;
        let shape = [ids.shape(), &[y.dim(-1)]].concat();
        Ok(y.take_axis(ops::argsort(&order)?, 0)?.reshape(&shape)?)
    }

    /// The sum of their outputs by `weights` [B, L, k], which are of x's type: [B, L, dim].
    pub fn mixed(&self, x: &Array, ids: &Array, weights: &Array) -> Result<Array> {
        let y = self.forward(x, ids)?;
        // One product reads the outputs once, where MLX would write them again to add them up.
        Ok(ops::matmul(weights.expand_dims(-2)?, y)?.squeeze_axes(&[-2])?)
    }

    /// What goes into the last layer.
    fn inner(&self, x: &Array, rows: Option<&Array>, ids: &Array, sorted: bool) -> Result<Array> {
        // Gate and up turn it alike.
        let turned = self.inputs.iter().find_map(|layer| rotation(&layer.weight));
        let turned = turned.map(|rotation| rotation.forward(x)).transpose()?;
        let layer = |layer: &SwitchLinear| match (&turned, &layer.weight) {
            (Some(turned), Matrix::Rotated(r)) => layer.finish(r.gather(turned, rows, ids)?, x, ids),
            _ => layer.forward(x, rows, ids, sorted),
        };
        match (self.form, &self.inputs[..]) {
            (Form::Gated(glu), [gate, up]) => glu.forward(&layer(gate)?, &layer(up)?, self.compile),
            (Form::Plain(act), [up]) => act.forward(&layer(up)?, self.compile),
            _ => Err(crate::Error::Unsupported("experts of other layers".into())),
        }
    }
}

/// For ids [B, L, k] the number of each one's token and its own: what MLX would compute anew for every matrix.
fn numbers(shape: &[i32]) -> Result<[Array; 2]> {
    thread_local! {
        static NUMBERS: RefCell<HashMap<Vec<i32>, [Array; 2]>> = RefCell::default();
    }
    if let Some(numbers) = NUMBERS.with_borrow(|known| known.get(shape).cloned()) {
        return Ok(numbers);
    }
    let k = shape.last().map_or(1, |&k| k.max(1) as usize);
    let pairs = shape.iter().product();
    let array = |every: usize| {
        // Views of a block that CUDA keeps on the device, which it would not for the smallest ones.
        let all: Vec<u32> = (0..SORT_FROM).map(|i| (i / every) as u32).collect();
        constant(raw::slice(&Array::from_slice(&all, &[SORT_FROM as i32]), 0, 0, pairs)?.reshape(shape)?)
    };
    let numbers = [array(k)?, array(1)?];
    NUMBERS.with_borrow_mut(|known| known.insert(shape.to_vec(), numbers.clone()));
    Ok(numbers)
}

/// A linear layer for each expert.
#[derive(Clone, Debug)]
struct SwitchLinear {
    /// Packed or turned [E, out, in], or dense [E, in, out].
    weight: Matrix,
    /// [E, 1, out]
    bias: Option<Array>,
}

impl SwitchLinear {
    fn load(w: &Weights, shape: &[i32; 3], bias: bool) -> Result<SwitchLinear> {
        let compute = w.backend().compute;
        let weight = match plain(w.matrix(shape, Some(compute))?, compute)? {
            // A view; taken here, it is no node of every step's graph. Experts in order of the rows that they are given are wrong with
            // a view on CUDA (ml-explore/mlx#4253).
            Matrix::Dense(weight) => {
                let weight = weight.swap_axes(-1, -2)?;
                let copied = w.backend().device.is_cuda();
                Matrix::Dense(constant(if copied { weight.contiguous()? } else { weight })?)
            }
            packed => packed,
        };
        let bias = bias.then(|| constant(w.tensor("bias", &shape[..2])?.expand_dims(-2)?)).transpose()?;
        Ok(SwitchLinear { weight, bias })
    }

    /// x[rows] · W[ids]ᵀ + b[ids].
    fn forward(&self, x: &Array, rows: Option<&Array>, ids: &Array, sorted: bool) -> Result<Array> {
        let y = match &self.weight {
            Matrix::Dense(w) => ops::gather_mm(x, w, rows, ids, sorted)?,
            Matrix::Packed(p) => {
                let biases = p.biases.as_ref();
                // One for each expert, as the bias.
                let factor = p.factor.as_ref().map(|f| match f.dim(0) {
                    1 => Ok(f.clone()),
                    _ => f.take_axis(ids, 0)?.expand_dims(-2),
                });
                with_factor(x, factor.transpose()?.as_ref(), |x| {
                    let to = (rows, ids);
                    Ok(raw::gather_qmm(x, &p.weight, &p.scales, biases, to, p.format(), sorted)?)
                })?
            }
            Matrix::Rotated(r) => r.gather(&r.rotation.forward(x)?, rows, ids)?,
        };
        self.finish(y, x, ids)
    }

    /// The product y with the bias, in x's type.
    fn finish(&self, y: Array, x: &Array, ids: &Array) -> Result<Array> {
        let y = if y.dtype() == x.dtype() { y } else { y.as_dtype(x.dtype())? };
        Ok(match &self.bias {
            Some(b) => y.add(b.take_axis(ids, 0)?)?,
            None => y,
        })
    }
}

/// The array, computed: no node of a step's graph.
pub(super) fn constant(array: Array) -> Result<Array> {
    array.eval()?;
    Ok(array)
}
