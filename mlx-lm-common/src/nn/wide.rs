//! Float32 on purpose.

use mlx_rs::{Array, Dtype, error::Exception};
use std::cell::RefCell;

thread_local! {
    static WIDENED: RefCell<Option<Vec<Array>>> = const { RefCell::new(None) };
}

/// `x` in float32, because what follows wants it: gates, recurrences, selections. Where MLX widens by itself, as a constant or a
/// parameter happens to be float32, all that follows is slow for nothing; [`widened`] tells the two apart.
pub fn widen(x: &Array) -> Result<Array, Exception> {
    let wide = x.as_dtype(Dtype::Float32)?;
    if x.dtype() != Dtype::Float32 {
        WIDENED.with_borrow_mut(|all| all.iter_mut().for_each(|all| all.push(wide.clone())));
    }
    Ok(wide)
}

/// Runs `f`, and returns what [`widen`] made on its way.
pub fn widened<T>(f: impl FnOnce() -> T) -> (T, Vec<Array>) {
    let before = WIDENED.replace(Some(Vec::new()));
    let result = f();
    (result, WIDENED.replace(before).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_becomes_float32_meanwhile_is_kept() {
        let (wide, half) = (Array::from_f32(1.0), Array::from_slice(&[half::bf16::ONE], &[]));
        widen(&half).unwrap();
        let (result, made) = widened(|| [&wide, &half].map(|x| widen(x).unwrap().dtype()));
        assert_eq!(result, [Dtype::Float32; 2]);
        assert_eq!(made.len(), 1);
        assert!(widened(|| ()).1.is_empty());
    }
}
