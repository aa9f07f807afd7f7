//! The memory of recurrent layers, through a small layer.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod state;

use mlx_lm_common::{Error, cache::StateCache};
use mlx_rs::{
    Array,
    ops::{self, indexing::IndexOp},
};
use state::{CHANNELS, Layer, WIDTH, distance, leaky, text};
use std::sync::Arc;

/// Ways to cut twelve positions.
const CUTS: [&[i32]; 6] = [&[12], &[1; 12], &[5, 1, 1, 1, 4], &[3, 3, 3, 3], &[1, 1, 10], &[9, 2, 1]];

#[test]
fn pieces_equal_one_pass() {
    let (layer, x) = (Layer::new(), text(12, 1));
    let whole = layer.forward(&x, &mut StateCache::new(2, 0, None));
    for rewind in [0, 1, 3, 16, 40] {
        for sizes in CUTS {
            let y = layer.in_pieces(&x, &mut StateCache::new(2, rewind, None), sizes);
            assert!(distance(&y, &whole) < 1e-5, "{sizes:?} with a log of {rewind}");
        }
    }
}

#[test]
fn going_back_and_on_equals_never_having_been_there() {
    let layer = Layer::new();
    let (x, other) = (text(12, 1), text(5, 2));
    for rewind in [1, 2, 3, 7, 11, 12, 16, 40] {
        for sizes in CUTS {
            for n in 1..=rewind.min(12) {
                let mut cache = StateCache::new(2, rewind, None);
                layer.in_pieces(&x, &mut cache, sizes);
                assert_eq!((cache.can_trim(n), cache.trim(n), cache.offset()), (true, n, 12 - n));
                let mut never = StateCache::new(2, 0, None);
                if n < 12 {
                    layer.forward(&x.index((.., ..12 - n, ..)), &mut never);
                }
                let (a, b) = (layer.forward(&other, &mut cache), layer.forward(&other, &mut never));
                assert!(distance(&a, &b) < 1e-5, "back by {n} of {rewind} after {sizes:?}");
                // And once more, over what came since and what was left of the log.
                let again = (rewind - 1).min(16 - n);
                if again > 0 && again <= 5 + rewind - n {
                    assert_eq!(cache.trim(again), again, "{again} after {n} of {rewind}");
                    let mut never = StateCache::new(2, 0, None);
                    let both = ops::concatenate(&[&x.index((.., ..12 - n, ..)), &other], 1).unwrap();
                    layer.forward(&both.index((.., ..17 - n - again, ..)), &mut never);
                    let (a, b) = (layer.forward(&other, &mut cache), layer.forward(&other, &mut never));
                    assert!(distance(&a, &b) < 1e-5, "back by {again} after {n} of {rewind}, {sizes:?}");
                }
            }
        }
    }
}

#[test]
fn no_more_is_taken_back_than_was_logged() {
    let (layer, x) = (Layer::new(), text(12, 1));
    for (rewind, most) in [(0, 0), (3, 3), (40, 12)] {
        let mut cache = StateCache::new(2, rewind, None);
        layer.in_pieces(&x, &mut cache, &[9, 2, 1]);
        for n in [most + 1, 13, 1000, -1] {
            if n != 12 {
                assert_eq!((cache.can_trim(n), cache.trim(n), cache.offset()), (false, 0, 12), "{n}");
            }
        }
        if most == 3 {
            assert_eq!((cache.trim(2), cache.trim(2), cache.trim(1), cache.offset()), (2, 0, 1, 9));
        }
        // The whole text always can.
        let all = cache.offset();
        assert_eq!((cache.trim(all), cache.offset(), cache.nbytes()), (all, 0, 0));
        let whole = layer.forward(&x, &mut StateCache::new(2, 0, None));
        assert!(distance(&layer.forward(&x, &mut cache), &whole) < 1e-6);
    }
}

#[test]
fn a_copy_is_independent() {
    let (layer, x, other) = (Layer::new(), text(9, 1), text(5, 2));
    for rewind in [0, 4] {
        let mut cache = StateCache::new(2, rewind, None);
        layer.forward(&x, &mut cache);
        let wanted = layer.forward(&other, &mut cache.clone());
        let mut copy = cache.clone();
        layer.forward(&text(3, 3), &mut copy);
        copy.trim(2);
        layer.forward(&text(3, 4), &mut copy);
        assert_eq!(distance(&layer.forward(&other, &mut cache), &wanted), 0.0);
    }
}

