//! Feed-forward blocks, residuals, embeddings and norms against MLX's own float32 operations.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use mlx_lm_kernels::{Affine, Linear, Mlp, Norm, Weight, embed, linear_add, rms_norm};
use mlx_rs::{Array, Dtype, fast, nn, ops, ops::indexing::IndexOp};

const EPS: f32 = 1e-5;

#[test]
fn norms() {
    for shape in [&[1, 576][..], &[3, 7, 50], &[2, 1, 1], &[9]] {
        let x = normal(shape, 1);
        for w in [normal(&shape[shape.len() - 1..], 3), f32s(&x).index(0).flatten(None, None).unwrap()] {
            if w.shape() != &shape[shape.len() - 1..] {
                continue;
            }
            let norm = Norm { weight: &w, eps: EPS };
            let stock = |x: &Array| fast::rms_norm(x, Some(&w), EPS).unwrap();
            assert_close(&rms_norm(&x, norm).unwrap(), &stock(&x), CLOSE, "rms_norm");
            let half = x.as_dtype(Dtype::Bfloat16).unwrap();
            let y = rms_norm(&half, norm).unwrap();
            assert_eq!(y.dtype(), Dtype::Bfloat16);
            assert_close(&y, &stock(&f32s(&half)), 3e-3, "bfloat16");
        }
    }
    let (x, w) = (normal(&[96, 5], 4).t(), normal(&[96], 5));
    let y = rms_norm(&x, Norm { weight: &w, eps: EPS }).unwrap();
    assert_close(&y, &fast::rms_norm(&x, Some(&w), EPS).unwrap(), CLOSE, "transposed");
}

#[test]
fn blocks_and_residuals() {
    let (hidden, inner) = (192, 320);
    let m = |n, k, bits, seed| {
        Matrix::random(n, k, Affine { group: 32, bits }, seed).with_scales_in(Dtype::Float16)
    };
    let (gate, up, down) = (m(inner, hidden, 4, 4), m(inner, hidden, 4, 5), m(hidden, inner, 8, 6));
    let dense_up = up.unpacked();
    let (weight, inner_bias, bias) = (normal(&[hidden], 7), normal(&[inner], 8), normal(&[hidden], 9));
    for len in [1, 4, 30] {
        for dtype in [Dtype::Float32, Dtype::Bfloat16] {
            let limit = if dtype == Dtype::Float32 { CLOSE } else { 3e-3 };
            let x = normal(&[2, len, hidden], 10).as_dtype(dtype).unwrap();
            let wide = f32s(&x);
            let mut mlp = Mlp { norm: None, gate: gate.linear(), up: up.linear(), down: down.linear() };
            let stock = |h: &Array, gate_bias: &Array, bias: &Array| {
                let h = nn::silu(gate.reference(h) + gate_bias).unwrap() * up.reference(h);
                &wide + (down.reference(&h) + bias)
            };
            let none = Array::from_f32(0.0);
            let y = mlp.forward_add(&x).unwrap();
            assert_eq!(y.dtype(), dtype);
            assert_close(&y, &stock(&wide, &none, &none), limit, "mlp");
            mlp.norm = Some(Norm { weight: &weight, eps: EPS });
            mlp.gate.bias = Some(&inner_bias);
            mlp.down.bias = Some(&bias);
            mlp.up = Weight::Dense(&dense_up).into();
            let h = fast::rms_norm(&wide, Some(&weight), EPS).unwrap();
            assert_close(
                &mlp.forward_add(&x).unwrap(),
                &stock(&h, &inner_bias, &bias),
                limit,
                "mlp with all",
            );

            let a = normal(&[2, len, inner], 12).as_dtype(dtype).unwrap();
            let y = linear_add(&a, Linear { bias: Some(&bias), ..down.linear() }, &x).unwrap();
            assert_close(&y, &(&wide + (down.reference(&a) + &bias)), limit, "linear_add");
            let turned = normal(&[len, 2, hidden], 13).transpose_axes(&[1, 0, 2]).unwrap();
            let y = linear_add(&a, down.linear(), &turned).unwrap();
            assert_close(&y, &(&turned + down.reference(&a)), CLOSE, "a residual of other strides and type");
        }
    }
}

#[test]
fn the_gate_takes_large_values() {
    let w = ops::eye::<f32>(64, None, None).unwrap();
    let x = &normal(&[3, 64], 1) * Array::from_f32(60.0);
    let mlp = Mlp {
        norm: None,
        gate: Weight::Dense(&w).into(),
        up: Weight::Dense(&w).into(),
        down: Weight::Dense(&w).into(),
    };
    let want = &x + nn::silu(&x).unwrap() * &x;
    assert_close(&mlp.forward_add(&x).unwrap(), &want, CLOSE, "silu");
}

#[test]
fn embeddings() {
    let ids = Array::from_slice(&[3u32, 0, 49, 7, 7, 21], &[2, 3]);
    for q in every_affine() {
        for scales in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let m = Matrix::random(50, 384, q, 1).with_scales_in(scales);
            let want = m.unpacked().take_axis(&ids, 0).unwrap();
            assert_close(&embed(&ids, m.linear(), Dtype::Float32).unwrap(), &want, 1e-7, &format!("{q:?}"));
        }
    }
    for w_type in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
        let w = normal(&[50, 33], 1).as_dtype(w_type).unwrap();
        for dtype in [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16] {
            let want = f32s(&w).take_axis(&ids, 0).unwrap().as_dtype(dtype).unwrap();
            for ids in [&ids, &ids.as_dtype(Dtype::Int32).unwrap()] {
                assert_same(&embed(ids, Weight::Dense(&w).into(), dtype).unwrap(), &want, "dense");
            }
        }
        let want = f32s(&w).take_axis(ids.t(), 0).unwrap();
        assert_same(&embed(&ids.t(), Weight::Dense(&w).into(), Dtype::Float32).unwrap(), &want, "turned ids");
    }
}

#[test]
fn ids_out_of_range_are_errors() {
    let w = normal(&[50, 33], 1);
    for ids in [Array::from_slice(&[1i32, -1], &[1, 2]), Array::from_slice(&[50i32, 0], &[1, 2])] {
        let e = embed(&ids, Weight::Dense(&w).into(), Dtype::Float32).unwrap().eval().unwrap_err();
        assert!(e.to_string().contains("is not one of 50"), "{e}");
    }
    let e = embed(&Array::from_slice(&[u32::MAX], &[1]), Weight::Dense(&w).into(), Dtype::Float32);
    let e = e.unwrap().eval().unwrap_err();
    assert!(e.to_string().contains("4294967295"), "{e}");
}

#[test]
fn other_instruction_sets() {
    again_with_other_isas("other_instruction_sets");
}
