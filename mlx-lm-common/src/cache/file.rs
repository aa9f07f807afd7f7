//! Prompt-cache files in mlx-lm's layout (since its version 0.32): a safetensors file whose tensors are the leaves of a tree, named by
//! their path from a layer's number on, scalars and texts among them. Its metadata are, flattened, the user's values (`0`), each
//! layer's class name (`1`), and which tensors are scalars, texts or stand for nothing (`2`, from its second entry on; its first,
//! which mlx-lm does not read, is the number of positions).

use super::Metadata;
use crate::{Error, Result, raw::Arena, weights};
use mlx_rs::{Array, Dtype, ops};
use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

/// Most layers and tags that a file may claim.
const MOST: usize = 16_384;
/// Deepest tree that a file may claim.
const DEEPEST: usize = 8;
/// The longest text that a file may claim; so far, sums of positions stay within their type.
pub(super) const MOST_POSITIONS: i32 = 1 << 30;

const SCALAR: &str = "scalar";
const TEXT: &str = "string";
const NONE: &str = "none";

/// One layer's part of a saved cache, in mlx-lm's words.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// `KVCache`, `RotatingKVCache` …
    pub class: String,
    /// What mlx-lm calls its state.
    pub items: Vec<Item>,
}

/// A node of a saved tree.
#[derive(Clone, Debug)]
pub enum Item {
    /// Values.
    Array(Array),
    /// A number of the host.
    Number(i32),
    /// A text.
    Text(String),
    /// Python's `None`.
    Nothing,
    /// A list or tuple.
    List(Vec<Item>),
}

impl Item {
    pub(super) fn array(&self) -> Option<&Array> {
        match self {
            Item::Array(a) => Some(a),
            _ => None,
        }
    }

    pub(super) fn number(&self) -> Option<i32> {
        match self {
            Item::Number(n) => Some(*n),
            _ => None,
        }
    }
}

impl LayerState {
    /// The number of positions, where the class knows it.
    pub(super) fn offset(&self) -> Option<i32> {
        match self.class.as_str() {
            "CacheList" => self.items.iter().find_map(|part| match part {
                Item::List(pair) => match &pair[..] {
                    [Item::List(items), Item::Text(class)] => {
                        LayerState { class: class.clone(), items: items.clone() }.offset()
                    }
                    _ => None,
                },
                _ => None,
            }),
            "ArraysCache" => None,
            _ => self.items.get(2).and_then(Item::number),
        }
    }
}

/// What a file holds.
pub(super) struct Saved {
    pub(super) states: Vec<LayerState>,
    /// Positions, if the file says it.
    pub(super) offset: Option<i32>,
    pub(super) metadata: Metadata,
}

/// What becomes of a tree on its way to a file.
#[derive(Default)]
struct Writer {
    arrays: HashMap<String, Array>,
    metadata: HashMap<String, String>,
    tags: usize,
}

impl Writer {
    fn put(&mut self, at: &str, item: &Item) -> Result<()> {
        let array = match item {
            // Views of a larger buffer; the file holds what they show.
            Item::Array(a) => a.contiguous()?,
            Item::Number(n) => {
                self.tag(at, SCALAR);
                Array::from_int(*n)
            }
            Item::Text(text) => {
                self.tag(at, TEXT);
                let codes: Vec<i32> = text.chars().map(|c| c as i32).collect();
                Array::from_slice(&codes, &[codes.len() as i32])
            }
            Item::Nothing => {
                self.tag(at, NONE);
                ops::zeros_dtype(&[0], Dtype::Float32)?
            }
            Item::List(items) => return self.list(at, items),
        };
        self.arrays.insert(at.into(), array);
        Ok(())
    }

    fn list(&mut self, at: &str, items: &[Item]) -> Result<()> {
        items.iter().enumerate().try_for_each(|(i, item)| self.put(&format!("{at}.{i}"), item))
    }

    fn tag(&mut self, at: &str, kind: &str) {
        self.tags += 1;
        self.metadata.insert(format!("2.{}.0", self.tags), at.into());
        self.metadata.insert(format!("2.{}.1", self.tags), kind.into());
    }
}

