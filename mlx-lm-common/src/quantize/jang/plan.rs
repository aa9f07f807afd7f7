//! What becomes of each published tensor: under which name, quantized or not, alone or with others.

use super::{
    Profile,
    allocate::{Item, Traits, allocate},
};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A published tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    /// Its name.
    pub name: String,
    /// Sizes of its axes.
    pub shape: Vec<i32>,
}

/// What is to be written, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Each with all its tensors.
    pub pieces: Vec<Piece>,
    /// The group of most matrices.
    pub group: i32,
    /// Routed experts, or 0.
    pub experts: u64,
    /// Bits of a value on average, over all tensors that could be quantized.
    pub average: f64,
    /// Widths that were allotted.
    pub widths: BTreeSet<u8>,
}

/// One module, or two that were one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    /// Published tensors: one, or one for each expert, which are stacked.
    pub sources: Vec<String>,
    /// Names of what is written: of modules if quantized, of a tensor if not. Of two, each has half of the rows.
    pub to: Vec<String>,
    /// What is done.
    pub form: Form,
}

/// What is done to values.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// They are quantized.
    Quantized {
        /// Bits a value.
        bits: u8,
        /// Values that share a scale.
        group: i32,
    },
    /// They stay floats, with axes in this order if one is given.
    Plain(Option<&'static [i32]>),
}

/// The group of matrices, if nothing else is better.
const GROUP: i32 = 64;

/// From so many experts on, larger groups are faster.
const LARGE_GROUP: (u64, i32) = (150, 128);

/// Stacks of matrices with fewer values stay floats.
const SMALL_STACK: u64 = 100_000;

/// Parts of a vision tower.
const VISION: [&str; 4] = [".visual.", "vision_model", "vision_encoder", "embed_vision"];

/// Filters that images or their positions go through.
const FILTERS: [&str; 3] = ["patch_embed", "temporal_embed", "patch_conv"];

impl Plan {
    /// What becomes of `sources`, in the order of their files, of a model with this configuration, as it was published.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a gap among experts, [`Error::Tensor`] for experts that the format has no layout for.
    pub(super) fn new(profile: Profile, config: &Value, sources: &[Source]) -> Result<Plan> {
        let experts = experts(config);
        let group = general_group(config, experts);
        let is_tied = text_key(config, "tie_word_embeddings").as_bool().unwrap_or(false)
            || config["tie_word_embeddings"].as_bool().unwrap_or(false);
        let could_be: Vec<&Source> = sources.iter().filter(|s| is_allotted(s, is_tied)).collect();
        let names: Vec<String> = could_be.iter().map(|s| as_published(&s.name)).collect();
        let blocks = could_be.iter().map(|s| s.size().div_ceil(group as u64));
        let items: Vec<Item> = names.iter().zip(blocks).map(|(name, blocks)| Item { name, blocks }).collect();
        let activation = [text_key(config, "mlp_hidden_act"), &config["mlp_hidden_act"]];
        let squares = activation.iter().any(|act| {
            act.as_str().is_some_and(|a| ["relu2", "squared_relu"].contains(&a.to_lowercase().as_str()))
        });
        let is_gateless = squares && experts > 0 && !items.iter().any(|item| item.name.contains("gate_proj"));
        let widths = allocate(profile, Traits { experts, is_gateless }, &items);
        let total: u64 = items.iter().map(|item| item.blocks).sum();
        let bits: u64 = items.iter().zip(&widths).map(|(item, bits)| item.blocks * u64::from(*bits)).sum();
        let allotted: BTreeMap<&str, u8> = could_be.iter().map(|s| s.name.as_str()).zip(widths).collect();
        let planner = Planner {
            experts,
            group,
            is_gateless,
            is_wrapped: sources.iter().any(|s| is_wrapped(&s.name)),
            hidden_size: text_key(config, "hidden_size").as_i64().or(config["hidden_size"].as_i64()),
            allotted: &allotted,
        };
        let dropped = |s: &&Source| !is_left_out(&s.name, is_tied);
        let pieces = planner.pieces(sources.iter().filter(dropped))?;
        Ok(Plan {
            pieces,
            group,
            experts,
            average: bits as f64 / total.max(1) as f64,
            widths: allotted.into_values().collect(),
        })
    }
}

impl Source {
    fn size(&self) -> u64 {
        self.shape.iter().fold(1, |n, d| n * (*d).max(0) as u64)
    }
}

/// A key of the text part, or the same of all, or null.
fn text_key<'a>(config: &'a Value, key: &str) -> &'a Value {
    let inner = &config["text_config"][key];
    if inner.is_null() { &config[key] } else { inner }
}

/// Routed experts of a model with this configuration, or 0.
fn experts(config: &Value) -> u64 {
    let keys = ["num_local_experts", "num_experts", "n_routed_experts"];
    let mut counts =
        keys.iter().filter_map(|key| config.get(*key).or_else(|| config["text_config"].get(*key)));
    let count = counts.find(|count| !count.is_null()).and_then(Value::as_u64);
    count.filter(|n| *n > 1).unwrap_or(0)
}

