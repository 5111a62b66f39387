//! Envoy as the host of the [core](crate::core).

use super::host::{self, HostError};
use crate::core::host::Host;
use crate::core::swap::{SharedMap, SwapError};
use crate::core::time::Timestamp;

/// Envoy, with its shared data and its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envoy;

impl SharedMap for Envoy {
    type Error = HostError;

    fn get(&self, key: &str) -> Result<(Option<Vec<u8>>, u32), HostError> {
        host::shared(key)
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
        host::set_shared(key, value, cas)
    }

    fn changes(&self) -> u32 {
        host::shared_changes()
    }
}

impl Host for Envoy {
    fn now(&self) -> Timestamp {
        host::now()
    }
}

impl From<SwapError<HostError>> for HostError {
    fn from(error: SwapError<HostError>) -> Self {
        match error {
            SwapError::Refused(error) => error,
            SwapError::Conflict => Self::CONFLICT,
        }
    }
}
