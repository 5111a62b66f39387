//! The values that workers share: creating, reading, and changing them by compare-and-swap.

use crate::prelude::*;
use core::cell::Cell;
use core::fmt;

/// The number of tries of a compare-and-swap before it fails. It suffices for any number of workers.
const TRIES: usize = 64;

/// A map that all workers share, such as Envoy's shared data.
pub trait SharedMap {
    /// The reason for a refusal.
    type Error: fmt::Display;

    /// The value of `key`, if any, and its compare-and-swap number.
    ///
    /// # Errors
    /// The map refused an operation.
    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), Self::Error>;

    /// Stores a value. `false` if the current value no longer has the number `cas`.
    ///
    /// # Errors
    /// The map refused an operation.
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, Self::Error>;

    /// The number of changes that this worker has stored, of all values. 0 if the map does not count them.
    fn changes(&self) -> u32 {
        0
    }
}

/// The reason why a shared value was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapError<E> {
    /// The map refused an operation.
    Refused(E),
    /// Another worker changed the value before each attempt to store it.
    Conflict,
}

impl<E: fmt::Display> fmt::Display for SwapError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Conflict => {
                f.write_str("other workers changed a shared value before every attempt to store it")
            }
        }
    }
}

impl<E> From<E> for SwapError<E> {
    fn from(error: E) -> Self {
        Self::Refused(error)
    }
}

/// Reads the value of `key`, changes it and stores it. Repeats this after a conflict.
///
/// `change` gets the current bytes, and returns its result and the bytes to store, if any.
///
/// # Errors
/// The map refused an operation, or other workers caused a conflict each time.
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
    Err(SwapError::Conflict)
}

/// Reads the value of `key`.
///
/// # Errors
/// The map refused an operation.
pub fn read<M: SharedMap, T>(
    map: &M,
    key: &str,
    decode: impl FnOnce(Option<&[u8]>) -> T,
) -> Result<T, SwapError<M::Error>> {
    let (bytes, _) = map.get(key)?;
    Ok(decode(bytes.as_deref()))
}

/// Creates a shared value, unless it exists.
///
/// # Errors
/// The map refused an operation, or other workers caused a conflict each time.
#[inline(never)]
pub fn create<M: SharedMap>(map: &M, key: &str, value: &[u8]) -> Result<(), SwapError<M::Error>> {
    swap(map, key, |bytes| ((), bytes.is_none().then_some(value)))
}

/// A shared value that this worker changes with every request. While no other worker changes it, its last bytes are the
/// current ones and need not be read, which saves a host call. No two changes of the value may have equal bytes.
///
/// The compare-and-swap number increases with every change of any shared value in the process (proxy-wasm-cpp-host,
/// `SharedData::nextCas`). A worker counts its own [changes](SharedMap::changes). So it can predict the number of its
/// last bytes: the number of the bytes they replaced, plus the worker's changes since. This holds if no other worker
/// changed anything meanwhile. Otherwise the real number is larger, and a later change of this value has a still larger
/// one. So a wrong guess is refused, and costs one host call.
pub struct OftenSwapped<B> {
    key: String,
    last: Cell<Option<Stored<B>>>,
    /// The number of times in a row that the last bytes were still current.
    undisturbed: Cell<u8>,
}

/// The bytes that a worker stored last.
struct Stored<B> {
    bytes: B,
    /// The expected number, if no other worker stored anything meanwhile.
    guess: u32,
    /// The number of the worker's changes at that time.
    changes: u32,
}

impl<B: AsRef<[u8]>> OftenSwapped<B> {
    /// The number of undisturbed reads after which guessing pays. Workers that take turns find their own bytes now and
    /// then.
    const SURE: u8 = 4;

    /// The longest value that is kept. Longer values are read each time, which avoids a second copy.
    const LONGEST: usize = 2048;

    /// The value of `key`.
    pub fn new(key: String) -> Self {
        Self {
            key,
            last: Cell::default(),
            undisturbed: Cell::default(),
        }
    }

    /// The key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Like [`swap`], with fewer host calls.
    ///
    /// # Errors
    /// The map refused an operation, or other workers caused a conflict each time.
    pub fn swap<M: SharedMap, T>(
        &self,
        map: &M,
        mut change: impl FnMut(Option<&[u8]>) -> (T, Option<B>),
    ) -> Result<T, SwapError<M::Error>> {
        let last = self.last.take();
        if let (Some(last), true) = (&last, self.undisturbed.get() >= Self::SURE) {
            // A guess is checked only by storing. Without bytes to store, the value must be read.
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
            // Equal bytes are this worker's own, whatever their number. From then on its guesses are right.
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
        Err(SwapError::Conflict)
    }

    /// Notes that `bytes` replaced the value with the number `replaced`. `before` is the worker's count of changes when
    /// it stored the replaced value, if it did.
    fn stored<M: SharedMap>(&self, map: &M, bytes: B, replaced: u32, before: Option<u32>) {
        if bytes.as_ref().len() > Self::LONGEST {
            return;
        }
        let changes = map.changes();
        let since = before.map_or(1, |before| changes.wrapping_sub(before).max(1));
        // The number 0 would store unconditionally, so no value has it.
        let guess = replaced.checked_add(since).unwrap_or(1);
        self.last.set(Some(Stored {
            bytes,
            guess,
            changes,
        }));
    }
}
