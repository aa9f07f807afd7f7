//! A folder's tokenizer as the metadata of a GGUF file, which llama.cpp splits texts by.

use super::{
    SPECIAL, TEMPLATE,
    pre::{self, DIGIT, GPT2},
    vocab::{self, Kind, PRE, SCORES, TOKENS, TYPES},
};
use crate::{AutoTokenizer, folder};
use mlx_lm_common::{
    Config, Error, Result, Tokenizer,
    gguf::{Gguf, List, Metadata, Strings},
};
use serde::Deserialize;
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

/// The parts of a `tokenizer.json` that say what the file must say.
#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Step>,
    pre_tokenizer: Option<Step>,
    model: Model,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    special: bool,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    unk_token: Option<String>,
}

/// Two tokens, with a space between them or apart.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

/// A step of the normalizer or the pre-tokenizer.
#[derive(Deserialize)]
struct Step {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, alias = "pretokenizers", alias = "normalizers")]
    steps: Vec<Step>,
    pattern: Option<Pattern>,
    behavior: Option<String>,
    invert: Option<bool>,
    use_regex: Option<bool>,
    individual_digits: Option<bool>,
    add_prefix_space: Option<bool>,
    prepend_scheme: Option<String>,
    prepend: Option<String>,
}

/// A regular expression; texts are no way to cut that has a name.
#[derive(Deserialize)]
struct Pattern {
    #[serde(rename = "Regex")]
    regex: Option<String>,
}

/// What an id is looked up under: the metadata's key, the tokenizer's name for it.
const CLASS: (&str, &str) = ("cls_token", "tokenizer.ggml.cls_token_id");
const END_KEYS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// What tells apart the ways to split a text: spaces, numbers, cases, scripts, signs.
const PROBES: [&str; 8] = [
    "Hello, World!  It's  WE'LL see 'tis don'T",
    "\n \n\n \t\t x\r\n  y   \n\n\n",
    "1 22 333 4444 55555 1234567890 3.14159 1,000,000 v2x",
    "Größe straße ÀÉÎ naïve façade — “quoted” …",
    "Привет мир, как дела? ΑΒΓ αβγ",
    "我想在apple工作1314151天～ こんにちは 안녕하세요",
    "🚀 (normal) 😶 ✅ 🦙🦙 a🦙b",
    "fn main() { let x = a[i] + b_c::<T>(); } // <=> != === ``` ####",
];

/// The tokenizer of `model`, a folder or a GGUF file, as metadata with a token for each row of the embedding of `config`. A model
/// without a tokenizer gets none.
///
/// What the metadata mean is checked against the tokenizer itself with texts that tell the known kinds apart.
///
/// # Errors
/// Those of [`AutoTokenizer::load`], and [`Error::Tokenizer`] for one that llama.cpp has no equal of.
pub fn gguf_metadata(model: &Path, config: &Config) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    if !model.is_dir() {
        for (key, value) in
            Gguf::open(model)?.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer."))
        {
            metadata.insert(key, value.clone());
        }
        return Ok(metadata);
    }
    let path = model.join("tokenizer.json");
    if !folder::has_tokenizer(model) {
        metadata.insert(vocab::MODEL, "none");
        return Ok(metadata);
    }
    let tokenizer = folder::load(model)?;
    let bytes = fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let json: Json = serde_json::from_slice(&bytes).map_err(|e| Error::file(&path, e.to_string()))?;
    let size = config.dim("vocab_size")? as usize;
    match json.model.kind.as_deref() {
        Some("BPE") | None if json.model.byte_fallback => {
            json.sentence_piece(&tokenizer, size, &mut metadata)
        }
        Some("BPE") | None => json.byte_level(&tokenizer, size, &mut metadata)?,
        Some(other) => return Err(foreign(format!("a vocabulary of type {other}"))),
    }
    specials(&tokenizer, config, &mut metadata)?;
    templates(model, &mut metadata)?;
    check(&tokenizer, &metadata, model)?;
    Ok(metadata)
}

fn foreign(what: impl std::fmt::Display) -> Error {
    Error::Tokenizer(format!("llama.cpp has no equal of {what}, so it cannot be written as GGUF"))
}

