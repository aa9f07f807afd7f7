//! Attention through a cache: norms and rotation of heads, the write into the cache, and softmax over what is visible.
//!
//! A task is one key/value head of one sequence, a tile of queries (positions times the heads that share the key/value head)
//! and a part of the blocks of keys that the tile sees.

mod block;
mod mask;

use crate::{
    convert::{narrow_to, widen_from},
    graph::{self, Outcome, Output},
    linear::{Inputs, Norm, NormAt, is_floating, unsupported},
    norm::rms_norm_row,
    pool::Pool,
    rope::{Angles, Rope},
    scratch::{Scratch, Shared},
    simd::{Bf16, F16},
    view::{DType, View},
};
use block::{Task, attend_block, join};
use mask::Mask;
use mlx_rs::{Array, error::Result};
use std::sync::Arc;

/// Queries in a tile, about.
const QUERIES: usize = 32;
/// The fewest keys that a task of its own is worth.
const SPLIT: usize = 256;
/// The largest head.
const MOST_DIM: i32 = 4096;

/// What [`attend`] does with its queries, keys and values.
#[derive(Clone, Debug)]
pub struct Attend<'a> {
    /// Query heads H, a multiple of `kv_heads`.
    pub heads: i32,
    /// Heads of keys and values Hkv.
    pub kv_heads: i32,
    /// Values of a head D.
    pub head_dim: i32,
    /// What scores are multiplied by, usually D^-½.
    pub scale: f32,
    /// RMS norm of every head of the queries, before rotation; its weight is `[D]`.
    pub q_norm: Option<Norm<'a>>,
    /// The same for keys.
    pub k_norm: Option<Norm<'a>>,
    /// Rotates queries and keys.
    pub rope: Option<Arc<Rope>>,
    /// The position of the first new token, for the rotation only.
    pub position: i32,
    /// Slots of the cache that are filled already; new tokens go to the slots from there on.
    pub len: i32,
    /// How many of the latest slots a query sees, its own included; all up to its own if `None`.
    pub window: Option<i32>,
    /// So many first slots are visible outside the window too.
    pub keep: i32,
    /// Left padding, one number for each sequence of the batch: slots below it are invisible, and it is taken off the
    /// positions. A query that sees nothing gives zeros.
    pub starts: Option<Arc<[i32]>>,
}

/// Whether [`attend`] takes heads of this size: multiples of eight.
pub fn attend_supported(head_dim: i32) -> bool {
    (8..=MOST_DIM).contains(&head_dim) && head_dim % 8 == 0
}

/// Norms and rotates the heads of q [B, L, H · D] and k [B, L, Hkv · D], appends k and v [B, L, Hkv · D] to the caches of keys
/// and values [B, Hkv, capacity, D], and attends causally over them: softmax(scale · q · kᵀ) · v.
///
/// Returns the result [B, L, H · D] in q's type, and the caches: the same memory, unless somebody else still holds the arrays
/// that were given. So move the caches in, and keep what comes back.
///
/// Caches are both float32, both float16 or both bfloat16. Slots from `len + L` on are left as they are.
///
/// Errors: shapes, types or numbers of `spec` that do not go together, or no room in the caches.
pub fn attend(
    q: &Array,
    k: &Array,
    v: &Array,
    caches: [Array; 2],
    spec: &Attend,
) -> Result<(Array, Array, Array)> {
    let [b, l, capacity] = check(q, k, v, &caches, spec)?;
    let mut inputs = Inputs(vec![q, k, v, &caches[0], &caches[1]]);
    let q_norm = spec.q_norm.map(|n| inputs.norm(n));
    let k_norm = spec.k_norm.map(|n| inputs.norm(n));
    let outputs = [
        Output::new(q.shape(), q.dtype()),
        Output::new(caches[0].shape(), caches[0].dtype()).donor(3),
        Output::new(caches[1].shape(), caches[1].dtype()).donor(4),
    ];
    let (position, scale) = (spec.position, spec.scale);
    let (rope, starts) = (spec.rope.clone(), spec.starts.clone());
    let mask = Mask { window: spec.window.map(|w| w as usize), keep: spec.keep as usize };
    let [heads, kv_heads, d, len] = [spec.heads, spec.kv_heads, spec.head_dim, spec.len].map(|n| n as usize);
    let size = Size { b, l, heads, kv_heads, d, len, capacity };
    let [y, k, v] = graph::apply_to("RustAttend", &inputs.0, outputs, move |i, o| {
        let angles = rope.as_ref().map(|r| r.angles(position, size.l, starts.as_ref()));
        let turn = rope.as_deref().zip(angles.as_deref());
        let heads = |norm: Option<NormAt>| -> std::result::Result<Heads, String> {
            Ok(Heads { norm: norm.map(|n| n.load(i)).transpose()?, turn, d })
        };
        let (q_heads, k_heads) = (heads(q_norm)?, heads(k_norm)?);
        append(&size, &k_heads, [&i[1], &i[2]], [&i[3], &i[4]], [&o[1], &o[2]])?;
        let starts = starts.as_deref();
        run(&Attention {
            size,
            mask,
            scale,
            starts,
            heads: &q_heads,
            q: &i[0],
            k: &o[1],
            v: &o[2],
            out: &o[0],
        });
        Ok(())
    })?;
    Ok((y, k, v))
}

