//! The inputs and results of the state machine.

use crate::balancer::{Awaited, WaitResult};
use crate::header_map::HeaderMap;
use crate::prelude::*;

/// An event of a request.
#[derive(Debug)]
pub enum Input {
    /// The client's request begins.
    Request {
        /// The headers as the client sent them.
        headers: HeaderMap,
        /// The request has no body.
        end: bool,
    },
    /// More of the request's body arrived. The driver has [read](super::Exchange::read) it if that was wanted.
    RequestBody {
        /// The number of bytes of it in the host's buffer.
        shown: usize,
        /// The body is complete.
        end: bool,
    },
    /// The request's trailers arrived, and end the request.
    RequestTrailers(HeaderMap),
    /// A [wait](Next::Wait) has ended.
    WaitEnded {
        /// The result of the wait.
        result: WaitResult,
        /// The answer as far as it arrived, if [`Exchange::wants_stalled`](super::Exchange::wants_stalled).
        stalled: Option<Box<Stalled>>,
    },
    /// A wait was refused: the waiting list is full, or what it waits for cannot come in time.
    CannotWait,
    /// The router begins an attempt.
    Attempt {
        /// The attempt's cluster, if [`Exchange::is_retrying`](super::Exchange::is_retrying).
        cluster: Option<Vec<u8>>,
    },
    /// The headers of an attempt's answer arrived.
    Answer {
        /// The status.
        status: u16,
        /// Envoy's `response.code_details`, if [wanted](super::Exchange::wants).
        details: Option<Vec<u8>>,
        /// The headers, if [wanted](super::Exchange::wants), or if the answer [may be a
        /// stream](super::Exchange::reads_stream_start).
        headers: Option<HeaderMap>,
        /// The answer has no body.
        end: bool,
        /// The answer may be held until more is known. `docs/envoy-crash.md` explains when it may not.
        may_hold: bool,
    },
    /// More of an answer's body arrived, or its trailers.
    AnswerBody {
        /// The bytes that [`Exchange::wants_answer_body`](super::Exchange::wants_answer_body) requested.
        bytes: Option<Vec<u8>>,
        /// The answer is complete.
        end: bool,
    },
    /// The host needs another frame before it can let the answer pass.
    NeedsFrame,
    /// Envoy refused a [call](Next::Call).
    CallRefused {
        /// Envoy does not know the cluster.
        unknown_cluster: bool,
    },
    /// A call ended. Without an answer, the headers have no status.
    CallAnswer {
        /// The headers.
        headers: HeaderMap,
        /// The whole body.
        body: Vec<u8>,
    },
    /// The router's final answer reached the listener's filter.
    FinalAnswer(Option<FinalAnswer>),
    /// Time has passed since an attempt began: the router's destination may be outdated.
    LookAhead,
    /// The answer has been silent for [`Exchange::silence_limit`](super::Exchange::silence_limit).
    Silent,
    /// The host refused a call that the request depends on.
    Failed,
    /// The stream has ended, normally or not.
    End {
        /// The client's answer is complete.
        complete: bool,
        /// Envoy's `response.code_details`, if [`Exchange::wants_end_details`](super::Exchange::wants_end_details).
        details: Option<Vec<u8>>,
    },
}

/// The part of an answer that arrived before its backend stalled.
#[derive(Debug)]
pub struct Stalled {
    /// The headers.
    pub headers: HeaderMap,
    /// The body so far, at most [`ERROR_BODY`](super::ERROR_BODY) bytes.
    pub body: Vec<u8>,
}

/// The router's final answer, read if [`Exchange::wants_final_answer`](super::Exchange::wants_final_answer).
#[derive(Debug)]
pub struct FinalAnswer {
    /// The status.
    pub status: u16,
    /// Envoy's `response.code_details`.
    pub details: Option<Vec<u8>>,
    /// The answer has the mark of [`Next::Mark`].
    pub is_marked: bool,
}

/// The next step of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Keep holding the current half.
    Hold,
    /// Keep holding the current half, and put the stream on the waiting list.
    Wait(Awaited),
    /// Let the callback continue unchanged.
    Continue,
    /// Send the request to the router with the changes of [`Exchange::edits`](super::Exchange::edits) and
    /// [`Exchange::body_edit`](super::Exchange::body_edit).
    Send,
    /// Retry the request with [`Exchange::call`](super::Exchange::call).
    Call,
    /// Let the router's attempt continue with the changes of
    /// [`Exchange::attempt_edits`](super::Exchange::attempt_edits) and
    /// [`Exchange::renaming`](super::Exchange::renaming).
    PassAttempt,
    /// Answer the router's attempt with an error that has these details.
    Refuse(&'static str),
    /// Mark the answer, so that the router retries.
    Mark,
    /// Write the router's destination again.
    Point,
    /// Pass the current answer to the client with the changes of [`Exchange::signature`](super::Exchange::signature).
    Pass,
    /// Reset the answer that passes.
    Reset,
    /// Let the answer continue to the listener's filter, which replaces it.
    Yield,
    /// Answer the client with [`Exchange::reply`](super::Exchange::reply).
    Reply,
}
