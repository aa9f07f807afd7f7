//! A checkpoint before any tensor is read: names and places, whatever the container, and the verbs that bring published layouts
//! into the one that architectures read.
//!
//! Nothing is read here: a verb changes names and places, or notes what is to be computed when a tensor is asked for. Verbs do
//! nothing where they find nothing, so one list of them serves every layout of an architecture, MLX's own included.
//!
//! Some verbs name single tensors, by a function of the full name:
//!
//! | verb | |
//! |---|---|
//! | [`ignore`](Checkpoint::ignore)`(which)` | leaves tensors out |
//! | [`rename`](Checkpoint::rename)`(to)` | gives new names |
//! | [`rename_prefix`](Checkpoint::rename_prefix)`(from, to)` | `from…` becomes `to…` |
//! | [`keep_text`](Checkpoint::keep_text)`()` | the text model of a vision or audio model: its names without the wrapper's prefix |
//! | [`transpose`](Checkpoint::transpose)`(which)` | swaps the last two axes |
//! | [`conv_to_mlx`](Checkpoint::conv_to_mlx)`(which)` | `[C, 1, K]` becomes `[C, K, 1]` |
//! | [`reshape`](Checkpoint::reshape)`(which, shape)` | the same values in another shape |
//! | [`add`](Checkpoint::add)`(which, term)` | w + term |
//! | [`add_rounded`](Checkpoint::add_rounded)`(which, term)` | the same in the type that is stored |
//! | [`multiply`](Checkpoint::multiply)`(factors)` | w · factor, or a factor for each row; packed weights too |
//! | [`map`](Checkpoint::map)`(which, f)` | any function of floats that keeps the shape |
//!
//! The others name modules by the end of their path: `q_proj` and `self_attn.q_proj` both mean what belongs to
//! `model.layers.3.self_attn.q_proj`. To a module belong `weight`, `scales`, `biases` and `bias`, what more its codes need
//! (`global_scale`, `tq_bits`), and in layouts that stack experts the bare name, which is its weight, and the name with `_bias`. So
//! dense and packed layouts are one case.
//!
//! | verb | |
//! |---|---|
//! | [`rename_module`](Checkpoint::rename_module)`(from, to)` | gives a module another name |
//! | [`split`](Checkpoint::split)`(module, axis, parts)` | fused modules: one after the other, in groups, or interleaved |
//! | [`join`](Checkpoint::join)`(from, to)` | modules whose outputs follow one another become one |
//! | [`stack`](Checkpoint::stack)`(from, to)` | `from.0.x`, `from.1.x` … become one `to.x` |

use super::{Derived, Encoding, JangConfig, Kept, Source, Stored, Tensor, aliases::Aliases, jang::Claims};
use crate::{
    Error, Result,
    gguf::{GgufTensor, Kind},
};
use mlx_rs::{Dtype, ops};
use std::{collections::BTreeMap, rc::Rc};

/// All tensors of a checkpoint by name.
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    tensors: BTreeMap<String, Tensor>,
    layout: Option<Layout>,
    claims: Claims,
    remarks: Vec<String>,
    pub(super) aliases: Aliases,
    encodings: BTreeMap<String, Encoding>,
}

/// Whose conventions a checkpoint follows, where names and shapes are alike and values are not.
#[derive(Clone, Debug)]
pub enum Layout {
    /// Those of whoever published the model.
    Published,
    /// Those of MLX's tools, which bring values into the form that is computed with.
    Mlx,
    /// Those of JANG's tools: by what each bundle is marked with.
    Jang(Rc<JangConfig>),
}

impl Checkpoint {
    /// A checkpoint of these tensors.
    pub fn new(tensors: BTreeMap<String, Tensor>) -> Checkpoint {
        Checkpoint { tensors, ..Checkpoint::default() }
    }

    /// The same, known to follow these conventions.
    pub fn with_layout(self, layout: Layout) -> Checkpoint {
        Checkpoint { layout: Some(layout), ..self }
    }

    /// Whose conventions it follows. If nothing else tells, MLX's are known by the shape of convolutions, [C, K, 1] and not [C, 1, K],
    /// or by the lack of layers that predict several tokens ahead, which its tools leave out.
    pub fn layout(&self) -> Layout {
        if let Some(layout) = &self.layout {
            return layout.clone();
        }
        let is_kernel = |name: &str| name.ends_with("conv1d.weight") || name.ends_with("conv.conv.weight");
        let published = match self.iter().find(|(name, _)| is_kernel(name)) {
            Some((_, kernel)) => kernel.shape().last() != Some(&1),
            None => self.iter().any(|(name, _)| name.starts_with("mtp.")),
        };
        if published { Layout::Published } else { Layout::Mlx }
    }

