//! The `pre` types of byte-level vocabularies: how a text is cut into words before pairs of bytes merge. The expressions are those of
//! the models' own tokenizers, as llama.cpp lists them.

use super::vocab::PRE;
use mlx_lm_common::{
    Error, Result,
    gguf::{Field, Metadata},
};

/// One way to cut a text.
#[derive(Debug)]
pub(super) struct Pre {
    /// The names it goes by.
    names: &'static [&'static str],
    /// Each expression cuts what the ones before it left.
    pub(super) splits: &'static [&'static str],
    /// How the vocabulary writes a text.
    pub(super) spelling: Spelling,
    /// A word that is a token is taken whole, whatever the merges would make of it.
    pub(super) whole_words: bool,
    /// Whether texts begin with BOS.
    pub(super) bos: Bos,
}

/// How a vocabulary writes a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling {
    /// Each byte as a printable character.
    Bytes,
    /// As it is, with `▁` for a space; characters that are no tokens by their bytes.
    Plain,
    /// Words, in lower case if the file says so, without what is between them.
    Words,
}

/// Whether texts begin with BOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bos {
    /// If the file says so.
    Told,
    /// Unless the file says otherwise.
    Usual,
    /// Whatever the file says.
    Always,
}

/// The kind of the file's vocabulary.
pub(super) fn find(metadata: &Metadata) -> Result<&'static Pre> {
    named(metadata.optional(PRE, Field::str)?.unwrap_or("default"))
}

/// The kind of this name.
pub(super) fn named(name: &str) -> Result<&'static Pre> {
    KINDS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
        let known: Vec<_> = KINDS.iter().flat_map(|pre| pre.names).copied().collect();
        Error::config(PRE, format!("`{name}`"), format!("one of {}", known.join(", ")))
    })
}

/// The name of the kind of byte-level vocabularies that cuts a text by these expressions.
pub(super) fn name_of(splits: &[String], whole_words: bool) -> Option<&'static str> {
    let same = |pre: &&Pre| {
        pre.spelling == Spelling::Bytes
            && pre.whole_words == whole_words
            && pre.splits.len() == splits.len()
            && pre.splits.iter().zip(splits).all(|(a, b)| canonical(a) == canonical(b))
    };
    KINDS.iter().find(same).and_then(|pre| pre.names.first().copied())
}

/// One spelling of what publishers and llama.cpp write in several ways.
fn canonical(expression: &str) -> String {
    const CASELESS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
    const CASES: &str = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";
    let expression = expression.replace(CASELESS, CASES);
    // What is left over is a piece anyway.
    expression.strip_suffix(r"|\s+").map_or(expression.clone(), str::to_string)
}

const fn cut(names: &'static [&'static str], splits: &'static [&'static str]) -> Pre {
    Pre { names, splits, spelling: Spelling::Bytes, whole_words: false, bos: Bos::Told }
}

const fn whole(names: &'static [&'static str], splits: &'static [&'static str], bos: Bos) -> Pre {
    Pre { whole_words: true, bos, ..cut(names, splits) }
}

const fn plain(names: &'static [&'static str], bos: Bos) -> Pre {
    Pre { spelling: Spelling::Plain, bos, ..cut(names, &[LINES]) }
}

