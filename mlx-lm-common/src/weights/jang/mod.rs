//! JANG bundles: MLX's packed layout with a width of its own for every module, and what the format's writers have changed besides.
//!
//! A bundle is known by its `jang_config.json`, or by one of the names that file had before. Bits and groups come from the shapes
//! that an architecture declares, as for every checkpoint; what configuration files claim about them is only checked.

mod claims;
mod codes;
mod config;
mod repairs;
mod single_bits;
mod streams;

pub(super) use claims::Claims;
pub(crate) use claims::Place;
pub use config::JangConfig;
pub(super) use config::SEED;

use super::{
    Checkpoint,
    index::{INDEX, Shards},
};
use crate::{Config, Result};
use std::path::Path;

/// What files and indexes of version 1 were called, the newest first.
const FIRST_NAMES: [&str; 3] = ["jang", "jjqf", "mxq"];

/// The files of the bundle in `folder`: those of version 2, or else those of version 1.
///
/// # Errors
/// As [`Shards::find`].
pub(super) fn shards(folder: &Path) -> Result<Shards> {
    if !folder.join(INDEX).exists() {
        for name in FIRST_NAMES {
            if let Some(shards) = Shards::by_index(folder, &format!("model.{name}.index.json"))? {
                return Ok(shards);
            }
        }
        for name in FIRST_NAMES {
            if let Some(shards) = Shards::by_suffix(folder, &format!(".{name}.safetensors"))? {
                return Ok(shards);
            }
        }
    }
    Shards::find(folder)
}

/// Brings the tensors of a bundle into MLX's layout, and its configuration into what they are for.
///
/// # Errors
/// Of version 1 and of JANGTQ, parts that do not belong together; matrices of the format JANGH.
pub(super) fn decode(checkpoint: &mut Checkpoint, config: &mut Config, jang: &JangConfig) -> Result<()> {
    // What calibration left, and layers that predict several tokens ahead.
    checkpoint
        .ignore(|name| name.ends_with(".importance") || name.starts_with("mtp.") || name.contains(".mtp."));
    streams::decode(checkpoint, config)?;
    codes::decode(checkpoint)?;
    repairs::mend(config, jang);
    Ok(())
}