    /// The file that marks a JANG bundle.
    pub fn jang(&self) -> Option<&Rc<JangConfig>> {
        match &self.layout {
            Some(Layout::Jang(jang)) => Some(jang),
            _ => None,
        }
    }

    /// What configuration files claim about its matrices.
    pub(super) fn claims(&mut self) -> &mut Claims {
        &mut self.claims
    }

    /// What was found in it that a person may want to know: claims that its tensors contradict, what was mended or widened.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Notes what a person may want to know, and warns of it.
    pub fn remark(&mut self, what: impl Into<String>) {
        let what = what.into();
        tracing::warn!("{what}");
        self.remarks.push(what);
    }

    /// What other toolkits than MLX's have encoded: modules or single tensors, by the names that they had when the checkpoint was
    /// opened, and how they are stored.
    pub fn encodings(&self) -> impl Iterator<Item = (&str, &Encoding)> {
        self.encodings.iter().map(|(name, encoding)| (name.as_str(), encoding))
    }

    /// How other toolkits store the tensor `name`, or the module that it is a part of.
    pub fn encoding(&self, name: &str) -> Option<&Encoding> {
        let module = || name.rsplit_once('.').filter(|(_, part)| *part != "bias").map(|(module, _)| module);
        self.encodings.get(name).or_else(|| self.encodings.get(module()?))
    }

    /// Notes that a module, or a single tensor, is stored in this way.
    pub(crate) fn note(&mut self, name: impl Into<String>, encoding: Encoding) {
        self.encodings.insert(name.into(), encoding);
    }

    /// A checkpoint of the tensors of a GGUF file.
    pub(crate) fn of_gguf(tensors: Vec<GgufTensor>) -> Checkpoint {
        let notes: Vec<_> =
            tensors.iter().filter_map(|t| Some((t.name().to_string(), encoding_of(t)?))).collect();
        let tensors = tensors.into_iter().map(|t| (t.name().to_string(), Tensor::Gguf(t)));
        let mut checkpoint = Checkpoint::new(tensors.collect());
        notes.into_iter().for_each(|(name, encoding)| checkpoint.note(name, encoding));
        checkpoint
    }

