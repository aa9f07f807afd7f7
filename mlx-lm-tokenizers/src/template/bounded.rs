//! Values that a template binds to names stay within bounds. The interpreter counts the steps that build a value, but not those that
//! print, compare or drop it: a list of lists of lists that all share their parts is built in no time, and printed never.

use minijinja::{Error, ErrorKind, State, Value, value::ValueKind};

/// Lists and objects in one another.
const DEEPEST: usize = 200;

/// Items, every part counted as often as it would be printed.
const MOST: usize = 1_000_000;

/// Bytes of text, counted in the same way.
const LARGEST: usize = 16 << 20;

/// Looking at so many items costs a step.
const ITEMS_PER_STEP: usize = 8;

/// A filter whose result is false, and which fails for a value beyond the bounds. What holds itself is nested without end.
pub(super) fn bounded(state: &State, value: &Value) -> Result<bool, Error> {
    let mut seen = Seen { items: 0, bytes: 0 };
    let within = seen.look(value, 0);
    state.consume_fuel((seen.items / ITEMS_PER_STEP) as u64)?;
    if within {
        Ok(false)
    } else {
        Err(Error::new(ErrorKind::InvalidOperation, "a value is too large or too deep"))
    }
}

/// A filter that lets numbers and text pass.
pub(super) fn factor(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            Err(Error::new(ErrorKind::InvalidOperation, "lists cannot be multiplied"))
        }
        _ => Ok(value),
    }
}

struct Seen {
    items: usize,
    bytes: usize,
}

impl Seen {
    /// Whether the value is within the bounds, together with what was seen before.
    fn look(&mut self, value: &Value, depth: usize) -> bool {
        self.items += 1;
        self.bytes += value.as_str().map_or(0, str::len);
        if depth > DEEPEST || self.items > MOST || self.bytes > LARGEST {
            return false;
        }
        let is_map = match value.kind() {
            ValueKind::Map => true,
            ValueKind::Seq | ValueKind::Iterable => false,
            _ => return true,
        };
        let Ok(mut items) = value.try_iter() else { return true };
        items.all(|item| {
            self.look(&item, depth + 1)
                && (!is_map || value.get_item(&item).is_ok_and(|v| self.look(&v, depth + 1)))
        })
    }
}
