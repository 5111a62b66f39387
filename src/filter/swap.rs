//! The values that workers share: how they are made, read, and changed by compare-and-swap.

use std::cell::Cell;

use super::host::{self, HostError};
use crate::core::shared::SWAP_TRIES;

/// Reads a shared value, changes it and stores it, again and again until no one else was quicker.
///
/// `change` gets the current bytes and returns its result with the bytes to store, if any are to be.
///
/// # Errors
/// The last compare-and-swap failure after [`SWAP_TRIES`], or what else the host refused.
pub(super) fn swap_shared<T, B: AsRef<[u8]>>(
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> (T, Option<B>),
) -> Result<T, HostError> {
    swap_numbered(key, |bytes, _| change(bytes))
}

/// Reads a shared value.
///
/// # Errors
/// The host refused.
pub(super) fn read_shared<T>(
    key: &str,
    decode: impl Fn(Option<&[u8]>) -> T,
) -> Result<T, HostError> {
    swap_shared(key, |bytes| (decode(bytes), None::<[u8; 0]>))
}

/// Makes a shared value, unless there is one.
///
/// # Errors
/// As of [`swap_shared`].
#[inline(never)]
pub(super) fn create_shared(key: &str, value: &[u8]) -> Result<(), HostError> {
    swap_shared(key, |bytes| ((), bytes.is_none().then_some(value)))
}

/// [`swap_shared`], with a `change` that is also told the number that compare-and-swap goes by.
fn swap_numbered<T, B: AsRef<[u8]>>(
    key: &str,
    mut change: impl FnMut(Option<&[u8]>, u32) -> (T, Option<B>),
) -> Result<T, HostError> {
    for _ in 0..SWAP_TRIES {
        let (current, cas) = host::shared(key)?;
        let (result, store) = change(current.as_deref(), cas);
        match store {
            Some(store) if !host::set_shared(key, store.as_ref(), cas)? => {}
            _ => return Ok(result),
        }
    }
    Err(HostError::OUTRUN)
}

/// A shared value that this worker changes time and again. While no other one does, its own last bytes are the current ones and
/// need not be read: a host call less.
///
/// The numbers that compare-and-swap goes by are counted up with every change of any shared value of the process
/// (proxy-wasm-cpp-host, `SharedData::nextCas`). So the number after the one that was replaced is that of the change that replaced
/// it, or of another value's; never of a later change of this value. A guess that is wrong is refused, and costs a host call.
pub(super) struct OftenSwapped<const SIZE: usize> {
    key: String,
    /// What this worker stored last, and the number it has if nothing else was stored meanwhile.
    last: Cell<Option<([u8; SIZE], u32)>>,
    /// How often in a row the last bytes were still the current ones.
    undisturbed: Cell<u8>,
}

impl<const SIZE: usize> OftenSwapped<SIZE> {
    /// As often in a row as makes a guess worth its risk. Of workers that take turns each finds its own bytes now and then.
    const SURE: u8 = 4;

    pub(super) fn new(key: String) -> Self {
        Self {
            key,
            last: Cell::default(),
            undisturbed: Cell::default(),
        }
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// [`swap_shared`], with something to store in any case.
    ///
    /// # Errors
    /// As there.
    pub(super) fn swap<T>(
        &self,
        mut change: impl FnMut(Option<&[u8]>) -> (T, [u8; SIZE]),
    ) -> Result<T, HostError> {
        let last = self.last.take();
        if let Some((bytes, cas)) = last.filter(|_| self.undisturbed.get() >= Self::SURE) {
            let (result, store) = change(Some(&bytes));
            if host::set_shared(&self.key, &store, cas)? {
                self.stored(store, cas);
                return Ok(result);
            }
        }
        let (result, store, cas) = swap_numbered(&self.key, |bytes, cas| {
            let undisturbed = last.is_some_and(|(_, guess)| guess == cas);
            self.undisturbed.set(match undisturbed {
                true => self.undisturbed.get().saturating_add(1),
                false => 0,
            });
            let (result, store) = change(bytes);
            ((result, store, cas), Some(store))
        })?;
        self.stored(store, cas);
        Ok(result)
    }

    /// These bytes took the place of those with the number `cas`.
    fn stored(&self, bytes: [u8; SIZE], cas: u32) {
        // 0 would store in any case, so no value has it.
        let next = cas.checked_add(1).unwrap_or(1);
        self.last.set(Some((bytes, next)));
    }
}