    /// Names and tensors, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, t)| (name.as_str(), t))
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes in the files.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(Tensor::bytes).sum()
    }

    /// Bytes that all tensors take in memory at most, if floats become `compute`.
    pub fn memory_bytes(&self, compute: Dtype) -> usize {
        self.tensors.values().map(|t| t.memory_bytes(compute)).sum()
    }

    /// The float type that most bytes have: what the checkpoint computes in.
    pub fn float_type(&self) -> Option<Dtype> {
        let mut bytes: Vec<(Dtype, u64)> = Vec::new();
        for t in self.tensors.values() {
            let Some(dtype) = t.float_type() else { continue };
            match bytes.iter_mut().find(|(d, _)| *d == dtype) {
                Some((_, n)) => *n += t.bytes(),
                None => bytes.push((dtype, t.bytes())),
            }
        }
        bytes.into_iter().max_by_key(|(_, n)| *n).map(|(d, _)| d)
    }

    /// Leaves out the tensors that `which` names; they are never read.
    pub fn ignore(&mut self, which: impl Fn(&str) -> bool) {
        self.tensors.retain(|name, _| !which(name));
    }

    /// Gives new names where `to` returns one.
    ///
    /// # Errors
    /// [`Error::Tensor`] if two tensors would have the same name.
    pub fn rename(&mut self, to: impl Fn(&str) -> Option<String>) -> Result<()> {
        let all = std::mem::take(&mut self.tensors);
        for (name, tensor) in all {
            let new = to(&name).unwrap_or_else(|| name.clone());
            if self.tensors.contains_key(&new) {
                return Err(Error::tensor(
                    name,
                    format!("would get the name `{new}`, which another tensor has"),
                ));
            }
            self.tensors.insert(new, tensor);
        }
        Ok(())
    }

    /// Gives names that begin with `from` the beginning `to`.
    ///
    /// # Errors
    /// As [`Checkpoint::rename`].
    pub fn rename_prefix(&mut self, from: &str, to: &str) -> Result<()> {
        if self.tensors.keys().any(|name| name.starts_with(from)) {
            self.aliases.prefix(from, to);
        }
        self.rename(|name| name.strip_prefix(from).map(|rest| format!("{to}{rest}")))
    }

    /// Makes `a.from.0.b`, `a.from.1.b` … one tensor `a.to.b` with the number as its first axis, for every `a` and `b`: the
    /// experts of a mixture, published one by one.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] for a gap in the numbers, [`Error::Tensor`] for parts that differ in shape or type.
    pub fn stack(&mut self, from: &str, to: &str) -> Result<()> {
        let infix = format!(".{from}.");
        let mut stacks: BTreeMap<String, BTreeMap<usize, String>> = BTreeMap::new();
        for name in self.tensors.keys() {
            let Some((head, rest)) = name.split_once(&infix) else { continue };
            let Some((number, tail)) = rest.split_once('.') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            stacks.entry(format!("{head}.{to}.{tail}")).or_default().insert(number, name.clone());
        }
        for (name, parts) in stacks {
            let mut tensors = Vec::with_capacity(parts.len());
            for (i, (number, part)) in parts.into_iter().enumerate() {
                if number != i {
                    let missing = part.replacen(&format!("{infix}{number}."), &format!("{infix}{i}."), 1);
                    return Err(Error::MissingTensor(missing));
                }
                let tensor = self.take(&part).ok_or_else(|| Error::MissingTensor(part.clone()))?;
                tensors.push((part, tensor));
            }
            let stack = stack(&name, tensors)?;
            self.put(name, stack)?;
        }
        Ok(())
    }

    /// A tensor of this name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Takes a tensor out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Tensor> {
        self.tensors.remove(name)
    }

    /// Puts a tensor in.
    pub(crate) fn put(&mut self, name: String, tensor: Tensor) -> Result<()> {
        if self.tensors.contains_key(&name) {
            return Err(Error::tensor(name, "is in the checkpoint twice, in two layouts"));
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// The names that `which` accepts.
    pub(crate) fn names(&self, which: impl Fn(&str) -> bool) -> Vec<String> {
        self.tensors.keys().filter(|name| which(name)).cloned().collect()
    }
}

/// How a tensor of a GGUF file is stored, unless it holds plain numbers.
fn encoding_of(t: &GgufTensor) -> Option<Encoding> {
    let kept = match t.kind() {
        Kind::Dense { .. } if !t.is_widened() => return None,
        Kind::Dense { .. } => Kept::Widened(match t.type_name() {
            "Q2_K" | "Q3_K" | "Q6_K" => "MLX has no groups of 16".into(),
            _ => "MLX has no such code".into(),
        }),
        packed => Kept::Packed(packed.describe()),
    };
    Some(Encoding { stored: t.type_name().into(), kept })
}

/// Equal tensors as one, along a new first axis.
fn stack(name: &str, tensors: Vec<(String, Tensor)>) -> Result<Tensor> {
    let plain: Option<Vec<&Stored>> = tensors
        .iter()
        .map(|(_, t)| match t {
            Tensor::Plain(t) => Some(t),
            _ => None,
        })
        .collect();
    if let Some(stack) = plain.and_then(|plain| Stored::stack(&plain)) {
        return Ok(Tensor::Plain(stack));
    }
    let kind = |t: &Tensor| (t.dtype(), t.shape().to_vec());
    let Some((first, (Some(dtype), shape))) = tensors.first().map(|(first, t)| (first, kind(t))) else {
        return Err(Error::tensor(name, "its parts cannot be stacked"));
    };
    if let Some((other, _)) = tensors.iter().find(|(_, t)| kind(t) != (Some(dtype), shape.clone())) {
        return Err(Error::tensor(
            name,
            format!("its parts `{first}` and `{other}` differ in shape or type"),
        ));
    }
    let count = i32::try_from(tensors.len()).map_err(|_| Error::tensor(name, "it has too many parts"))?;
    let inputs = tensors.into_iter().map(|(name, t)| Source::new(name, t, 1)).collect();
    let shape = [&[count], &shape[..]].concat();
    Ok(Tensor::Derived(Derived::new(inputs, shape, dtype, |parts| Ok(ops::stack(parts, 0)?))))
}