/// The group of most matrices. Where latent attention takes one apart by heads, groups end with them.
fn general_group(config: &Value, experts: u64) -> i32 {
    let (many, large) = LARGE_GROUP;
    let head = config.get("qk_nope_head_dim").unwrap_or(&config["text_config"]["qk_nope_head_dim"]);
    let is_even = head.as_i64().is_none_or(|head| head % i64::from(large) == 0);
    if experts >= many && is_even { large } else { GROUP }
}

/// The largest group up to `wanted` that rows consist of.
fn group_of_rows(columns: i32, wanted: i32) -> Option<i32> {
    [128, 64, 32].into_iter().find(|group| *group <= wanted && columns > 0 && columns % group == 0)
}

/// Whether this belongs to a model around a text model, whose parts get names of their own.
pub(super) fn is_wrapped(name: &str) -> bool {
    name.starts_with("model.language_model.") || name.starts_with("model.visual")
}

fn is_vision(name: &str) -> bool {
    let name = name.to_lowercase();
    name.starts_with("model.visual")
        || name.starts_with("vision_tower")
        || VISION.iter().any(|part| name.contains(part))
}

/// What a bundle does not have: what calibration or other encodings leave beside weights, and a head that is the embedding.
fn is_left_out(name: &str, is_tied: bool) -> bool {
    name.ends_with(".importance")
        || name.contains("_scale_inv")
        || name.contains("activation_scale")
        || is_tied && name.contains("lm_head")
}

/// Whether this counts among the tensors that may be quantized.
fn is_allotted(source: &Source, is_tied: bool) -> bool {
    let name = source.name.as_str();
    let is_small = source.shape.len() > 2 && source.size() < SMALL_STACK;
    source.shape.len() >= 2
        && !is_small
        && !name.contains("norm")
        && !name.to_lowercase().contains("layernorm")
        && !name.to_lowercase().contains("rmsnorm")
        && !name.ends_with(".bias")
        && !name.ends_with(".layer_scalar")
        && !is_left_out(name, is_tied)
        && !is_vision(name)
}

/// The name that experts would have as they are published, of experts that MLX's tools have stacked.
fn as_published(name: &str) -> String {
    name.replace("experts.switch_glu.", "experts.")
        .replace("switch_mlp.fc1.", "experts.up_proj.")
        .replace("switch_mlp.fc2.", "experts.down_proj.")
        .replace("switch_mlp.", "experts.")
}

/// Whether this decides which experts a token goes to, or how much of the shared one it gets.
fn is_router(name: &str) -> bool {
    let name = name.to_lowercase();
    name.contains("shared_expert_gate.weight") || name.contains(".gate.weight") && !name.contains("gate_proj")
}

/// Whether this is a state of a recurrence or a short convolution, which stays as it is.
fn is_state(name: &str) -> bool {
    name.ends_with("conv1d.weight") || matches!(name.rsplit('.').next(), Some("A_log" | "D" | "dt_bias"))
}

/// How the axes of a filter are to be ordered for MLX, which has channels last.
fn axes(name: &str, shape: &[i32]) -> Option<&'static [i32]> {
    let is_patch = name.ends_with("patch_embed.proj.weight")
        && matches!(shape.get(1), Some(1 | 3))
        && !matches!(shape.last(), Some(1 | 3));
    match shape.len() {
        3 if name.ends_with("conv1d.weight") && shape[2] != 1 => Some(&[0, 2, 1]),
        4 if is_patch => Some(&[0, 2, 3, 1]),
        5 if is_patch => Some(&[0, 2, 3, 4, 1]),
        _ => None,
    }
}

struct Planner<'a> {
    experts: u64,
    group: i32,
    is_gateless: bool,
    is_wrapped: bool,
    hidden_size: Option<i64>,
    allotted: &'a BTreeMap<&'a str, u8>,
}

/// Experts of one stack by number, and where the stack is among the pieces.
type Stack<'a> = (usize, BTreeMap<u32, &'a Source>);

