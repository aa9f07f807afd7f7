//! The verbs of [`Checkpoint`] beyond names: see the list in its module.

mod join;
mod shape;
mod split;
mod values;

use super::Checkpoint;
use crate::Result;

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Weight,
    Scales,
    Biases,
    Bias,
    /// One for all of a matrix, or for each of a stack, or for each row.
    GlobalScale,
    /// How many bits the codes of `weight` have, of JANGTQ: the same for every row.
    CodeBits,
}

impl Part {
    /// How a name ends that names this part.
    fn suffix(self) -> &'static str {
        match self {
            Part::Weight => ".weight",
            Part::Scales => ".scales",
            Part::Biases => ".biases",
            Part::Bias => ".bias",
            Part::GlobalScale => ".global_scale",
            Part::CodeBits => ".tq_bits",
        }
    }
}

/// A tensor of a module: its name, what comes before the module's name, and which part it is.
struct Member {
    name: String,
    head: String,
    part: Part,
}

impl Member {
    /// The name of the same part of another module.
    fn of(&self, module: &str) -> String {
        format!("{}{module}{}", self.head, self.part.suffix())
    }
}

/// What belongs to the modules whose path ends in `module`.
fn members(checkpoint: &Checkpoint, module: &str) -> Vec<Member> {
    let member = |name: &str| {
        let parts = [Part::Weight, Part::Scales, Part::Biases, Part::Bias, Part::GlobalScale, Part::CodeBits];
        let parts = parts.map(|p| (p.suffix(), p));
        // Stacked experts are published as plain parameters.
        let parts = parts.into_iter().chain([("_bias", Part::Bias), ("", Part::Weight)]);
        parts.into_iter().find_map(|(suffix, part)| {
            let head = name.strip_suffix(suffix)?.strip_suffix(module)?;
            let whole = head.is_empty() || head.ends_with('.');
            whole.then(|| Member { name: name.into(), head: head.into(), part })
        })
    };
    checkpoint.iter().filter_map(|(name, _)| member(name)).collect()
}

/// The shape [.., out] of the rows of the weight that `member` of `module` belongs to.
fn rows_of<'a>(checkpoint: &'a Checkpoint, member: &Member, module: &str) -> Option<&'a [i32]> {
    let weight = format!("{}{module}{}", member.head, Part::Weight.suffix());
    checkpoint.get(&weight)?.shape().split_last().map(|(_, rows)| rows)
}

impl Checkpoint {
    /// Calls the modules `from` (the end of a path) `to`.
    ///
    /// # Errors
    /// [`Error::Tensor`](crate::Error::Tensor) if two tensors would have the same name.
    pub fn rename_module(&mut self, from: &str, to: &str) -> Result<()> {
        let found = members(self, from);
        // Of what is missing, files would have the published name, unless they have the other one elsewhere.
        if !found.is_empty() || members(self, to).is_empty() {
            self.aliases.module(from, to);
        }
        for member in found {
            let new = member.of(to);
            if let Some(tensor) = self.take(&member.name) {
                self.put(new, tensor)?;
            }
        }
        Ok(())
    }

    /// Of a model that also sees or hears, keeps the text part: `language_model.model.x` and `model.language_model.x` become
    /// `model.x`, `language_model.lm_head` becomes `lm_head`, and the other towers and their projections go. Does nothing to a
    /// text model.
    ///
    /// # Errors
    /// As [`Checkpoint::rename`].
    pub fn keep_text(&mut self) -> Result<()> {
        const OTHERS: [&str; 10] = [
            "audio_tower",
            "embed_audio",
            "embed_vision",
            "mm_projector",
            "multi_modal_projector",
            "vision_embedder",
            "vision_encoder",
            "vision_model",
            "vision_tower",
            "visual",
        ];
        self.ignore(|name| {
            let first = name.strip_prefix("model.").unwrap_or(name).split('.').next();
            first.is_some_and(|first| OTHERS.contains(&first))
        });
        self.rename_prefix("model.language_model.", "model.")?;
        self.rename_prefix("language_model.", "")
    }
}
