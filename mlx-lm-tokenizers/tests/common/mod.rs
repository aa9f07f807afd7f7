//! Writes GGUF files of metadata alone.

#![allow(dead_code)]

use std::collections::BTreeMap;

/// A metadata value.
#[derive(Clone)]
pub(crate) enum V {
    Str(String),
    Bool(bool),
    U32(u32),
    Strs(Vec<String>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bytes(Vec<u8>),
}

#[derive(Clone, Default)]
pub(crate) struct Gguf(BTreeMap<String, V>);

impl Gguf {
    pub(crate) fn new() -> Gguf {
        Gguf::default().with("general.architecture", V::Str("llama".into()))
    }

    pub(crate) fn with(&self, key: &str, value: V) -> Gguf {
        let mut file = self.clone();
        file.0.insert(key.into(), value);
        file
    }

    pub(crate) fn without(mut self, key: &str) -> Gguf {
        self.0.remove(key);
        self
    }

    pub(crate) fn push_token(&mut self, token: &str, kind: i32) {
        if let Some(V::Strs(tokens)) = self.0.get_mut("tokenizer.ggml.tokens") {
            tokens.push(token.into());
        }
        if let Some(V::I32s(types)) = self.0.get_mut("tokenizer.ggml.token_type") {
            types.push(kind);
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend(0_u64.to_le_bytes());
        out.extend((self.0.len() as u64).to_le_bytes());
        for (key, value) in &self.0 {
            string(&mut out, key);
            match value {
                V::Str(text) => {
                    out.extend(8_u32.to_le_bytes());
                    string(&mut out, text);
                }
                V::Bool(b) => {
                    out.extend(7_u32.to_le_bytes());
                    out.push(u8::from(*b));
                }
                V::U32(n) => {
                    out.extend(4_u32.to_le_bytes());
                    out.extend(n.to_le_bytes());
                }
                V::Strs(list) => {
                    array(&mut out, 8, list.len());
                    list.iter().for_each(|text| string(&mut out, text));
                }
                V::I32s(list) => {
                    array(&mut out, 5, list.len());
                    list.iter().for_each(|n| out.extend(n.to_le_bytes()));
                }
                V::Bytes(bytes) => {
                    array(&mut out, 0, bytes.len());
                    out.extend(bytes);
                }
                V::F32s(list) => {
                    array(&mut out, 6, list.len());
                    list.iter().for_each(|x| out.extend(x.to_le_bytes()));
                }
            }
        }
        out
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn array(out: &mut Vec<u8>, kind: u32, len: usize) {
    out.extend(9_u32.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((len as u64).to_le_bytes());
}

/// The characters that stand for the bytes 0 to 255 in byte-level vocabularies: printable Latin-1 for itself, the others from U+0100.
pub(crate) fn byte_characters() -> impl Iterator<Item = char> {
    let mut next = 0x100;
    (0..=255_u32).map(move |b| {
        if matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) {
            return char::from_u32(b).unwrap();
        }
        next += 1;
        char::from_u32(next - 1).unwrap()
    })
}
