//! Products with quantized and dense matrices against MLX's own float32 operations.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use mlx_lm_kernels::{Activations, Affine, Isa, Linear, Norm, Weight, isa, project, set_threads};
use mlx_rs::{Array, Dtype, fast, ops, ops::indexing::IndexOp};

fn multiply(x: &Array, l: Linear) -> Array {
    project(x, None, &[l]).unwrap().remove(0)
}

#[test]
fn all_forms_in_float32() {
    for q in every_affine() {
        for (n, k) in [(1, 128), (40, 128), (33, 384), (96, 896)] {
            let m = Matrix::random(n, k, q, 1);
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 37] {
                let x = normal(&[rows, k], 2);
                let y = multiply(&x, m.linear());
                // Relative to what results of normal rows are about: a single one may happen to be small.
                let size = (m.unpacked().square().unwrap().sum(None).unwrap().item_exact::<f32>()
                    * rows as f32)
                    .sqrt();
                let error =
                    (&y - &m.reference(&x)).square().unwrap().sum(None).unwrap().item_exact::<f32>().sqrt();
                assert!(error < CLOSE * size, "{q:?} n {n} k {k} rows {rows}: {:.1e}", error / size);
            }
        }
    }
}

#[test]
fn many_rows() {
    for q in every_affine() {
        let m = Matrix::random(70, 256, q, 1);
        let x = normal(&[2, 65, 256], 2);
        assert_close(&multiply(&x, m.linear()), &m.reference(&x), CLOSE, &format!("{q:?}"));
    }
}

#[test]
fn odd_group_counts() {
    // A group more than sixteen, and half a block of words at the end of a row.
    for bits in [2, 4, 8] {
        for k in [32, 96, 544, 576, 1056] {
            let m = Matrix::random(19, k, Affine { group: 32, bits }, 3);
            for rows in [1, 4, 20] {
                let x = normal(&[rows, k], 4);
                let what = format!("{bits} bits, k {k}, rows {rows}");
                assert_close(&multiply(&x, m.linear()), &m.reference(&x), CLOSE, &what);
            }
        }
    }
}

#[test]
fn half_precision_scales() {
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        for q in every_affine() {
            let m = Matrix::random(48, 640, q, 5).with_scales_in(dtype);
            for rows in [1, 6, 40] {
                let x = normal(&[rows, 640], 6);
                let what = format!("{dtype:?} scales, {q:?}");
                assert_close(&multiply(&x, m.linear()), &m.reference(&x), CLOSE, &what);
            }
        }
    }
}

/// What rounding an exact result to the type leaves at most: half a unit in the last place of 8 and 11 bits.
fn rounding(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Bfloat16 => 2f32.powi(-8),
        Dtype::Float16 => 2f32.powi(-11),
        _ => CLOSE,
    }
}

#[test]
fn dense_matrices() {
    for w_type in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
        for (n, k) in [(1, 1), (40, 33), (70, 256), (33, 300), (96, 130)] {
            let w = normal(&[n, k], 1).as_dtype(w_type).unwrap();
            let bias = normal(&[n], 2).as_dtype(w_type).unwrap();
            for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 37, 130] {
                for x_type in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
                    let x = normal(&[1, rows, k], 3).as_dtype(x_type).unwrap();
                    let want = ops::matmul(f32s(&x), f32s(&w).t()).unwrap();
                    let what = format!("{w_type:?} [{n}, {k}], {rows} rows of {x_type:?}");
                    let y = multiply(&x, Weight::Dense(&w).into());
                    assert_eq!(y.dtype(), x_type);
                    assert_close(&y, &want, rounding(x_type), &what);
                    let y = multiply(&x, Linear { bias: Some(&bias), ..Weight::Dense(&w).into() });
                    assert_close(
                        &y,
                        &(want + f32s(&bias)),
                        rounding(x_type),
                        &format!("{what}, with a bias"),
                    );
                }
            }
        }
    }
}

#[test]
fn half_precision_rows() {
    for dtype in [Dtype::Bfloat16, Dtype::Float16] {
        let m = Matrix::random(64, 512, Affine { group: 64, bits: 4 }, 7);
        for rows in [1, 3, 20] {
            let x = normal(&[rows, 512], 8).as_dtype(dtype).unwrap();
            let y = multiply(&x, m.linear());
            assert_eq!(y.dtype(), dtype);
            assert_close(&y, &m.reference(&x), rounding(dtype), &format!("{dtype:?} rows"));
        }
    }
}

#[test]
fn rounded_activations() {
    for q in every_affine() {
        let m = Matrix::random(70, 1152, q, 13);
        for rows in [1, 9, 31] {
            let x = normal(&[rows, 1152], 14);
            let y = multiply(&x, Linear { activations: Activations::Int8, ..m.linear() });
            assert_close(&y, &m.reference(&x), 9e-3, &format!("{q:?} rows {rows}"));
        }
    }
}

