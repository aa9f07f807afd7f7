#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;

/// splitmix64, as in `xtask/oracle/gguf_blocks.py`.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// FNV-1a.
fn hash(bytes: &[u8]) -> String {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

/// The values that the script made blocks of.
fn values() -> Vec<[f32; BLOCK]> {
    let from = |f: &dyn Fn(usize) -> f32| std::array::from_fn(f);
    let mut blocks = vec![
        [0.0; BLOCK],
        [-0.0; BLOCK],
        from(&|i| if i == 0 { 127.0 } else { (i as f32 - 1.0) / 2.0 - 7.75 }),
        from(&|i| if i == 0 { -8.0 } else { (i as f32 - 1.0) / 4.0 - 3.75 }),
        from(&|i| if i % 2 == 0 { -3.0 } else { 3.0 }),
        from(&|i| if i % 2 == 0 { 3.0 } else { -3.0 }),
    ];
    let mut state = 7;
    for i in 0..58 {
        blocks.push(std::array::from_fn(|_| {
            let drawn = random(&mut state);
            let power = if i % 2 == 1 { i % 20 - 10 } else { (drawn % 32) as i32 - 16 };
            ((drawn >> 40) as f32 - 8_388_608.0) * 2_f32.powi(power - 23)
        }));
    }
    blocks
}

#[test]
fn blocks_are_those_of_the_package() {
    let recorded: serde_json::Value =
        serde_json::from_str(include_str!("../../../../tests/data/gguf_written.json")).unwrap();
    for kind in FileType::ALL {
        let wanted = recorded[kind.name().to_uppercase()].as_array().unwrap();
        let blocks = values();
        assert_eq!(blocks.len(), wanted.len());
        for (i, (block, wanted)) in blocks.iter().zip(wanted).enumerate() {
            let mut bytes = Vec::new();
            kind.pack(block, &mut bytes);
            let (values, size) = kind.block();
            assert_eq!(bytes.len(), BLOCK / values * size);
            assert_eq!(hash(&bytes), wanted.as_str().unwrap(), "{} block {i}: {block:?}", kind.name());
        }
    }
}

#[test]
fn the_largest_values_fit_and_no_larger() {
    for kind in FileType::ALL {
        let mut bytes = Vec::new();
        kind.pack(&[-kind.limit(); BLOCK], &mut bytes);
        let finite = match kind {
            FileType::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]).is_finite(),
            FileType::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).is_finite(),
            _ => f16::from_le_bytes([bytes[0], bytes[1]]).is_finite(),
        };
        assert!(finite, "{}", kind.name());
    }
}
