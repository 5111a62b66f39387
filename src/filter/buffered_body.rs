//! The part of a request's body in Envoy's buffer.

use super::host::{self, Buffer, HostError};

/// The size of the part in Envoy's buffer, and how much of it was read.
///
/// While a request is held, the buffer has everything held so far. Otherwise it has only the new bytes.
#[derive(Debug, Default)]
pub(super) struct BufferedBody {
    size: usize,
    read: usize,
}

impl BufferedBody {
    /// The buffer has `size` bytes now.
    pub(super) fn show(&mut self, size: usize) {
        self.size = size;
    }

    /// The bytes that were not read yet.
    pub(super) fn read(&mut self) -> Result<Vec<u8>, HostError> {
        let from = std::mem::replace(&mut self.read, self.size);
        match self.size.saturating_sub(from) {
            0 => Ok(Vec::new()),
            new => host::buffer(Buffer::RequestBody, from, new),
        }
    }

    /// All bytes in the buffer, read or not.
    pub(super) fn all() -> Result<Vec<u8>, HostError> {
        host::buffer(Buffer::RequestBody, 0, usize::MAX)
    }

    /// Replaces all bytes in the buffer.
    pub(super) fn replace(&mut self, body: &[u8]) -> Result<(), HostError> {
        host::replace_buffer(Buffer::RequestBody, body)?;
        *self = Self {
            size: body.len(),
            read: body.len(),
        };
        Ok(())
    }

    /// The bytes in the buffer pass on.
    pub(super) fn pass(&mut self) {
        *self = Self::default();
    }
}
