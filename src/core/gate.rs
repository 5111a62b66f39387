//! A half of a stream that may be held: its request, or its answer.

use core::time::Duration;

/// Remembers how a half of a stream is held, so that it is resumed without losing a frame.
///
/// Envoy before 1.40 drops the frame that comes next when a body callback had paused and the stream is then resumed by a host
/// call (envoyproxy/envoy#46842). So where another frame is to come, its callback does the resuming, by not pausing. That a peer
/// stops in the middle and waits is no reason to lose what it would send after that.
///
/// A stream that must not wait for its next frame is [opened early](Self::open_early). Then that frame is held as well, which keeps it in
/// Envoy's buffer, and [let go](Self::let_frame_go) by a host call. Where another one comes first, both pass in its callback, and all
/// is as before.
#[derive(Debug, Default)]
pub struct Gate {
    paused_in_body: bool,
    complete: bool,
    /// The half was resumed by a host call before its next frame: that frame would be dropped if its callback let it pass.
    is_open_early: bool,
    /// Such a frame is held.
    holds_frame: bool,
}

impl Gate {
    /// The half has come to its end.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Envoy holds a body of it, be it empty.
    pub fn holds_body(&self) -> bool {
        self.paused_in_body
    }

    /// The end has come if `end_of_stream`, with a frame or without one.
    #[inline]
    pub fn complete(&mut self, end_of_stream: bool) {
        self.complete |= end_of_stream;
    }

    /// A body callback is to let its frame pass, or not. Returns whether it has to.
    #[inline]
    pub fn body(&mut self, passes: bool) -> bool {
        // As nearly always.
        if !self.is_open_early {
            self.paused_in_body = !passes;
            return passes;
        }
        self.body_of_early(passes)
    }

    #[inline(never)]
    fn body_of_early(&mut self, passes: bool) -> bool {
        let is_first_after = !self.holds_frame;
        self.is_open_early = !passes || is_first_after;
        self.holds_frame = passes && is_first_after;
        self.paused_in_body = !passes || is_first_after;
        !self.paused_in_body
    }

    /// The half was opened early, and its frames are not to pass one by one yet.
    #[inline]
    pub fn is_open_early(&self) -> bool {
        self.is_open_early
    }

    /// Whether a frame that was to pass is held, to be [let go](Self::let_frame_go) soon.
    #[inline]
    pub fn holds_frame(&self) -> bool {
        self.holds_frame
    }

    /// How long a frame is held that was to pass. Without another one it goes its way then.
    pub fn time_for_next_frame(&self) -> Duration {
        match self.complete {
            true => Duration::ZERO,
            false => Duration::from_millis(50),
        }
    }

    /// The trailers pass, and with them whatever is held.
    pub fn trailers(&mut self) {
        self.is_open_early = false;
        self.holds_frame = false;
        self.paused_in_body = false;
    }

    /// A host call lets a frame go that is held after an early opening.
    pub fn let_frame_go(&mut self) {
        self.holds_frame = false;
        self.paused_in_body = false;
    }

    /// A host call lets the half go on at once, in a callback that is not its own, although another frame may come.
    pub fn open_early(&mut self) {
        self.is_open_early |= self.awaits_frame();
        self.paused_in_body = false;
    }

    /// Whether its next frame, and not a host call, has to let the half go on. The callback of that frame must not pause.
    pub fn awaits_frame(&self) -> bool {
        self.paused_in_body && !self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_that_awaits_a_frame_is_opened_by_it() {
        let mut gate = Gate::default();
        assert!(!gate.awaits_frame());
        assert!(!gate.body(false));
        assert!(gate.holds_body() && gate.awaits_frame());
        assert!(gate.body(true));
        assert!(!gate.holds_body());
    }

    #[test]
    fn a_complete_half_awaits_no_frame() {
        let mut gate = Gate::default();
        gate.complete(true);
        assert!(!gate.body(false));
        gate.complete(false);
        assert!(gate.is_complete() && !gate.awaits_frame());
    }

    fn opened_early() -> Gate {
        let mut gate = Gate::default();
        assert!(!gate.body(false));
        gate.open_early();
        assert!(gate.is_open_early());
        gate
    }

    #[test]
    fn the_first_frame_after_an_early_opening_is_held() {
        let mut gate = opened_early();
        assert!(!gate.body(true));
        assert!(gate.holds_frame());
        assert_eq!(gate.time_for_next_frame(), Duration::from_millis(50));
        // Another one brings it along, and all is as before.
        assert!(gate.body(true));
        assert!(!gate.holds_frame() && !gate.is_open_early());
        assert!(gate.body(true));
    }

    #[test]
    fn a_frame_that_is_let_go_is_followed_by_a_held_one() {
        let mut gate = opened_early();
        assert!(!gate.body(true));
        gate.let_frame_go();
        assert!(!gate.holds_frame() && gate.is_open_early());
        assert!(!gate.body(true));
        gate.complete(true);
        assert_eq!(gate.time_for_next_frame(), Duration::ZERO);
        gate.trailers();
        assert!(!gate.is_open_early() && !gate.holds_body());
    }

    #[test]
    fn what_awaits_no_frame_is_not_opened_early() {
        let mut gate = Gate::default();
        gate.open_early();
        assert!(!gate.is_open_early());
        assert!(gate.body(true));
    }
}
