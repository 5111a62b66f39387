//! Envoy's shared data as the map of the [core](crate::core::swap).

use super::host::{self, HostError};
use crate::core::swap::{SharedMap, SwapError};

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
