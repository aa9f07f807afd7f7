//! How much a recurrent layer remembers. Alone in its process: MLX counts for all threads.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod state;

use mlx_lm_common::cache::StateCache;
use mlx_rs::{memory, transforms};
use state::{CHANNELS, Layer, WIDTH, text};

/// Two thousand tokens: neither what the cache says nor what MLX holds may grow, and it is no more than the log asks for.
#[test]
fn decoding_needs_no_more_memory_as_it_goes_on() {
    let layer = Layer::new();
    let floats = |n: i32| (n * CHANNELS) as usize * size_of::<f32>();
    for rewind in [0, 5, 32] {
        let mut cache = StateCache::new(2, rewind, None);
        transforms::eval([&layer.forward(&text(300, 1), &mut cache)]).unwrap();
        let (mut held, mut active) = (Vec::new(), Vec::new());
        for i in 0..2000 {
            let y = layer.forward(&text(1, i), &mut cache);
            transforms::eval([&y]).unwrap();
            drop(y);
            if i % 100 == 99 {
                held.push(cache.nbytes());
                active.push(memory::active_memory().unwrap());
            }
        }
        assert!(held.iter().all(|h| *h == held[0]), "{held:?} bytes");
        assert!(active.iter().all(|a| *a == active[0]), "{active:?} bytes");
        // Passes of one position: each a tail and itself, each an input, and states.
        let log = rewind + rewind / 8;
        let most = floats(WIDTH * (log + 1)) + floats(log) + floats(1 + 9);
        assert!(held[0] <= most, "{} bytes for a log of {rewind}, at most {most}", held[0]);
        if rewind == 0 {
            assert_eq!(held[0], floats(WIDTH) + floats(1));
        }
    }
}
