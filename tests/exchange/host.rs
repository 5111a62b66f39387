//! A host without an Envoy, for the core alone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;

use azure_openai_balancer::core::host::Host;
use azure_openai_balancer::core::swap::SharedMap;
use azure_openai_balancer::core::time::Timestamp;

/// The values that workers share, and a clock that the test sets. Clones are the same host.
#[derive(Clone, Default)]
pub(crate) struct MapAndClock(Rc<Inside>);

#[derive(Default)]
struct Inside {
    values: RefCell<HashMap<String, (Vec<u8>, u32)>>,
    last_number: Cell<u32>,
    millis: Cell<u64>,
    calls: Cell<usize>,
}

#[allow(dead_code)] // Not every test needs all of it.
impl MapAndClock {
    /// The time, in milliseconds.
    pub(crate) fn millis(&self) -> u64 {
        self.0.millis.get()
    }

    /// Sets the time, in milliseconds.
    pub(crate) fn set_millis(&self, millis: u64) {
        self.0.millis.set(millis);
    }

    /// Lets this many milliseconds pass.
    pub(crate) fn pass(&self, millis: u64) {
        self.set_millis(self.millis() + millis);
    }

    /// The number of reads and writes of shared values since the last call of this function.
    pub(crate) fn take_calls(&self) -> usize {
        self.0.calls.take()
    }

    fn count_call(&self) {
        self.0.calls.set(self.0.calls.get() + 1);
    }
}

impl SharedMap for MapAndClock {
    type Error = Infallible;

    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Infallible> {
        self.count_call();
        let values = self.0.values.borrow();
        let known = values.get(key);
        Ok(known.map_or((None, 0), |(value, cas)| (Some(value.clone()), *cas)))
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Infallible> {
        self.count_call();
        let mut values = self.0.values.borrow_mut();
        let current = values.get(key).map_or(0, |(_, cas)| *cas);
        if cas != 0 && cas != current {
            return Ok(false);
        }
        let number = self.0.last_number.get() + 1;
        self.0.last_number.set(number);
        values.insert(key.to_owned(), (value.to_vec(), number));
        Ok(true)
    }
}

impl Host for MapAndClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis())
    }
}
