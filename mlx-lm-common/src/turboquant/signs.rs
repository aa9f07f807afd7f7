//! Random signs from a seed, as numpy's `default_rng(seed).choice([-1, 1], count)` draws them.

/// A generator of random numbers: PCG64, which is PCG XSL RR 128/64 (M. O'Neill, "PCG", 2014), seeded as numpy seeds it.
struct Pcg64 {
    state: u128,
    increment: u128,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

    fn new(seed: u64) -> Pcg64 {
        let [state, stream] = mixed(seed);
        let mut pcg = Pcg64 { state: 0, increment: stream << 1 | 1 };
        pcg.step();
        pcg.state = pcg.state.wrapping_add(state);
        pcg.step();
        pcg
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(Pcg64::MULTIPLIER).wrapping_add(self.increment);
    }

    fn next(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }
}

/// numpy's `SeedSequence(seed).generate_state(4, uint64)`, as two numbers of 128 bits: M. O'Neill's `seed_seq_fe` with four words.
fn mixed(seed: u64) -> [u128; 2] {
    const MIX: [u32; 2] = [0xca01_f9dd, 0x4973_f715];
    let folded = |x: u32| x ^ x >> 16;
    let mut hash = 0x43b0_d7e5_u32;
    let mut hashed = |value: u32| {
        let value = value ^ hash;
        hash = hash.wrapping_mul(0x931e_8875);
        folded(value.wrapping_mul(hash))
    };
    let mut pool = [hashed(seed as u32), hashed((seed >> 32) as u32), hashed(0), hashed(0)];
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            let [a, b] = [pool[to].wrapping_mul(MIX[0]), hashed(pool[from]).wrapping_mul(MIX[1])];
            pool[to] = folded(a.wrapping_sub(b));
        }
    }
    let mut hash = 0x8b51_f9dd_u32;
    let mut words = pool.into_iter().cycle().map(|value| {
        let value = value ^ hash;
        hash = hash.wrapping_mul(0x58f3_8ded);
        u128::from(folded(value.wrapping_mul(hash)))
    });
    // Of two numbers of 64 bits the first is the higher half, of two words the lower.
    [(); 2].map(|()| {
        words.by_ref().take(4).zip([64, 96, 0, 32]).fold(0, |number, (word, shift)| number | word << shift)
    })
}

/// `count` signs from `seed`; fewer of them are a prefix of more.
pub fn signs(seed: u64, count: usize) -> Vec<f32> {
    let mut pcg = Pcg64::new(seed);
    let mut signs = Vec::with_capacity(count + 1);
    while signs.len() < count {
        let bits = pcg.next();
        // The highest bit of either half, the lower half first.
        signs.extend([31, 63].map(|bit| if bits >> bit & 1 == 1 { 1.0 } else { -1.0 }));
    }
    signs.truncate(count);
    signs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What numpy 2.4 says.
    #[test]
    fn states_are_numpys() {
        for (seed, state, increment) in [
            (42, 274674114334540486603088602300644985544, 332724090758049132448979897138935081983),
            (0, 35399562948360463058890781895381311971, 87136372517582989555478159403783844777),
            (4294967301, 54757004869689011157327405944551088965, 51930290519656236353899355744647017411),
            (
                9223372036854775819,
                148251265170049196924893913778011951985,
                139770054201366614832873966716102748273,
            ),
        ] {
            let pcg = Pcg64::new(seed);
            assert_eq!((pcg.state, pcg.increment), (state, increment), "seed {seed}");
        }
    }

    #[test]
    fn signs_are_numpys() {
        let text = |seed, count| -> String {
            signs(seed, count).iter().map(|s| if *s > 0.0 { '+' } else { '-' }).collect()
        };
        assert_eq!(text(42, 40), "-++--+-+--+++++++-+-+--+++-++----++-++-+");
        assert_eq!(text(0, 40), "+++------+++++++++++-++--++-+++--+-+----");
        assert_eq!(text(9223372036854775819, 40), "+--+---++-+--+-+-++-++-+++----++-+-++-++");
        assert_eq!(text(42, 7), "-++--+-");
        assert_eq!(text(42, 0), "");
    }
}
