//! A request's state machine, for both retry engines.
//!
//! [`Exchange::handle`] takes an [`Input`] and returns the [`Next`] step. The machine decides whether and where a
//! request is sent or retried, and explains why not. The filter's drivers turn callbacks into inputs, and results into
//! host calls.
//!
//! - `state` has the states.
//! - `request`, `request_body` and `first_attempt` handle the client's request. `sending` edits it for an attempt.
//! - `answers` and `calls` read an attempt's answer. `lessons` learns from it, and `next_attempt` decides the next
//!   step.
//! - `rerouted` and `destination` handle attempts that Envoy's router makes.
//! - `waits` ends a wait, and `reply` makes the client's answer.
//! - [`Attempts`] counts attempts.

mod answers;
mod calls;
mod destination;
mod first_attempt;
mod input;
mod lessons;
mod limits;
mod next_attempt;
mod reply;
mod request;
mod request_body;
mod rerouted;
mod sending;
mod state;
mod streams;
mod tagging;
mod usage;
mod usage_option;
mod waits;

use alloc::rc::Rc;

pub use answers::Wants;
pub use destination::request_of;
pub use input::{FinalAnswer, Input, Next, Stalled};
pub use reply::{Reply, TaggedAnswer};
pub use sending::{BodyEdit, Call};

use self::limits::Limited;
use self::reply::ClientAnswer;
use self::state::{For, State, Until};
use self::tagging::Tagging;
use super::attempts::{digit, Attempts, Verdict};
use super::balancer::{Awaited, Balancer, Watch};
use super::config::Engine;
use super::header_map::HeaderMap;
use super::host::Host;
use super::identity::Authorization;
use super::inspection::Inspection;
use super::metrics::Event;
use super::no_retry::{NoRetry, Replay};
use super::outcome::{Denial, Origin, Outcome, Trace};
use super::pace::Pace;
use super::plan::BackendSet;
use super::replay::BodyCopy;
use super::reply::LocalReply;
use super::request::Request;
use super::splices::Splices;
use super::stream_start::StreamStart;
use super::stripper::Stripper;
use super::time::Timestamp;
use super::usage::UsageReader;
use super::why::Why;
use crate::prelude::*;

/// The most bytes of an error's body that are read for its code.
pub const ERROR_BODY: usize = 64 * 1024;

/// A backend's answer that may become the client's.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    headers: HeaderMap,
    body: AnswerBody,
    backend: usize,
}

/// The body of an [`Answer`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AnswerBody {
    /// The complete body.
    Whole(Vec<u8>),
    /// An event stream that began with an error, as far as it arrived.
    Begun(Vec<u8>),
    /// The backend stalled before the body was complete. The client gets the status, the headers and a body of the
    /// filter's own.
    Stalled,
}

/// One request, from its headers to the end of its answer.
pub struct Exchange {
    engine: Engine,
    state: State,
    attempts: Attempts,
    request: Request,
    /// The client's headers. Every attempt starts from them.
    original: HeaderMap,
    trailers: HeaderMap,
    /// The copy of the body for further attempts, or the place where Envoy keeps it.
    body: BodyCopy,
    inspection: Inspection,
    /// The number of bytes of the body so far, if counted.
    shown: usize,
    has_ended: bool,
    /// Whether the plan was made: a turn was drawn, or the request has one possible backend.
    planned: bool,
    /// The deadline of the wait for a backend, once the wait has begun.
    wait_until: Option<Timestamp>,
    /// Watches whether Envoy hid a body.
    hidden_body: Watch,
    /// The credential of the current attempt.
    authorization: Option<Rc<Authorization>>,
    /// The credential of the attempt before, if it differs.
    previous_authorization: Option<Rc<Authorization>>,
    /// The headers of the current answer.
    headers: Option<HeaderMap>,
    /// The status of the current answer.
    status: u16,
    /// The backend of the current answer.
    answered_by: usize,
    /// Whether a backend sent the current answer. If not, Envoy made it.
    is_real: bool,
    may_hold: bool,
    /// A backend's last answer, kept while another attempt was due.
    kept: Option<Box<Answer>>,
    /// The client's answer, if the filter makes it.
    reply: Option<Box<ClientAnswer>>,
    /// Whether the last attempt without a backend's answer timed out.
    timed_out: bool,
    /// The possible effects of the last failed attempt.
    trace: Trace,
    /// The current backend's reason to deny access, if it did.
    denial: Denial,
    /// The start of the current answer, if the answer is an event stream that was held for it.
    stream: Option<Box<StreamStart>>,
    /// The deadline of the current attempt's first content, if its backend has its own limit.
    content_due: Option<Timestamp>,
    /// The tagger of the passing answer's ids.
    tagging: Option<Box<Tagging>>,
    /// The reader of the tokens that the client's answer reports.
    usage: Option<Box<UsageReader>>,
    /// The backends that refuse `stream_options`, so the filter does not request tokens from them.
    without_usage: BackendSet,
    /// The backend that refused `stream_options`, while the filter retries on it without them.
    refused_option: Option<usize>,
    /// Removes the tokens that the client did not request from its stream.
    stripper: Option<Box<Stripper>>,
    /// The speed of the client's answer, if it is a stream.
    pace: Pace,
    /// The client's `location` header, if it differs from the backend's.
    location: Option<String>,
    /// The explanation of the answer, if configured.
    why: Option<Box<Why>>,
    /// The client's name.
    client: Option<String>,
    /// The request's tokens in the client's limits.
    limited: Limited,
    /// The state of attempts by the router.
    router: rerouted::Rerouted,
}

