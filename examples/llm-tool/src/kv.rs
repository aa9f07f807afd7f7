//! `--kv`: how keys and values are stored.

use std::str::FromStr;

/// A kind of key-value cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum KvSpec {
    /// Every position, in the type that the model computes in.
    #[default]
    Float,
    /// The first few and the latest positions, so many in all.
    Max(i32),
}

impl KvSpec {
    /// Most positions that are kept, if there is a limit.
    pub(crate) fn max_size(self) -> Option<i32> {
        match self {
            KvSpec::Float => None,
            KvSpec::Max(size) => Some(size),
        }
    }
}

impl FromStr for KvSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<KvSpec, String> {
        if text == "float" {
            return Ok(KvSpec::Float);
        }
        let size = text.strip_prefix("max:").and_then(|n| n.parse().ok()).filter(|n| *n > 0);
        size.map(KvSpec::Max).ok_or_else(|| {
            "known are `float` (every position) and `max:N` (the first few and the latest positions, N in all)".into()
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn known_kinds_are_read_and_others_refused() {
        assert_eq!("float".parse(), Ok(KvSpec::Float));
        assert_eq!("max:512".parse(), Ok(KvSpec::Max(512)));
        for text in ["", "max", "max:", "max:0", "max:-3", "max:99999999999", "turbo4", "Float"] {
            let error = text.parse::<KvSpec>().unwrap_err();
            assert!(error.contains("float") && error.contains("max:N"), "{text}: {error}");
        }
    }
}
