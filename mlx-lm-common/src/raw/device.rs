//! Devices, as far as mlx-rs does not reach.

use super::init;

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The first GPU: Metal or CUDA, whichever this MLX was built for.
    Gpu,
}

impl Device {
    /// Whether it is an NVIDIA GPU: the only kind outside macOS.
    pub fn is_cuda(self) -> bool {
        self == Device::Gpu && !cfg!(target_os = "macos")
    }
}

/// Whether MLX sees a GPU that it can use.
pub fn gpu_available() -> bool {
    init();
    let mut available = false;
    // SAFETY: plain calls; the device handle is freed.
    unsafe {
        let gpu = mlx_sys::mlx_device_new_type(mlx_sys::mlx_device_type__MLX_GPU, 0);
        let status = mlx_sys::mlx_device_is_available(&mut available, gpu);
        mlx_sys::mlx_device_free(gpu);
        status == 0 && available
    }
}

/// Makes `device` the default for operations that this thread builds from now on.
pub fn set_default_device(device: Device) {
    init();
    let device = match device {
        Device::Cpu => mlx_rs::Device::cpu(),
        Device::Gpu => mlx_rs::Device::gpu(),
    };
    mlx_rs::Device::set_default(&device);
}
