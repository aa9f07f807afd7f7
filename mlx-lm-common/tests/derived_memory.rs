//! Computed tensors take the memory that they are counted as, and nothing stays of what they come from. One test, as memory is
//! counted for the whole process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{checkpoint, f32s, u8s, weights};
use mlx_lm_common::{raw, weights::header::DType};
use mlx_rs::{Dtype, memory};

#[test]
fn nothing_but_the_result_stays() {
    let n = 1024;
    let mut c = checkpoint(&[
        u8s("e.gate_up_proj", DType::F8_E4M3, &[2, n, n], &vec![0x38; 2 * n * n]),
        f32s("e.gate_up_proj_scale_inv", &[2, 8, 8], &[1.0; 128]),
        f32s("t.weight", &[n, n], &vec![1.0; n * n]),
    ]);
    c.split("gate_up_proj", -2, &[("gate", 1), ("up", 1)]).unwrap();
    c.transpose(|name| name == "t.weight").unwrap();
    let counted = c.memory_bytes(Dtype::Float32);
    let values = 3 * n * n * size_of::<f32>();
    assert!((values..values + 4096).contains(&counted), "{counted}");

    let taken = || raw::resident() + memory::active_memory().unwrap() + memory::cache_memory().unwrap();
    let before = taken();
    let w = weights(c);
    let [rows, columns] = [n as i32 / 2, n as i32];
    let kept = [
        w.tensor("e.gate.weight", &[2, rows, columns]).unwrap(),
        w.tensor("e.up.weight", &[2, rows, columns]).unwrap(),
        w.tensor("t.weight", &[columns, columns]).unwrap(),
    ];
    let grown = taken() - before;
    assert!((values..=counted + 4096).contains(&grown), "{grown} of {counted}");
    assert_eq!(kept[1].sum(None).unwrap().item_cast::<f32>(), (n * n) as f32);
}
