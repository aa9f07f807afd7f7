//! Arrays over memory of one's own. The C++ side is `cpp/adopt.cpp`.

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result},
};
use std::{any::Any, ffi::c_void, sync::Arc};

/// What keeps the memory alive.
pub type Owner = Arc<dyn Any + Send + Sync>;

/// Bytes before the data that [`adopt`] writes to.
pub const HEADER: usize = size_of::<usize>();

#[cfg(primitive)]
unsafe extern "C" {
    fn mlk_can_adopt() -> std::ffi::c_int;
    fn mlk_adopt(
        data: *mut c_void,
        shape: *const i32,
        ndim: i32,
        dtype: i32,
        owner: *mut c_void,
        drop: unsafe extern "C" fn(*mut c_void),
    ) -> *mut c_void;
}

/// Whether [`adopt`] works with the loaded MLX: not with one that is built for a GPU, whose buffers are something else.
pub fn can_adopt() -> bool {
    #[cfg(primitive)]
    {
        static CAN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
        // SAFETY: a plain call, into an MLX of the version that it was compiled against.
        *CAN.get_or_init(|| crate::graph::check_version().is_ok() && unsafe { mlk_can_adopt() } != 0)
    }
    #[cfg(not(primitive))]
    false
}

/// An evaluated array over `data`, without a copy. `owner` is dropped when MLX no longer needs the memory.
///
/// # Errors
/// If [`can_adopt`] says no.
///
/// # Safety
/// `data` holds as many initialized bytes as shape and type say, aligned for the type, with [`HEADER`] more before them that
/// nobody else uses; all of it lives as long as `owner`, and nobody writes to it from now on.
pub unsafe fn adopt(data: *mut u8, shape: &[i32], dtype: Dtype, owner: Owner) -> Result<Array> {
    unsafe extern "C" fn release(owner: *mut c_void) {
        // SAFETY: made by `Box::into_raw` below, released once.
        drop(unsafe { Box::from_raw(owner.cast::<Owner>()) });
    }
    if !can_adopt() {
        return Err(Exception::custom("this MLX cannot use memory of others"));
    }
    let owner = Box::into_raw(Box::new(owner)).cast();
    #[cfg(primitive)]
    // SAFETY: the caller's promise; `mlk_adopt` releases the owner in every case.
    let made =
        unsafe { mlk_adopt(data.cast(), shape.as_ptr(), shape.len() as i32, dtype as i32, owner, release) };
    #[cfg(not(primitive))]
    let made = {
        let _ = (data, shape, dtype);
        // SAFETY: not released by anybody else.
        unsafe { release(owner) };
        std::ptr::null_mut::<c_void>()
    };
    if made.is_null() {
        return Err(Exception::custom("MLX refused memory of others"));
    }
    // SAFETY: a new `mlx::core::array*`, which is what mlx-c keeps in `ctx`, and ours alone.
    Ok(unsafe { Array::from_ptr(mlx_sys::mlx_array { ctx: made }) })
}

#[cfg(all(test, primitive))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[repr(align(64))]
    struct Memory([u8; 64 + 16]);

    #[test]
    fn an_adopted_array_is_the_memory_and_lets_go_of_it() {
        let mut memory = Arc::new(Memory([0; 80]));
        let bytes = &mut Arc::get_mut(&mut memory).unwrap().0;
        for (i, value) in [1.5f32, -2.0, 3.0, 4.25].iter().enumerate() {
            bytes[64 + 4 * i..][..4].copy_from_slice(&value.to_le_bytes());
        }
        let data = bytes[64..].as_mut_ptr();
        let weak = Arc::downgrade(&memory);
        // SAFETY: sixteen bytes with sixty-four before them, owned by the Arc.
        let a = unsafe { adopt(data, &[2, 2], Dtype::Float32, memory) }.unwrap();
        assert_eq!(a.as_slice::<f32>().as_ptr().cast(), data.cast_const());
        let sum = a.sum(None).unwrap();
        drop(a);
        assert_eq!(sum.item_cast::<f32>(), 6.75);
        drop(sum);
        assert!(weak.upgrade().is_none());
    }
}
