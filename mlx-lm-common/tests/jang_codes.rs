//! JANGTQ matrices in a checkpoint: what verbs make of them, and what is wrong with damaged ones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "common/folder.rs"]
mod folder;

use folder::{Entry, f32s, matrix, message, numbers, try_open_jang, u8s, weights, words};
use mlx_lm_common::{
    Result,
    weights::{Checkpoint, header::DType},
};
use serde_json::json;

const COLUMNS: usize = 40;

/// A matrix of codes [.., rows, COLUMNS] whose words look random.
fn codes(module: &str, rows: &[usize], bits: u8, seed: u32) -> Vec<Entry> {
    let in_row = COLUMNS.div_ceil(32 / usize::from(bits));
    let count: usize = rows.iter().product();
    let all: Vec<u32> =
        (0..(count * in_row) as u32).map(|i| (i + seed).wrapping_mul(2_654_435_761)).collect();
    vec![
        words(&format!("{module}.tq_packed"), DType::U32, &[rows, &[in_row]].concat(), &all),
        f32s(&format!("{module}.tq_norms"), rows, &numbers(seed, count)),
        u8s(&format!("{module}.tq_bits"), DType::U8, &[1], &[bits]),
    ]
}

fn open(entries: &[Entry]) -> Checkpoint {
    try_open_jang(entries, json!({ "weight_format": "mxtq", "mxtq_seed": 7 })).unwrap()
}

fn values(checkpoint: Checkpoint, module: &str, shape: &[i32]) -> Vec<f32> {
    matrix(&weights(checkpoint), module, shape).unwrap()
}

#[test]
fn verbs_carry_all_parts() {
    let columns = COLUMNS as i32;
    let whole = codes("a.experts.gate_up_proj", &[2, 6], 3, 1);
    let plain = values(open(&whole), "a.experts.gate_up_proj", &[2, 6, columns]);
    let rows: Vec<&[f32]> = plain.chunks(COLUMNS).collect();

    let mut c = open(&whole);
    c.split("experts.gate_up_proj", -2, &[("switch_mlp.gate_proj", 4), ("switch_mlp.up_proj", 2)]).unwrap();
    let w = weights(c);
    let [gate, up] = [("gate_proj", 4), ("up_proj", 2)]
        .map(|(name, rows)| matrix(&w, &format!("a.switch_mlp.{name}"), &[2, rows, columns]).unwrap());
    assert_eq!(gate, [&rows[..4], &rows[6..10]].concat().concat());
    assert_eq!(up, [&rows[4..6], &rows[10..]].concat().concat());
    w.finish().unwrap();

    let each: Vec<Vec<Entry>> = (0..3).map(|i| codes(&format!("m.a.experts.{i}.w2"), &[5], 4, i)).collect();
    let wanted = (0..3).flat_map(|i| values(open(&each[i]), &format!("m.a.experts.{i}.w2"), &[5, columns]));
    let wanted: Vec<f32> = wanted.collect();
    let mut c = open(&each.concat());
    c.rename_prefix("m.", "").unwrap();
    c.stack("experts", "switch_mlp").unwrap();
    c.rename_module("switch_mlp.w2", "switch_mlp.down_proj").unwrap();
    assert_eq!(values(c, "a.switch_mlp.down_proj", &[3, 5, columns]), wanted);

    let parts = [codes("q", &[5], 2, 1), codes("k", &[3], 2, 9)];
    let wanted = [values(open(&parts[0]), "q", &[5, columns]), values(open(&parts[1]), "k", &[3, columns])];
    let mut c = open(&parts.concat());
    c.join(&["q", "k"], "qk").unwrap();
    assert_eq!(values(c, "qk", &[8, columns]), wanted.concat());
}

#[test]
fn the_seed_turns_the_rows() {
    let entries = codes("m", &[2], 4, 3);
    let shape = [2, COLUMNS as i32];
    let read = |jang| values(try_open_jang(&entries, jang).unwrap(), "m", &shape);
    let default = read(json!({}));
    assert_eq!(default, read(json!({ "mxtq_seed": 42 })));
    assert_ne!(default, read(json!({ "mxtq_seed": 7 })));
}

