//! A half of a stream that may be held.

use proxy_wasm::types::Action;

use super::host::{self, Half, HostError};

/// Remembers how a half of a stream is held, so that it is resumed without losing a frame.
///
/// Envoy before 1.40 drops the frame that comes next when a body callback had paused and the stream is then resumed by a host
/// call (envoyproxy/envoy#46842). So where another frame is to come, its callback does the resuming, by not pausing. That a peer
/// stops in the middle and waits is no reason to lose what it would send after that.
#[derive(Debug)]
pub(super) struct Gate {
    half: Half,
    paused_in_body: bool,
    complete: bool,
}

impl Gate {
    pub(super) fn new(half: Half) -> Self {
        Self {
            half,
            paused_in_body: false,
            complete: false,
        }
    }

    /// All of it has come.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Envoy holds a body of it, be it empty.
    pub(super) fn holds_body(&self) -> bool {
        self.paused_in_body
    }

    /// Its end has come, with a frame or without one.
    pub(super) fn complete(&mut self, end_of_stream: bool) {
        self.complete |= end_of_stream;
    }

    /// A body callback ends with this action.
    pub(super) fn body(&mut self, action: Action) -> Action {
        self.paused_in_body = action != Action::Continue;
        action
    }

    /// Whether its next frame, and not a host call, has to let it go on.
    pub(super) fn awaits_frame(&self) -> bool {
        self.paused_in_body && !self.complete
    }

    /// Lets it go on, in a callback that is not its own. Its next callback must not pause.
    pub(super) fn open(&self) -> Result<(), HostError> {
        if self.awaits_frame() {
            return Ok(());
        }
        host::resume(self.half)
    }
}
