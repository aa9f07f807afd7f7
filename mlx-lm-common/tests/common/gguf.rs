//! Writes GGUF files, good ones and bad ones.

use mlx_lm_common::{Result, gguf::Gguf};
use std::io::Write;

/// Numbers of metadata types.
#[allow(dead_code)]
pub(crate) mod kind {
    pub(crate) const U8: u32 = 0;
    pub(crate) const I8: u32 = 1;
    pub(crate) const U16: u32 = 2;
    pub(crate) const I16: u32 = 3;
    pub(crate) const U32: u32 = 4;
    pub(crate) const I32: u32 = 5;
    pub(crate) const F32: u32 = 6;
    pub(crate) const BOOL: u32 = 7;
    pub(crate) const STR: u32 = 8;
    pub(crate) const LIST: u32 = 9;
    pub(crate) const U64: u32 = 10;
    pub(crate) const I64: u32 = 11;
    pub(crate) const F64: u32 = 12;
}

/// A tensor as the header lists it; its data follow the others' unless the offset is given.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// As in the file: the contiguous axis first.
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// A GGUF file in the making. Keys and tensors are written as they were added.
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    pub(crate) alignment: usize,
    /// In place of the true counts.
    pub(crate) tensor_count: Option<u64>,
    pub(crate) pair_count: Option<u64>,
    pub(crate) pairs: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub(crate) tensors: Vec<Entry>,
}

/// A string as the file has it: length, bytes.
pub(crate) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

/// An array as the file has it: type, count, items.
pub(crate) fn list(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

#[allow(dead_code)]
impl Builder {
    pub(crate) fn new() -> Builder {
        Builder {
            magic: *b"GGUF",
            version: 3,
            alignment: 32,
            tensor_count: None,
            pair_count: None,
            pairs: Vec::new(),
            tensors: Vec::new(),
        }
    }

    /// A small model with every tensor that the architecture has, all float32 zeros.
    pub(crate) fn model(architecture: &str) -> Builder {
        let key = |name: &str| format!("{architecture}.{name}");
        let mut b = Builder::new()
            .str("general.architecture", architecture)
            .u32(&key("block_count"), 2)
            .u32(&key("context_length"), 512)
            .u32(&key("embedding_length"), 64)
            .u32(&key("feed_forward_length"), 96)
            .u32(&key("attention.head_count"), 4)
            .u32(&key("attention.head_count_kv"), 2)
            .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
            .f32(&key("rope.freq_base"), 5e5);
        b = b.zeros("token_embd.weight", &[64, 40]).zeros("output_norm.weight", &[64]);
        for layer in 0..2 {
            for (name, dims) in [
                ("attn_norm.weight", &[64_u64][..]),
                ("attn_q.weight", &[64, 64]),
                ("attn_k.weight", &[64, 32]),
                ("attn_v.weight", &[64, 32]),
                ("attn_output.weight", &[64, 64]),
                ("ffn_norm.weight", &[64]),
                ("ffn_gate.weight", &[64, 96]),
                ("ffn_up.weight", &[64, 96]),
                ("ffn_down.weight", &[96, 64]),
            ] {
                b = b.zeros(&format!("blk.{layer}.{name}"), dims);
            }
        }
        b
    }

    pub(crate) fn pair(mut self, key: impl AsRef<[u8]>, kind: u32, value: impl Into<Vec<u8>>) -> Builder {
        self.pairs.push((key.as_ref().to_vec(), kind, value.into()));
        self
    }

    /// Removes a key, to be added again with another value.
    pub(crate) fn without(mut self, key: &str) -> Builder {
        self.pairs.retain(|(k, ..)| k != key.as_bytes());
        self
    }

    pub(crate) fn str(self, key: &str, value: &str) -> Builder {
        self.without(key).pair(key, kind::STR, string(value))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Builder {
        self.without(key).pair(key, kind::U32, value.to_le_bytes())
    }

    pub(crate) fn f32(self, key: &str, value: f32) -> Builder {
        self.without(key).pair(key, kind::F32, value.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Builder {
        self.without(key).pair(key, kind::BOOL, [value.into()])
    }

    pub(crate) fn strings(self, key: &str, values: &[&str]) -> Builder {
        let items: Vec<u8> = values.iter().flat_map(string).collect();
        self.without(key).pair(key, kind::LIST, list(kind::STR, values.len() as u64, &items))
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Builder {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.without(key).pair(key, kind::LIST, list(kind::I32, values.len() as u64, &items))
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Builder {
        let items: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.without(key).pair(key, kind::LIST, list(kind::F32, values.len() as u64, &items))
    }

    pub(crate) fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: Vec<u8>) -> Builder {
        self.tensors.retain(|t| t.name != name);
        self.tensors.push(Entry { name: name.into(), dims: dims.into(), kind, offset: None, data });
        self
    }

    pub(crate) fn zeros(self, name: &str, dims: &[u64]) -> Builder {
        let values: u64 = dims.iter().product();
        self.tensor(name, dims, 0, vec![0; 4 * values as usize])
    }

    /// Adds a tensor that only the header knows, even if there is one of that name.
    pub(crate) fn entry(mut self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Builder {
        let (name, dims) = (name.into(), dims.into());
        self.tensors.push(Entry { name, dims, kind, offset: Some(offset), data: Vec::new() });
        self
    }

    pub(crate) fn edit(mut self, change: impl FnOnce(&mut Builder)) -> Builder {
        change(&mut self);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.pair_count.unwrap_or(self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for t in &self.tensors {
            out.extend(string(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.kind.to_le_bytes());
            out.extend(t.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&t.data);
            data.resize(data.len().next_multiple_of(self.alignment), 0);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(data);
        out
    }

    pub(crate) fn open(&self) -> Result<Gguf> {
        open(&self.bytes())
    }
}

/// With a vocabulary that begins and ends.
#[allow(dead_code)]
pub(crate) fn tokens(b: Builder) -> Builder {
    b.strings("tokenizer.ggml.tokens", &["x"; 40])
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
}

/// Opens a file of these bytes. The file has no name any more, but stays as long as it is open.
pub(crate) fn open(bytes: &[u8]) -> Result<Gguf> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Gguf::open(file.path())
}
