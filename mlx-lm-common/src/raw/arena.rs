//! The memory of weights: one region, filled once, on huge pages where the system has them.

use super::init;
use crate::{Error, Result};
use memmap2::MmapMut;
use mlx_lm_kernels as kernels;
use mlx_rs::{Array, Dtype};
use std::{
    cell::RefCell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Regions start on huge pages, tensors on cache lines.
const HUGE_PAGE: usize = 2 << 20;
const LINE: usize = 64;
const _: () = assert!(kernels::HEADER <= LINE);

static RESIDENT: AtomicUsize = AtomicUsize::new(0);

/// Bytes of weights that live in arenas now; MLX's own counters do not see them.
pub fn resident() -> usize {
    RESIDENT.load(Relaxed)
}

struct Region {
    /// Anonymous, hence zero until it is filled, and not backed by memory before that.
    map: MmapMut,
    /// Where the first huge page begins.
    start: usize,
    size: usize,
    /// Bytes handed out.
    used: AtomicUsize,
}

impl Region {
    fn new(bytes: usize) -> Result<Region> {
        let failed = |why: &dyn std::fmt::Display| {
            Error::Unsupported(format!("cannot allocate {bytes} bytes for weights: {why}"))
        };
        let size = bytes.max(1).checked_next_multiple_of(HUGE_PAGE).ok_or_else(|| failed(&"too large"))?;
        let padded = size.checked_add(HUGE_PAGE).ok_or_else(|| failed(&"too large"))?;
        let map = MmapMut::map_anon(padded).map_err(|e| failed(&e))?;
        // Reading weights is most of a token's time, and with small pages much of that is address translation. Where the
        // system does not know the advice, nothing changes.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        Ok(Region { map, start, size, used: AtomicUsize::new(0) })
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.map.as_ptr().wrapping_add(self.start + offset).cast_mut()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        RESIDENT.fetch_sub(self.used.load(Relaxed), Relaxed);
    }
}

/// Hands out blocks of one region; a further region begins when it is full.
pub struct Arena {
    current: RefCell<Option<Arc<Region>>>,
    capacity: usize,
}

impl Arena {
    /// An arena whose region holds `capacity` bytes in blocks. Where MLX copies (a GPU has memory of its own), every block has a
    /// region to itself instead, which goes at once.
    pub fn new(capacity: usize) -> Arena {
        Arena { current: RefCell::new(None), capacity: if kernels::can_adopt() { capacity } else { 0 } }
    }

    /// Bytes that a block of so many takes.
    pub fn footprint(bytes: usize) -> usize {
        bytes.saturating_add(LINE).checked_next_multiple_of(LINE).unwrap_or(usize::MAX)
    }

    /// A block of `bytes` bytes.
    pub fn block(&self, bytes: usize) -> Result<Block> {
        let mut current = self.current.borrow_mut();
        let need = Arena::footprint(bytes);
        let room = current.as_ref().filter(|r| self.capacity > 0 && r.size - r.used.load(Relaxed) >= need);
        let region = match room {
            Some(region) => region.clone(),
            None => Arc::new(Region::new(self.capacity.max(need))?),
        };
        // A line before the data is for MLX to note its size in.
        let offset = region.used.fetch_add(need, Relaxed) + LINE;
        RESIDENT.fetch_add(need, Relaxed);
        *current = Some(region.clone());
        Ok(Block { region, offset, bytes })
    }
}

/// A part of a region that nobody else has. Filled first, then turned into an array.
pub struct Block {
    region: Arc<Region>,
    offset: usize,
    bytes: usize,
}

impl Block {
    /// The memory to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: inside a writable mapping that lives as long as the region, and disjoint from all other blocks.
        unsafe { std::slice::from_raw_parts_mut(self.region.at(self.offset), self.bytes) }
    }

    /// An array over this memory, which keeps the region alive, or a copy: see [`Arena::new`].
    pub fn into_array(self, shape: &[i32], dtype: Dtype) -> Result<Array> {
        init();
        let wanted = shape.iter().try_fold(size_of(dtype), |n, &d| n.checked_mul(usize::try_from(d).ok()?));
        if wanted != Some(self.bytes) {
            return Err(Error::Unsupported(format!(
                "{} bytes are no array of {shape:?} {dtype:?}",
                self.bytes
            )));
        }
        let data = self.region.at(self.offset);
        if !kernels::can_adopt() {
            // SAFETY: the memory is as large as shape and type say; MLX copies it.
            return Ok(unsafe { Array::from_raw_data(data.cast(), shape, dtype) });
        }
        // SAFETY: as above, and it lives as long as the region; the line before it is this block's, which nobody writes to again.
        Ok(unsafe { kernels::adopt(data, shape, dtype, self.region) }?)
    }
}

/// Bytes of one value.
pub fn size_of(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
        Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
        Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
        Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
    }
}
