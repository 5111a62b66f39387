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

    /// How many changes this worker has stored by now, of all values. 0 where nobody counts them.
    fn changes(&self) -> u32 {
        0
    }
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
    for _ in 0..TRIES {
        let (current, cas) = map.get(key)?;
        let (result, store) = change(current.as_deref());
        match store {
            Some(store) if !map.set(key, store.as_ref(), cas)? => {}
            _ => return Ok(result),
        }
    }
    Err(SwapError::Outrun)
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

/// A shared value that this worker changes with every request. While no other worker changes it, its own last bytes are the current ones
/// and need not be read: a host call less. No two changes of the value may have the same bytes.
///
/// The numbers that compare-and-swap goes by are counted up with every change of any shared value of the process
/// (proxy-wasm-cpp-host, `SharedData::nextCas`). A worker counts its own [changes](SharedMap::changes). So the number of its last bytes is that
/// of those they replaced and the worker's changes since, if nobody else changed anything meanwhile. Otherwise it is larger, and that of a
/// later change of this value is larger still. A guess that is wrong is refused, and costs a host call.
pub struct OftenSwapped<B> {
    key: String,
    last: Cell<Option<Stored<B>>>,
    /// How often in a row the last bytes were still the current ones.
    undisturbed: Cell<u8>,
}

/// What a worker stored last.
struct Stored<B> {
    bytes: B,
    /// The number that it has if nobody else stored anything meanwhile.
    guess: u32,
    /// The worker's changes by then.
    changes: u32,
}

impl<B: AsRef<[u8]>> OftenSwapped<B> {
    /// So often in a row makes a guess worth its risk. Of workers that take turns each finds its own bytes now and then.
    const SURE: u8 = 4;

    /// Longer values are read each time, rather than kept twice.
    const LONGEST: usize = 2048;

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

    /// [`swap`], for less.
    ///
    /// # Errors
    /// As of [`swap`].
    pub fn swap<M: SharedMap, T>(
        &self,
        map: &M,
        mut change: impl FnMut(Option<&[u8]>) -> (T, Option<B>),
    ) -> Result<T, SwapError<M::Error>> {
        let last = self.last.take();
        if let (Some(last), true) = (&last, self.undisturbed.get() >= Self::SURE) {
            // Where nothing is to be stored, nothing says whether these are the current bytes.
            if let (result, Some(store)) = change(Some(last.bytes.as_ref())) {
                if map.set(&self.key, store.as_ref(), last.guess)? {
                    self.stored(map, store, last.guess, Some(last.changes));
                    return Ok(result);
                }
            }
        }
        for _ in 0..TRIES {
            let (current, cas) = map.get(&self.key)?;
            let is_right = last.as_ref().is_some_and(|last| last.guess == cas);
            self.undisturbed.set(match is_right {
                true => self.undisturbed.get().saturating_add(1),
                false => 0,
            });
            // The same bytes are this worker's own, whatever their number: from then on its guesses are right.
            let is_own = |last: &&Stored<B>| current.as_deref() == Some(last.bytes.as_ref());
            let own = last.as_ref().filter(|last| is_right || is_own(last));
            let (result, store) = change(current.as_deref());
            let Some(store) = store else {
                return Ok(result);
            };
            if map.set(&self.key, store.as_ref(), cas)? {
                self.stored(map, store, cas, own.map(|last| last.changes));
                return Ok(result);
            }
        }
        Err(SwapError::Outrun)
    }

    /// These bytes took the place of those with the number `replaced`, which this worker stored when it had stored so many changes
    /// `before`, if it was this one.
    fn stored<M: SharedMap>(&self, map: &M, bytes: B, replaced: u32, before: Option<u32>) {
        if bytes.as_ref().len() > Self::LONGEST {
            return;
        }
        let changes = map.changes();
        let since = before.map_or(1, |before| changes.wrapping_sub(before).max(1));
        // 0 would store in any case, so no value has it.
        let guess = replaced.checked_add(since).unwrap_or(1);
        self.last.set(Some(Stored {
            bytes,
            guess,
            changes,
        }));
    }
}
