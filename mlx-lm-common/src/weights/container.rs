//! Opens a checkpoint, whatever container it is in.

use super::{
    Checkpoint, CheckpointFile, Float8, JangConfig, Layout, Stored, Tensor, encodings,
    header::DType,
    header::TensorInfo,
    index::Shards,
    jang::{self, Claims},
};
use crate::{Config, Error, Result, gguf::Gguf};
use mlx_rs::Dtype;
use std::{collections::BTreeMap, path::Path, rc::Rc, sync::Arc};

/// Reads configuration and headers of `model`: a folder in the Hugging Face layout, or a GGUF file. No tensor is read; what other
/// toolkits have quantized will come as plain floats or in MLX's packed layouts.
///
/// # Errors
/// [`Error::Io`], [`Error::File`] or [`Error::Tensor`] for what is missing or damaged, [`Error::Config`] for a bad configuration.
pub fn open(model: &Path) -> Result<(Config, Checkpoint)> {
    if model.is_dir() {
        let mut config = Config::from_dir(model)?;
        let jang = JangConfig::of(model, &config.value)?.map(Rc::new);
        let mut checkpoint = open_folder(model, jang.is_some())?;
        if let Some(jang) = &jang {
            checkpoint = checkpoint.with_layout(Layout::Jang(jang.clone()));
            jang::decode(&mut checkpoint, &mut config, jang)?;
        }
        *checkpoint.claims() = Claims::read(&mut checkpoint, &config, jang.as_deref());
        encodings::decode(&mut checkpoint, &config)?;
        return Ok((config, checkpoint));
    }
    match model.extension().and_then(|e| e.to_str()) {
        Some("gguf") => open_gguf(model),
        _ if !model.exists() => Err(Error::file(
            model,
            "does not exist; name a folder with config.json and *.safetensors, or a .gguf file",
        )),
        _ => {
            Err(Error::file(model, "is neither a folder with config.json and *.safetensors nor a .gguf file"))
        }
    }
}

/// The safetensors files of a folder, which may be of version 1 of the JANG format.
fn open_folder(folder: &Path, is_jang: bool) -> Result<Checkpoint> {
    let mut tensors = BTreeMap::new();
    let shards = if is_jang { jang::shards(folder)? } else { Shards::find(folder)? };
    for (path, header) in shards.headers()? {
        let file = Arc::new(CheckpointFile::open(&path)?);
        for (name, info) in header.tensors {
            let tensor = stored(&file, &name, info)?;
            tensors.insert(name, Tensor::Plain(tensor));
        }
    }
    Ok(Checkpoint::new(tensors))
}

/// All tensors of one safetensors file, with the file's metadata.
pub(crate) fn open_file(path: &Path) -> Result<(BTreeMap<String, Stored>, BTreeMap<String, String>)> {
    let header = super::header::Header::read(path)?;
    let file = Arc::new(CheckpointFile::open(path)?);
    let tensors = header.tensors.into_iter().map(|(name, info)| {
        let tensor = stored(&file, &name, info)?;
        Ok((name, tensor))
    });
    Ok((tensors.collect::<Result<_>>()?, header.metadata))
}

fn stored(file: &Arc<CheckpointFile>, name: &str, info: TensorInfo) -> Result<Stored> {
    let part_bytes =
        usize::try_from(info.len).map_err(|_| Error::tensor(name, "too large for this computer"))?;
    let dtype = match info.dtype {
        DType::BOOL => Dtype::Bool,
        // 8-bit floats are scales or codes; what they mean is for the quantized operations.
        DType::U8 | DType::F8_E4M3 | DType::F8_E5M2 | DType::F8_E8M0 => Dtype::Uint8,
        DType::I8 => Dtype::Int8,
        DType::U16 => Dtype::Uint16,
        DType::I16 => Dtype::Int16,
        DType::U32 => Dtype::Uint32,
        DType::I32 => Dtype::Int32,
        DType::U64 => Dtype::Uint64,
        DType::I64 => Dtype::Int64,
        DType::F16 => Dtype::Float16,
        DType::BF16 => Dtype::Bfloat16,
        DType::F32 => Dtype::Float32,
        DType::F64 => Dtype::Float64,
        other => return Err(Error::tensor(name, format!("elements of type {other:?} are not supported"))),
    };
    let float8 = match info.dtype {
        DType::F8_E4M3 => Some(Float8::E4m3),
        DType::F8_E5M2 => Some(Float8::E5m2),
        DType::F8_E8M0 => Some(Float8::E8m0),
        _ => None,
    };
    let parts = vec![(file.clone(), info.offset)];
    Ok(Stored { parts, part_bytes, runs: None, dtype, float8, shape: info.shape })
}

fn open_gguf(path: &Path) -> Result<(Config, Checkpoint)> {
    let gguf = Gguf::open(path)?;
    let config = Config::from_json(gguf.config()?)?;
    Ok((config, gguf.checkpoint()?))
}
