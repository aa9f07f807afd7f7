//! Products with matrices of codes against levels that MLX looks up.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use mlx_lm_kernels::{Codes, codes_product};
use mlx_rs::{Array, Dtype, ops};

/// Random codes: their words, norms, levels as the kernel wants them, and the matrix that they are.
struct Stack {
    words: Array,
    norms: Array,
    levels: Array,
    bits: i32,
    columns: i32,
    dense: Array,
}

impl Stack {
    fn random(stack: &[i32], columns: i32, bits: i32) -> Stack {
        let (in_word, count) = (32 / bits, stack.iter().product::<i32>());
        let width = (columns - 1) / in_word + 1;
        let book: Vec<f32> = (0..1 << bits).map(|i| ((i * 37 % 11) as f32 - 5.0) / 7.0).collect();
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
            state ^ state >> 15
        };
        // What a word has besides its codes is anything.
        let words: Vec<u32> = (0..count * width).map(|_| next()).collect();
        let value = |row: i32, k: i32| {
            let word = words[(row * width + k / in_word) as usize];
            book[(word >> (k % in_word * bits)) as usize & ((1 << bits) - 1)]
        };
        let dense: Vec<f32> = (0..count).flat_map(|row| (0..columns).map(move |k| value(row, k))).collect();
        let norms = normal(stack, 5);
        let dense = Array::from_slice(&dense, &[stack, &[columns]].concat());
        let dense = dense.multiply(norms.expand_dims(-1).unwrap()).unwrap();
        let together = if bits == 3 { 2 } else { 8 / bits };
        let groups = 1 << (together * bits);
        let levels: Vec<f32> = (0..groups)
            .flat_map(|group| (0..together).map(move |i| group >> (i * bits) & ((1 << bits) - 1)))
            .map(|code: i32| book[code as usize])
            .collect();
        Stack {
            words: Array::from_slice(&words, &[stack, &[width]].concat()),
            norms,
            levels: Array::from_slice(&levels, &[groups, together]),
            bits,
            columns,
            dense,
        }
    }

    fn codes(&self) -> Codes<'_> {
        let Stack { words, norms, levels, bits, columns, .. } = self;
        Codes { words, norms, levels, bits: *bits, columns: *columns }
    }
}

#[test]
fn single_matrices() {
    for bits in 1..=8 {
        for (n, k) in [(1, 1), (40, 128), (7, 333), (9, 20)] {
            let m = Stack::random(&[n], k, bits);
            for rows in [1, 3, 20] {
                let x = normal(&[2, rows, k], 2);
                let y = codes_product(&x, m.codes(), None).unwrap();
                assert_close(
                    &y,
                    &ops::matmul(&x, m.dense.t()).unwrap(),
                    CLOSE,
                    &format!("{bits} bits, {n}x{k}"),
                );
            }
        }
    }
}

#[test]
fn chosen_matrices() {
    for (bits, k) in [(2, 96), (3, 50), (4, 64)] {
        let m = Stack::random(&[5, 11], k, bits);
        let ids = Array::from_slice(&[4u32, 0, 2, 4, 4, 1], &[1, 3, 2]);
        let rows = Array::from_slice(&[0u32, 0, 1, 1, 2, 2], &[1, 3, 2]);
        let x = normal(&[3, k], 3);
        let wanted = ops::gather_mm(
            x.reshape(&[3, 1, k]).unwrap(),
            m.dense.swap_axes(-1, -2).unwrap(),
            &rows,
            &ids,
            false,
        )
        .unwrap();
        let y = codes_product(&x, m.codes(), Some((Some(&rows), &ids))).unwrap();
        assert_close(&y, &wanted, CLOSE, "chosen rows");
        let each = normal(&[6, k], 3);
        let all = Array::from_slice(&[0u32, 1, 2, 3, 4, 5], ids.shape());
        let one_each = codes_product(&each, m.codes(), Some((None, &ids))).unwrap();
        assert_same(
            &one_each,
            &codes_product(&each, m.codes(), Some((Some(&all), &ids))).unwrap(),
            "in order",
        );
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    let m = Stack::random(&[5, 11], 96, 2);
    let (x, ids) = (normal(&[2, 96], 3), Array::from_slice(&[4u32, 0], &[2]));
    let fails = |x: &Array, codes: Codes, to: Option<(Option<&Array>, &Array)>, with: &str| {
        let error = codes_product(x, codes, to).and_then(|y| y.eval()).unwrap_err().to_string();
        assert!(error.contains(with), "{error}");
    };
    let to = Some((None, &ids));
    let wide = normal(&[2, 97], 3);
    fails(&wide, m.codes(), to, "do not take");
    fails(&x, m.codes(), None, "do not take");
    for codes in [
        Codes { bits: 3, ..m.codes() },
        Codes { bits: 0, ..m.codes() },
        Codes { bits: 33, ..m.codes() },
        Codes { columns: 97, ..m.codes() },
        Codes { columns: 0, ..m.codes() },
        Codes { words: &m.norms, ..m.codes() },
        Codes { norms: &ids, ..m.codes() },
        Codes { levels: &m.norms, ..m.codes() },
    ] {
        fails(&x, codes, to, "do not take");
    }
    let floats = ids.as_dtype(Dtype::Float32).unwrap();
    fails(&x, m.codes(), Some((None, &floats)), "do not take");
    let beyond = Array::from_slice(&[4u32, 5], &[2]);
    fails(&x, m.codes(), Some((None, &beyond)), "matrix 5 is not one of 5");
    let negative = Array::from_slice(&[-1i32, 0], &[2]);
    fails(&x, m.codes(), Some((Some(&negative), &ids)), "row -1 is not one of 2");
    let three = Array::from_slice(&[0u32, 1, 2], &[3]);
    fails(&x, m.codes(), Some((None, &three)), "2 rows for 3 matrices");
}

#[test]
fn other_instruction_sets() {
    again_with_other_isas("other_instruction_sets");
}
