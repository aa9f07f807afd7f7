//! mlx-lm's recipes of two widths.

use crate::{Error, Result, raw::Mode};

use super::Format;

/// A recipe of mlx-lm: what matters most gets more bits than the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Bits of most matrices.
    pub low: i32,
    /// Bits of heads, and of values and down-projections in the first and last eighth of the layers and every third between.
    pub high: i32,
}

/// Names of recipes.
const RECIPES: [(&str, Recipe); 4] = [
    ("mixed_2_6", Recipe { low: 2, high: 6 }),
    ("mixed_3_4", Recipe { low: 3, high: 4 }),
    ("mixed_3_6", Recipe { low: 3, high: 6 }),
    ("mixed_4_6", Recipe { low: 4, high: 6 }),
];

/// Where layers are numbered in a model's paths, and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layers {
    /// Which segment is the number.
    segment: usize,
    count: usize,
}

impl Recipe {
    /// The recipe of this name.
    ///
    /// # Errors
    /// [`Error::Parameter`] for another name.
    pub fn named(name: &str) -> Result<Recipe> {
        RECIPES.iter().find(|(known, _)| *known == name).map(|(_, recipe)| *recipe).ok_or_else(|| {
            let wanted = RECIPES.map(|(known, _)| known).join(", ");
            Error::Parameter { name: "recipe", found: name.into(), wanted }
        })
    }

    /// The format of the module `path`.
    pub(super) fn format(self, path: &str, layers: Layers, group: i32) -> Format {
        let index = path.split('.').nth(layers.segment).and_then(|s| s.parse().ok()).unwrap_or(0);
        let (eighth, last) = (layers.count / 8, 7 * layers.count / 8);
        let matters = index < eighth || index >= last || (index - eighth) % 3 == 2;
        let values = ["v_proj", "v_a_proj", "v_b_proj", "down_proj"].iter().any(|part| path.contains(part));
        let bits = if values && matters || path.contains("lm_head") { self.high } else { self.low };
        Format { mode: Mode::Affine, bits, group }
    }
}

impl Layers {
    /// Finds them by a down-projection, which recipes are about.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a model that has none.
    pub(super) fn find<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Result<Layers> {
        let number =
            |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<usize>().ok()).flatten();
        let down = paths.clone().find(|path| path.contains("down_proj"));
        let segment = down.and_then(|path| path.split('.').position(|s| number(s).is_some()));
        let Some(segment) = segment else {
            return Err(Error::Unsupported(
                "mixed recipes are for models whose layers have a `down_proj`: leave the recipe out".into(),
            ));
        };
        let largest = paths.filter_map(|path| path.split('.').nth(segment).and_then(number)).max();
        Ok(Layers { segment, count: largest.map_or(0, |n| n.saturating_add(1)) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_matters_gets_more() {
        let paths: Vec<String> = (0..16).map(|i| format!("model.layers.{i}.mlp.down_proj")).collect();
        let layers = Layers::find(paths.iter().map(String::as_str)).unwrap();
        let recipe = Recipe::named("mixed_3_6").unwrap();
        let bits = |path: &str| recipe.format(path, layers, 64).bits;
        let high: Vec<usize> = (0..16).filter(|i| bits(&paths[*i]) == 6).collect();
        // What mlx-lm's rule gives for 16 layers.
        assert_eq!(high, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert_eq!((bits("lm_head"), bits("model.embed_tokens")), (6, 3));
        assert_eq!(bits("model.layers.0.self_attn.v_proj"), 6);
        assert_eq!(bits("model.layers.0.self_attn.q_proj"), 3);
        assert!(Layers::find(["model.layers.0.mlp.fc1"].into_iter()).is_err());
        assert!(Recipe::named("mixed_1_2").is_err());
    }
}
