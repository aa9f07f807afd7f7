//! Numbers that look random, and float16 numbers that are odd.

/// Numbers that look random (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// The smallest, the largest and the oddest: zero, subnormal, normal at both ends, either sign.
pub(crate) const EXTREMES: [u16; 12] =
    [0, 0x8000, 1, 0x8001, 0x3ff, 0x400, 0x87ff, 0x3c00, 0xbc01, 0x5bff, 0x7bff, 0xfbff];