#[test]
fn several_layers_share_a_normed_input() {
    let q = |n, bits, seed| {
        Matrix::random(n, 192, Affine { group: 32, bits }, seed).with_scales_in(Dtype::Float16)
    };
    let (a, b, c) = (q(70, 4, 1), q(33, 4, 2), q(20, 8, 3));
    let d = normal(&[17, 192], 4).as_dtype(Dtype::Bfloat16).unwrap();
    let (weight, bias) = (normal(&[192], 5), normal(&[33], 6).as_dtype(Dtype::Float16).unwrap());
    let linears =
        [a.linear(), Linear { bias: Some(&bias), ..b.linear() }, c.linear(), Weight::Dense(&d).into()];
    for (rows, dtype) in
        [(1, Dtype::Float32), (4, Dtype::Float32), (30, Dtype::Float32), (30, Dtype::Bfloat16)]
    {
        let x = normal(&[2, rows, 192], 7).as_dtype(dtype).unwrap();
        let h = fast::rms_norm(f32s(&x), Some(&weight), 1e-5).unwrap();
        let want = [
            a.reference(&h),
            b.reference(&h) + f32s(&bias),
            c.reference(&h),
            ops::matmul(&h, f32s(&d).t()).unwrap(),
        ];
        let got = project(&x, Some(Norm { weight: &weight, eps: 1e-5 }), &linears).unwrap();
        assert_eq!(got.len(), 4);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.dtype(), dtype);
            assert_close(got, want, rounding(dtype), &format!("layer {i}, {rows} rows of {dtype:?}"));
        }
    }
    assert!(project(&normal(&[1, 192], 1), None, &[]).unwrap().is_empty());
}

#[test]
fn strided_rows_and_sliced_weights() {
    let m = Matrix::random(64, 128, Affine { group: 64, bits: 4 }, 9);
    let x = normal(&[6, 128, 5], 10).transpose_axes(&[2, 0, 1]).unwrap();
    assert_close(&multiply(&x, m.linear()), &m.reference(&x), CLOSE, "transposed x");
    let x = normal(&[4, 128], 10).index((1..3, ..));
    assert_close(&multiply(&x, m.linear()), &m.reference(&x), CLOSE, "sliced x");
    let rows = |a: &Array| a.index((16..48, ..));
    let part = Matrix { w: rows(&m.w), scales: rows(&m.scales), biases: rows(&m.biases), affine: m.affine };
    assert_close(&multiply(&x, part.linear()), &part.reference(&x), CLOSE, "sliced weights");
    let w = normal(&[40, 200], 11).index((3..20, 5..133));
    for rows in [1, 20] {
        let x = normal(&[rows, 128], 12);
        let want = ops::matmul(&x, w.t()).unwrap();
        assert_close(&multiply(&x, Weight::Dense(&w).into()), &want, CLOSE, "a dense matrix in a larger one");
    }
}

#[test]
fn no_rows() {
    let m = Matrix::random(32, 64, Affine { group: 32, bits: 4 }, 1);
    let y = multiply(&zeros(&[1, 0, 64], Dtype::Float32), m.linear());
    y.eval().unwrap();
    assert_eq!(y.shape(), [1, 0, 32]);
}

#[test]
fn one_and_two_threads_agree_exactly() {
    let m = Matrix::random(515, 576, Affine { group: 32, bits: 4 }, 11);
    let w = normal(&[515, 576], 13);
    for rows in [1, 50] {
        let x = normal(&[rows, 576], 12);
        let run = |threads, l| {
            set_threads(threads);
            let y = multiply(&x, l);
            y.eval().unwrap();
            y
        };
        for l in [m.linear(), Weight::Dense(&w).into()] {
            assert_same(&run(1, l), &run(2, l), "one and two threads");
        }
    }
}

/// Relative L2 against sums in float64, beside that of MLX's own float32 operation.
#[test]
fn as_exact_as_mlx() {
    for bits in [4, 8] {
        for k in [576usize, 4096] {
            let n = 64;
            let q = Affine { group: 32, bits };
            let m = Matrix::random(n, k as i32, q, 21);
            let ones = ops::ones_dtype(m.scales.shape(), Dtype::Float32).unwrap();
            let whole = ops::dequantize(&m.w, &ones, &ops::zeros_like(&ones).unwrap(), 32, bits).unwrap();
            whole.eval().unwrap();
            let (whole, s, b) =
                (whole.as_slice::<f32>(), m.scales.as_slice::<f32>(), m.biases.as_slice::<f32>());
            for rows in [1, 16] {
                let x = normal(&[rows, k as i32], 22);
                x.eval().unwrap();
                let xs = x.as_slice::<f32>();
                let cell = |i: usize, j: usize| -> f64 {
                    let w = |l: usize| {
                        let at = (j * k + l) / 32;
                        f64::from(s[at]) * f64::from(whole[j * k + l]) + f64::from(b[at])
                    };
                    (0..k).map(|l| f64::from(xs[i * k + l]) * w(l)).sum()
                };
                let n = n as usize;
                let exact: Vec<f64> = (0..rows as usize * n).map(|c| cell(c / n, c % n)).collect();
                let error = |y: &Array| {
                    y.eval().unwrap();
                    let pairs = y.as_slice::<f32>().iter().zip(&exact);
                    let d: f64 = pairs.map(|(y, e)| (f64::from(*y) - e).powi(2)).sum();
                    (d / exact.iter().map(|e| e * e).sum::<f64>()).sqrt()
                };
                let ours = error(&multiply(&x, m.linear()));
                let stock = ops::quantized_matmul(&x, &m.w, &m.scales, &m.biases, true, 32, bits).unwrap();
                let theirs = error(&stock);
                let what = format!("{bits} bits, k {k}, {rows} rows: {ours:.1e}, MLX has {theirs:.1e}");
                assert!(ours < 1e-6 && ours < 1.5 * theirs, "{what}");
            }
        }
    }
}

#[test]
fn the_instruction_set_is_the_one_asked_for() {
    let wanted = match std::env::var("MLX_LM_ISA").as_deref() {
        Ok("plain") => Isa::Plain,
        Ok("avx2") => Isa::Avx2,
        _ => return,
    };
    assert_eq!(isa(), wanted);
}

#[test]
fn other_instruction_sets() {
    again_with_other_isas("other_instruction_sets");
}