const KINDS: &[Pre] = &[
    whole(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
        Bos::Usual,
    ),
    whole(&["glm4", "glm5"], &[LLAMA3], Bos::Told),
    cut(&["chatglm-bpe", "dbrx", "smaug-bpe"], &[LLAMA3]),
    cut(&["jais-2"], &[JAIS2]),
    whole(&["minicpm5"], &[r"\p{N}{1,3}", MINICPM5], Bos::Told),
    cut(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[QWEN2],
    ),
    cut(&["qwen35"], &[QWEN35]),
    cut(&["laguna"], &[LINES, QWEN2]),
    cut(&["ufakzeka"], &[UFAKZEKA]),
    cut(&["gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "modern-bert", "exaone4"], &[GPT2]),
    cut(
        &[
            "jina-es",
            "jina-de",
            "jina-v1-en",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
            "roberta-bpe",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    cut(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[DIGIT, GPT2],
    ),
    cut(&["exaone-moe"], &[EXAONE_MOE]),
    cut(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    Pre { bos: Bos::Usual, ..cut(&["chameleon"], &[SENTINEL, IMAGE, TABS, DIGIT, PUNCTUATION, GPT2]) },
    cut(&["deepseek-llm"], &[NEWLINE, DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, SPACES_AT_END, CJK, r"\p{N}+"]),
    cut(&["deepseek-coder"], &[NEWLINE, r"\s?\p{L}+", r"\s?\p{P}+", CJK, DIGIT]),
    cut(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[r"\p{N}{1,3}", KANA, DEEPSEEK3]),
    cut(&["spark2_5"], &[r"\p{N}{1,3}", KANA, SPARK, DIGIT]),
    cut(&["afmoe"], &[r"\p{N}+", THREES, ASIA, DEEPSEEK3]),
    whole(&["tekken"], &[TEKKEN], Bos::Usual),
    whole(&["youtu"], &[YOUTU_SCRIPTS, YOUTU], Bos::Told),
    cut(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    whole(&["granite-embed-multi-97m"], &[GPT4O], Bos::Told),
    cut(&["tiny_aya", "cohere2moe"], &[r"(?<!\d)\d++\b", THREES, GPT4O]),
    cut(&["kimi-k2"], &[KIMI]),
    cut(&["seed-coder"], &[SEED]),
    cut(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    cut(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM]),
    cut(&["viking"], &[BLOOM, DIGIT]),
    cut(&["superbpe"], &[r"\p{N}+", THREES]),
    plain(&["gemma4", "granite-embed-multi-311m"], Bos::Always),
    plain(&["sarvam-moe"], Bos::Told),
    Pre { spelling: Spelling::Words, ..cut(&["whitespace"], &[]) },
    cut(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

const LINES: &str = "[^\\n]+|[\\n]+";
/// Cuts a number into threes from its end, once it is a piece of its own. (A look at all that follows, at every three digits, would take
/// a time that grows with the square of their number.)
const THREES: &str = r"\A\p{N}{1,2}(?=(?:\p{N}{3})+\z)|\p{N}{3}";
pub(super) const DIGIT: &str = r"\p{N}";
const NEWLINE: &str = r"[\r\n]";
const CJK: &str = "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+";
const KANA: &str = "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
/// `\s+$`, told not to try again at every space of a long run.
const SPACES_AT_END: &str = r"(?<!\s)\s+$";

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const JAIS2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}";
const MINICPM5: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const UFAKZEKA: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const EXAONE_MOE: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+";
const SENTINEL: &str = "<sentinel:[0-9]+>";
const IMAGE: &str = "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z";
const TABS: &str = "([\\t\\n]|    |  )";
const PUNCTUATION: &str = r"[\p{P}!-/:-@\[-`{-~]";
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const ASIA: &str = "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{f900}-\u{faff}\u{3040}-\u{309f}\u{30a0}-\u{30ff}\u{ff65}-\u{ff9f}\u{2f00}-\u{2fdf}\
    \u{e40}-\u{e7f}\u{e80}-\u{eff}\u{1780}-\u{17ff}\u{1000}-\u{109f}\u{aa60}-\u{aa7f}\u{a9e0}-\u{a9ff}\u{ac00}-\u{d7af}\u{1100}-\u{11ff}]+";
const YOUTU_SCRIPTS: &str = "[\u{ac00}-\u{d7a3}\u{3131}-\u{318e}]+|[\u{ff01}\u{2026}\u{201c}\u{201d}\u{2018}\u{2019}\u{2014}\u{ff1a}\u{ff1b}\u{ff0c}\
    \u{3001}-\u{303f}\u{fe30}-\u{fe4f}]+|[\u{3105}-\u{312f}]+|[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = " ?[^(\\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+";
const DEEPSEEK_LETTERS: &str = "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\
    \u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\
    \u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\
    \u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}\
    -\u{1f45}\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\
    \u{1fbc}\u{1fbe}\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\
    \u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\
    \u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\
    \u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\
    \u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}\
    -\u{ff5a}\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\
    \u{118a0}-\u{118df}\u{1e900}-\u{1e943}]+";
const DEEPSEEK_PUNCTUATION: &str =
    "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+";
