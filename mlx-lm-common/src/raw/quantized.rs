//! Quantized operations in every mode; mlx-rs knows `affine` alone.

use super::{check, init, none, one};
use mlx_rs::{Array, Stream, error::Exception};
use std::ffi::CStr;

/// How packed values become numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Packs w [.., K]: words [.., K·bits/32], scales [.., K/group] and, in [`Mode::Affine`], biases like them.
pub fn quantize(
    w: &Array,
    (group, bits, mode): (i32, i32, Mode),
) -> Result<(Array, Array, Option<Array>), Exception> {
    init();
    let stream = Stream::new();
    let parts = if mode == Mode::Affine { 3 } else { 2 };
    // SAFETY: all handles are alive for the calls; the vector is freed once its arrays, which are references of their own, are
    // taken out.
    let (status, mut arrays) = unsafe {
        let mut all = mlx_sys::mlx_vector_array_new();
        let mut status = mlx_sys::mlx_quantize(
            &mut all,
            w.as_ptr(),
            int(group),
            int(bits),
            mode.c_name().as_ptr(),
            none(),
            stream.as_ptr(),
        );
        let mut arrays = Vec::new();
        for i in 0..parts {
            let mut array = mlx_sys::mlx_array_new();
            if status == 0 {
                status = mlx_sys::mlx_vector_array_get(&mut array, all, i);
            }
            arrays.push(Array::from_ptr(array));
        }
        mlx_sys::mlx_vector_array_free(all);
        (status, arrays)
    };
    check(status)?;
    let biases = (parts == 3).then(|| arrays.pop()).flatten();
    let (Some(scales), Some(weight)) = (arrays.pop(), arrays.pop()) else {
        return Err(Exception::custom("MLX packed nothing"));
    };
    Ok((weight, scales, biases))
}
