//! One request's state machine, the same for both retry engines.
//!
//! [`Exchange::handle`] is told what happened, an [`Input`], and says what is to be done now, a [`Next`]. Everything about whether,
//! where and why (not) is decided here; the drivers in the filter turn callbacks into inputs and the answer into host
//! calls. `request` is the way up, `answers` decides what follows an attempt, `rerouted` follows the attempts that Envoy's router
//! makes, `reply` is what the client gets, and [`Attempts`] counts.

mod answers;
mod reply;
mod request;
mod rerouted;
mod tagging;

use alloc::rc::Rc;

pub use answers::Wants;
pub use reply::{Reply, TaggedAnswer};

use self::reply::ClientAnswer;
use self::tagging::Tagging;
use super::attempt::{Attempt, RequestEdits};
use super::attempts::{digit, Attempts, Lesson, TokenId, Verdict};
use super::balancer::{Balancer, Granted, Watch, Wish};
use super::client_credentials::is_credential_header;
use super::config::Engine;
use super::fleet::Wait;
use super::header_map::HeaderMap;
use super::host::Host;
use super::identity::Authorization;
use super::inspection::Inspection;
use super::metrics::Event;
use super::no_retry::{NoRetry, Replay};
use super::outcome::{Denial, Origin, Outcome, Trace};
use super::replay::BodyCopy;
use super::reply::LocalReply;
use super::request::Request;
use super::splices::Splices;
use super::time::Timestamp;
use super::why::Why;
use crate::prelude::*;

/// As much of an error's body as is read for its code, in bytes.
pub const ERROR_BODY: usize = 64 * 1024;

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
    /// More of the request's body has come, and was [read](Exchange::read) if that was wanted.
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
        /// As much as has come of the answer, where [`Exchange::wants_stalled`].
        stalled: Option<Stalled>,
    },
    /// A wait was refused: too many requests wait, or there is no hope.
    CannotWait,
    /// The router begins an attempt.
    Attempt {
        /// The cluster it goes to, where [`Exchange::is_retrying`].
        cluster: Option<Vec<u8>>,
    },
    /// The headers of an attempt's answer have come.
    Answer {
        /// The status.
        status: u16,
        /// Envoy's `response.code_details`, where it is [wanted](Exchange::wants).
        details: Option<Vec<u8>>,
        /// The headers, where they are [wanted](Exchange::wants).
        headers: Option<HeaderMap>,
        /// The answer has no body.
        end: bool,
        /// The answer may be held until more is known. See `docs/envoy-crash.md` for when it may not.
        may_hold: bool,
    },
    /// More of an answer's body has come, or its trailers.
    AnswerBody {
        /// The body, where [`Exchange::wants_error_body`].
        error: Option<Vec<u8>>,
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
    /// The host refused a call without which the request cannot go on.
    Failed,
    /// The stream has ended, well or not.
    End {
        /// The client's answer is complete.
        complete: bool,
        /// Envoy's `response.code_details`, where [`Exchange::wants_end_details`].
        details: Option<Vec<u8>>,
    },
}

/// What has come of an answer whose backend has stalled.
#[derive(Debug)]
pub struct Stalled {
    /// The headers.
    pub headers: HeaderMap,
    /// The body as far as it came, [`ERROR_BODY`] at most.
    pub body: Vec<u8>,
}

/// What is to be known of the router's last word, where [`Exchange::wants_last_word`].
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
    /// The request goes to the router, changed as [`Exchange::edits`] and [`Exchange::body_edit`] say.
    Send,
    /// The request is sent once more, as [`Exchange::call`] says.
    Call,
    /// The router's attempt goes on its way, changed as [`Exchange::attempt_edits`] and [`Exchange::renaming`] say.
    Depart,
    /// The router's attempt is not made; these are the details.
    Refuse(&'static str),
    /// The router is told to make another attempt.
    Mark,
    /// The router is told anew where it goes without an answer.
    Point,
    /// The answer at hand is the client's, changed as [`Exchange::signature`] says.
    Pass,
    /// The answer at hand goes on to the listener's filter, which replaces it.
    Yield,
    /// The client gets [`Exchange::reply`] in its place.
    Reply,
}

/// Where a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
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
enum For {
    /// A token.
    Token,
    /// Its end, or what says where it goes.
    Body,
    /// A backend that is free.
    Backend(Wait),
}

