//! What the machine is told, and what it says.

use crate::balancer::{Granted, Wish};
use crate::header_map::HeaderMap;
use crate::prelude::*;

/// What happened to a request.
#[derive(Debug)]
pub enum Input {
    /// The client's request begins; `end` if it has no body.
    Request {
        /// The headers as the client sent them.
        headers: HeaderMap,
        /// There is no body.
        end: bool,
    },
    /// More of the request's body has come, and was [read](super::Exchange::read) if that was wanted.
    RequestBody {
        /// How many bytes of it the host shows.
        shown: usize,
        /// It is complete.
        end: bool,
    },
    /// The request's trailers have come, and with them its end.
    RequestTrailers(HeaderMap),
    /// A [wait](Next::Wait) has ended.
    Granted {
        /// How.
        granted: Granted,
        /// As much as has come of the answer, where [`Exchange::wants_stalled`](super::Exchange::wants_stalled).
        stalled: Option<Box<Stalled>>,
    },
    /// A wait was refused: too many requests wait, or there is no hope.
    CannotWait,
    /// The router begins an attempt.
    Attempt {
        /// The cluster it goes to, where [`Exchange::is_retrying`](super::Exchange::is_retrying).
        cluster: Option<Vec<u8>>,
    },
    /// The headers of an attempt's answer have come.
    Answer {
        /// The status.
        status: u16,
        /// Envoy's `response.code_details`, where it is [wanted](super::Exchange::wants).
        details: Option<Vec<u8>>,
        /// The headers, where they are [wanted](super::Exchange::wants), or [may be](super::Exchange::reads_stream_start) a stream's.
        headers: Option<HeaderMap>,
        /// The answer has no body.
        end: bool,
        /// The answer may be held until more is known. See `docs/envoy-crash.md` for when it may not.
        may_hold: bool,
    },
    /// More of an answer's body has come, or its trailers.
    AnswerBody {
        /// Those bytes of it that are [wanted](super::Exchange::wants_answer_body).
        bytes: Option<Vec<u8>>,
        /// The answer is complete.
        end: bool,
    },
    /// The answer that was to pass needs another frame before the host can let it pass.
    NeedsFrame,
    /// A [call](Next::Call) was not taken; `unknown_cluster` if Envoy does not know its cluster.
    CallRefused {
        /// Envoy does not know the cluster.
        unknown_cluster: bool,
    },
    /// A call was answered; without a status where there was no answer.
    CallAnswer {
        /// The headers.
        headers: HeaderMap,
        /// The whole body.
        body: Vec<u8>,
    },
    /// The router has its last word for the client, in the listener's filter.
    LastWord(Option<LastWord>),
    /// Time has passed since an attempt began: look again where the router is to go without an answer.
    LookAhead,
    /// Nothing has come of the answer that passes for as long as [`Exchange::silence_limit`](super::Exchange::silence_limit) says.
    Silent,
    /// The host refused a call without which the request cannot go on.
    Failed,
    /// The stream has ended, well or not.
    End {
        /// The client's answer is complete.
        complete: bool,
        /// Envoy's `response.code_details`, where [`Exchange::wants_end_details`](super::Exchange::wants_end_details).
        details: Option<Vec<u8>>,
    },
}

/// What has come of an answer whose backend has stalled.
#[derive(Debug)]
pub struct Stalled {
    /// The headers.
    pub headers: HeaderMap,
    /// The body as far as it came, [`ERROR_BODY`](super::ERROR_BODY) at most.
    pub body: Vec<u8>,
}

/// What is to be known of the router's last word, where [`Exchange::wants_last_word`](super::Exchange::wants_last_word).
#[derive(Debug)]
pub struct LastWord {
    /// The status.
    pub status: u16,
    /// Envoy's `response.code_details`.
    pub details: Option<Vec<u8>>,
    /// The answer carries the mark that [`Next::Mark`] put on it.
    pub is_marked: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// What is held is held on.
    Hold,
    /// The same, and the stream waits for this.
    Wait(Wish),
    /// What the callback is for goes on as it is.
    Continue,
    /// The request goes to the router, changed as [`Exchange::edits`](super::Exchange::edits) and
    /// [`Exchange::body_edit`](super::Exchange::body_edit) say.
    Send,
    /// The request is sent once more, as [`Exchange::call`](super::Exchange::call) says.
    Call,
    /// The router's attempt goes on its way, changed as [`Exchange::attempt_edits`](super::Exchange::attempt_edits) and
    /// [`Exchange::renaming`](super::Exchange::renaming) say.
    Depart,
    /// The router's attempt is not made; these are the details.
    Refuse(&'static str),
    /// The router is told to make another attempt.
    Mark,
    /// The router is told anew where it goes without an answer.
    Point,
    /// The answer at hand is the client's, changed as [`Exchange::signature`](super::Exchange::signature) says.
    Pass,
    /// The answer that passes is cut off.
    Cut,
    /// The answer at hand goes on to the listener's filter, which replaces it.
    Yield,
    /// The client gets [`Exchange::reply`](super::Exchange::reply) in its place.
    Reply,
}