impl Json {
    /// Bytes as printable characters; the way to cut a text has a name.
    fn byte_level(&self, tokenizer: &AutoTokenizer, size: usize, metadata: &mut Metadata) -> Result<()> {
        let mut splits = Vec::new();
        let mut is_byte_level = false;
        for step in self.pre_tokenizer.iter().flat_map(Step::flat) {
            if step.kind == "ByteLevel" {
                is_byte_level = true;
            }
            splits.extend(step.split()?);
        }
        if !is_byte_level {
            return Err(foreign("a vocabulary that is neither of bytes nor falls back to them"));
        }
        let pre = pre::name_of(&splits, self.model.ignore_merges)
            .ok_or_else(|| foreign(format!("a pre-tokenizer that cuts by {splits:?}")))?;
        metadata.insert(vocab::MODEL, "gpt2");
        metadata.insert(PRE, pre);
        self.tokens(tokenizer, size, metadata, &HashMap::new());
        // A space inside a token would end it.
        let part = |text: &str| text.replace(' ', "\u{120}");
        let merges: Vec<String> = self
            .model
            .merges
            .iter()
            .map(|merge| match merge {
                Merge::Line(line) => line.clone(),
                Merge::Pair(left, right) => format!("{} {}", part(left), part(right)),
            })
            .collect();
        metadata.insert(super::bpe::MERGES, strings(&merges));
        Ok(())
    }

    /// SentencePiece's kind, whose order of merges is a score of each token: the earlier, the higher.
    fn sentence_piece(&self, tokenizer: &AutoTokenizer, size: usize, metadata: &mut Metadata) {
        metadata.insert(vocab::MODEL, "llama");
        metadata.insert(PRE, "default");
        let ranks = self.ranks();
        let tokens = self.tokens(tokenizer, size, metadata, &ranks);
        let last = self.model.merges.len();
        let score = |token: &String| -(ranks.get(token).copied().unwrap_or(last) as f32);
        metadata.insert(SCORES, List::F32(tokens.iter().map(score).collect()));
        let steps = self.normalizer.iter().chain(&self.pre_tokenizer).flat_map(Step::flat);
        metadata.insert("tokenizer.ggml.add_space_prefix", steps.into_iter().any(Step::prepends));
    }

    /// The first merge that makes each token.
    fn ranks(&self) -> HashMap<String, usize> {
        let mut ranks = HashMap::new();
        for (rank, merge) in self.model.merges.iter().enumerate() {
            let whole = match merge {
                Merge::Line(line) => line.replacen(' ', "", 1),
                Merge::Pair(left, right) => format!("{left}{right}"),
            };
            ranks.entry(whole).or_insert(rank);
        }
        ranks
    }

    /// Adds tokens and their types, and returns the tokens; `ranks` are those that merges make.
    fn tokens(
        &self,
        tokenizer: &AutoTokenizer,
        size: usize,
        metadata: &mut Metadata,
        ranks: &HashMap<String, usize>,
    ) -> Vec<String> {
        let added: HashMap<u32, bool> = self.added_tokens.iter().map(|t| (t.id, t.special)).collect();
        let (mut tokens, mut kinds) = (Vec::with_capacity(size), Vec::with_capacity(size));
        let mut seen = HashSet::new();
        for id in 0..size as u32 {
            let (text, kind) = match tokenizer.token(id) {
                None => (format!("[PAD{id}]"), Kind::Unused),
                Some(text) => match added.get(&id) {
                    _ if self.model.byte_fallback && Some(&text) == self.model.unk_token.as_ref() => {
                        (text, Kind::Unknown)
                    }
                    Some(special) if *special || looks_special(&text) => (text, Kind::Control),
                    // Texts have no such character; it is merges that find their spaces.
                    Some(_) if text.contains('▁') && ranks.contains_key(&text) => (text, Kind::Normal),
                    // Spaces of texts are still spaces when these are looked for.
                    Some(_) => (text.replace('▁', " "), Kind::UserDefined),
                    None if self.model.byte_fallback && is_byte(&text) => (text, Kind::Byte),
                    None => (text, Kind::Normal),
                },
            };
            let text = if seen.insert(text.clone()) { text } else { format!("[PAD{id}]") };
            tokens.push(text);
            kinds.push(kind as i32);
        }
        metadata.insert(TOKENS, strings(&tokens));
        metadata.insert(TYPES, List::I32(kinds));
        tokens
    }
}

impl Step {
    /// The steps that it is made of.
    fn flat(&self) -> Vec<&Step> {
        match self.kind.as_str() {
            "Sequence" => self.steps.iter().flat_map(Step::flat).collect(),
            _ => vec![self],
        }
    }

