//! Loading and dropping models over and over leaves nothing behind. Alone in its file, hence in its process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use mlx_llm::common::{model::ModelThread, raw};
use std::fs;

fn status(key: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn load_and_drop() {
    let thread = ModelThread::start(|| {
        let loaded = common::load(&common::fixture("qwen3_moe-4bit"), false);
        let mut cache = common::cache(loaded.model.as_ref());
        loaded.model.forward(&common::ids(&[1, 2, 3]), &mut cache)?.eval()?;
        Ok(loaded)
    })
    .unwrap();
    assert!(raw::resident() > 0);
    drop(thread);
}

#[test]
fn a_hundred_models_leave_threads_and_memory_flat() {
    (0..20).for_each(|_| load_and_drop());
    let settle = || std::thread::sleep(std::time::Duration::from_millis(200));
    settle();
    let (threads, kilobytes) = (status("Threads:"), status("VmRSS:"));
    (0..100).for_each(|_| load_and_drop());
    settle();
    // A thread may be taken while the one before it is still putting its model away.
    assert!(status("Threads:") <= threads + 4, "{threads} threads became {}", status("Threads:"));
    assert!(status("VmRSS:") < kilobytes + 8192, "{kilobytes} kB became {}", status("VmRSS:"));
    assert_eq!(raw::resident(), 0);
}
