//! The few MLX calls that mlx-rs lacks, and the memory that weights live in. The only `unsafe` code of the crate.
#![allow(unsafe_code)]

mod arena;
mod device;
mod early;
mod quantized;
mod slice;
mod slots;

pub use arena::{Arena, Block, resident, size_of};
pub use device::{Device, gpu_available, set_default_device};
pub use early::{begin, whole_graphs};
pub use quantized::{Mode, dequantize, gather_qmm, quantize, quantized_matmul};
pub use slice::slice;
pub use slots::{slots, with_slots};

use mlx_rs::{Array, Stream, error::Exception};
use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_int, c_void},
    sync::Once,
};

unsafe extern "C" {
    /// mlx-rs's own handler; it keeps the message for mlx-rs's errors.
    fn default_mlx_error_handler(message: *const c_char, data: *mut c_void);
}

thread_local! {
    static LAST_ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes raw calls safe to fail. mlx-c's own handler ends the process, and mlx-rs replaces it only at its first operation; its
/// handler in turn keeps the message to itself, so ours is put before it. Called before anything else touches MLX.
pub fn init() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        // Any guarded mlx-rs operation installs mlx-rs's handler; it cannot fail.
        let _ = mlx_rs::ops::abs(Array::from_f32(1.0));
        // SAFETY: `remember` has the handler's signature and needs no data.
        unsafe { mlx_sys::mlx_set_error_handler(Some(remember), std::ptr::null_mut(), None) };
    });
}

unsafe extern "C" fn remember(message: *const c_char, data: *mut c_void) {
    // SAFETY: mlx-c passes a string that lives for the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    LAST_ERROR.with_borrow_mut(|last| *last = Some(text));
    // SAFETY: the same arguments go on.
    unsafe { default_mlx_error_handler(message, data) }
}

/// Has `f` called when the process ends, before what exists of MLX now is destroyed.
pub fn at_exit(f: extern "C" fn()) {
    unsafe extern "C" {
        fn atexit(f: extern "C" fn()) -> c_int;
    }
    init();
    // SAFETY: a function that lives as long as the program. Should there be no room for it, it is not called.
    unsafe { atexit(f) };
}

fn check(status: c_int) -> Result<(), Exception> {
    if status == 0 {
        return Ok(());
    }
    Err(Exception::custom(LAST_ERROR.take().unwrap_or_else(|| "MLX failed without a message".into())))
}

/// Runs a raw call that fills one array, on this thread's default stream.
fn one(call: impl FnOnce(&mut mlx_sys::mlx_array, mlx_sys::mlx_stream) -> c_int) -> Result<Array, Exception> {
    init();
    let stream = Stream::new();
    // SAFETY: an empty handle, which the call fills and `Array` then owns.
    let mut result = unsafe { mlx_sys::mlx_array_new() };
    let status = call(&mut result, stream.as_ptr());
    let result = unsafe { Array::from_ptr(result) };
    check(status).map(|()| result)
}

/// mlx-c's way to pass no array; nothing to free.
fn none() -> mlx_sys::mlx_array {
    mlx_sys::mlx_array { ctx: std::ptr::null_mut() }
}
