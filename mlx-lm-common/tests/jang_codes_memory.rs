//! Experts of JANGTQ stay packed: in memory they take what their codes take, and a step looks up a small part of them. One test, as
//! memory is counted for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{Entry, f32s, numbers, try_open_jang, u8s, words};
use mlx_lm_common::{
    Backend,
    nn::{Experts, ExpertsConfig},
    raw::{self, Device},
    weights::{Weights, header::DType},
};
use mlx_rs::{Array, Dtype, memory};
use serde_json::json;

const COUNT: usize = 64;
const DIM: usize = 512;
const HIDDEN: usize = 384;

fn codes(name: &str, rows: usize, columns: usize) -> Vec<Entry> {
    let all: Vec<u32> =
        (0..(COUNT * rows * columns / 16) as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    vec![
        words(&format!("{name}.tq_packed"), DType::U32, &[COUNT, rows, columns / 16], &all),
        f32s(&format!("{name}.tq_norms"), &[COUNT, rows], &numbers(1, COUNT * rows)),
        u8s(&format!("{name}.tq_bits"), DType::U8, &[1], &[2]),
    ]
}

#[test]
fn experts_stay_packed() {
    let entries =
        [codes("gate_proj", HIDDEN, DIM), codes("up_proj", HIDDEN, DIM), codes("down_proj", DIM, HIDDEN)]
            .concat();
    let (values, one) = (3 * COUNT * DIM * HIDDEN, DIM * HIDDEN * size_of::<f32>());
    let packed = values / 4;
    let config = ExpertsConfig::new(DIM as i32, HIDDEN as i32, COUNT as i32);
    for kernels in [true, false] {
        let checkpoint = try_open_jang(&entries, json!({})).unwrap();
        let held = || raw::resident() + memory::active_memory().unwrap();
        let before = held();
        let w =
            Weights::new(checkpoint, Backend::new(Some(Device::Cpu), None, Dtype::Float32, kernels), None);
        let experts = Experts::load(&w, &config).unwrap();
        w.finish().unwrap();
        let grown = held() - before;
        assert!((packed..packed * 5 / 4).contains(&grown), "{grown} bytes for {packed}, kernels: {kernels}");

        // One token for four experts, and forty that go to all of them.
        for tokens in [1, 40] {
            let x = Array::from_slice(&numbers(3, tokens * DIM), &[1, tokens as i32, DIM as i32]);
            let ids: Vec<u32> = (0..tokens as u32 * 4).map(|i| i * 7 % COUNT as u32).collect();
            let ids = Array::from_slice(&ids, &[1, tokens as i32, 4]);
            memory::clear_cache().unwrap();
            memory::reset_peak_memory().unwrap();
            let active = memory::active_memory().unwrap();
            experts.forward(&x, &ids).unwrap().eval().unwrap();
            let peak = memory::peak_memory().unwrap() - active;
            let activations = 20 * tokens * 4 * (DIM + HIDDEN) * size_of::<f32>();
            // For a token, the four matrices of gate and of up, and a copy of each.
            let looked_up = if kernels { 0 } else { 4 * 4 * one };
            let bound = activations + looked_up;
            assert!(
                peak < bound && bound < values * size_of::<f32>() / 4,
                "{peak} of {bound}, {tokens} tokens, {kernels}"
            );
        }
    }
}
