//! A half of a stream that may be held.

use proxy_wasm::types::Action;

use super::host::{self, Half, HostError};

/// Remembers how a half of a stream is held, so that it is resumed without losing a frame.
///
/// Envoy before 1.40 drops the frame that comes next when a body callback had paused and the stream is then resumed by a host
/// call (envoyproxy/envoy#46842). So where another frame is to come, its callback does the resuming, by not pausing. That a peer
/// stops in the middle and waits is no reason to lose what it would send after that.
///
/// A stream that must not wait for its next frame is [opened early](Self::open_early). Then that frame is held as well, which keeps it in
/// Envoy's buffer, and [let go](Self::let_frame_go) by a host call. Where another one comes first, both pass in its callback, and all
/// is as before.
#[derive(Debug)]
pub(super) struct Gate {
    half: Half,
    paused_in_body: bool,
    complete: bool,
    /// It was resumed by a host call before its next frame: that frame would be dropped if its callback let it pass.
    is_open_early: bool,
    /// Such a frame is held.
    holds_frame: bool,
}

impl Gate {
    pub(super) fn new(half: Half) -> Self {
        Self {
            half,
            paused_in_body: false,
            complete: false,
            is_open_early: false,
            holds_frame: false,
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
        // As nearly always.
        if !self.is_open_early {
            self.paused_in_body = action != Action::Continue;
            return action;
        }
        self.body_of_early(action)
    }

    #[inline(never)]
    fn body_of_early(&mut self, action: Action) -> Action {
        let is_first_after = !self.holds_frame;
        let passes = action == Action::Continue;
        self.is_open_early = !passes || is_first_after;
        self.holds_frame = passes && is_first_after;
        self.paused_in_body = !passes || is_first_after;
        match self.paused_in_body {
            true => Action::Pause,
            false => Action::Continue,
        }
    }

    /// It was opened early, and its frames are not to pass one by one yet.
    pub(super) fn is_open_early(&self) -> bool {
        self.is_open_early
    }

    /// Whether a frame that was to pass is held, to be [let go](Self::let_frame_go) soon.
    pub(super) fn holds_frame(&self) -> bool {
        self.holds_frame
    }

    /// Its trailers pass, and with them whatever is held.
    pub(super) fn trailers(&mut self) {
        self.is_open_early = false;
        self.holds_frame = false;
        self.paused_in_body = false;
    }

    /// Lets a frame go that is held after an early opening.
    pub(super) fn let_frame_go(&mut self) -> Result<(), HostError> {
        self.holds_frame = false;
        self.paused_in_body = false;
        host::resume(self.half)
    }

    /// Lets it go on at once, in a callback that is not its own, although another frame may come.
    pub(super) fn open_early(&mut self) -> Result<(), HostError> {
        self.is_open_early |= self.awaits_frame();
        self.paused_in_body = false;
        host::resume(self.half)
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
