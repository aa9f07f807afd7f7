//! Tokens, their types and scores.

use mlx_lm_common::{
    Error, Result,
    gguf::{Field, List, Metadata, Value},
};
use std::collections::{BTreeSet, HashMap};
use tokenizers::AddedToken;

pub(super) const MODEL: &str = "tokenizer.ggml.model";
pub(super) const PRE: &str = "tokenizer.ggml.pre";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
pub(super) const EOS: &str = "tokenizer.ggml.eos_token_id";
pub(super) const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const SEPARATOR: &str = "tokenizer.ggml.seperator_token_id";
pub(super) const PADDING: &str = "tokenizer.ggml.padding_token_id";
pub(super) const MASK: &str = "tokenizer.ggml.mask_token_id";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";

/// What a token is for. The numbers are those of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

#[derive(Debug)]
pub(super) struct Vocab {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    ids: HashMap<String, u32>,
    /// Ids of special tokens where the file does not give them.
    defaults: &'static [(&'static str, u32)],
    /// Whether whitespace after a special token belongs to it.
    strip_after_special: bool,
    /// A token that whitespace before it belongs to.
    strip_before: Option<&'static str>,
}

/// Those of Llama's first vocabulary.
const LLAMA: &[(&str, u32)] = &[(BOS, 1), (EOS, 2), (UNKNOWN, 0)];

/// Those of T5's vocabulary.
const T5: &[(&str, u32)] = &[(EOS, 1), (UNKNOWN, 2), (PADDING, 0)];

/// Those of BERT's vocabulary, which begins a text with `[CLS]`.
const BERT: &[(&str, u32)] = &[(BOS, 101), (UNKNOWN, 100), (SEPARATOR, 102), (PADDING, 0), (MASK, 103)];

/// Tokens that end a turn, by their text, whatever the file says about them.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Keys of ids that end a text or a turn.
const END_KEYS: [&str; 3] = [EOS, "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

impl Vocab {
    pub(super) fn read(metadata: &Metadata) -> Result<Vocab> {
        let listed = metadata.strings(TOKENS)?;
        if listed.is_empty() {
            return Err(Error::config(TOKENS, "no tokens", "at least one"));
        }
        let mut tokens = Vec::with_capacity(listed.len());
        let mut ids = HashMap::with_capacity(listed.len());
        for (id, text) in (0..).zip(listed.iter()) {
            let text = if text.is_empty() { format!("[EMPTY_{id}]") } else { text.to_string() };
            if let Some(first) = ids.insert(text.clone(), id) {
                return Err(Error::config(
                    TOKENS,
                    format!("{text:?} at {first} and at {id}"),
                    "every token once",
                ));
            }
            tokens.push(text);
        }
        let kinds = match metadata.optional(TYPES, Field::i32s)? {
            Some(types) if types.len() == tokens.len() => types.iter().map(|n| Kind::of(*n)).collect(),
            Some(types) => {
                return Err(Error::config(
                    TYPES,
                    format!("{} types", types.len()),
                    format!("{}", tokens.len()),
                ));
            }
            None => vec![Kind::Normal; tokens.len()],
        };
        let name = metadata.optional("general.name", Field::str)?.unwrap_or_default().to_lowercase();
        let strip_after_special = name.contains("phi-3") || name.contains("phi3");
        let name_of = |key| Ok::<_, Error>(metadata.optional(key, Field::str)?.unwrap_or_default());
        let (pre, architecture) = (name_of(PRE)?, name_of("general.architecture")?);
        let strip_before = if ["jina-v2-de", "jina-v2-es", "jina-v2-code"].iter().any(|n| pre.contains(n))
            || ["nomic-bert-moe", "jina-bert-v3"].contains(&architecture)
        {
            Some("<mask>")
        } else {
            name.contains("modern-bert").then_some("[MASK]")
        };
        let defaults = match metadata.str(MODEL)? {
            "llama" => LLAMA,
            "bert" => BERT,
            "t5" => T5,
            _ => &[],
        };
        Ok(Vocab { tokens, kinds, ids, defaults, strip_after_special, strip_before })
    }

    pub(super) fn tokens(&self) -> &[String] {
        &self.tokens
    }

    pub(super) fn text(&self, id: u32) -> &str {
        &self.tokens[id as usize]
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds[id as usize]
    }

    /// The scores, one a token.
    pub(super) fn scores(&self, metadata: &Metadata) -> Result<Vec<f32>> {
        let field = metadata.required(SCORES, Ok)?;
        let scores: Vec<f32> = match field.value() {
            Value::List(List::F32(scores)) => scores.clone(),
            Value::List(List::I32(scores)) => scores.iter().map(|n| *n as f32).collect(),
            _ => return Err(field.wanted("an array of float32")),
        };
        if scores.len() != self.tokens.len() {
            return Err(Error::config(
                SCORES,
                format!("{} scores", scores.len()),
                format!("{}", self.tokens.len()),
            ));
        }
        Ok(scores)
    }

    /// The id at `key`, if there is one.
    pub(super) fn special(&self, metadata: &Metadata, key: &str) -> Result<Option<u32>> {
        match metadata.optional(key, Field::u32)? {
            None => {
                let default = self.defaults.iter().find(|(name, _)| *name == key).map(|(_, id)| *id);
                Ok(default.filter(|id| (*id as usize) < self.tokens.len()))
            }
            // -1 as an unsigned number: the model has no such token.
            Some(u32::MAX) => Ok(None),
            Some(id) if (id as usize) < self.tokens.len() => Ok(Some(id)),
            Some(id) => {
                Err(Error::config(key, id, format!("the id of a token, below {}", self.tokens.len())))
            }
        }
    }

    /// Finds the tokens that end a text or a turn, and makes them control tokens.
    pub(super) fn mark_ends(&mut self, metadata: &Metadata) -> Result<Vec<u32>> {
        let has = |text| self.id(text).is_some();
        // Harmony ends a message with `<|end|>` and goes on. `</s>` is HTML to those that have another end.
        let goes_on = has("<|return|>") && has("<|call|>") || has("<|calls|>") && has("<|flush|>");
        let is_end = |id: &u32| match self.text(*id) {
            "<|end|>" => !goes_on,
            "</s>" => self.kind(*id) == Kind::Control,
            _ => true,
        };
        let mut ends: BTreeSet<u32> = ENDS.iter().filter_map(|text| self.id(text)).filter(is_end).collect();
        for id in &ends {
            self.kinds[*id as usize] = Kind::Control;
        }
        for key in END_KEYS {
            ends.extend(self.special(metadata, key)?);
        }
        Ok(ends.into_iter().collect())
    }

    /// The tokens that are found in a text before anything else is done with it.
    pub(super) fn added(&self) -> Vec<AddedToken> {
        let ids = 0..self.tokens.len() as u32;
        let added =
            ids.filter(|id| matches!(self.kind(*id), Kind::Unknown | Kind::Control | Kind::UserDefined));
        let token = |id| {
            let text = self.text(id);
            let strip = self.strip_after_special && !matches!(text, "<unk>" | "<s>" | "<|endoftext|>");
            let token = AddedToken::from(text, self.kind(id) != Kind::UserDefined).normalized(false);
            token.rstrip(strip).lstrip(self.strip_before == Some(text))
        };
        added.map(token).collect()
    }
}

impl Kind {
    fn of(number: i32) -> Kind {
        let kinds = [Kind::Unknown, Kind::Control, Kind::UserDefined, Kind::Unused, Kind::Byte];
        kinds.into_iter().find(|kind| *kind as i32 == number).unwrap_or(Kind::Normal)
    }
}
