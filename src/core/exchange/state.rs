//! The states of a request.

use super::Exchange;
use crate::fleet::Wait;
use crate::outcome::Outcome;
use crate::prelude::*;

/// The state of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing arrived yet.
    New,
    /// The request is held.
    Holding(For),
    /// The router has the request, and no attempt was seen yet.
    Sent,
    /// An attempt for this cluster is held until a newer token arrives.
    AttemptHeld(Option<Vec<u8>>),
    /// An attempt is in flight.
    Attempting,
    /// An attempt is in flight as a call, while the router's answer is held.
    Calling,
    /// An answer is held.
    Deciding(Until),
    /// The answer was marked, so that the router retries.
    Marked,
    /// The client gets the last attempt's answer.
    Answered,
    /// The client gets a reply of the filter, because the router has no answer or a stalled one.
    GivenUp,
    /// An answer passes to the client.
    Passing,
    /// The filter answered the client, or the answer concerns no backend.
    Done,
}

/// The reason for holding a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A token.
    Token,
    /// The body's end, or the field that decides the backend.
    Body,
    /// A free backend.
    Backend(Wait),
}

/// The reason for holding an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The body of an error with this status, which may decide the outcome.
    ErrorBody(u16),
    /// The end of the request, without which no retry is possible after this outcome.
    RequestEnd(Outcome),
    /// A newer token.
    Token,
    /// Its next frame, together with which it passes.
    Frame,
    /// The first content of an event stream, or an error in place of it.
    Content,
    /// The end of an event stream that began with an error equivalent to this status.
    StreamEnd(u16),
}

impl Exchange {
    /// The name of the state in `docs/architecture.md`.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::New => "New",
            State::Holding(_) => "Holding",
            State::Sent => "Sent",
            State::AttemptHeld(_) => "AttemptHeld",
            State::Attempting => "Attempting",
            State::Calling => "Calling",
            State::Deciding(_) => "Deciding",
            State::Marked => "Marked",
            State::Answered => "Answered",
            State::GivenUp => "GivenUp",
            State::Passing => "Passing",
            State::Done => "Done",
        }
    }

    /// Whether a backend's answer passes to the client, or waits for its next frame to pass.
    pub fn is_passing(&self) -> bool {
        matches!(self.state, State::Passing)
    }

    /// Whether the rest of the answer passes in any case, so that [`Input::AnswerBody`](super::Input::AnswerBody) has
    /// no effect.
    pub fn is_settled(&self) -> bool {
        self.is_passing() && !self.hidden_body.is_watching()
    }

    /// Whether the end of an incomplete answer needs Envoy's details.
    pub fn wants_end_details(&self) -> bool {
        self.is_passing()
            || matches!(
                self.state,
                State::Deciding(Until::Content | Until::ErrorBody(_))
            )
    }
}
