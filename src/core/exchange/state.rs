//! Where a request stands.

use super::Exchange;
use crate::fleet::Wait;
use crate::outcome::Outcome;
use crate::prelude::*;

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nothing came yet.
    New,
    /// The request is held.
    Holding(For),
    /// The request is with the router, of whose attempts none has been seen.
    Sent,
    /// An attempt is held until there is a newer token, on its way to this cluster.
    Departing(Option<Vec<u8>>),
    /// An attempt is out.
    Attempting,
    /// An attempt is out as a call, while the router's answer is held.
    Calling,
    /// An answer is held.
    Deciding(Until),
    /// The router was told to make another attempt.
    Marked,
    /// The answer of the last attempt is the client's.
    Answered,
    /// The client's answer is not the router's: that has none, or one that stalled.
    GivenUp,
    /// An answer passes to the client.
    Passing,
    /// The client's answer was made here, or concerns no backend.
    Done,
}

/// What a request is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    /// A token.
    Token,
    /// Its end, or what says where it goes.
    Body,
    /// A backend that is free.
    Backend(Wait),
}

/// What an answer is held for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The body of an error, which may decide, of this status.
    ErrorBody(u16),
    /// The end of the request, without which there can be no other attempt after this outcome.
    RequestEnd(Outcome),
    /// A newer token.
    Token,
    /// Its next frame, with which it passes.
    Frame,
    /// The first content of an event stream, or its error.
    Content,
    /// The end of an event stream that began with an error like an answer of this status.
    StreamEnd(u16),
}

impl Exchange {
    /// The name of the state, as `docs/architecture.md` draws it.
    pub fn state(&self) -> &'static str {
        match self.state {
            State::New => "New",
            State::Holding(_) => "Holding",
            State::Sent => "Sent",
            State::Departing(_) => "Departing",
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

    /// Whether an answer of a backend passes to the client, or waits for its next frame for that.
    pub fn is_passing(&self) -> bool {
        matches!(self.state, State::Passing)
    }

    /// Whether what is left of the answer passes, whatever it is: no [`Input::AnswerBody`](super::Input::AnswerBody) matters any more.
    pub fn is_settled(&self) -> bool {
        self.is_passing() && !self.unheld.is_watching()
    }

    /// Whether the end of the stream has to be explained by Envoy's details, where the answer is not complete.
    pub fn wants_end_details(&self) -> bool {
        self.is_passing()
            || matches!(
                self.state,
                State::Deciding(Until::Content | Until::ErrorBody(_))
            )
    }
}
