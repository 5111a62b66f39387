//! One direction of a stream between two filters: the held part, the part that the module sees, and the part that has
//! passed.
//!
//! This is the part of Envoy's filter manager that a single filter can observe, with the names used there.

use std::fmt;

use crate::headers::Headers;

/// The part that has passed the module so far.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The headers, after the module's changes.
    pub headers: Headers,
    /// The bytes of the body.
    pub body: Vec<u8>,
    /// The trailers, if there were any.
    pub trailers: Option<Headers>,
    /// Whether the message is complete.
    pub complete: bool,
}

impl Message {
    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("headers", &self.headers)
            .field("body", &String::from_utf8_lossy(&self.body))
            .field("trailers", &self.trailers)
            .field("complete", &self.complete)
            .finish()
    }
}

/// The reason why a message is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stopped {
    #[default]
    No,
    /// `StopIteration`: the module still sees what arrives.
    Single,
    /// `StopAllIteration`: the module sees nothing until it resumes.
    All,
}

/// The part that arrived while everything was stopped. The module sees it after the resume.
#[derive(Debug, Default)]
pub(crate) struct Unseen {
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) trailers: Option<Headers>,
}

#[derive(Debug, Default)]
pub(crate) struct Half {
    pub(crate) stopped: Stopped,
    pub(crate) headers: Headers,
    pub(crate) trailers: Headers,
    /// Whether the module can use the header map now.
    pub(crate) headers_open: bool,
    pub(crate) trailers_open: bool,
    /// Whether the last body callback returned `Pause`: the module then sees all of `buffered`.
    buffering: bool,
    buffered: Vec<u8>,
    chunk: Vec<u8>,
    pub(crate) unseen: Unseen,
    pub(crate) ended: bool,
    /// Whether a local reply has replaced the message, so that nothing more passes.
    pub(crate) aborted: bool,
    begun: bool,
    passed: Message,
}

impl Half {
    /// The part that has passed, if any.
    pub(crate) fn passed(&self) -> Option<&Message> {
        self.begun.then_some(&self.passed)
    }

    pub(crate) fn begin(&mut self, headers: Headers, end: bool) {
        self.headers = headers;
        self.headers_open = true;
        self.ended = end;
    }

    pub(crate) fn pass_headers(&mut self) {
        if !self.begun {
            self.begun = true;
            self.passed.headers = self.headers.clone();
        }
    }

    /// Lets everything pass that the module has seen.
    pub(crate) fn flush(&mut self) {
        self.stopped = Stopped::No;
        self.pass_headers();
        self.passed.body.append(&mut self.buffered);
        if self.trailers_open {
            self.passed.trailers = Some(self.trailers.clone());
        }
        self.passed.complete = self.ended && self.unseen.trailers.is_none();
    }

    /// Shows a frame to the module. Returns the size that the module is given.
    pub(crate) fn open_body(&mut self, frame: &[u8]) -> usize {
        if self.buffering {
            self.buffered.extend_from_slice(frame);
        } else {
            self.chunk = frame.to_vec();
        }
        self.body().len()
    }

    /// The body that the module sees.
    pub(crate) fn body(&self) -> &[u8] {
        if self.buffering {
            &self.buffered
        } else {
            &self.chunk
        }
    }

    /// The body that the module sees, to be changed.
    pub(crate) fn body_mut(&mut self) -> &mut Vec<u8> {
        if self.buffering {
            &mut self.buffered
        } else {
            &mut self.chunk
        }
    }

    /// The module has returned `Continue` from a body callback.
    pub(crate) fn continue_body(&mut self, loses_frames: bool) {
        let was_buffering = std::mem::take(&mut self.buffering);
        let mut chunk = std::mem::take(&mut self.chunk);
        if self.stopped == Stopped::Single {
            self.buffered.append(&mut chunk);
            self.flush();
            return;
        }
        // The stream was resumed since the last callback. Iteration continues, but the frame stays in the buffer.
        if !was_buffering {
            self.passed.body.append(&mut chunk);
        } else if !loses_frames {
            self.passed.body.append(&mut self.buffered);
        }
        self.passed.complete = self.ended;
    }

    /// The module has returned `Pause` from a body callback.
    pub(crate) fn pause_body(&mut self) {
        self.buffered.append(&mut self.chunk);
        self.buffering = true;
        self.stopped = Stopped::Single;
    }

    /// A local reply was sent in a body callback.
    pub(crate) fn drop_body(&mut self) {
        self.chunk.clear();
        self.buffered.clear();
        self.buffering = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Half {
        let mut half = Half::default();
        half.begin([(":path", "/")].into(), false);
        half.flush();
        half
    }

    fn body(half: &Half) -> &[u8] {
        &half.passed().unwrap().body
    }

    #[test]
    fn frames_pass_one_by_one_while_nothing_is_stopped() {
        let mut half = begun();
        for frame in [b"one", b"two"] {
            assert_eq!(half.open_body(frame), 3);
            half.continue_body(true);
        }
        assert_eq!(body(&half), b"onetwo");
    }

    #[test]
    fn a_paused_body_is_cumulative_until_a_callback_lets_it_go() {
        let mut half = begun();
        assert_eq!(half.open_body(b"one"), 3);
        half.pause_body();
        assert_eq!(half.open_body(b"two"), 6);
        assert_eq!(half.body(), b"onetwo");
        assert_eq!(body(&half), b"");
        half.continue_body(true);
        assert_eq!(body(&half), b"onetwo");
        assert_eq!(half.open_body(b"three"), 5);
        half.continue_body(true);
        assert_eq!(body(&half), b"onetwothree");
    }

    #[test]
    fn older_envoys_lose_the_first_frame_after_a_resume() {
        for (loses_frames, arrives) in [(true, &b"onethree"[..]), (false, b"onetwothree")] {
            let mut half = begun();
            half.open_body(b"one");
            half.pause_body();
            half.flush();
            assert_eq!(half.open_body(b"two"), 3, "the module sees it all the same");
            half.continue_body(loses_frames);
            half.open_body(b"three");
            half.continue_body(loses_frames);
            assert_eq!(body(&half), arrives);
        }
    }
}
