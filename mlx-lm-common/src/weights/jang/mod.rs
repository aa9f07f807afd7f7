//! JANG bundles: MLX's packed layout with a width of its own for every module, and what the format's writers have changed besides.
//!
//! A bundle is known by its `jang_config.json`, or by one of the names that file had before. Bits and groups come from the shapes
//! that an architecture declares, as for every checkpoint; what configuration files claim about them is only checked.

mod config;

pub use config::JangConfig;
