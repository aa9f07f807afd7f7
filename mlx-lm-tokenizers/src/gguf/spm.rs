//! SentencePiece's byte pair encoding: of all neighbours that make a token together, those with the highest score merge first. The
//! crate `tokenizers` has merges by rank only, which breaks ties between equal scores another way, so the model is our own.

use super::{
    Built, end,
    vocab::{self, Vocab},
};
use crate::pipeline::guarded;
use mlx_lm_common::{
    Result,
    gguf::{Field, Metadata},
};
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::{Value, json};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    path::{Path, PathBuf},
};
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, Token,
    TokenizerImpl,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence, strip::Strip},
    models::bpe::{BPE, BpeTrainer},
    normalizers::Replace,
};

/// What stands for a space in the vocabulary.
const SPACE: &str = "▁";

pub(super) fn build(vocab: &Vocab, metadata: &Metadata) -> Result<Built> {
    let space_first = space_first(metadata)?;
    let byte =
        |b: u8| vocab.id(&format!("<0x{b:02X}>")).or_else(|| vocab.id(std::str::from_utf8(&[b]).ok()?));
    let model = Spm {
        scores: vocab.scores(metadata)?,
        longest: vocab.tokens().iter().map(String::len).max().unwrap_or(0),
        ids: vocab.tokens().iter().cloned().zip(0..).collect(),
        tokens: vocab.tokens().to_vec(),
        bytes: (0..=255).map(byte).collect(),
        unknown: vocab.special(metadata, vocab::UNKNOWN)?,
        space_first,
    };
    let replace = guarded("build it", || Replace::new(SPACE, " "))?;
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace.into(), ByteFallback::new().into(), Fuse::new().into()];
    if space_first {
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    type Pipeline =
        TokenizerImpl<Spm, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;
    let mut tokenizer = Pipeline::new(model);
    tokenizer.with_decoder(Some(Sequence::new(decoders)));
    guarded("add the special tokens", || tokenizer.add_tokens(vocab.added()))?;
    let first = end(vocab, metadata, "tokenizer.ggml.add_bos_token", true, vocab::BOS)?;
    let last = end(vocab, metadata, "tokenizer.ggml.add_eos_token", false, vocab::EOS)?;
    Ok(Built { pipeline: Box::new(tokenizer), first, last })
}

struct Spm {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    bytes: Vec<Option<u32>>,
    unknown: Option<u32>,
    /// Bytes of the longest token.
    longest: usize,
    /// A text, or what follows a special token, begins with a space.
    space_first: bool,
}

/// Two neighbours that make a token. The one to merge first is the greatest: highest score, then leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    score: Score,
    left: Reverse<usize>,
    right: usize,
    bytes: usize,
}

#[derive(PartialEq, PartialOrd)]
struct Score(f32);

impl Eq for Score {}

#[allow(clippy::derive_ord_xor_partial_ord)]
impl Ord for Score {
    fn cmp(&self, other: &Score) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A piece of the text in a chain of pieces; without bytes once it has merged into its left neighbour.
struct Piece {
    start: usize,
    bytes: usize,
    left: Option<usize>,
    right: Option<usize>,
}

impl Spm {
    fn pieces(&self, text: &str) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for (i, (start, c)) in text.char_indices().enumerate() {
            pieces.push(Piece { start, bytes: c.len_utf8(), left: i.checked_sub(1), right: Some(i + 1) });
        }
        if let Some(last) = pieces.last_mut() {
            last.right = None;
        }
        let mut heap = BinaryHeap::new();
        for right in 1..pieces.len() {
            heap.extend(self.pair(text, &pieces, Some(right - 1), Some(right)));
        }
        while let Some(Pair { left: Reverse(left), right, bytes, .. }) = heap.pop() {
            // One of the two has changed since.
            if pieces[left].bytes == 0
                || pieces[right].bytes == 0
                || pieces[left].bytes + pieces[right].bytes != bytes
            {
                continue;
            }
            pieces[left].bytes = bytes;
            pieces[right].bytes = 0;
            let next = pieces[right].right;
            pieces[left].right = next;
            if let Some(next) = next {
                pieces[next].left = Some(left);
            }
            heap.extend(self.pair(text, &pieces, pieces[left].left, Some(left)));
            heap.extend(self.pair(text, &pieces, Some(left), next));
        }
        pieces.retain(|piece| piece.bytes > 0);
        pieces
    }

    fn pair(&self, text: &str, pieces: &[Piece], left: Option<usize>, right: Option<usize>) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let bytes = pieces[left].bytes + pieces[right].bytes;
        if bytes > self.longest {
            return None;
        }
        let start = pieces[left].start;
        let id = *self.ids.get(&text[start..start + bytes])?;
        Some(Pair { score: Score(self.scores[id as usize]), left: Reverse(left), right, bytes })
    }
}

impl Serialize for Spm {
    /// The nearest of the crate's own models, as transformers converts such vocabularies: merges in the order of the scores of what they
    /// make, and of the parts' ids where these are equal.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut merges = Vec::new();
        for (token, whole) in self.tokens.iter().zip(0u32..) {
            for (cut, _) in token.char_indices().skip(1) {
                let (left, right) = token.split_at(cut);
                if let (Some(l), Some(r)) = (self.ids.get(left), self.ids.get(right)) {
                    merges.push((Reverse(Score(self.scores[whole as usize])), *l, *r));
                }
            }
        }
        merges.sort();
        let text = |id: u32| self.tokens[id as usize].clone();
        let merges = merges.into_iter().map(|(_, left, right)| (text(left), text(right))).collect();
        let vocab: tokenizers::models::bpe::Vocab = self.ids.clone().into_iter().collect();
        let mut model = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = self.unknown {
            model = model.unk_token(text(unknown));
        }
        model.build().map_err(S::Error::custom)?.serialize(serializer)
    }
}

/// What [`Spm`] does to a text before it looks for tokens, as a part of a `tokenizer.json`.
pub(super) fn normalizer(metadata: &Metadata) -> Result<Value> {
    let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
    if !space_first(metadata)? {
        return Ok(space);
    }
    let prepend = json!({ "type": "Prepend", "prepend": SPACE });
    Ok(json!({ "type": "Sequence", "normalizers": [prepend, space] }))
}

/// Whether a text begins with a space.
fn space_first(metadata: &Metadata) -> Result<bool> {
    Ok(metadata.optional("tokenizer.ggml.add_space_prefix", Field::bool)?.unwrap_or(true))
}

impl Model for Spm {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        let mut text = sequence.replace(' ', SPACE);
        if self.space_first {
            text.insert_str(0, SPACE);
        }
        let mut tokens = Vec::new();
        // The offsets are into this text, not the sequence: nobody asks for them.
        let mut push =
            |id: u32| tokens.push(Token::new(id, self.tokens[id as usize].clone(), (0, sequence.len())));
        for piece in self.pieces(&text) {
            let piece = &text[piece.start..piece.start + piece.bytes];
            match self.ids.get(piece) {
                Some(id) => push(*id),
                None => piece
                    .bytes()
                    .filter_map(|b| self.bytes[usize::from(b)].or(self.unknown))
                    .for_each(&mut push),
            }
        }
        Ok(tokens)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tokens.get(id as usize).cloned()
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.ids.clone()
    }

    fn get_vocab_size(&self) -> usize {
        self.tokens.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a tokenizer from a GGUF file cannot be saved".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