/// Batch, new tokens and capacity, if all goes together.
fn check(q: &Array, k: &Array, v: &Array, caches: &[Array; 2], spec: &Attend) -> Result<[usize; 3]> {
    let bad = |what: &str| {
        let (q, k, v, cache) = (q.shape(), k.shape(), v.shape(), caches[0].shape());
        unsupported(format!("attention with {what}: q {q:?}, k {k:?}, v {v:?}, caches {cache:?}, {spec:?}"))
    };
    let (h, kv, d) = (i64::from(spec.heads), i64::from(spec.kv_heads), i64::from(spec.head_dim));
    if !attend_supported(spec.head_dim) {
        return Err(bad("such a head size"));
    }
    if h <= 0 || kv <= 0 || h % kv != 0 {
        return Err(bad("such numbers of heads"));
    }
    let &[b, l, width] = q.shape() else { return Err(bad("such queries")) };
    let kv_shape = [i64::from(b), i64::from(l), kv * d];
    let is = |a: &Array, shape: &[i64]| a.shape().iter().map(|&n| i64::from(n)).eq(shape.iter().copied());
    if i64::from(width) != h * d || !is(k, &kv_shape) || !is(v, &kv_shape) {
        return Err(bad("such shapes"));
    }
    let capacity = caches[0].shape().get(2).copied().unwrap_or(0);
    let cache_shape = [i64::from(b), kv, i64::from(capacity), d];
    if caches.iter().any(|c| !is(c, &cache_shape)) {
        return Err(bad("such caches"));
    }
    if spec.len < 0 || i64::from(spec.len) + i64::from(l) > i64::from(capacity) {
        return Err(bad("no room in the cache"));
    }
    if [q, k, v, &caches[0], &caches[1]].iter().any(|a| !is_floating(a))
        || caches[0].dtype() != caches[1].dtype()
    {
        return Err(bad("such types"));
    }
    if spec.window.is_some_and(|w| w < 1) || spec.keep < 0 {
        return Err(bad("such a window"));
    }
    if spec.starts.as_ref().is_some_and(|s| s.len() != b as usize || s.iter().any(|&s| s < 0)) {
        return Err(bad("such starts"));
    }
    if spec.rope.as_ref().is_some_and(|r| r.dims() > d as usize) {
        return Err(bad("more rotated values than a head has"));
    }
    [spec.q_norm, spec.k_norm].iter().flatten().try_for_each(|n| n.check(spec.head_dim))?;
    Ok([b, l, capacity].map(|n| n as usize))
}

/// The sizes of a call; see [`Attend`].
#[derive(Clone, Copy)]
struct Size {
    b: usize,
    l: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
    len: usize,
    capacity: usize,
}

/// What is done with a head before it is used.
struct Heads<'a> {
    norm: Option<(Scratch, f32)>,
    turn: Option<(&'a Rope, &'a Angles)>,
    d: usize,
}

impl Heads<'_> {
    /// Copies head `h` of token `l` of sequence `b` from x [B, L, heads · D] to `out`, normed and rotated.
    ///
    /// # Safety
    /// There is such a head, and room for `d` values.
    unsafe fn load(&self, x: &View, b: usize, l: usize, h: usize, out: *mut f32) {
        let at = b as isize * x.stride(0) + l as isize * x.stride(1) + (h * self.d) as isize * x.stride(2);
        // SAFETY: the caller's promise; the norm has `d` weights and the angles are those of this call.
        unsafe {
            widen_from(x, at, self.d, out);
            if let Some((weight, eps)) = &self.norm {
                rms_norm_row(out, weight.as_ptr(), self.d, *eps, out);
            }
            if let Some((rope, angles)) = self.turn {
                rope.rotate(out, angles, b, l);
            }
        }
    }
}

/// Makes `to` the caches `from` with the new keys and values at slots `size.len` on. Copies the rest only where `to` is not
/// `from`'s memory.
fn append(size: &Size, keys: &Heads, new: [&View; 2], from: [&View; 2], to: [&View; 2]) -> Outcome {
    let plain = Heads { norm: None, turn: None, d: size.d };
    for (from, to) in from.into_iter().zip(to) {
        if from.ptr::<u8>() != to.ptr::<u8>() {
            copy(size, from, to)?;
        }
    }
    Pool::global().ranges(size.b * size.l, (1 << 13) / (size.kv_heads * size.d) + 1, |range| {
        let mut head = Scratch::new(size.d);
        for token in range {
            let (b, l) = (token / size.l, token % size.l);
            for h in 0..size.kv_heads {
                let slot = (b * size.kv_heads + h) * size.capacity + size.len + l;
                for (heads, (x, to)) in [keys, &plain].into_iter().zip(new.into_iter().zip(to)) {
                    // SAFETY: `check` saw the shapes; every token has slots of its own.
                    unsafe {
                        heads.load(x, b, l, h, head.as_mut_ptr());
                        narrow_to(head.as_ptr(), size.d, to, slot * size.d);
                    }
                }
            }
        }
    });
    Ok(())
}

