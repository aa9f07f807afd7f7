//! How much memory the process has and had.

use mlx_llm::common::raw;
use std::fs;

/// Bytes that the process holds now.
pub(super) fn resident() -> u64 {
    status("VmRSS:")
        .unwrap_or_else(|| (raw::resident() + mlx_rs::memory::active_memory().unwrap_or(0)) as u64)
}

/// Most bytes that the process held.
pub(super) fn peak() -> u64 {
    status("VmHWM:").unwrap_or_else(|| (raw::resident() + mlx_rs::memory::peak_memory().unwrap_or(0)) as u64)
}

/// A figure of Linux's; other systems have weights and MLX's arrays counted instead.
fn status(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
