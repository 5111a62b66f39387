//! A request's body as Envoy shows it.

use super::host::{self, Buffer, HostError};

/// How much Envoy shows of a request's body, and how much of that was read.
///
/// While a request is held, Envoy shows all that it holds; else only what is new.
#[derive(Debug, Default)]
pub(super) struct ShownBody {
    size: usize,
    read: usize,
}

impl ShownBody {
    /// Envoy shows so many bytes now.
    pub(super) fn show(&mut self, size: usize) {
        self.size = size;
    }

    /// What is shown and was not read yet.
    pub(super) fn read(&mut self) -> Result<Vec<u8>, HostError> {
        let from = std::mem::replace(&mut self.read, self.size);
        match self.size.saturating_sub(from) {
            0 => Ok(Vec::new()),
            new => host::buffer(Buffer::RequestBody, from, new),
        }
    }

    /// All that is shown, whether it was read or not.
    pub(super) fn all() -> Result<Vec<u8>, HostError> {
        host::buffer(Buffer::RequestBody, 0, usize::MAX)
    }

    /// Puts this in the place of all that is shown.
    pub(super) fn replace(&mut self, body: &[u8]) -> Result<(), HostError> {
        host::replace_buffer(Buffer::RequestBody, body)?;
        *self = Self {
            size: body.len(),
            read: body.len(),
        };
        Ok(())
    }

    /// What is shown passes on.
    pub(super) fn pass(&mut self) {
        *self = Self::default();
    }
}
