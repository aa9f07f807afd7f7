//! Rates of the matrix products and of attention: the best of several runs, on all threads and on one.
//!
//!     cargo run --release -p mlx-lm-kernels --example bench [rows] [context]
//!
//! `MLX_LM_THREADS` and `MLX_LM_ISA` vary the runs.
#![allow(clippy::print_stdout)]

use mlx_lm_kernels::{Affine, Attend, Linear, Weight, attend, isa, project, set_threads, threads};
use mlx_rs::{Array, Dtype, error::Result, ops, random, transforms};
use std::time::Instant;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).map_while(|a| a.parse().ok());
    let (rows, context) = (args.next().unwrap_or(1), args.next().unwrap_or(4096));
    println!("{:?}, {} threads, {rows} rows, {context} slots", isa(), threads());
    let all = threads();
    for n in if all > 1 { vec![1, all] } else { vec![1] } {
        set_threads(n);
        println!("\n{n} threads");
        for (bits, group) in [(4, 32), (4, 64), (8, 64), (3, 64)] {
            for (n, k) in [(65_536, 576), (4096, 4096)] {
                quantized(rows, n, k, Affine { group, bits })?;
            }
        }
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            dense(rows, 4096, 4096, dtype)?;
        }
        for (heads, kv_heads, d) in [(9, 3, 64), (16, 8, 128), (8, 8, 80)] {
            attention(rows, context, heads, kv_heads, d)?;
        }
    }
    Ok(())
}

fn values(shape: &[i32]) -> Result<Array> {
    random::uniform::<_, f32>(-1.0, 1.0, shape, None)
}

/// The shortest time of evaluating what `make` makes, in seconds.
fn best(mut make: impl FnMut() -> Result<Array>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let y = make()?;
        let start = Instant::now();
        y.eval()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn report(what: &str, seconds: f64, bytes: usize, macs: f64) {
    let (gb, gmac) = (bytes as f64 / seconds / 1e9, macs / seconds / 1e9);
    println!("{what:28} {:9.3} ms {gb:7.1} GB/s {gmac:7.1} GMAC/s", seconds * 1e3);
}

fn product(what: &str, rows: i32, k: i32, n: i32, l: Linear, parts: &[&Array]) -> Result<()> {
    let x = values(&[rows, k])?;
    transforms::eval(parts.iter().copied().chain([&x]))?;
    let seconds = best(|| Ok(project(&x, None, &[l])?.remove(0)))?;
    let bytes = parts.iter().map(|a| a.nbytes()).sum();
    report(what, seconds, bytes, f64::from(rows) * f64::from(n) * f64::from(k));
    Ok(())
}

fn quantized(rows: i32, n: i32, k: i32, affine: Affine) -> Result<()> {
    let (w, s, b) = ops::quantize(values(&[n, k])?, affine.group, affine.bits)?;
    let (s, b) = (s.as_dtype(Dtype::Float16)?, b.as_dtype(Dtype::Float16)?);
    let what = format!("{n} x {k}, {} bits g{}", affine.bits, affine.group);
    let weight = Weight::Affine { weight: &w, scales: &s, biases: &b, affine };
    product(&what, rows, k, n, weight.into(), &[&w, &s, &b])
}

fn dense(rows: i32, n: i32, k: i32, dtype: Dtype) -> Result<()> {
    let w = values(&[n, k])?.as_dtype(dtype)?;
    product(&format!("{n} x {k}, {dtype:?}"), rows, k, n, Weight::Dense(&w).into(), &[&w])
}

/// The last `rows` tokens of `context`.
fn attention(rows: i32, context: i32, heads: i32, kv_heads: i32, head_dim: i32) -> Result<()> {
    let (q, kv) = (values(&[1, rows, heads * head_dim])?, values(&[1, rows, kv_heads * head_dim])?);
    let cache = || values(&[1, kv_heads, context.max(rows), head_dim]);
    let (keys, vals) = (cache()?, cache()?);
    transforms::eval([&q, &kv, &keys, &vals])?;
    let bytes = keys.nbytes() + vals.nbytes();
    let spec = Attend {
        heads,
        kv_heads,
        head_dim,
        scale: (head_dim as f32).powf(-0.5),
        q_norm: None,
        k_norm: None,
        rope: None,
        position: 0,
        len: (context - rows).max(0),
        window: None,
        keep: 0,
        starts: None,
    };
    let mut caches = Some([keys, vals]);
    let seconds = best(|| {
        let (y, k, v) = attend(&q, &kv, &kv, caches.take().unwrap_or([cache()?, cache()?]), &spec)?;
        caches = Some([k, v]);
        Ok(y)
    })?;
    let seen = f64::from(rows) * (f64::from(spec.len) + f64::from(rows + 1) / 2.0);
    let macs = 2.0 * seen * f64::from(heads * head_dim);
    report(&format!("attention {heads}/{kv_heads} heads of {head_dim}"), seconds, bytes, macs);
    Ok(())
}