/// What an answer is held for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Until {
    /// The body of an error, which may decide, of this status.
    ErrorBody(u16),
    /// The end of the request, without which there can be no other attempt after this outcome.
    RequestEnd(Outcome),
    /// A newer token.
    Token,
    /// Its next frame, with which it passes.
    Frame,
}

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
    /// How many bytes of the body the host shows.
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
    /// The tagging of the answer that passes.
    tagging: Option<Box<Tagging>>,
    /// The explanation of the answer, where the client gets one.
    why: Option<Box<Why>>,
    /// The client's name.
    client: Option<String>,
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
            answered_by: 0,
            is_real: false,
            may_hold: true,
            kept: None,
            reply: None,
            timed_out: false,
            trace: Trace::None,
            denial: Denial::default(),
            tagging: None,
            why: explains.then(Box::default),
            client: None,
            router: rerouted::Rerouted::default(),
        }
    }

    /// Takes over what happened, and says what is to be done now.
    pub fn handle<H: Host>(&mut self, input: Input, balancer: &Balancer<H>) -> Next {
        match input {
            Input::Request { headers, end } => self.begin(headers, end, balancer),
            Input::RequestBody { shown, end } => {
                self.watch(balancer);
                self.shown = shown;
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
            Input::AnswerBody { error, end } => self.on_answer_body(error, end, balancer),
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
            Input::Failed => self.on_failure(),
            Input::End { complete, details } => {
                self.on_end(complete, details.as_deref(), balancer);
                Next::Continue
            }
        }
    }

    #[inline(never)]
    fn on_granted<H: Host>(
        &mut self,
        granted: Granted,
        stalled: Option<Stalled>,
        balancer: &Balancer<H>,
    ) -> Next {
        let state = core::mem::replace(&mut self.state, State::New);
        match (state, granted) {
            (State::Holding(For::Token), Granted::Token(_))
            | (State::Holding(For::Backend(_)), Granted::Backend) => self.start(balancer),
            (State::Holding(For::Token), Granted::NoToken(wait)) => {
                self.reply_without_token(wait, balancer)
            }
            (State::Holding(For::Body), Granted::NoBody) => self.send_unread(balancer),
            (State::Departing(cluster), _) => self.begin_attempt(cluster.as_deref(), balancer),
            (State::Deciding(Until::Token), Granted::Token(token)) => self.renewed(token, balancer),
            (State::Deciding(Until::Token), _) => self.proceed(Outcome::BadToken, balancer),
            (State::Deciding(Until::ErrorBody(status)), Granted::NoBody) => {
                self.on_stalled(status, stalled, balancer)
            }
            (State::Deciding(Until::Frame), Granted::NoBody) => self.deliver_stalled(stalled),
            (state, _) => {
                self.state = state;
                Next::Hold
            }
        }
    }

    #[inline(never)]
    fn on_refused_wait<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        let state = core::mem::replace(&mut self.state, State::New);
        match state {
            State::Holding(For::Token) => {
                let identities = self.identities(balancer);
                let now = balancer.host().now();
                let wait = balancer.credentials.retry_after(identities, now);
                self.reply_without_token(wait, balancer)
            }
            State::Holding(For::Body) => self.depart(balancer),
            State::Holding(For::Backend(wait)) => self.refuse_all_out(wait, balancer),
            State::Departing(cluster) => self.begin_attempt(cluster.as_deref(), balancer),
            State::Deciding(Until::Token) => self.proceed(Outcome::BadToken, balancer),
            State::Deciding(Until::ErrorBody(status)) => self.settle(status, &[], None, balancer),
            State::Deciding(Until::Frame) => {
                self.state = State::Passing;
                Next::Hold
            }
            state => {
                self.state = state;
                Next::Hold
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
        match self.state {
            State::New | State::Done => {}
            State::Passing if complete => {}
            State::Passing => balancer.count(match details.map(Origin::of) {
                Some(Origin::Router) => Event::StreamBroken,
                _ => Event::ClientGone,
            }),
            _ => balancer.count(Event::ClientGone),
        }
        self.state = State::Done;
        // The outcome will not be known: the client left, or a host call was refused.
        if let Some(lesson) = self.attempts.abandon(&self.request.demand()) {
            balancer.learn(&lesson, Default::default);
        }
    }

    /// A frame of a body comes.
    fn watch<H: Host>(&mut self, balancer: &Balancer<H>) {
        let now = || balancer.host().now();
        if self.unheld.body_comes(&balancer.listener_bodies, now) {
            balancer.complain(super::balancer::Complaint::HiddenBodies);
        }
    }

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

    /// The client's name, for the access log.
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// Whether an answer of a backend passes to the client, or waits for its next frame for that.
    pub fn is_passing(&self) -> bool {
        matches!(self.state, State::Passing)
    }

    /// Whether what is left of the answer passes, whatever it is: no [`Input::AnswerBody`] matters any more.
    pub fn is_settled(&self) -> bool {
        self.is_passing() && !self.unheld.is_watching()
    }

    /// Whether the end of the stream has to be explained by Envoy's details, where the answer is not complete.
    pub fn wants_end_details(&self) -> bool {
        self.is_passing()
    }
}

/// What changes in a body.
pub struct BodyEdit<'a> {
    /// The changes.
    pub splices: Splices,
    /// The body, where it was copied as a whole.
    pub bytes: Option<&'a [u8]>,
}

