//! Which architecture a `model_type` names.

use super::LanguageModel;
use crate::{
    Config, Error, Result,
    weights::{Checkpoint, Weights},
};

/// Brings a layout of a checkpoint into another.
pub type Rewrite = fn(&mut Checkpoint, &Config) -> Result<()>;

/// An architecture: how its published layouts become one, and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// The `model_type` of its configurations.
    pub model_type: &'static str,
    /// Brings a published layout into the one that mlx-lm writes. Does nothing to that one.
    pub remap: Rewrite,
    /// Brings mlx-lm's layout into the one that `load` reads, where the two differ. Does nothing to what needs nothing.
    pub fold: Rewrite,
    /// Builds the model.
    pub load: fn(&Config, &Weights) -> Result<Box<dyn LanguageModel>>,
    /// What mlx-lm does when it writes such a model.
    pub written: Written,
}

/// What mlx-lm does when it writes a model of an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// What comes before the names of `remap`'s layout, if the configuration is of this architecture itself; the text part of a
    /// larger model gets [`Written::WRAPPED`].
    pub prefix: &'static str,
    /// How modules end that are quantized in 8 bits and groups of 64, whatever the others are: routers, as a rule.
    pub eight_bits: &'static [&'static str],
    /// How modules end that are never quantized.
    pub floats: &'static [&'static str],
    /// What is in the names of tensors that keep their type, whatever the others become.
    pub keeps_type: &'static [&'static str],
}

impl Written {
    /// All alike.
    pub const PLAIN: Written = Written { prefix: "", eight_bits: &[], floats: &[], keeps_type: &[] };

    /// What comes before the names of a text model that is a part of a larger one.
    pub const WRAPPED: &'static str = "language_model.";
}

impl Architecture {
    /// An architecture that is read as mlx-lm writes it, in which all is alike.
    pub const fn new(
        model_type: &'static str,
        remap: Rewrite,
        load: fn(&Config, &Weights) -> Result<Box<dyn LanguageModel>>,
    ) -> Architecture {
        Architecture { model_type, remap, fold: |_, _| Ok(()), load, written: Written::PLAIN }
    }

    /// The same with [`Architecture::fold`].
    pub const fn fold(self, fold: Rewrite) -> Architecture {
        Architecture { fold, ..self }
    }

    /// The same with [`Architecture::written`].
    pub const fn written(self, written: Written) -> Architecture {
        Architecture { written, ..self }
    }

    /// The same as a model that holds others beside its text model, and says so in the names of that.
    pub const fn wrapper(self) -> Architecture {
        Architecture { written: Written { prefix: Written::WRAPPED, ..self.written }, ..self }
    }

    /// Brings a published layout into the one that `load` reads.
    ///
    /// # Errors
    /// Those of [`Architecture::remap`] and [`Architecture::fold`].
    pub fn rewrite(&self, checkpoint: &mut Checkpoint, config: &Config) -> Result<()> {
        (self.remap)(checkpoint, config)?;
        (self.fold)(checkpoint, config)
    }
}

/// A set of architectures, looked up by `model_type`.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    architectures: Vec<Architecture>,
}

impl Registry {
    /// A registry of these architectures.
    pub fn new(architectures: &[Architecture]) -> Registry {
        Registry { architectures: architectures.to_vec() }
    }

    /// Adds an architecture; one of the same name gives way to it.
    pub fn register(&mut self, architecture: Architecture) {
        self.architectures.retain(|a| a.model_type != architecture.model_type);
        self.architectures.push(architecture);
    }

    /// All names, sorted.
    pub fn model_types(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.architectures.iter().map(|a| a.model_type).collect();
        names.sort_unstable();
        names
    }

    /// The architecture of `model_type`.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], with the names that look most alike.
    pub fn get(&self, model_type: &str) -> Result<&Architecture> {
        self.architectures.iter().find(|a| a.model_type == model_type).ok_or_else(|| {
            let found: String = model_type.chars().take(80).collect();
            let mut near: Vec<_> = self.model_types().into_iter().map(|n| (distance(n, &found), n)).collect();
            near.sort_unstable();
            let near = near.into_iter().filter(|(d, _)| *d <= found.len().max(4) / 2).take(3);
            Error::UnknownModel { near: near.map(|(_, n)| n.to_string()).collect(), found }
        })
    }
}

/// Edits (insert, delete, replace) between two names.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
