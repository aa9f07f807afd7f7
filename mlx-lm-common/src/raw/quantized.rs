//! Quantized operations in every mode; mlx-rs knows `affine` alone.

use super::{none, one};
use mlx_rs::{Array, error::Exception};
use std::ffi::CStr;

/// How packed values become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// w = scale · q + bias, with a scale and a bias for each group.
    Affine,
    /// 4-bit floats (E2M1) in groups of 32 with power-of-two scales (E8M0).
    Mxfp4,
    /// 8-bit floats (E4M3) in groups of 32 with power-of-two scales (E8M0).
    Mxfp8,
    /// 4-bit floats (E2M1) in groups of 16 with 8-bit scales (E4M3).
    Nvfp4,
}

impl Mode {
    /// The name in configurations and in MLX.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Affine => "affine",
            Mode::Mxfp4 => "mxfp4",
            Mode::Mxfp8 => "mxfp8",
            Mode::Nvfp4 => "nvfp4",
        }
    }

    /// The mode of this name.
    pub fn named(name: &str) -> Option<Mode> {
        [Mode::Affine, Mode::Mxfp4, Mode::Mxfp8, Mode::Nvfp4].into_iter().find(|mode| mode.name() == name)
    }

    fn c_name(self) -> &'static CStr {
        match self {
            Mode::Affine => c"affine",
            Mode::Mxfp4 => c"mxfp4",
            Mode::Mxfp8 => c"mxfp8",
            Mode::Nvfp4 => c"nvfp4",
        }
    }
}

fn int(value: i32) -> mlx_sys::mlx_optional_int {
    mlx_sys::mlx_optional_int { value, has_value: true }
}

fn maybe(a: Option<&Array>) -> mlx_sys::mlx_array {
    a.map_or_else(none, Array::as_ptr)
}

/// x · wᵀ ([.., N] of [.., K]) or, without `transpose`, x · w ([.., K] of [.., N]), for packed w [.., N, K·bits/32], in x's type.
pub fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    (group, bits, mode): (i32, i32, Mode),
) -> Result<Array, Exception> {
    one(|out, stream| {
        // SAFETY: all handles are alive for the call.
        unsafe {
            mlx_sys::mlx_quantized_matmul(
                out,
                x.as_ptr(),
                w.as_ptr(),
                scales.as_ptr(),
                maybe(biases),
                transpose,
                int(group),
                int(bits),
                mode.c_name().as_ptr(),
                stream,
            )
        }
    })
}

/// `x[rows] · w[experts]ᵀ` for packed w `[E, N, K·bits/32]`: numbers of x's matrices (each once, if absent) and the experts that they
/// go to. `sorted` promises that `experts` ascends.
pub fn gather_qmm(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    (rows, experts): (Option<&Array>, &Array),
    (group, bits, mode): (i32, i32, Mode),
    sorted: bool,
) -> Result<Array, Exception> {
    one(|out, stream| {
        // SAFETY: all handles are alive for the call.
        unsafe {
            mlx_sys::mlx_gather_qmm(
                out,
                x.as_ptr(),
                w.as_ptr(),
                scales.as_ptr(),
                maybe(biases),
                maybe(rows),
                experts.as_ptr(),
                true,
                int(group),
                int(bits),
                mode.c_name().as_ptr(),
                sorted,
                stream,
            )
        }
    })
}

/// The values of packed w [.., K·bits/32], as [.., K] in the type of `scales` (bfloat16 for the float modes).
pub fn dequantize(
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    (group, bits, mode): (i32, i32, Mode),
) -> Result<Array, Exception> {
    let dtype = mlx_sys::mlx_optional_dtype { value: 0, has_value: false };
    one(|out, stream| {
        // SAFETY: all handles are alive for the call.
        unsafe {
            mlx_sys::mlx_dequantize(
                out,
                w.as_ptr(),
                scales.as_ptr(),
                maybe(biases),
                int(group),
                int(bits),
                mode.c_name().as_ptr(),
                none(),
                dtype,
                stream,
            )
        }
    })
}
