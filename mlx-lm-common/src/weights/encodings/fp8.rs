//! 8-bit floats with a scale for the whole tensor, for each expert, row or column, or for each block of a grid: `x_scale_inv` or
//! `x_scale` beside `x`. They become plain floats: w = q · s, in float32. Those whose scales are powers of two that whole runs of 32
//! columns share are MLX's mxfp8, and stay packed.

use super::{FLOATS, Settings, codes, part, source};
use crate::{
    Error, Result,
    weights::{Checkpoint, Derived, Encoding, Float8, Kept, Tensor},
};
use mlx_rs::{Array, Dtype, ops};

/// What blocks are where nobody says it.
const BLOCK: [i32; 2] = [128, 128];

pub(super) fn decode(checkpoint: &mut Checkpoint, settings: &Settings) -> Result<()> {
    let block = settings.block()?;
    let of = |t: &Tensor| match t {
        Tensor::Plain(t) if t.dtype == Dtype::Uint8 => t.float8,
        _ => None,
    };
    let weights: Vec<String> = checkpoint
        .iter()
        .filter(|(name, t)| {
            let bytes = t.dtype() == Some(Dtype::Uint8) && checkpoint.contains(&format!("{name}_scale_inv"));
            bytes || matches!(of(t), Some(Float8::E4m3 | Float8::E5m2))
        })
        .map(|(name, _)| name.to_string())
        .collect();
    for name in &weights {
        let weight = part(checkpoint, name.clone(), &[Dtype::Uint8], None)?;
        let short = of(&weight.1) == Some(Float8::E5m2);
        let scale = [format!("{name}_scale_inv"), format!("{name}_scale")].into_iter();
        let Some(scale) = scale.clone().find(|s| checkpoint.contains(s)).or_else(|| scale.last()) else {
            continue;
        };
        let scale = part(checkpoint, scale, &[&FLOATS[..], &[Dtype::Uint8]].concat(), None)?;
        let exponents = scale.1.dtype() == Some(Dtype::Uint8);
        if exponents && of(&scale.1) == Some(Float8::E4m3) {
            return Err(Error::tensor(scale.0, "scales that are 8-bit floats themselves are not supported"));
        }
        let shape = weight.1.shape().to_vec();
        let grid = match *scale.1.shape() {
            // ModelOpt's blocks.
            [down, 1, across, 1] if shape.len() == 2 => vec![down, across],
            ref shape => shape.to_vec(),
        };
        let Some(layout) = Layout::of(&shape, &grid, block) else {
            let (found, shown) = (scale.1.shape(), block.unwrap_or(BLOCK));
            let why = format!(
                "scales {found:?} fit no blocks of {shown:?} in {shape:?}, nor whole rows, columns or tensors"
            );
            return Err(Error::tensor(scale.0, why));
        };
        let stored =
            format!("{} 8-bit floats, {}", if short { "e5m2" } else { "e4m3" }, layout.in_words(&shape));
        if let ([.., columns], true) = (&shape[..], exponents && !short && layout.is_in_runs_of_32(&shape)) {
            let module = name.strip_suffix(".weight").unwrap_or(name);
            let groups = [&shape[..shape.len() - 1], &[columns / 32]].concat();
            let scales = Derived::new(vec![source(scale, 1)], groups, Dtype::Uint8, move |x| {
                let every = Array::arange::<_, i32>(None, shape[shape.len() - 1], 32)?;
                let all = layout.spread(&x[0].reshape(&grid)?, &shape)?;
                Ok(ops::broadcast_to(all, &shape)?.take_axis(every, -1)?)
            });
            checkpoint.put(format!("{module}.weight"), codes::as_words(name, weight.1)?)?;
            checkpoint.put(format!("{module}.scales"), Tensor::Derived(scales))?;
            checkpoint.note(module, Encoding { stored, kept: Kept::Packed("mxfp8".into()) });
            continue;
        }
        let why = "MLX has 8-bit floats with powers of two for groups of 32 alone".into();
        checkpoint.note(name.as_str(), Encoding { stored, kept: Kept::Widened(why) });
        let inputs = vec![source(weight, 1), source(scale, 1)];
        let floats = Derived::new(inputs, shape.clone(), Dtype::Float32, move |x| {
            let scale = if exponents { codes::e8m0(&x[1])? } else { x[1].as_dtype(Dtype::Float32)? };
            let values = if short { codes::e5m2(&x[0])? } else { codes::e4m3(&x[0])? };
            Ok(values.multiply(layout.spread(&scale.reshape(&grid)?, &shape)?)?)
        });
        checkpoint.put(name.clone(), Tensor::Derived(floats.with_float_type(None)))?;
    }
    Ok(())
}

