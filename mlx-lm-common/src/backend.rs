//! Where a model runs and in which numbers: decided once, at load.

use crate::raw::{self, Device};
use mlx_rs::Dtype;

/// The numeric policy of a loaded model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where operations run.
    pub device: Device,
    /// The type of activations and of small float tensors.
    pub compute: Dtype,
    /// Whether blocks may use the fused CPU kernels.
    pub kernels: bool,
    /// Whether chains of elementwise operations become one node through MLX's compiler: by default on a GPU, as on the CPU that
    /// compiler would start a C++ compiler at run time.
    pub compile: bool,
}

impl Backend {
    /// The policy for `device` (a GPU if there is one, by default) and `dtype`. On a GPU the default is `stored`, the
    /// checkpoint's own type; on the CPU it is float32, since MLX's half-precision CPU code is slow and inaccurate. Without
    /// `kernels`, MLX's own operations do everything.
    pub fn new(device: Option<Device>, dtype: Option<Dtype>, stored: Dtype, kernels: bool) -> Backend {
        let device = device.unwrap_or(if raw::gpu_available() { Device::Gpu } else { Device::Cpu });
        let compute = dtype.unwrap_or(match device {
            Device::Cpu => Dtype::Float32,
            Device::Gpu => stored,
        });
        Backend {
            device,
            compute,
            kernels: kernels && device == Device::Cpu && mlx_lm_kernels::available(),
            compile: device == Device::Gpu,
        }
    }
}
