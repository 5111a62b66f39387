//! The state of a half of a stream, its request or its answer, that may be held.

use core::time::Duration;

/// Tracks how a half of a stream is held, so that resuming it loses no frame.
///
/// Envoy before 1.40 drops the next frame if a body callback paused and a host call then resumes the stream
/// (envoyproxy/envoy#46842). So if another frame is expected, its callback resumes the stream by not pausing. This also
/// protects the frames of a peer that stops for a while.
///
/// A stream that cannot wait for its next frame is [opened early](Self::open_early). That frame is then held too, so
/// that it stays in Envoy's buffer, and a host call [releases it](Self::let_frame_go). If another frame comes first,
/// both pass in its callback, and the gate returns to its normal state.
#[derive(Debug, Default)]
pub struct Gate {
    paused_in_body: bool,
    complete: bool,
    /// Whether a host call resumed the half before its next frame. Envoy would drop that frame if its callback let it
    /// pass.
    is_open_early: bool,
    /// Whether a frame after an early opening is held.
    holds_frame: bool,
}

impl Gate {
    /// Whether the half has ended.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether Envoy holds a body of the half, which may be empty.
    pub fn holds_body(&self) -> bool {
        self.paused_in_body
    }

    /// Notes the end of the half if `end_of_stream`, with or without a frame.
    #[inline]
    pub fn complete(&mut self, end_of_stream: bool) {
        self.complete |= end_of_stream;
    }

    /// Ends a body callback. `passes` is what the caller wants, and the result is the decision.
    #[inline]
    pub fn body(&mut self, passes: bool) -> bool {
        // Nearly no half is opened early.
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

    /// Whether the half was opened early and its frames do not pass one by one yet.
    #[inline]
    pub fn is_open_early(&self) -> bool {
        self.is_open_early
    }

    /// Whether a frame that may pass is held, to be [released](Self::let_frame_go) soon.
    #[inline]
    pub fn holds_frame(&self) -> bool {
        self.holds_frame
    }

    /// How long such a frame is held if no other frame follows.
    pub fn time_for_next_frame(&self) -> Duration {
        match self.complete {
            true => Duration::ZERO,
            false => Duration::from_millis(50),
        }
    }

    /// Notes that the trailers pass, together with everything held.
    pub fn trailers(&mut self) {
        self.is_open_early = false;
        self.holds_frame = false;
        self.paused_in_body = false;
    }

    /// Notes that a host call releases the frame held after an early opening.
    pub fn let_frame_go(&mut self) {
        self.holds_frame = false;
        self.paused_in_body = false;
    }

    /// Notes that a host call resumes the half outside its own callbacks, although another frame may follow.
    pub fn open_early(&mut self) {
        self.is_open_early |= self.awaits_frame();
        self.paused_in_body = false;
    }

    /// Whether the half's next frame must resume it, not a host call. The callback of that frame must not pause.
    pub fn awaits_frame(&self) -> bool {
        self.paused_in_body && !self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_that_awaits_a_frame_resumes_with_it() {
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
        // Another frame releases the held one, and the gate is in its normal state again.
        assert!(gate.body(true));
        assert!(!gate.holds_frame() && !gate.is_open_early());
        assert!(gate.body(true));
    }

    #[test]
    fn the_frame_after_a_released_one_is_held() {
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
    fn a_half_that_awaits_no_frame_is_not_opened_early() {
        let mut gate = Gate::default();
        gate.open_early();
        assert!(!gate.is_open_early());
        assert!(gate.body(true));
    }
}