/// Copies a whole cache.
fn copy(size: &Size, from: &View, to: &View) -> Outcome {
    if !from.is_dense(3) {
        return Err(format!("a cache's last axis must be contiguous, strides are {:?}", from.strides));
    }
    let bytes = to.dtype.size();
    Pool::global().ranges(size.b * size.kv_heads, 1, |range| {
        for bh in range {
            let (b, h) = ((bh / size.kv_heads) as isize, (bh % size.kv_heads) as isize);
            let head = b * from.stride(0) + h * from.stride(1);
            for s in 0..size.capacity {
                let a = (head + s as isize * from.stride(2)) * bytes as isize;
                let z = (bh * size.capacity + s) * size.d * bytes;
                // SAFETY: slot `s` of both, which are of the same shape and type.
                unsafe {
                    let (a, z) = (from.ptr::<u8>().offset(a), to.ptr::<u8>().add(z));
                    std::ptr::copy_nonoverlapping(a, z, size.d * bytes);
                }
            }
        }
    });
    Ok(())
}

/// Queries against caches that hold their keys and values already.
struct Attention<'a> {
    size: Size,
    mask: Mask,
    scale: f32,
    starts: Option<&'a [i32]>,
    heads: &'a Heads<'a>,
    q: &'a View<'a>,
    /// Contiguous.
    k: &'a View<'a>,
    v: &'a View<'a>,
    out: &'a View<'a>,
}

fn run(a: &Attention) {
    let Size { b, l, heads, kv_heads, d, len, capacity } = a.size;
    let share = heads / kv_heads;
    let tile = (QUERIES / share).clamp(1, l.max(1));
    let tiles = l.div_ceil(tile);
    let groups = b * kv_heads * tiles;
    // Scratch rows are padded to whole vectors.
    let (rows, width) = (share * tile, d.next_multiple_of(16));
    let keys = a.mask.window.map_or(len + l, |w| (w + tile + a.mask.keep).min(len + l));
    let splits = (2 * Pool::global().threads()).div_ceil(groups.max(1)).min(keys / SPLIT).max(1);
    // Each task leaves, for each of its rows, `width` sums, the largest score and the sum of weights.
    let size = rows * (width + 2);
    let mut parts = Scratch::new(if splits > 1 { groups * splits * size } else { 0 });
    let parts = Shared(parts.as_mut_ptr());
    let finish = |group: usize, parts: *mut f32| {
        let (head, t) = (group / tiles, group % tiles);
        for r in 0..tile.min(l - t * tile) * share {
            let (token, h) =
                (head / kv_heads * l + t * tile + r / share, head % kv_heads * share + r % share);
            // SAFETY: the parts of this tile's splits, and a row of the output that no other tile writes.
            unsafe { join(parts, splits, size, rows, r, width, d, a.out, (token * heads + h) * d) }
        }
    };
    Pool::global().run(groups * splits, |task| {
        // The last tiles see the most: they come first.
        let (group, split) = (groups - 1 - task / splits, task % splits);
        let (head, t) = (group / tiles, group % tiles);
        let (batch, kv) = (head / kv_heads, head % kv_heads);
        let positions = tile.min(l - t * tile);
        let mut queries = Scratch::new(rows * width);
        queries.fill(0.0);
        // Row r of a tile is token r / share and head r % share.
        for r in 0..positions * share {
            let to = queries[r * width..].as_mut_ptr();
            // SAFETY: `check` saw the shapes.
            unsafe { a.heads.load(a.q, batch, t * tile + r / share, kv * share + r % share, to) }
        }
        let start = a.starts.map_or(0, |s| s[batch] as usize);
        let first = len + t * tile;
        let seen = a.mask.visible(start, first, first + positions - 1);
        let blocks = seen.blocks();
        let mut own = Scratch::new(if splits > 1 { 0 } else { size });
        let part = if splits > 1 { parts.at((group * splits + split) * size) } else { own.as_mut_ptr() };
        let task = Task {
            q: queries.as_ptr(),
            n: positions * share,
            share,
            first,
            d,
            width,
            scale: a.scale,
            mask: a.mask,
            seen,
            blocks: split * blocks / splits..(split + 1) * blocks / splits,
            part,
            rows,
        };
        let at = head * capacity * d;
        // SAFETY: the caches are contiguous and hold this head's slots; `part` is this task's own.
        unsafe {
            match a.k.dtype {
                DType::F32 => attend_block::<f32>(&task, a.k.ptr::<f32>().add(at), a.v.ptr::<f32>().add(at)),
                DType::Bf16 => {
                    attend_block::<Bf16>(&task, a.k.ptr::<Bf16>().add(at), a.v.ptr::<Bf16>().add(at))
                }
                _ => attend_block::<F16>(&task, a.k.ptr::<F16>().add(at), a.v.ptr::<F16>().add(at)),
            }
        }
        if splits == 1 {
            finish(group, part);
        }
    });
    if splits > 1 {
        Pool::global().ranges(groups, 8, |range| range.for_each(|g| finish(g, parts.at(g * splits * size))));
    }
}