#[test]
fn damaged_matrices_are_errors() {
    let good = codes("m", &[4], 2, 5);
    let read = |entries: &[Entry]| -> Result<Vec<f32>> {
        let checkpoint = try_open_jang(entries, json!({}))?;
        matrix(&weights(checkpoint), "m", &[4, COLUMNS as i32])
    };
    read(&good).unwrap();
    let without = |part: usize| [&good[..part], &good[part + 1..]].concat();
    let with = |part: usize, entry: Entry| [&good[..part], &[entry], &good[part + 1..]].concat();
    let bits = |bits: &[u8]| with(2, u8s("m.tq_bits", DType::U8, &[bits.len()], bits));
    let one_of = "must hold one number of bits, from 1 to 8";
    for (entries, parts) in [
        (without(0), ["m.tq_packed", "is not in the checkpoint"]),
        (without(1), ["m.tq_norms", "is not in the checkpoint"]),
        (without(2), ["m.tq_bits", "is not in the checkpoint"]),
        (good[1..2].to_vec(), ["m.tq_packed", "is not in the checkpoint"]),
        (good[2..].to_vec(), ["m.tq_packed", "is not in the checkpoint"]),
        (with(1, f32s("m.tq_norms", &[3], &[1.0; 3])), ["m.tq_norms", "[4]"]),
        (with(1, f32s("m.tq_norms", &[4, 1], &[1.0; 4])), ["m.tq_norms", "[4]"]),
        (with(1, words("m.tq_norms", DType::U32, &[4], &[1; 4])), ["m.tq_norms", "must hold floats"]),
        (with(0, f32s("m.tq_packed", &[4, 3], &[1.0; 12])), ["m.tq_packed", "rows of 32-bit words"]),
        (with(0, words("m.tq_packed", DType::U32, &[12], &[1; 12])), ["m.tq_packed", "rows of 32-bit words"]),
        (
            with(0, words("m.tq_packed", DType::U32, &[4, 4], &[1; 16])),
            ["m.tq_packed", "40 codes of 2 bits need"],
        ),
        (bits(&[0]), ["m.tq_bits", one_of]),
        (bits(&[9]), ["m.tq_bits", one_of]),
        (bits(&[255]), ["m.tq_bits", one_of]),
        (bits(&[2, 3]), ["m.tq_bits", one_of]),
        (bits(&[]), ["m.tq_bits", one_of]),
        (bits(&[3]), ["m.tq_packed", "40 codes of 3 bits need"]),
        (with(2, f32s("m.tq_bits", &[1], &[2.0])), ["m.tq_bits", "must hold bytes"]),
        ([&good[..], &[f32s("m.weight", &[4, 40], &[0.0; 160])]].concat(), ["m.weight", "twice"]),
        (vec![words("m.tq2_packed", DType::U32, &[4, 3], &[1; 12])], ["m.tq2_packed", "JANGH"]),
        (vec![f32s("e.0.m.tq2_scales", &[4], &[1.0; 4])], ["e.0.m.tq2_scales", "cannot be read"]),
    ] {
        let said = message(read(&entries));
        assert!(
            parts.iter().all(|part| said.to_lowercase().contains(&part.to_lowercase())),
            "{parts:?}: {said}"
        );
    }
}

#[test]
fn experts_of_several_widths_are_an_error() {
    let mut entries = [codes("experts.0.w", &[4], 2, 1), codes("experts.1.w", &[4], 2, 1)].concat();
    entries[5] = u8s("experts.1.w.tq_bits", DType::U8, &[1], &[4]);
    entries.iter_mut().for_each(|e| e.0 = format!("a.{}", e.0));
    let mut c = open(&entries);
    c.stack("experts", "all").unwrap();
    let said = message(matrix(&weights(c), "a.all.w", &[2, 4, COLUMNS as i32]));
    assert!(said.contains("[2, 4]") && said.contains("one number of bits"), "{said}");
}