/// How scales lie over a weight.
enum Layout {
    /// In this shape, each for all entries of an axis of size 1.
    Broadcast(Vec<i32>),
    /// One for each block of so many rows and columns.
    Blocks([i32; 2]),
}

impl Layout {
    fn of(weight: &[i32], scale: &[i32], block: Option<[i32; 2]>) -> Option<Layout> {
        if weight.contains(&0) || scale.contains(&0) {
            return None;
        }
        // One for each entry of the first axis: rows, or experts.
        if let [n] = *scale
            && weight.first() == Some(&n)
        {
            return Some(Layout::Broadcast([&[n], &vec![1; weight.len() - 1][..]].concat()));
        }
        if scale.iter().all(|n| *n == 1) {
            return Some(Layout::Broadcast(vec![]));
        }
        if scale.len() != weight.len() {
            return None;
        }
        if scale.iter().zip(weight).all(|(s, w)| *s == 1 || s == w) {
            return Some(Layout::Broadcast(scale.to_vec()));
        }
        let ([heads @ .., rows, columns], [others @ .., down, across]) = (weight, scale) else { return None };
        if heads != others {
            return None;
        }
        let needs = |block: [i32; 2]| {
            [(rows, block[0]), (columns, block[1])].map(|(n, size)| n / size + i32::from(n % size > 0))
        };
        if let Some(block) = block {
            // A grid may be padded.
            let [least_down, least_across] = needs(block);
            return (*down >= least_down && *across >= least_across).then_some(Layout::Blocks(block));
        }
        if needs(BLOCK) == [*down, *across] {
            return Some(Layout::Blocks(BLOCK));
        }
        (rows % down == 0 && columns % across == 0).then(|| Layout::Blocks([rows / down, columns / across]))
    }

    /// Whether each run of 32 columns of a weight of this shape has one scale.
    fn is_in_runs_of_32(&self, shape: &[i32]) -> bool {
        let [.., columns] = *shape else { return false };
        let alone = match self {
            Layout::Broadcast(shape) => shape.last().is_none_or(|n| *n == 1),
            Layout::Blocks([_, across]) => across % 32 == 0,
        };
        shape.len() > 1 && columns > 0 && columns % 32 == 0 && alone
    }

    fn in_words(&self, shape: &[i32]) -> String {
        match self {
            Layout::Blocks([down, across]) => format!("blocks of {down} x {across}"),
            Layout::Broadcast(scale) if scale.is_empty() => "one scale".into(),
            Layout::Broadcast(scale) if scale.last() == shape.last() => "a scale for each column".into(),
            Layout::Broadcast(scale) if shape.len() == 3 && scale.get(1) == Some(&1) => {
                "a scale for each expert".into()
            }
            Layout::Broadcast(_) => "a scale for each row".into(),
        }
    }

    /// The scales so that they can be multiplied with a weight of this shape.
    fn spread(&self, scale: &Array, weight: &[i32]) -> Result<Array> {
        let [down, across] = match self {
            Layout::Broadcast(shape) => return Ok(scale.reshape(shape)?),
            Layout::Blocks(block) => *block,
        };
        let [.., rows, columns] = *weight else { return Ok(scale.clone()) };
        let of = |n: i32, block: i32| (0..n).map(|i| i / block).collect::<Vec<_>>();
        let index = |n: i32, block: i32| Array::from_slice(&of(n, block), &[n]);
        Ok(scale.take_axis(index(columns, across), -1)?.take_axis(index(rows, down), -2)?)
    }
}
