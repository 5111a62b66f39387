//! Calls and bytes across the module's boundary, for budgets.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// The calls of a function, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Calls.
    pub calls: u64,
    /// Bytes from the module to the host: names, values, bodies.
    pub bytes_out: u64,
    /// Bytes from the host to the module, each copied into memory that the module allocates.
    pub bytes_in: u64,
}

#[derive(Default)]
pub(crate) struct Counts(Mutex<BTreeMap<&'static str, Count>>);

impl Counts {
    pub(crate) fn add(&self, function: &'static str, bytes_out: usize, bytes_in: usize) {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(function).or_default();
        count.calls += 1;
        count.bytes_out += bytes_out as u64;
        count.bytes_in += bytes_in as u64;
    }

    pub(crate) fn read(&self) -> BTreeMap<&'static str, Count> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}