    /// The expression that a step of a pre-tokenizer cuts by, if it cuts.
    fn split(&self) -> Result<Option<String>> {
        let isolated = self.behavior.as_deref() == Some("Isolated") && self.invert != Some(true)
            || self.behavior.as_deref() == Some("Removed") && self.invert == Some(true);
        match (self.kind.as_str(), self.pattern.as_ref().and_then(|p| p.regex.as_ref())) {
            ("ByteLevel", _) if self.add_prefix_space == Some(true) => {
                Err(foreign("a space that is put before texts of bytes"))
            }
            ("ByteLevel", _) => Ok((self.use_regex != Some(false)).then(|| GPT2.into())),
            ("Digits", _) if self.individual_digits == Some(true) => Ok(Some(DIGIT.into())),
            ("Digits", _) => Ok(Some(r"\p{N}+".into())),
            ("Split", Some(regex)) if isolated => Ok(Some(regex.clone())),
            (kind, _) => Err(foreign(format!("the step {kind} of a pre-tokenizer"))),
        }
    }

    /// Whether a text begins with a space that it does not have.
    fn prepends(&self) -> bool {
        match self.kind.as_str() {
            "Prepend" => self.prepend.as_deref() == Some("▁"),
            "Metaspace" => match &self.prepend_scheme {
                Some(scheme) => scheme != "never",
                None => self.add_prefix_space != Some(false),
            },
            _ => false,
        }
    }
}

/// Tokens that are there to be found but not marked as special by some publishers: llama.cpp's list.
fn looks_special(text: &str) -> bool {
    let within = |start: &str, end: &str| text.starts_with(start) && text.ends_with(end);
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

/// `<0x0A>` and the like.
fn is_byte(text: &str) -> bool {
    let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    hex.is_some_and(|hex| hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn strings(all: &[String]) -> List {
    List::Strings(all.iter().map(String::as_str).collect::<Strings>())
}

/// Tokens that have names, and which of them are put around a text.
fn specials(tokenizer: &AutoTokenizer, config: &Config, metadata: &mut Metadata) -> Result<()> {
    let size = config.dim("vocab_size")? as u32;
    let usable = |id: &u32| *id < size;
    for (name, key) in SPECIAL.into_iter().chain([CLASS]) {
        let text = tokenizer.special_tokens().get(name);
        if let Some(id) = text.and_then(|text| tokenizer.token_id(text)).filter(usable) {
            metadata.insert(key, id);
        }
    }
    if metadata.get(vocab::BOS).is_none()
        && let Some(id) = config.get::<u32>("bos_token_id")?.filter(usable)
    {
        metadata.insert(vocab::BOS, id);
    }
    let mut ends = Vec::new();
    for id in tokenizer.eos().iter().chain(&config.eos).copied().filter(usable) {
        if !ends.contains(&id) {
            ends.push(id);
        }
    }
    for (id, key) in ends.into_iter().zip([vocab::EOS].into_iter().chain(END_KEYS)) {
        metadata.insert(key, id);
    }
    let edges = tokenizer.encode("", true)?;
    let bos = edges.first().is_some_and(|id| tokenizer.bos() == Some(*id));
    let eos = edges.last().is_some_and(|id| tokenizer.eos().contains(id) && (!bos || edges.len() > 1));
    if edges.len() != usize::from(bos) + usize::from(eos) {
        return Err(foreign(format!("the tokens {edges:?} that are put around texts")));
    }
    metadata.insert("tokenizer.ggml.add_bos_token", bos);
    metadata.insert("tokenizer.ggml.add_eos_token", eos);
    Ok(())
}

fn templates(model: &Path, metadata: &mut Metadata) -> Result<()> {
    let mut names = Vec::new();
    for (name, source, _) in folder::template_sources(model)? {
        if name == "default" {
            metadata.insert(TEMPLATE, source.as_str());
        } else {
            metadata.insert(format!("{TEMPLATE}.{name}"), source.as_str());
            names.push(name);
        }
    }
    if !names.is_empty() {
        metadata.insert("tokenizer.chat_templates", strings(&names));
    }
    Ok(())
}

/// Fails if the metadata mean another tokenizer.
fn check(tokenizer: &AutoTokenizer, metadata: &Metadata, model: &Path) -> Result<()> {
    let written = super::build(model, metadata)?;
    for text in PROBES {
        let (wanted, found) = (tokenizer.encode(text, true)?, written.encode(text, true)?);
        if wanted != found {
            return Err(foreign(format!(
                "this tokenizer: it makes {wanted:?} of {text:?}, and llama.cpp's nearest makes {found:?}"
            )));
        }
    }
    Ok(())
}
