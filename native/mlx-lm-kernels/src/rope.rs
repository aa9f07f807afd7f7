//! Rotary position embedding.

use crate::{
    pool::Pool,
    scratch::Shared,
    simd::{Simd, dispatch},
};
use std::sync::{Arc, Mutex};

/// The rotary embedding of a model: frequencies, and how they are applied. Layers share one, so that a step's sines are
/// computed once.
///
/// Results are those of `mlx_rs::fast::rope` to float32's rounding.
#[derive(Debug)]
pub struct Rope {
    /// Neighbours are pairs, rather than values half of the rotated ones apart.
    traditional: bool,
    scale: f32,
    mscale: f32,
    /// One for each pair.
    inverse: Vec<f32>,
    last: Mutex<Option<Arc<Angles>>>,
}

/// More than any head has: a configuration that asks for more does not get the memory, and `attend` refuses it.
const MOST_DIMS: i32 = 1 << 20;

/// Sines and cosines of one call, times `mscale`.
#[derive(Debug)]
pub(crate) struct Angles {
    position: i32,
    len: usize,
    starts: Option<Arc<[i32]>>,
    /// A row of pairs for each position; with `starts`, `len` positions for each sequence of the batch.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Rotates the first `dims` (an even number) values of a head; pair i turns by position · scale · base^(-2i / dims).
    pub fn new(dims: i32, base: f32, scale: f32, traditional: bool) -> Rope {
        let half = dims.clamp(0, MOST_DIMS) as usize / 2;
        let step = base.ln() / half as f32;
        Rope::with_inverse((0..half).map(|i| mlx_exp(-(i as f32) * step)).collect(), scale, traditional)
    }

    /// `freqs` as `mlx_rs::fast::rope` takes them: one wavelength, the inverse of a frequency, for each pair.
    pub fn with_freqs(freqs: &[f32], scale: f32, traditional: bool) -> Rope {
        Rope::with_inverse(freqs.iter().map(|f| 1.0 / f).collect(), scale, traditional)
    }

    fn with_inverse(inverse: Vec<f32>, scale: f32, traditional: bool) -> Rope {
        Rope { traditional, scale, mscale: 1.0, inverse, last: Mutex::new(None) }
    }

    /// Multiplies the rotated values by `mscale` (YaRN's and LongRoPE's attention factor).
    pub fn mscale(self, mscale: f32) -> Rope {
        Rope { mscale, last: Mutex::new(None), ..self }
    }

    /// How many of a head's values are rotated.
    pub fn dims(&self) -> usize {
        2 * self.inverse.len()
    }

    /// The angles of positions `position..position + len`, or of as many from `position - start` on for each of `starts`.
    pub(crate) fn angles(&self, position: i32, len: usize, starts: Option<&Arc<[i32]>>) -> Arc<Angles> {
        let mut last = self.last.lock().unwrap_or_else(|e| e.into_inner());
        let same = |a: &&Arc<Angles>| a.position == position && a.len == len && a.starts.as_ref() == starts;
        if let Some(a) = last.as_ref().filter(same) {
            return a.clone();
        }
        let (half, rows) = (self.inverse.len(), len * starts.map_or(1, |s| s.len()));
        let (mut cos, mut sin) = (vec![0.0; rows * half], vec![0.0; rows * half]);
        let (c, s) = (Shared(cos.as_mut_ptr()), Shared(sin.as_mut_ptr()));
        Pool::global().ranges(rows, 1024 / half.max(1) + 1, |range| {
            for r in range {
                let start = starts.map_or(0, |s| s[r / len]);
                // The order of operations is MLX's: at large positions every rounding shows.
                let first = (i64::from(position) - i64::from(start)) as f32;
                let at = ((r % len) as f32 + first) * self.scale;
                for (i, f) in self.inverse.iter().enumerate() {
                    let (sin, cos) = (at * f).sin_cos();
                    // SAFETY: row `r` of both, which no other range has.
                    unsafe {
                        *s.at(r * half + i) = sin * self.mscale;
                        *c.at(r * half + i) = cos * self.mscale;
                    }
                }
            }
        });
        let made = Arc::new(Angles { position, len, starts: starts.cloned(), cos, sin });
        *last = Some(made.clone());
        made
    }

    /// Rotates the head at `p` by the angles of position `l` of sequence `b`.
    ///
    /// # Safety
    /// There are at least [`Rope::dims`] values, and the angles are of this rope, and of this sequence and position.
    pub(crate) unsafe fn rotate(&self, p: *mut f32, angles: &Angles, b: usize, l: usize) {
        let half = self.inverse.len();
        let row = if angles.starts.is_some() { b * angles.len + l } else { l } * half;
        let (cos, sin) = (angles.cos[row..][..half].as_ptr(), angles.sin[row..][..half].as_ptr());
        // SAFETY: the caller's promise; `half` angles of both kinds.
        unsafe {
            if self.traditional {
                neighbours(p, cos, sin, half);
            } else {
                halves(p, cos, sin, half);
            }
        }
    }
}

/// MLX's own approximation of exp in float32. At large positions the last bit of a frequency is far more than the last bit of
/// an angle, so frequencies must be the very same.
fn mlx_exp(x: f32) -> f32 {
    let x = x * std::f32::consts::LOG2_E;
    let whole = (x + 0.5).floor();
    let part = x - whole;
    let c = [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_8e-1, 6.931_472e-1, 1.0];
    let y = c.into_iter().fold(1.535_336_2e-4f32, |y, c| y.mul_add(part, c));
    f32::from_bits(((whole.clamp(-126.0, 127.0) as i32 + 127) << 23) as u32) * y
}

/// SAFETY: `2 · half` values of `p`, `half` of the others.
unsafe fn neighbours(p: *mut f32, cos: *const f32, sin: *const f32, half: usize) {
    for i in 0..half {
        // SAFETY: see above.
        unsafe {
            let (a, b, c, s) = (*p.add(2 * i), *p.add(2 * i + 1), *cos.add(i), *sin.add(i));
            *p.add(2 * i) = a * c - b * s;
            *p.add(2 * i + 1) = a * s + b * c;
        }
    }
}

dispatch! {
    /// SAFETY: `2 · half` values of `p`, `half` of the others.
    unsafe fn halves(p: *mut f32, cos: *const f32, sin: *const f32, half: usize) = halves_body
}

#[inline(always)]
unsafe fn halves_body<S: Simd>(p: *mut f32, cos: *const f32, sin: *const f32, half: usize) {
    // SAFETY: see `halves`.
    unsafe {
        for i in (0..half).step_by(16) {
            let n = half - i;
            let (a, b) = (S::load_part(p.add(i), n), S::load_part(p.add(half + i), n));
            let (c, s) = (S::load_part(cos.add(i), n), S::load_part(sin.add(i), n));
            S::store_part(p.add(i), S::sub(S::mul(a, c), S::mul(b, s)), n);
            S::store_part(p.add(half + i), S::fma(a, s, S::mul(b, c)), n);
        }
    }
}
