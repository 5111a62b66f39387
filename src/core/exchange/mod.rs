//! One request's state machine, the same for both retry engines.
//!
//! [`Exchange::handle`] is told what happened, an [`Input`], and says what is to be done now, a [`Next`]. Everything about whether,
//! where and why (not) is decided here; the filter's drivers turn callbacks into inputs and the answer into host calls.
//!
//! `state` has the states. `request`, `request_body` and `first_attempt` are the way up, and `sending` says what changes for an attempt.
//! `answers` and `calls` read an attempt's answer, `lessons` is what that teaches, and `next_attempt` what follows. `rerouted` and
//! `destination` are the attempts that Envoy's router makes, `waits` ends a wait, `reply` is what the client gets, and [`Attempts`] counts.

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
pub use input::{Input, LastWord, Next, Stalled};
pub use reply::{Reply, TaggedAnswer};
pub use sending::{BodyEdit, Call};

use self::limits::Limited;
use self::reply::ClientAnswer;
use self::state::{For, State, Until};
use self::tagging::Tagging;
use super::attempts::{digit, Attempts, Verdict};
use super::balancer::{Balancer, Watch, Wish};
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

/// As much of an error's body as is read for its code, in bytes.
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
    /// An event stream that began with an error, as far as it came.
    Begun(Vec<u8>),
    /// The backend stalled before the body was complete. The client gets the status and the headers, with a body made here.
    Stalled,
}

/// One request on its way.
pub struct Exchange {
    engine: Engine,
    state: State,
    attempts: Attempts,
    request: Request,
    /// The headers as the client sent them: every attempt starts from them.
    original: HeaderMap,
    trailers: HeaderMap,
    /// The copy of its body that another attempt needs, or who has it.
    body: BodyCopy,
    inspection: Inspection,
    /// How many bytes of the body have come, where that is counted.
    shown: usize,
    has_ended: bool,
    /// The plan was made: its turn drawn, or the one backend found that it can go to.
    planned: bool,
    /// Until when the request may wait for a backend, once it has begun to.
    wait_until: Option<Timestamp>,
    /// Watches whether Envoy had hidden a body.
    unheld: Watch,
    /// What the current attempt carries.
    carries: Option<Rc<Authorization>>,
    /// What the attempt before it carried, if that was something else.
    carried: Option<Rc<Authorization>>,
    /// The headers of the answer at hand.
    headers: Option<HeaderMap>,
    /// The status of the answer at hand.
    status: u16,
    /// The backend of the answer at hand.
    answered_by: usize,
    /// The answer at hand is a backend's own, not one that Envoy made for want of it.
    is_real: bool,
    may_hold: bool,
    /// The last answer of a backend that was not the client's, because another attempt was due.
    kept: Option<Box<Answer>>,
    /// The client's answer that is made here.
    reply: Option<Box<ClientAnswer>>,
    /// The last attempt without an answer of a backend ended because of its time limit.
    timed_out: bool,
    /// What the last attempt that failed may have done.
    trace: Trace,
    /// Why the current backend let the attempt in nowhere, if it did not.
    denial: Denial,
    /// The start of the answer at hand, where that is an event stream that is, or was, held for it.
    stream: Option<Box<StreamStart>>,
    /// Until when the current attempt's first content has to come, where its backend has a limit of its own.
    content_due: Option<Timestamp>,
    /// The tagging of the answer that passes.
    tagging: Option<Box<Tagging>>,
    /// The reading of the tokens that the client's answer reports.
    usage: Option<Box<UsageReader>>,
    /// The backends that are not asked for the tokens of its stream, because they refuse.
    unasked: BackendSet,
    /// The backend that refused the option, while it is asked without it.
    refused_option: Option<usize>,
    /// The taking out of the tokens that the client did not ask for.
    stripper: Option<Box<Stripper>>,
    /// How fast the client's answer comes, where that is a stream.
    pace: Pace,
    /// `location` of the answer that passes, where the client gets another one than the backend's.
    location: Option<String>,
    /// The explanation of the answer, where the client gets one.
    why: Option<Box<Why>>,
    /// The client's name.
    client: Option<String>,
    /// How it stands with the client's limits.
    limited: Limited,
    /// What only attempts of the router need.
    router: rerouted::Rerouted,
}

impl Exchange {
    /// A request of which nothing came yet.
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
            unheld: Watch::default(),
            carries: None,
            carried: None,
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
            unasked: BackendSet::default(),
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

    /// Takes over what happened, and says what is to be done now.
    pub fn handle<H: Host>(&mut self, input: Input, balancer: &Balancer<H>) -> Next {
        match input {
            Input::Request { headers, end } => self.begin(headers, end, balancer),
            Input::RequestBody { shown, end } => {
                self.watch(balancer);
                self.count_body(shown, balancer);
                self.request_goes_on(end, balancer)
            }
            Input::RequestTrailers(trailers) => {
                self.trailers = trailers;
                self.request_goes_on(true, balancer)
            }
            Input::Granted { granted, stalled } => self.on_granted(granted, stalled, balancer),
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
                Next::Wait(Wish::ErrorBody)
            }
            Input::CallRefused { unknown_cluster } => {
                self.on_refused_call(unknown_cluster, balancer)
            }
            Input::CallAnswer { headers, body } => self.on_call_answer(headers, body, balancer),
            Input::LastWord(word) => self.on_last_word(word, balancer),
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
        // No access log can have it any more.
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
        // The outcome will not be known: the client left, or a host call was refused.
        if let Some(lesson) = self.attempts.abandon(&self.request.demand()) {
            balancer.learn(&lesson, Default::default);
        }
    }

    /// An answer has ended before its end: the client has left, or the backend has broken it off.
    #[inline(never)]
    fn on_cut_off<H: Host>(&mut self, details: Option<&[u8]>, balancer: &Balancer<H>) {
        if details.map(Origin::of) != Some(Origin::Router) {
            return balancer.count(Event::ClientGone);
        }
        balancer.count(Event::StreamBroken);
        // Envoy has answered in the place of an answer that was held, so the attempt has failed.
        if !self.is_passing() {
            self.headers = None;
            self.stream = None;
            self.conclude(Outcome::Unavailable, balancer);
        }
    }

    /// A frame of a body comes.
    fn watch<H: Host>(&mut self, balancer: &Balancer<H>) {
        let now = || balancer.host().now();
        if self.unheld.body_comes(&balancer.listener_bodies, now) {
            balancer.complain(super::balancer::Complaint::HiddenBodies);
        }
    }

    /// The client's name, for the access log.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }
}
