//! A folder in the Hugging Face layout: `tokenizer.json`, `tokenizer_config.json` and what belongs to them.

use crate::{
    AutoTokenizer, SpecialTokens,
    auto::Edge,
    pipeline::{Pipeline, guarded},
    template::ChatTemplates,
};
use mlx_lm_common::{Error, Result};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};
use tokenizers::AddedToken;

const CONFIG: &str = "tokenizer_config.json";

/// The keys that name one special token each.
const SPECIAL: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Tokenizer classes that set a leading BOS themselves, unless `add_bos_token` says otherwise.
const WITH_BOS: [&str; 4] = ["Llama", "CodeLlama", "Gemma", "Cohere"];

pub(crate) fn load(dir: &Path) -> Result<AutoTokenizer> {
    let file = dir.join("tokenizer.json");
    let bytes = fs::read(&file).map_err(|e| missing(dir, &file, e))?;
    let mut pipeline = guarded("read it", || tokenizers::Tokenizer::from_bytes(&bytes))
        .map_err(|e| Error::file(&file, words(e)))?;
    // Chat and completion want whole texts; these settings are for batches of an encoder's training.
    pipeline.with_padding(None);
    let unlimited = guarded("lift its limit", || pipeline.with_truncation(None).map(drop));
    unlimited.map_err(|e| Error::file(&file, words(e)))?;
    let mut pipeline: Box<dyn Pipeline> = Box::new(pipeline.into_inner());

    let config = Config::read(dir)?;
    config.add_tokens(pipeline.as_mut())?;
    let special = config.special_tokens(dir)?;
    let id = |name| special.get(name).and_then(|token| pipeline.token_to_id(token));
    let (bos, eos) = (id("bos_token"), id("eos_token"));
    if let (Some(token), None) = (special.get("eos_token"), eos) {
        return Err(
            config.bad("eos_token", format!("`{token}` is not in the vocabulary, so no text would ever end"))
        );
    }

    let added = pipeline.encode("", true)?;
    let edge = |wanted: Option<bool>, token: Option<u32>, is_there: bool| match (wanted, token) {
        (Some(true), Some(id)) if !is_there => Edge::Add(id),
        (Some(false), Some(_)) if is_there => Edge::Remove,
        _ => Edge::AsIs,
    };
    let default = config.class().and_then(|class| WITH_BOS.contains(&class).then_some(true));
    let first =
        edge(config.flag("add_bos_token")?.or(default), bos, bos.is_some() && added.first() == bos.as_ref());
    let last = edge(config.flag("add_eos_token")?, eos, eos.is_some() && added.last() == eos.as_ref());
    let templates = templates(dir, &config)?;
    Ok(AutoTokenizer {
        first,
        last,
        bos,
        eos: eos.into_iter().collect(),
        vocab_size: pipeline.vocab_size(),
        pipeline,
        special,
        templates,
    })
}

/// Tokenizers in forms that cannot be read.
const OTHERS: [&str; 3] = ["tokenizer.model", "vocab.json", "tiktoken.model"];

/// Whether there is a tokenizer, in whatever form.
pub(crate) fn has_tokenizer(dir: &Path) -> bool {
    ["tokenizer.json"].iter().chain(&OTHERS).any(|name| dir.join(name).is_file())
}

/// The error for a `tokenizer.json` that is not there.
fn missing(dir: &Path, file: &Path, e: io::Error) -> Error {
    let other = OTHERS.into_iter().find(|name| dir.join(name).is_file());
    match other {
        Some(other) if e.kind() == io::ErrorKind::NotFound => {
            let how = "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of Python's transformers writes it";
            Error::file(file, format!("not there, and `{other}` cannot be read in its place; {how}"))
        }
        _ => Error::io(file, e),
    }
}

fn words(e: Error) -> String {
    match e {
        Error::Tokenizer(words) => words,
        other => other.to_string(),
    }
}

/// `tokenizer_config.json`; an empty one where there is no such file.
struct Config {
    path: PathBuf,
    values: Map<String, Value>,
}

/// A special token is its text or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

/// An entry of `added_tokens_decoder`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Added {
    content: String,
    lstrip: bool,
    rstrip: bool,
    single_word: bool,
    normalized: Option<bool>,
    special: bool,
}

