//! Damages good inputs, the same way every time: flipped, removed, repeated and inserted bytes, and pieces of other inputs.

/// A small generator of numbers that look random (xorshift64*).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Calls `read` with `rounds` damaged copies of `seeds`; it must not panic.
pub(crate) fn mutations(seeds: &[&[u8]], tokens: &[&[u8]], rounds: usize, mut read: impl FnMut(&[u8])) {
    let mut rng = Rng(0x9E37_79B9_7F4A_7C15);
    for round in 0..rounds {
        let mut bytes = seeds[round % seeds.len()].to_vec();
        for _ in 0..=rng.below(4) {
            let (at, len) = (rng.below(bytes.len() + 1), rng.below(9));
            let end = (at + len).min(bytes.len());
            match rng.below(5) {
                0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let again = bytes[at..end].to_vec();
                    bytes.splice(at..at, again);
                }
                3 => drop(bytes.splice(at..end, tokens[rng.below(tokens.len())].iter().copied())),
                _ => bytes.truncate(at),
            }
        }
        read(&bytes);
    }
}
