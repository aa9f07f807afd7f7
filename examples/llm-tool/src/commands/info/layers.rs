//! What layers remember of each token.

use mlx_llm::{Config, Result, common::weights::Checkpoint};
use mlx_rs::Dtype;

/// The key-value cache of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerCache {
    /// The latest tokens that it keeps, if not all.
    pub(super) window: Option<u64>,
    /// Bytes that a token takes.
    pub(super) per_token: u64,
}

impl LayerCache {
    pub(super) fn kind(self) -> &'static str {
        if self.window.is_some() { "window" } else { "full" }
    }

    /// Bytes after `length` tokens.
    pub(super) fn bytes(self, length: u64) -> u64 {
        self.per_token * self.window.map_or(length, |window| window.min(length))
    }
}

/// The caches of all layers, equal ones counted together.
pub(super) fn caches(
    checkpoint: &Checkpoint,
    config: &Config,
    compute: Dtype,
) -> Result<Vec<(LayerCache, u64)>> {
    let windows = Windows::read(config)?;
    let value_bytes = if compute == Dtype::Float32 { 4 } else { 2 };
    let mut counted: Vec<(LayerCache, u64)> = Vec::new();
    for layer in 0..config.dim("num_hidden_layers")? as usize {
        // Keys and values are as wide as their projections have rows, packed or not.
        let rows = |part: &str| {
            let name = format!("model.layers.{layer}.self_attn.{part}.weight");
            let tensor = checkpoint.iter().find(|(n, _)| *n == name).map(|(_, t)| t);
            tensor.and_then(|t| t.shape().first()).map(|n| *n as u64)
        };
        let Some(width) = rows("k_proj").zip(rows("v_proj")).map(|(k, v)| k + v) else { continue };
        let cache = LayerCache { window: windows.of(layer), per_token: width * value_bytes };
        match counted.iter_mut().find(|(c, _)| *c == cache) {
            Some((_, layers)) => *layers += 1,
            None => counted.push((cache, 1)),
        }
    }
    Ok(counted)
}

/// Which layers see the latest tokens alone.
struct Windows {
    size: Option<u64>,
    layer_types: Option<Vec<String>>,
    first: usize,
}

impl Windows {
    fn read(config: &Config) -> Result<Windows> {
        let used = config.get("use_sliding_window")?.unwrap_or(config.model_type == "mistral");
        let layer_types: Option<Vec<String>> = config.get("layer_types")?;
        let size: Option<u64> = config.get("sliding_window")?;
        Ok(Windows {
            size: size.filter(|_| used || layer_types.is_some()),
            layer_types,
            first: config.get("max_window_layers")?.unwrap_or(0),
        })
    }

    fn of(&self, layer: usize) -> Option<u64> {
        self.size.filter(|_| match &self.layer_types {
            Some(types) => types.get(layer).is_some_and(|t| t == "sliding_attention"),
            None => layer >= self.first,
        })
    }
}
