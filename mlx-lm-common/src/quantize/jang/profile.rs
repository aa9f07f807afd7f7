//! The profiles that a bundle can be written in.

use super::Tier;
use crate::{Error, Result};
use std::{fmt, str::FromStr};

/// Widths that matrices can have, in bits.
const WIDTHS: [u8; 6] = [2, 3, 4, 5, 6, 8];

/// How many bits which matrices get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile {
    name: &'static str,
    pub(super) kind: Kind,
}

/// What a profile goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A width for each tier.
    Tiers {
        /// Of [`Tier::Critical`].
        critical: u8,
        /// Of [`Tier::Important`].
        important: u8,
        /// Of [`Tier::Compress`].
        compress: u8,
    },
    /// This width on average: what sensitive matrices get besides is taken from others.
    Budget(u8),
}

/// All of them, by the number of bits that most of a model gets.
pub(super) const PROFILES: [Profile; 16] = [
    tiers("1L", 8, 8, 2),
    tiers("2S", 6, 4, 2),
    tiers("2M", 8, 4, 2),
    tiers("2L", 8, 6, 2),
    tiers("3S", 6, 3, 3),
    tiers("3M", 8, 3, 3),
    tiers("3L", 8, 4, 3),
    tiers("4S", 6, 4, 4),
    tiers("4M", 8, 4, 4),
    tiers("4L", 8, 6, 4),
    tiers("6M", 8, 6, 6),
    Profile { name: "2K", kind: Kind::Budget(2) },
    Profile { name: "3K", kind: Kind::Budget(3) },
    Profile { name: "4K", kind: Kind::Budget(4) },
    Profile { name: "5K", kind: Kind::Budget(5) },
    Profile { name: "6K", kind: Kind::Budget(6) },
];

const fn tiers(name: &'static str, critical: u8, important: u8, compress: u8) -> Profile {
    Profile { name, kind: Kind::Tiers { critical, important, compress } }
}

impl Profile {
    /// Its name as people write it: `4M`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The number in its name, which the format calls its target.
    pub(super) fn target_bits(self) -> u8 {
        self.name.as_bytes()[0] - b'0'
    }
}

impl Kind {
    /// The width of a tier, where tiers have widths.
    pub(super) fn of_tier(self, tier: Tier) -> Option<u8> {
        let Kind::Tiers { critical, important, compress } = self else { return None };
        Some(match tier {
            Tier::Critical => critical,
            Tier::Important => important,
            Tier::Compress => compress,
        })
    }
}

/// The next greater width.
pub(super) fn wider(bits: u8) -> Option<u8> {
    WIDTHS.into_iter().find(|width| *width > bits)
}

/// The next smaller width.
pub(super) fn narrower(bits: u8) -> Option<u8> {
    WIDTHS.into_iter().rev().find(|width| *width < bits)
}

/// As bundles name it: `JANG_4M`.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "JANG_{}", self.name)
    }
}

/// Reads `4M` or `JANG_4M`, in capitals or not.
impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Profile> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("JANG_").unwrap_or(&upper);
        PROFILES.into_iter().find(|profile| profile.name == name).ok_or_else(|| {
            let names: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
            let wanted = format!("one of {}", names.join(", "));
            Error::Parameter { name: "jang", found: text.chars().take(40).collect(), wanted }
        })
    }
}