pub(super) fn save(path: &Path, states: &[LayerState], offset: i32, user: &[(String, String)]) -> Result<()> {
    let metadata = user.iter().map(|(k, v)| (format!("0.{k}"), v.clone())).collect();
    let mut writer = Writer { metadata, ..Default::default() };
    writer.metadata.insert("2.0".into(), offset.to_string());
    for (i, state) in states.iter().enumerate() {
        writer.metadata.insert(format!("1.{i}"), state.class.clone());
        writer.list(&i.to_string(), &state.items)?;
    }
    // MLX wants the extension; the name is taken only once the file is whole.
    let partial = path.with_extension(format!("{}.partial.safetensors", std::process::id()));
    let written = Array::save_safetensors(&writer.arrays, &writer.metadata, &partial)
        .map_err(|e| Error::file(path, format!("cannot be written: {e}")))
        .and_then(|()| std::fs::rename(&partial, path).map_err(|e| Error::io(path, e)));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    written
}

/// Reads a file whole.
pub(super) fn load(path: &Path) -> Result<Saved> {
    let (tensors, metadata) = weights::open_file(path)?;
    let bad = || Error::file(path, "is no prompt cache of this version");
    let tag = |n: usize| Some((metadata.get(&format!("2.{n}.0"))?, metadata.get(&format!("2.{n}.1"))?));
    let tags: BTreeMap<_, _> = (1..MOST).map_while(tag).collect();
    let arena = Arena::new(0);
    // Leaves by layer, then by path.
    let mut layers: BTreeMap<usize, Vec<(Vec<usize>, Item)>> = BTreeMap::new();
    for (name, tensor) in tensors {
        let steps: Option<Vec<usize>> =
            name.split('.').map(|s| s.parse().ok().filter(|n| *n < MOST)).collect();
        let steps = steps.filter(|s| (2..=DEEPEST).contains(&s.len())).ok_or_else(bad)?;
        let kind = tags.get(&name).map(|kind| kind.as_str());
        let item = match kind {
            None => Item::Array(tensor.load(&arena, None)?),
            Some(SCALAR) if tensor.shape.is_empty() => {
                let value = tensor.load(&arena, None)?;
                Item::Number(value.try_item_cast::<i32>().map_err(|_| bad())?)
            }
            Some(TEXT) if tensor.shape.len() == 1 && tensor.shape[0] <= 256 => {
                let codes = tensor.load(&arena, None)?.to_vec_cast::<i32>().map_err(|_| bad())?;
                let text: Option<String> =
                    codes.into_iter().map(|c| u32::try_from(c).ok().and_then(char::from_u32)).collect();
                Item::Text(text.ok_or_else(bad)?)
            }
            Some(NONE) => Item::Nothing,
            Some(_) => return Err(bad()),
        };
        layers.entry(steps[0]).or_default().push((steps[1..].to_vec(), item));
    }
    let mut states = Vec::new();
    for (i, (layer, leaves)) in layers.into_iter().enumerate() {
        let class = metadata.get(&format!("1.{i}")).filter(|_| layer == i).ok_or_else(bad)?;
        let Some(Item::List(items)) = tree(leaves) else { return Err(bad()) };
        states.push(LayerState { class: class.clone(), items });
    }
    if states.is_empty() || metadata.contains_key(&format!("1.{}", states.len())) {
        return Err(bad());
    }
    let offset =
        metadata.get("2.0").and_then(|text| text.parse().ok()).filter(|n| (0..=MOST_POSITIONS).contains(n));
    let user = metadata.iter().filter_map(|(k, v)| Some((k.strip_prefix("0.")?.to_string(), v.clone())));
    Ok(Saved { states, offset, metadata: user.collect() })
}

/// The tree of these leaves; nothing if there is a gap, or a leaf where a list is.
fn tree(leaves: Vec<(Vec<usize>, Item)>) -> Option<Item> {
    if leaves.iter().any(|(path, _)| path.is_empty()) {
        let mut leaves = leaves;
        return (leaves.len() == 1).then(|| leaves.remove(0).1);
    }
    let mut children: BTreeMap<usize, Vec<(Vec<usize>, Item)>> = BTreeMap::new();
    for (path, item) in leaves {
        children.entry(path[0]).or_default().push((path[1..].to_vec(), item));
    }
    let whole = children.keys().copied().eq(0..children.len());
    let items: Option<Vec<Item>> = children.into_values().map(tree).collect();
    items.filter(|_| whole).map(Item::List)
}
