//! The attempts that Envoy's router makes, seen from the clusters' filters, and its last word, seen from the listener's.

use super::next_attempt::Destination;
use super::reply::AnswerEdits;
use super::{digit, Answer, AnswerBody, Exchange, LastWord, Next, NoRetry, Replay, State, Until};
use super::{Event, HeaderMap, Host, Origin, Outcome, Splices, Timestamp, Trace, Verdict, Wish};
use crate::attempt::{grown, RequestEdits};
use crate::balancer::{Balancer, Complaint};
use crate::config::{Backend, Config};
use crate::path;
use crate::prelude::*;

/// The response header of a rate limit in Envoy. Envoy's router does not retry an answer that has it, whatever the retry policy says
/// (`RetryStateImpl::wouldRetryFromHeaders`), so it is taken off an answer that is marked.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

/// The response header that the route's retry policy looks for (`retriable_headers`). No client sees one that was set here.
const RETRY: &str = "x-aoai-retry";

/// What is known of a request whose attempts the router makes.
#[derive(Debug, Default)]
pub(super) struct Rerouted {
    /// When the current attempt began, if it may be the last.
    began: Option<Timestamp>,
    /// The value of the header [`RATE_LIMITED`] of the last error.
    rate_limited: Option<String>,
    /// Where the router goes if the current attempt gets no answer.
    pub(super) foreseen: Option<usize>,
    /// The generation of the token that the next attempt must not carry, if a newer one is on its way.
    pub(super) outdated: Option<u32>,
    /// The answer that passes is one that was marked.
    declined: bool,
}

impl Exchange {
    /// Whether the attempt that begins is another than the first.
    pub fn is_retrying(&self) -> bool {
        self.attempts.made() > 0
    }

    /// The router begins an attempt: the first, one that a marked answer called for, or one after an attempt that got no answer,
    /// which it makes where it was told before.
    pub(super) fn on_attempt<H: Host>(
        &mut self,
        cluster: Option<Vec<u8>>,
        balancer: &Balancer<H>,
    ) -> Next {
        if let Some(generation) = self.router.outdated.take() {
            let backend = self.attempts.backend();
            let carried = balancer.credentials.of(backend);
            let is_old = carried.is_some_and(|token| token.generation == generation);
            // A body that is to be changed has to pass while it comes.
            if is_old && self.renaming(balancer).is_empty() {
                self.state = State::Departing(cluster);
                return Next::Wait(Wish::NewerToken(backend, generation));
            }
        }
        self.begin_attempt(cluster.as_deref(), balancer)
    }

    #[inline(never)]
    pub(super) fn begin_attempt<H: Host>(
        &mut self,
        cluster: Option<&[u8]>,
        balancer: &Balancer<H>,
    ) -> Next {
        if !self.may_begin(balancer) {
            self.state = State::GivenUp;
            return Next::Refuse("aoai_plan_exhausted");
        }
        let backend = self.attempts.backend();
        let Some(token) = balancer.credentials.of(backend) else {
            // The token has expired, and this attempt is not to be shown what the one before was.
            self.state = State::GivenUp;
            return Next::Refuse("aoai_plan_exhausted");
        };
        self.attempt_made(balancer);
        self.router.foreseen = self.foresee(balancer);
        let is_first = self.attempts.made() == 1;
        // Asked for only where it may be wanted, by an attempt that may be the last: it is a host call.
        let is_only = balancer.config.retry.max_attempts == 1;
        let may_be_last = !is_first || is_only || self.router.foreseen.is_none();
        self.router.began = may_be_last.then(|| balancer.host().now());
        self.state = State::Attempting;
        // The first attempt was addressed by the listener's filter.
        if is_first {
            return Next::Depart;
        }
        let expected = balancer.config.backends.get(backend);
        let expected = expected.map(|backend| backend.cluster.as_bytes());
        if cluster.is_some_and(|cluster| Some(cluster) != expected) {
            balancer.complain(Complaint::Route);
            return Next::Refuse("aoai_wrong_route");
        }
        self.carry(token);
        Next::Depart
    }

    /// Takes over that the attempt before got no answer, if that is so. `false` if there is none to make.
    #[inline(never)]
    fn may_begin<H: Host>(&mut self, balancer: &Balancer<H>) -> bool {
        match self.state {
            State::Attempting | State::Deciding(_) => self.conclude_unanswered(balancer),
            // The answer came with the mark already, as none of Azure's does, and the router dropped it: what was asked for is done.
            State::Answered => self.trace = Trace::Possible,
            _ => return true,
        }
        let foreseen = Destination::Foreseen(self.router.foreseen);
        let verdict = self.after(Outcome::Unavailable, foreseen, balancer);
        if verdict != Verdict::TryNext {
            self.timed_out = self.is_overdue(balancer);
        }
        verdict == Verdict::TryNext
    }