/// `chat_template` is one template, or several with names.
#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
    Map(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl Config {
    fn read(dir: &Path) -> Result<Config> {
        let path = dir.join(CONFIG);
        let values = read_json(&path)?.unwrap_or_default();
        Ok(Config { path, values })
    }

    fn bad(&self, key: &str, what: impl std::fmt::Display) -> Error {
        Error::file(&self.path, format!("key `{key}`: {what}"))
    }

    /// The value at `key`, if there is one that is not null.
    fn get<T: DeserializeOwned>(&self, key: &str, wanted: &str) -> Result<Option<T>> {
        let Some(value) = self.values.get(key).filter(|v| !v.is_null()) else { return Ok(None) };
        T::deserialize(value)
            .map(Some)
            .map_err(|_| self.bad(key, format!("found {}, wanted {wanted}", brief(value))))
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false")
    }

    /// The tokenizer's class without the endings that tell nothing.
    fn class(&self) -> Option<&str> {
        let class = self.values.get("tokenizer_class")?.as_str()?;
        class.strip_suffix("Fast").unwrap_or(class).strip_suffix("Tokenizer")
    }

    /// The special tokens of this file, then of `special_tokens_map.json` where this one is silent.
    fn special_tokens(&self, dir: &Path) -> Result<SpecialTokens> {
        let path = dir.join("special_tokens_map.json");
        let older = Config { values: read_json(&path)?.unwrap_or_default(), path };
        let mut special = SpecialTokens::new();
        for config in [&older, self] {
            for key in SPECIAL {
                if let Some(Token::Text(text) | Token::Object { content: text }) =
                    config.get(key, "a string or an object with `content`")?
                {
                    special.insert(key, text.into());
                }
            }
            let several: Option<Vec<Token>> = config.get("additional_special_tokens", "a list of tokens")?;
            if let Some(tokens) = several {
                let text = |(Token::Text(t) | Token::Object { content: t })| Value::from(t);
                special.insert("additional_special_tokens", tokens.into_iter().map(text).collect());
            }
        }
        // Names that a model adds itself, `image_token` say.
        if let Some(Value::Object(named)) = self.values.get("extra_special_tokens") {
            named.iter().for_each(|(name, token)| special.insert(name, token.clone()));
        }
        Ok(special)
    }

    /// Adds the tokens of `added_tokens_decoder` that `tokenizer.json` lacks, or has with other properties.
    fn add_tokens(&self, pipeline: &mut dyn Pipeline) -> Result<()> {
        const KEY: &str = "added_tokens_decoder";
        let entries: BTreeMap<u32, Added> = self.get(KEY, "an object of tokens by id")?.unwrap_or_default();
        let token = |t: &Added| {
            let token = AddedToken::from(t.content.clone(), t.special).lstrip(t.lstrip).rstrip(t.rstrip);
            token.single_word(t.single_word).normalized(t.normalized.unwrap_or(!t.special))
        };
        let new: Vec<_> = entries
            .iter()
            .filter(|(_, t)| pipeline.token_to_id(&t.content).is_none())
            .map(|(id, _)| *id)
            .collect();
        pipeline.add_tokens(entries.values().map(token).collect())?;
        for id in new {
            let text = &entries[&id].content;
            match pipeline.token_to_id(text) {
                Some(got) if got != id => {
                    return Err(self.bad(
                        &format!("{KEY}.{id}"),
                        format!("`{text}` would be token {got} after those of tokenizer.json"),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn templates(dir: &Path, config: &Config) -> Result<ChatTemplates> {
    let mut templates = ChatTemplates::default();
    for (name, source, origin) in sources(dir, config)? {
        templates.insert(&name, &source, origin);
    }
    Ok(templates)
}

/// The chat templates of a folder: their names, what they say, and where.
pub(crate) fn template_sources(dir: &Path) -> Result<Vec<(String, String, String)>> {
    sources(dir, &Config::read(dir)?)
}

/// The chat templates, in transformers' order: files of their own, then `chat_template.json`, then the configuration.
fn sources(dir: &Path, config: &Config) -> Result<Vec<(String, String, String)>> {
    let mut sources = Vec::new();
    let mut files = jinja_files(&dir.join("additional_chat_templates"))?;
    let main = dir.join("chat_template.jinja");
    if main.is_file() {
        files.push(("default".into(), main));
    }
    for (name, path) in files {
        let source = fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        sources.push((name, source, path.display().to_string()));
    }
    if !sources.is_empty() {
        return Ok(sources);
    }
    let path = dir.join("chat_template.json");
    let separate = Config { values: read_json(&path)?.unwrap_or_default(), path };
    for config in [&separate, config] {
        let found: Option<Templates> =
            config.get("chat_template", "a template, or a list of objects with `name` and `template`")?;
        let Some(found) = found else { continue };
        let named: Vec<(String, String)> = match found {
            Templates::One(source) => vec![("default".into(), source)],
            Templates::Named(list) => list.into_iter().map(|t| (t.name, t.template)).collect(),
            Templates::Map(map) => map.into_iter().collect(),
        };
        for (name, source) in named {
            let origin = format!("{}: `chat_template` {name}", config.path.display());
            sources.push((name, source, origin));
        }
        break;
    }
    Ok(sources)
}

/// The `.jinja` files of a folder that may not be there, by name.
fn jinja_files(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io(dir, e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, e))?.path();
        if let (Some("jinja"), Some(name)) =
            (path.extension().and_then(|e| e.to_str()), path.file_stem().and_then(|s| s.to_str()))
        {
            files.push((name.to_string(), path));
        }
    }
    files.sort();
    Ok(files)
}

fn read_json(path: &Path) -> Result<Option<Map<String, Value>>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file(path, e.to_string())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// A value for an error message.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { text.chars().take(60).collect::<String>() + "…" } else { text }
}