impl Exchange {
    /// A request before its first input.
    pub fn new<H: Host>(balancer: &Balancer<H>) -> Self {
        let explains = balancer.config.headers.why.is_some();
        Self {
            engine: balancer.config.retry.engine,
            state: State::New,
            attempts: Attempts::default(),
            request: Request::default(),
            original: HeaderMap::default(),
            trailers: HeaderMap::default(),
            body: BodyCopy::Dropped(NoRetry::AttemptsExhausted),
            inspection: Inspection::Done,
            shown: 0,
            has_ended: false,
            planned: false,
            wait_until: None,
            hidden_body: Watch::default(),
            authorization: None,
            previous_authorization: None,
            headers: None,
            status: 0,
            answered_by: 0,
            is_real: false,
            may_hold: true,
            kept: None,
            reply: None,
            timed_out: false,
            trace: Trace::None,
            denial: Denial::default(),
            stream: None,
            content_due: None,
            tagging: None,
            usage: None,
            without_usage: BackendSet::default(),
            refused_option: None,
            stripper: None,
            pace: Pace::Unknown,
            location: None,
            why: explains.then(Box::default),
            client: None,
            limited: Limited::default(),
            router: rerouted::Rerouted::default(),
        }
    }

    /// Handles an event of the request and returns the next step.
    pub fn handle<H: Host>(&mut self, input: Input, balancer: &Balancer<H>) -> Next {
        match input {
            Input::Request { headers, end } => self.begin(headers, end, balancer),
            Input::RequestBody { shown, end } => {
                self.watch(balancer);
                self.count_body(shown, balancer);
                self.continue_request(end, balancer)
            }
            Input::RequestTrailers(trailers) => {
                self.trailers = trailers;
                self.continue_request(true, balancer)
            }
            Input::WaitEnded { result, stalled } => self.on_wait_ended(result, stalled, balancer),
            Input::CannotWait => self.on_refused_wait(balancer),
            Input::Attempt { cluster } => self.on_attempt(cluster, balancer),
            Input::Answer {
                status,
                details,
                headers,
                end,
                may_hold,
            } => {
                self.may_hold = may_hold;
                self.headers = headers;
                self.on_answer(status, details.as_deref(), end, balancer)
            }
            Input::AnswerBody { bytes, end } => self.on_answer_body(bytes, end, balancer),
            Input::NeedsFrame => {
                self.state = State::Deciding(Until::Frame);
                Next::Wait(Awaited::ErrorBody)
            }
            Input::CallRefused { unknown_cluster } => {
                self.on_refused_call(unknown_cluster, balancer)
            }
            Input::CallAnswer { headers, body } => self.on_call_answer(headers, body, balancer),
            Input::FinalAnswer(answer) => self.on_final_answer(answer, balancer),
            Input::LookAhead => self.on_look_ahead(balancer),
            Input::Silent => self.on_silence(balancer),
            Input::Failed => self.on_failure(),
            Input::End { complete, details } => {
                self.on_end(complete, details.as_deref(), balancer);
                Next::Continue
            }
        }
    }

    #[inline(never)]
    fn on_failure(&mut self) -> Next {
        match self.state {
            State::Passing | State::Done => Next::Continue,
            _ => self.answer(LocalReply::internal_error()),
        }
    }

    fn on_end<H: Host>(&mut self, complete: bool, details: Option<&[u8]>, balancer: &Balancer<H>) {
        if self.state == State::Deciding(Until::Content) {
            self.begin_usage(balancer);
        }
        // The stream has ended, so the access log no longer takes the tokens.
        match complete {
            true => drop(self.end_usage(balancer)),
            false => self.cut_usage(balancer),
        }
        self.settle_end(balancer);
        match self.state {
            State::New | State::Done => {}
            State::Passing if complete => {}
            State::Passing | State::Deciding(Until::Content | Until::ErrorBody(_)) => {
                self.on_cut_off(details, balancer);
            }
            _ => balancer.count(Event::ClientGone),
        }
        self.state = State::Done;
        // The outcome stays unknown: the client left, or the host refused a call.
        if let Some(lesson) = self.attempts.abandon(&self.request.demand()) {
            balancer.learn(&lesson, Default::default);
        }
    }

    /// Handles an answer that ended early: the client left, or the backend broke off.
    #[inline(never)]
    fn on_cut_off<H: Host>(&mut self, details: Option<&[u8]>, balancer: &Balancer<H>) {
        if details.map(Origin::of) != Some(Origin::Router) {
            return balancer.count(Event::ClientGone);
        }
        balancer.count(Event::StreamBroken);
        // Envoy has already answered in place of the held answer, so the attempt has failed.
        if !self.is_passing() {
            self.headers = None;
            self.stream = None;
            self.conclude(Outcome::Unavailable, balancer);
        }
    }

    /// Notes a frame of a body.
    fn watch<H: Host>(&mut self, balancer: &Balancer<H>) {
        let now = || balancer.host().now();
        if self.hidden_body.body_comes(&balancer.listener_bodies, now) {
            balancer.complain(super::balancer::Complaint::HiddenBodies);
        }
    }

    /// The client's name.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }
}