    /// The attempt ended without an answer, or its time was up while that was held: connection refused, reset, timeout.
    fn conclude_unanswered<H: Host>(&mut self, balancer: &Balancer<H>) {
        use Until::{Content, ErrorBody, StreamEnd};
        match self.state {
            State::Attempting | State::Deciding(ErrorBody(_) | Content) => {
                self.headers = None;
                self.stream = None;
                self.conclude(Outcome::Unavailable, balancer);
            }
            // It has said why it failed.
            State::Deciding(StreamEnd(status)) => {
                self.conclude_failed_stream(status, balancer);
            }
            _ => {}
        }
    }

    fn is_overdue<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        let config = &balancer.config;
        let backend = config.backends.get(self.attempts.backend());
        let limit = backend.map(|backend| config.router_timeout(backend));
        // Envoy's timers run on a clock of their own, which may be some milliseconds ahead of the one that is read here.
        let limit = limit.unwrap_or_default().mul_f64(0.9);
        let now = || balancer.host().now();
        self.router
            .began
            .is_some_and(|began| began + limit <= now())
    }

    /// What changes in the headers of the current attempt, whatever the attempt before made of them.
    pub fn attempt_edits<'a, H: Host>(&'a self, balancer: &'a Balancer<H>) -> RequestEdits<'a> {
        let config = &balancer.config;
        let mut edits = RequestEdits::default();
        if let (true, Some(backend)) = (
            self.attempts.made() > 1,
            config.backends.get(self.attempts.backend()),
        ) {
            self.readdress(backend, config, &mut edits);
        }
        let length = self.request.content_length;
        let is_changed = self.request.model.is_some() || self.request.plain_stream.is_some();
        if let (Some(length), true) = (length, is_changed) {
            let growth = self.request.cuts.delta();
            let growth = growth.saturating_add(self.renaming(balancer).delta());
            let length = grown(length, growth).to_string();
            edits.set("content-length", length);
        }
        edits
    }

    #[inline(never)]
    fn readdress<'a>(
        &'a self,
        backend: &'a Backend,
        config: &Config,
        edits: &mut RequestEdits<'a>,
    ) {
        if !config.left_to_envoy.host {
            edits.set(":authority", &backend.host);
        }
        // What the attempt before made of the path is still there.
        if config.backends.iter().any(Backend::renames) {
            let request = &self.request;
            let path = request.path(self.client_path());
            let deployment = &request.operation.deployment;
            let path = path::on_backend(path, request.surface, deployment, backend);
            edits.set(":path", path);
        }
        if let (Some(old), Some(new)) = (&self.carried, &self.carries) {
            let surface = self.request.surface;
            let (old, new) = (old.credential().on(surface), new.credential().on(surface));
            if old.name != new.name {
                edits.remove(old.name);
            }
            edits.set(new.name, new.value);
        }
    }

    /// What is to be changed in the body as it left the listener's filter: the deployment's name.
    pub fn renaming<H: Host>(&self, balancer: &Balancer<H>) -> Splices {
        let index = self.attempts.backend();
        let backend = balancer.config.backends.get(index);
        let mut splices =
            backend.map_or_else(Splices::default, |backend| self.request.renaming(backend));
        if self.asks_usage(index, balancer) {
            self.request.ask_usage(&mut splices);
        }
        splices
    }

    /// How often the router may try again is said by the route, unless that is never, or the client had a mind of its own.
    pub(super) fn instruct_router<'a>(&self, config: &Config, edits: &mut RequestEdits<'a>) {
        let most = config.retry.max_attempts.saturating_sub(1);
        let retries = match self.body.replay() {
            Replay::Impossible(_) => Some(0),
            _ => self.request.instructs_router.then_some(most),
        };
        if let Some(retries) = retries {
            edits.set("x-envoy-max-retries", digit(retries));
        }
        if let Some(failures) = self.request.router_retries_on(config) {
            edits.set("x-envoy-retry-on", failures);
        }
    }

    /// What changes in the headers of an answer that the router is to retry.
    pub fn marking(&self) -> AnswerEdits<'static> {
        let mut edits = AnswerEdits::default();
        if self.router.rate_limited.is_some() {
            edits.remove(RATE_LIMITED);
        }
        edits.set(RETRY, "1");
        edits
    }

    /// The header of the [mark](Next::Mark). No answer that passes may have it.
    pub const MARK: &str = RETRY;

    pub(super) fn note_rate_limit(&mut self, headers: Option<&HeaderMap>) {
        let value = headers.and_then(|headers| headers.get(RATE_LIMITED));
        self.router.rate_limited = value.map(str::to_owned);
    }

    /// What is taken off an answer that was marked and is the client's after all, or put back.
    pub(super) fn unmark<'a>(&'a self, edits: &mut AnswerEdits<'a>) {
        if self.router.declined {
            edits.remove(RETRY);
            if let Some(value) = &self.router.rate_limited {
                edits.set(RATE_LIMITED, value);
            }
        }
    }

    /// No attempt follows the answer that an upstream filter has at hand.
    pub(super) fn yield_or_pass(&mut self) -> Next {
        let is_cut = |answer: &Answer| !matches!(answer.body, AnswerBody::Whole(_));
        if self.kept.as_deref().is_some_and(is_cut) {
            self.state = State::GivenUp;
            return Next::Yield;
        }
        self.kept = None;
        self.state = State::Answered;
        Next::Pass
    }

    /// Whether [`Input::LastWord`](super::Input::LastWord) needs to be looked at.
    pub fn wants_last_word(&self) -> bool {
        !matches!(
            self.state,
            State::New | State::Answered | State::GivenUp | State::Passing | State::Done
        )
    }

    pub(super) fn on_last_word<H: Host>(
        &mut self,
        word: Option<LastWord>,
        balancer: &Balancer<H>,
    ) -> Next {
        let status = word.as_ref().map_or(0, |word| word.status);
        let details = word.as_ref().and_then(|word| word.details.as_deref());
        match &self.state {
            State::Holding(super::For::Body) if status == 413 => {
                balancer.hold_less();
                Next::Continue
            }
            State::New | State::Holding(_) | State::Passing | State::Done => Next::Continue,
            State::Calling => Next::Continue,
            State::Answered => self.pass(self.attempts.backend()),
            State::GivenUp => self.answer_for_want_of_one(),
            State::Marked | State::Departing(_) => {
                let is_marked = word.as_ref().is_some_and(|word| word.is_marked);
                self.router_declined(details, is_marked, balancer)
            }
            State::Attempting | State::Deciding(_) => {
                let origin = self.origin(details, balancer);
                let is_awaited = matches!(
                    self.state,
                    State::Attempting
                        | State::Deciding(
                            Until::ErrorBody(_) | Until::Content | Until::StreamEnd(_)
                        )
                );
                if is_awaited && origin.is_to_slow_client(status) {
                    balancer.count(Event::ClientGone);
                    self.state = State::Done;
                    return Next::Continue;
                }
                self.conclude_unanswered(balancer);
                self.end_unanswered(balancer);
                self.timed_out = status == 504;
                self.answer_for_want_of_one()
            }
            State::Sent => match self.origin(details, balancer) {
                Origin::Backend => self.pass_unobserved(balancer),
                Origin::Router => self.no_attempt_made(balancer),
                Origin::Other => {
                    self.state = State::Done;
                    Next::Continue
                }
            },
        }
    }

    fn pass(&mut self, backend: usize) -> Next {
        self.answered_by = backend;
        self.state = State::Passing;
        Next::Pass
    }

    /// The router made no attempt where it was told to.
    #[inline(never)]
    fn router_declined<H: Host>(
        &mut self,
        details: Option<&[u8]>,
        is_marked: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        if is_marked {
            balancer.count(Event::NoRetry(NoRetry::RouterDeclined));
            balancer.complain(Complaint::RouterDeclined);
            self.router.declined = true;
            return self.pass(self.answered_by);
        }
        if self.origin(details, balancer) == Origin::Backend {
            return self.pass_unobserved(balancer);
        }
        // The router followed, but no further than to a cluster without a host.
        balancer.complain(Complaint::RouterDeclined);
        self.no_attempt_made(balancer)
    }

    /// The router could not even begin the attempt.
    #[inline(never)]
    fn no_attempt_made<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        self.attempt_made(balancer);
        self.headers = None;
        self.conclude(Outcome::Unavailable, balancer);
        balancer.count(Event::NoRetry(NoRetry::RouterDeclined));
        self.answer_for_want_of_one()
    }

    /// Lets a backend's answer pass that no upstream filter saw.
    #[inline(never)]
    fn pass_unobserved<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        balancer.complain(Complaint::UpstreamFilter);
        self.attempts.attempt_made();
        self.pass(self.attempts.backend())
    }

    /// Ends the request after an attempt without an answer that the router did not follow with another one.
    fn end_unanswered<H: Host>(&mut self, balancer: &Balancer<H>) {
        let replay = self.replay(Outcome::Unavailable, balancer);
        let declined = |_: &_| Err(NoRetry::RouterDeclined);
        let verdict = self.attempts.after(Outcome::Unavailable, replay, declined);
        if let Verdict::GiveUp(reason) = verdict {
            self.give_up(reason, balancer);
        }
    }
}
