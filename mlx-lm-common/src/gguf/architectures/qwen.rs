//! Qwen 2 and 3.

use super::{Family, llama::decoder};

pub(super) const QWEN2: Family = Family::plain(|keys| decoder(keys, "qwen2"));
pub(super) const QWEN3: Family = Family::plain(|keys| decoder(keys, "qwen3"));
