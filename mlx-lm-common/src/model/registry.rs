//! Which architecture a `model_type` names.

use super::LanguageModel;
use crate::{
    Config, Error, Result,
    weights::{Checkpoint, Weights},
};

/// An architecture: how its published layouts become one, and how it is built.
#[derive(Clone, Copy, Debug)]
pub struct Architecture {
    /// The `model_type` of its configurations.
    pub model_type: &'static str,
    /// Brings a published layout into the one that `load` reads.
    pub remap: fn(&mut Checkpoint, &Config) -> Result<()>,
    /// Builds the model.
    pub load: fn(&Config, &Weights) -> Result<Box<dyn LanguageModel>>,
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
