//! Which matrix gets which format.

use super::{Format, Module, Recipe, recipe::Layers};
use crate::{Error, Result, model::Written, raw::Mode};

/// What becomes of a model's matrices in mlx-lm's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// They stay as they are stored.
    Keep,
    /// Packed ones become floats.
    Dequantize,
    /// Those of floats are packed, as mlx-lm does it.
    Quantize {
        /// Of all that nothing else is said of.
        format: Format,
        /// Gives widths by layer, and takes the place of the architecture's own exceptions.
        recipe: Option<Recipe>,
    },
}

/// What becomes of one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It stays as it is stored.
    Keep,
    /// It becomes floats.
    Float,
    /// It is packed in this format.
    Pack(Format),
}

impl Plan {
    /// A plan that packs in `format`, by a recipe if one is given.
    ///
    /// # Errors
    /// [`Error::Parameter`] for a recipe with another mode than affine.
    pub fn quantize(format: Format, recipe: Option<Recipe>) -> Result<Plan> {
        if recipe.is_some() && format.mode != Mode::Affine {
            let found = format.mode.name().to_string();
            return Err(Error::Parameter { name: "mode of a mixed recipe", found, wanted: "affine".into() });
        }
        Ok(Plan::Quantize { format, recipe })
    }

    /// What becomes of each of `modules`, in their order. As in mlx-lm, matrices stay floats whose rows are not whole groups of the
    /// plan's own format; `repack` says that packed ones are packed anew.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is nothing to pack, or nothing that a recipe is about.
    pub(super) fn choices(self, modules: &[Module], written: &Written, repack: bool) -> Result<Vec<Choice>> {
        let is_float = |m: &Module| ends_in_one(&m.path, written.floats);
        // mlx-lm has no place for the scales of these.
        let keep = |m: &Module| if m.is_packed && is_float(m) { Choice::Float } else { Choice::Keep };
        let (format, recipe) = match self {
            Plan::Keep => return Ok(modules.iter().map(keep).collect()),
            Plan::Dequantize => return Ok(vec![Choice::Float; modules.len()]),
            Plan::Quantize { format, recipe } => (format, recipe),
        };
        let paths = modules.iter().map(|m| m.path.as_str());
        let recipe = recipe.map(|recipe| Layers::find(paths).map(|layers| (recipe, layers))).transpose()?;
        let own = |m: &Module| match recipe {
            _ if is_float(m) => None,
            Some((recipe, layers)) => Some(recipe.format(&m.path, layers, format.group)),
            None if ends_in_one(&m.path, written.eight_bits) => Some(Format::ROUTER),
            None => Some(format),
        };
        let choose = |module: &Module| match own(module) {
            _ if module.is_packed && !repack => keep(module),
            Some(own) if format.fits(module.columns) && own.fits(module.columns) => Choice::Pack(own),
            _ => Choice::Float,
        };
        let choices: Vec<Choice> = modules.iter().map(choose).collect();
        if choices.iter().any(|choice| matches!(choice, Choice::Pack(_))) {
            return Ok(choices);
        }
        Err(Error::Unsupported(if modules.iter().any(|m| m.is_packed) {
            "the model is quantized already: convert the original, or dequantize this one first".into()
        } else {
            format!("no matrix of the model has rows that are whole groups of {}", format.group)
        }))
    }
}

/// Whether a path ends in one of `ends`, which may begin within a segment: `switch_mlp.down_proj` ends in `mlp.down_proj`, as in mlx-lm.
pub(super) fn ends_in_one(path: &str, ends: &[&str]) -> bool {
    ends.iter().any(|end| path.ends_with(end))
}
