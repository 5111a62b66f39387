//! Envoy's shared data as the map of the [core](crate::core::swap).

use super::host::{self, HostError};
use crate::core::swap::{self, SharedMap, SwapError};

/// Envoy's shared data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedData;

impl SharedMap for SharedData {
    type Error = HostError;

    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), HostError> {
        host::shared(key)
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        host::set_shared(key, value, cas)
    }
}

impl From<SwapError<HostError>> for HostError {
    fn from(error: SwapError<HostError>) -> Self {
        match error {
            SwapError::Refused(error) => error,
            SwapError::Outrun => Self::OUTRUN,
        }
    }
}

/// [`swap::swap`] in Envoy's shared data.
pub(super) fn swap_shared<T, B: AsRef<[u8]>>(
    key: &str,
    change: impl FnMut(Option<&[u8]>) -> (T, Option<B>),
) -> Result<T, HostError> {
    Ok(swap::swap(&SharedData, key, change)?)
}

/// [`swap::read`] from Envoy's shared data.
pub(super) fn read_shared<T>(
    key: &str,
    decode: impl FnOnce(Option<&[u8]>) -> T,
) -> Result<T, HostError> {
    Ok(swap::read(&SharedData, key, decode)?)
}

/// [`swap::create`] in Envoy's shared data.
pub(super) fn create_shared(key: &str, value: &[u8]) -> Result<(), HostError> {
    Ok(swap::create(&SharedData, key, value)?)
}