impl Planner<'_> {
    fn pieces<'a>(&self, sources: impl Iterator<Item = &'a Source>) -> Result<Vec<Piece>> {
        let (mut pieces, mut stacks) = (Vec::new(), BTreeMap::<String, Stack>::new());
        for source in sources {
            match expert(&source.name) {
                Some((prefix, number, matrix)) if self.allotted.contains_key(source.name.as_str()) => {
                    let name = format!("{}.switch_mlp.{}", self.renamed(prefix), self.stacked(matrix));
                    let (_, experts) = stacks.entry(name.clone()).or_insert_with(|| {
                        let form = Form::Plain(None);
                        pieces.push(Piece { sources: Vec::new(), to: vec![name], form });
                        (pieces.len() - 1, BTreeMap::new())
                    });
                    experts.insert(number, source);
                }
                _ => pieces.push(self.piece(source)?),
            }
        }
        for (at, experts) in stacks.into_values() {
            self.stack(&mut pieces[at], experts)?;
        }
        Ok(pieces)
    }

    /// What becomes of one tensor.
    fn piece(&self, source: &Source) -> Result<Piece> {
        let (name, shape) = (source.name.as_str(), &source.shape);
        let to = self.renamed(name);
        let is_filter = FILTERS.iter().any(|part| name.to_lowercase().contains(part));
        let stays = is_filter && name.to_lowercase().contains(".weight")
            || is_state(name)
            || self.experts > 0 && is_router(name);
        let bits = self.allotted.get(name).filter(|_| !stays);
        let sources = vec![name.to_string()];
        let (Some(bits), Some(group)) = (bits, self.group_of(source)) else {
            return Ok(Piece { sources, to: vec![to], form: Form::Plain(axes(name, shape)) });
        };
        let base = to.strip_suffix(".weight").unwrap_or(&to).to_string();
        let to = match base.rsplit_once(".experts.") {
            Some((head, "gate_up_proj")) if shape.len() == 3 => {
                if self.hidden_size.is_some_and(|size| size != i64::from(shape[2])) || shape[1] % 2 != 0 {
                    let why = "is no stack of gates and of what they gate, one below the other, which a JANG bundle has apart";
                    return Err(Error::tensor(name, why));
                }
                ["gate_proj", "up_proj"].map(|half| format!("{}.{half}", switch(head))).into()
            }
            Some((head, "down_proj")) if shape.len() == 3 => vec![format!("{}.down_proj", switch(head))],
            _ => vec![base],
        };
        Ok(Piece { sources, to, form: Form::Quantized { bits: *bits, group } })
    }

    /// What becomes of experts that were published one by one: all of a stack have the greatest width that one of them was given.
    fn stack(&self, piece: &mut Piece, experts: BTreeMap<u32, &Source>) -> Result<()> {
        let mut bits = 0;
        let mut first = None::<&Source>;
        for (i, (number, source)) in experts.into_iter().enumerate() {
            if number as usize != i {
                let missing = source.name.replacen(&format!(".{number}."), &format!(".{i}."), 1);
                return Err(Error::MissingTensor(missing));
            }
            let wanted = first.get_or_insert(source);
            if source.shape != wanted.shape {
                let (found, wanted) = (source.shape.clone(), wanted.shape.clone());
                return Err(Error::Shape { name: source.name.clone(), found, wanted });
            }
            bits = bits.max(self.allotted.get(source.name.as_str()).copied().unwrap_or_default());
            piece.sources.push(source.name.clone());
        }
        match first.and_then(|source| self.group_of(source)) {
            Some(group) => piece.form = Form::Quantized { bits, group },
            None => piece.to.iter_mut().for_each(|name| name.push_str(".weight")),
        }
        Ok(())
    }

    fn group_of(&self, source: &Source) -> Option<i32> {
        let name = source.name.to_lowercase();
        let is_gate =
            name.contains(".gate.") || name.ends_with(".gate") || name.contains("shared_expert_gate");
        let wanted = if is_gate { GROUP } else { self.group };
        group_of_rows(source.shape.last().copied().unwrap_or_default(), wanted)
    }

    /// The name of a matrix of experts where all are stacked.
    fn stacked<'n>(&self, matrix: &'n str) -> &'n str {
        match matrix {
            "w3" | "up_proj" if self.is_gateless => "fc1",
            "w2" | "down_proj" if self.is_gateless => "fc2",
            "w1" => "gate_proj",
            "w2" => "down_proj",
            "w3" => "up_proj",
            other => other,
        }
    }

    /// The name that a tensor has where a model runs.
    fn renamed(&self, name: &str) -> String {
        if let Some(rest) = name.strip_prefix("model.language_model.") {
            return format!("language_model.model.{rest}");
        }
        if let Some(rest) = name.strip_prefix("model.visual") {
            return format!("vision_tower{rest}");
        }
        if self.is_wrapped && name.starts_with("lm_head.") {
            return format!("language_model.{name}");
        }
        for (from, to) in [("w1", "gate_proj"), ("w2", "down_proj"), ("w3", "up_proj")] {
            let from = format!(".feed_forward.{from}.weight");
            if name.contains(&from) {
                return name.replace(&from, &format!(".feed_forward.{to}.weight"));
            }
        }
        name.into()
    }
}

/// Where the experts of the block `head` are: in a module of their own, unless the block has them itself.
fn switch(head: &str) -> String {
    let is_layer = head.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if is_layer { format!("{head}.experts.switch_glu") } else { format!("{head}.switch_mlp") }
}

/// Block, number and matrix of an expert that was published alone.
fn expert(name: &str) -> Option<(&str, u32, &str)> {
    let (head, matrix) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let (prefix, number) = head.rsplit_once(".experts.")?;
    let known = ["w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"].contains(&matrix);
    (known && !prefix.is_empty()).then_some((prefix, number.parse().ok()?, matrix))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
