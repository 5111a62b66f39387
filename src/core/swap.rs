//! The values that workers share: how they are made, read, and changed by compare-and-swap.

use crate::prelude::*;
use core::cell::Cell;
use core::fmt;

/// How often a compare-and-swap is tried before the caller continues without: enough for any number of workers.
const TRIES: usize = 64;

/// A map that all workers share, such as Envoy's shared data.
pub trait SharedMap {
    /// Why the map refused.
    type Error: fmt::Display;

    /// The value of `key`, if there is one, with the number that compare-and-swap goes by.
    ///
    /// # Errors
    /// The map refused.
    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Self::Error>;

    /// Stores a value; `false` if the one that is there no longer has this number.
    ///
    /// # Errors
    /// The map refused.
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Self::Error>;
}

/// Why a shared value could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapError<E> {
    /// The map refused.
    Refused(E),
    /// Others changed the value each time before it could be stored.
    Outrun,
}

impl<E: fmt::Display> fmt::Display for SwapError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Outrun => f.write_str(
                "a shared value was changed by others each time before it could be stored",
            ),
        }
    }
}

impl<E> From<E> for SwapError<E> {
    fn from(error: E) -> Self {
        Self::Refused(error)
    }
}

/// Reads the value of `key`, changes it and stores it, again until nobody else was quicker.
///
/// `change` gets the current bytes and returns its result with the bytes to store, if any are to be stored.
///
/// # Errors
/// The map refused, or others were quicker each time.
pub fn swap<M: SharedMap, T, B: AsRef<[u8]>>(
    map: &M,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> (T, Option<B>),
) -> Result<T, SwapError<M::Error>> {
    swap_numbered(map, key, |bytes, _| change(bytes))
}

/// Reads the value of `key`.
///
/// # Errors
/// The map refused.
pub fn read<M: SharedMap, T>(
    map: &M,
    key: &str,
    decode: impl FnOnce(Option<&[u8]>) -> T,
) -> Result<T, SwapError<M::Error>> {
    let (bytes, _) = map.get(key)?;
    Ok(decode(bytes.as_deref()))
}

/// Makes a shared value, unless there is one.
///
/// # Errors
/// As of [`swap`].
#[inline(never)]
pub fn create<M: SharedMap>(map: &M, key: &str, value: &[u8]) -> Result<(), SwapError<M::Error>> {
    swap(map, key, |bytes| ((), bytes.is_none().then_some(value)))
}

/// [`swap`], with a `change` that also gets the number that compare-and-swap goes by.
fn swap_numbered<M: SharedMap, T, B: AsRef<[u8]>>(
    map: &M,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>, u32) -> (T, Option<B>),
) -> Result<T, SwapError<M::Error>> {
    for _ in 0..TRIES {
        let (current, cas) = map.get(key)?;
        let (result, store) = change(current.as_deref(), cas);
        match store {
            Some(store) if !map.set(key, store.as_ref(), cas)? => {}
            _ => return Ok(result),
        }
    }
    Err(SwapError::Outrun)
}

/// A shared value that this worker changes with every request. While no other worker changes it, its own last bytes are the
/// current ones and need not be read: a host call less.
///
/// The numbers that compare-and-swap goes by are counted up with every change of any shared value of the process
/// (proxy-wasm-cpp-host, `SharedData::nextCas`). So the number after the one that was replaced is that of the change that replaced
/// it, or of another value's; never of a later change of this value. A guess that is wrong is refused, and costs a host call.
pub struct OftenSwapped<const SIZE: usize> {
    key: String,
    /// What this worker stored last, and the number it has if nothing else was stored meanwhile.
    last: Cell<Option<([u8; SIZE], u32)>>,
    /// How often in a row the last bytes were still the current ones.
    undisturbed: Cell<u8>,
}

impl<const SIZE: usize> OftenSwapped<SIZE> {
    /// So often in a row makes a guess worth its risk. Of workers that take turns each finds its own bytes now and then.
    const SURE: u8 = 4;

    /// The value of `key`.
    pub fn new(key: String) -> Self {
        Self {
            key,
            last: Cell::default(),
            undisturbed: Cell::default(),
        }
    }

    /// Its key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// [`swap`], with something to store in any case.
    ///
    /// # Errors
    /// As of [`swap`].
    pub fn swap<M: SharedMap, T>(
        &self,
        map: &M,
        mut change: impl FnMut(Option<&[u8]>) -> (T, [u8; SIZE]),
    ) -> Result<T, SwapError<M::Error>> {
        let last = self.last.take();
        if let Some((bytes, cas)) = last.filter(|_| self.undisturbed.get() >= Self::SURE) {
            let (result, store) = change(Some(&bytes));
            if map.set(&self.key, &store, cas)? {
                self.stored(store, cas);
                return Ok(result);
            }
        }
        let (result, store, cas) = swap_numbered(map, &self.key, |bytes, cas| {
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