/// A call that sends the request once more.
pub struct Call<'a> {
    /// The attempt.
    pub attempt: Attempt<'a>,
    /// Its path, where that is another than the client's.
    path: Option<String>,
    /// Its body, where that is another than the client's.
    spliced: Option<Vec<u8>>,
    exchange: &'a Exchange,
}

impl Call<'_> {
    /// The headers.
    pub fn headers<'c, H: Host>(&'c self, balancer: &'c Balancer<H>) -> Vec<(&'c str, &'c str)> {
        self.attempt.headers(
            &balancer.config.headers,
            self.path.as_deref(),
            self.exchange.original.iter_utf8(),
        )
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        let copied = self.exchange.body.bytes();
        self.spliced.as_deref().unwrap_or(copied)
    }

    /// The trailers, without the client's credentials.
    pub fn trailers(&self) -> Vec<(&str, &str)> {
        let trailers = self.exchange.trailers.iter_utf8();
        trailers
            .filter(|(name, _)| !is_credential_header(name.as_bytes()))
            .collect()
    }
}

impl Exchange {
    /// The current attempt, with what it carries.
    fn attempt<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> Option<Attempt<'a>> {
        let backend = self.attempts.backend();
        Some(Attempt {
            request: &self.request,
            backend: balancer.config.backends.get(backend)?,
            credential: self.carries.as_ref()?.credential(),
            timeout_ms: balancer.timeout_ms(backend),
            growth: match self.may_change_body() {
                true => self.splices(balancer).delta(),
                false => 0,
            },
            reads_answer: self.request.accepts_encodings
                && self.request.tags_answer(&balancer.config),
        })
    }

    /// What changes in the client's headers for the first attempt. A request for which this fails must not leave: it may still carry
    /// the client's credentials.
    pub fn edits<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> RequestEdits<'a> {
        let Some(attempt) = self.attempt(balancer) else {
            return RequestEdits::default();
        };
        let mut edits = attempt.edits(&balancer.config, || self.client_path());
        if self.engine == Engine::Router {
            self.instruct_router(&balancer.config, &mut edits);
        }
        edits
    }

    /// What changes in the client's body on its way to the router, if anything.
    pub fn body_edit<H: Host>(&self, balancer: &Balancer<H>) -> Option<BodyEdit<'_>> {
        if !self.may_change_body() {
            return None;
        }
        let splices = self.splices(balancer);
        if splices.is_empty() {
            return None;
        }
        let bytes = match &self.body {
            BodyCopy::Complete { bytes, .. } => Some(bytes.as_slice()),
            _ => None,
        };
        Some(BodyEdit { splices, bytes })
    }

    /// The call that sends the request once more.
    pub fn call<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> Option<Call<'a>> {
        let attempt = self.attempt(balancer)?;
        let path = attempt.path(|| self.client_path());
        let path = path.map(alloc::borrow::Cow::into_owned);
        let splices = self.splices(balancer);
        Some(Call {
            attempt,
            path,
            spliced: (!splices.is_empty()).then(|| splices.apply(self.body.bytes())),
            exchange: self,
        })
    }

    /// Whether there is anything in the body that may have to be changed for a backend.
    fn may_change_body(&self) -> bool {
        !self.request.cuts.is_empty() || self.request.model.is_some()
    }

    /// What changes in the body before it leaves the listener's filter.
    fn splices<H: Host>(&self, balancer: &Balancer<H>) -> Splices {
        match self.engine {
            Engine::Filter => {
                let backend = balancer.config.backends.get(self.attempts.backend());
                backend.map_or_else(Splices::default, |backend| self.request.splices(backend))
            }
            // The deployment's name is put in upstream, attempt by attempt.
            Engine::Router => self.request.cuts.clone(),
        }
    }

    /// The path as the client sent it.
    fn client_path(&self) -> &str {
        self.original.get(":path").unwrap_or_default()
    }
}
