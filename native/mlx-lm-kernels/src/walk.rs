//! The graph that leads to some arrays. The C++ side is `cpp/walk.cpp`.

use mlx_rs::{
    Array,
    error::{Exception, Result},
};
#[cfg(primitive)]
use std::ffi::{CStr, c_char, c_int, c_void};

/// An array of a graph.
pub struct Node {
    /// The same for all handles of an array.
    pub id: usize,
    /// The array itself.
    pub array: Array,
    /// The name of the operation that it comes from; none if it is there already.
    pub operation: Option<String>,
    /// The ids of the operation's inputs.
    pub inputs: Vec<usize>,
}

#[cfg(primitive)]
type Visit = unsafe extern "C" fn(*mut c_void, *mut c_void, usize, *const c_char, *const usize, usize);

#[cfg(primitive)]
unsafe extern "C" {
    fn mlk_id(array: *const c_void) -> usize;
    fn mlk_walk(outputs: *const *mut c_void, n_outputs: usize, visit: Visit, state: *mut c_void) -> c_int;
}

/// What [`Node::id`] tells an array by.
///
/// # Errors
/// As [`walk`].
pub fn id(array: &Array) -> Result<usize> {
    crate::graph::check_version()?;
    #[cfg(primitive)]
    // SAFETY: mlx-c keeps the `mlx::core::array*` of a living array in `ctx`.
    return Ok(unsafe { mlk_id(array.as_ptr().ctx) });
    #[cfg(not(primitive))]
    Err(Exception::custom(format!("nothing tells arrays of {:?} apart", array.shape())))
}

/// Every array that leads to some, each after its inputs. Nothing is evaluated, and what has been has no inputs.
///
/// # Errors
/// If the crate was built without its primitive or for another MLX than the one that is loaded, and for want of memory.
pub fn walk(outputs: &[&Array]) -> Result<Vec<Node>> {
    crate::graph::check_version()?;
    let mut nodes: Vec<Node> = Vec::new();
    #[cfg(primitive)]
    {
        let handles: Vec<_> = outputs.iter().map(|a| a.as_ptr().ctx).collect();
        // SAFETY: the handles live through the call; `visit` gets the vector back.
        let status =
            unsafe { mlk_walk(handles.as_ptr(), handles.len(), visit, (&raw mut nodes).cast::<c_void>()) };
        if status != 0 {
            return Err(Exception::custom("MLX cannot show a graph"));
        }
    }
    #[cfg(not(primitive))]
    let _ = (outputs, &mut nodes);
    Ok(nodes)
}

#[cfg(primitive)]
unsafe extern "C" fn visit(
    state: *mut c_void,
    array: *mut c_void,
    id: usize,
    name: *const c_char,
    inputs: *const usize,
    n_inputs: usize,
) {
    // SAFETY: `state` is the vector of `walk`; `array` is a new `mlx::core::array*` and ours alone; name and inputs live for the call.
    unsafe {
        let operation = (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned());
        let inputs = if n_inputs == 0 { &[] } else { std::slice::from_raw_parts(inputs, n_inputs) };
        let array = Array::from_ptr(mlx_sys::mlx_array { ctx: array });
        let nodes = &mut *state.cast::<Vec<Node>>();
        nodes.push(Node { id, array, operation, inputs: inputs.to_vec() });
    }
}

#[cfg(all(test, primitive))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn inputs_come_before_what_is_made_of_them() {
        let (x, y) = (Array::from_f32(1.0), Array::from_f32(2.0));
        let sum = x.add(&y).unwrap();
        let product = sum.multiply(&sum).unwrap();
        let nodes = walk(&[&product, &sum]).unwrap();
        let at = |a: &Array| nodes.iter().position(|n| n.id == id(a).unwrap()).unwrap();
        assert_eq!(nodes.len(), 4);
        assert_eq!(at(&product), 3);
        assert_eq!(nodes[3].operation.as_deref(), Some("Multiply"));
        assert_eq!(nodes[3].inputs, [id(&sum).unwrap(); 2]);
        assert_eq!((at(&sum), nodes[at(&x)].operation.is_none()), (2, true));
        assert_eq!(nodes[2].array.item_cast::<f32>(), 3.0);
    }
}