#[test]
fn a_padded_row_equals_the_row_alone() {
    let (layer, x, more) = (Layer::new(), text(12, 1), text(2, 2));
    let rows = [12, 7, 1];
    let padding: Arc<[i32]> = rows.iter().map(|n| 12 - n).collect();
    let batch = |x: &Array| ops::concatenate(&[x, x, x], 0).unwrap();
    for sizes in CUTS {
        let mut cache = StateCache::new(2, 3, Some(padding.clone()));
        layer.in_pieces(&batch(&x), &mut cache, sizes);
        assert!(cache.mask(1).unwrap().is_none());
        let after = layer.forward(&batch(&more), &mut cache);
        assert_eq!(cache.trim(3), 3);
        let again = layer.forward(&batch(&more), &mut cache);
        for (i, n) in (0..).zip(rows) {
            let row = x.index((.., 12 - n.., ..));
            let mut alone = StateCache::new(2, 3, None);
            layer.forward(&row, &mut alone);
            let wanted = layer.forward(&more, &mut alone);
            assert!(distance(&after.index((i..i + 1, .., ..)), &wanted) < 1e-5, "row of {n}, {sizes:?}");
            if n > 1 {
                alone.trim(3);
                let wanted = layer.forward(&more, &mut alone);
                assert!(distance(&again.index((i..i + 1, .., ..)), &wanted) < 1e-5, "row of {n}, {sizes:?}");
            }
        }
        assert!(matches!(cache.saved(), Err(Error::Unsupported(_))));
    }
}

#[test]
fn a_convolution_of_one_position_remembers_nothing() {
    let (x, mut cache) = (text(3, 1), StateCache::new(1, 0, None));
    for _ in 0..2 {
        assert_eq!(distance(&cache.conv_input(0, &x, 1).unwrap(), &x), 0.0);
        cache.advance(3);
    }
    assert_eq!(cache.saved().unwrap()[0].as_ref().unwrap().shape(), [1, 0, CHANNELS]);
}

#[test]
fn saving_and_restoring_changes_nothing() {
    let (layer, x, other) = (Layer::new(), text(12, 1), text(5, 2));
    for (rewind, sizes) in [(0, CUTS[0]), (0, CUTS[1]), (5, CUTS[2]), (5, CUTS[1])] {
        let mut cache = StateCache::new(2, rewind, None);
        layer.in_pieces(&x, &mut cache, sizes);
        let saved = cache.saved().unwrap();
        assert_eq!(saved[0].as_ref().unwrap().shape(), [1, WIDTH - 1, CHANNELS]);
        let mut restored = StateCache::new(2, rewind, None).restore(saved.clone(), 12).unwrap();
        assert_eq!((restored.offset(), restored.can_trim(1)), (12, false));
        // Saved again before it is used, it is the same.
        let again = restored.saved().unwrap();
        let (a, b) = (again[1].as_ref().unwrap(), saved[1].as_ref().unwrap());
        assert_eq!(distance(a, b), 0.0);
        let wanted = layer.forward(&other, &mut cache);
        assert!(distance(&layer.forward(&other, &mut restored), &wanted) < 1e-6);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let zeros = |shape: &[i32]| Some(ops::zeros::<f32>(shape).unwrap());
    let (tail, state) = (zeros(&[1, 3, CHANNELS]), zeros(&[1, 1, CHANNELS]));
    let new = || StateCache::new(2, 0, None);
    let refused = |saved: Vec<Option<Array>>, offset| {
        assert!(matches!(new().restore(saved, offset), Err(Error::Cache(_))));
    };
    refused(vec![tail.clone()], 3);
    refused(vec![tail.clone(), state.clone(), state.clone()], 3);
    refused(vec![tail.clone(), None], 3);
    refused(vec![tail.clone(), state.clone()], 0);
    refused(vec![tail.clone(), state.clone()], -1);
    refused(vec![zeros(&[2, 3, CHANNELS]), state.clone()], 3);
    refused(vec![zeros(&[]), state.clone()], 3);
    assert!(new().restore(vec![None, None], 0).is_ok());

    let x = text(1, 1);
    let mut short = new().restore(vec![zeros(&[1, 2, CHANNELS]), state.clone()], 3).unwrap();
    assert!(matches!(short.conv_input(0, &x, WIDTH), Err(Error::Cache(_))));
    let mut narrow = new().restore(vec![tail, zeros(&[1, 1, 1])], 3).unwrap();
    let decay = [Array::from_f32(0.5)];
    assert!(matches!(narrow.scan(1, leaky, std::slice::from_ref(&x), &decay), Err(Error::Cache(_))));
    let mut cache = new();
    assert!(matches!(cache.conv_input(2, &x, WIDTH), Err(Error::Cache(_))));
    cache.conv_input(0, &x, WIDTH).unwrap();
    assert!(matches!(cache.scan(0, leaky, &[x], &decay), Err(Error::Cache(_))));
}
