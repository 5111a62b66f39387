//! Envoy's shared data, as the map of all workers.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;

use azure_openai_balancer::core::swap::SharedMap;

/// Values, each with its number for compare-and-swap.
#[derive(Default)]
pub(crate) struct Map {
    values: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    last: Cell<u32>,
}

impl SharedMap for &Map {
    type Error = Infallible;

    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Infallible> {
        let values = self.values.borrow();
        Ok(match values.get(key) {
            Some((value, cas)) => (Some(value.clone()), *cas),
            None => (None, 0),
        })
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Infallible> {
        let mut values = self.values.borrow_mut();
        let next = self.last.get() + 1;
        match values.get_mut(key) {
            Some((_, current)) if cas != 0 && cas != *current => return Ok(false),
            Some(known) => {
                known.0.clear();
                known.0.extend_from_slice(value);
                known.1 = next;
            }
            None => {
                values.insert(key.to_owned(), (value.to_vec(), next));
            }
        }
        self.last.set(next);
        Ok(true)
    }
}
