//! Attempts by Envoy's router, as the upstream filter sees them, and the router's final answer, as the listener's
//! filter sees it.

use super::next_attempt::Destination;
use super::reply::AnswerEdits;
use super::{
    digit, Answer, AnswerBody, Exchange, FinalAnswer, Next, NoRetry, Replay, State, Until,
};
use super::{Awaited, Event, HeaderMap, Host, Origin, Outcome, Splices, Timestamp, Trace, Verdict};
use crate::attempt::{grown, RequestEdits};
use crate::balancer::{Balancer, Complaint};
use crate::config::{Backend, Config};
use crate::path;
use crate::prelude::*;

/// The response header of a rate limit in Envoy. Envoy's router does not retry an answer with this header, whatever the
/// retry policy (`RetryStateImpl::wouldRetryFromHeaders`). So it is removed from a marked answer.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

/// The response header that the route's retry policy matches (`retriable_headers`). Clients never see the filter's own.
const RETRY: &str = "x-aoai-retry";

/// The state of a request whose attempts the router makes.
#[derive(Debug, Default)]
pub(super) struct Rerouted {
    /// The start of the current attempt, if it may be the last.
    began: Option<Timestamp>,
    /// The value of the header [`RATE_LIMITED`] of the last error.
    rate_limited: Option<String>,
    /// The backend to which the router goes if the current attempt gets no answer.
    pub(super) foreseen: Option<usize>,
    /// The generation of a refused token that the next attempt must not use, if a newer token is being fetched.
    pub(super) outdated: Option<u32>,
    /// Whether the passing answer was marked, and the router did not retry.
    declined: bool,
}

impl Exchange {
    /// Whether the attempt that begins is a retry.
    pub fn is_retrying(&self) -> bool {
        self.attempts.made() > 0
    }

    /// The router begins an attempt. It is the first, one that a marked answer requested, or one after an attempt
    /// without an answer. The router sends the latter to the foreseen backend.
    pub(super) fn on_attempt<H: Host>(
        &mut self,
        cluster: Option<Vec<u8>>,
        balancer: &Balancer<H>,
    ) -> Next {
        if let Some(generation) = self.router.outdated.take() {
            let backend = self.attempts.backend();
            let carried = balancer.credentials.of(backend);
            let is_old = carried.is_some_and(|token| token.generation == generation);
            // An attempt is not held if its body must be changed, because the body is changed while it passes.
            if is_old && self.renaming(balancer).is_empty() {
                self.state = State::AttemptHeld(cluster);
                return Next::Wait(Awaited::NewerToken(backend, generation));
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
            // The token has expired. The attempt must not reuse the previous attempt's credential.
            self.state = State::GivenUp;
            return Next::Refuse("aoai_plan_exhausted");
        };
        self.attempt_made(balancer);
        self.router.foreseen = self.foresee(balancer);
        let is_first = self.attempts.made() == 1;
        // The time is read only for an attempt that may be the last, because it costs a host call.
        let is_only = balancer.config.retry.max_attempts == 1;
        let may_be_last = !is_first || is_only || self.router.foreseen.is_none();
        self.router.began = may_be_last.then(|| balancer.host().now());
        self.state = State::Attempting;
        // The listener's filter has addressed the first attempt.
        if is_first {
            return Next::PassAttempt;
        }
        let expected = balancer.config.backends.get(backend);
        let expected = expected.map(|backend| backend.cluster.as_bytes());
        if cluster.is_some_and(|cluster| Some(cluster) != expected) {
            balancer.complain(Complaint::Route);
            return Next::Refuse("aoai_wrong_route");
        }
        self.authorize_with(token);
        Next::PassAttempt
    }

    /// Concludes the previous attempt if it got no answer. `false` if no further attempt is allowed.
    #[inline(never)]
    fn may_begin<H: Host>(&mut self, balancer: &Balancer<H>) -> bool {
        match self.state {
            State::Attempting | State::Deciding(_) => self.conclude_unanswered(balancer),
            // A backend's answer had the mark's header, and the router dropped the answer. The request has been carried
            // out.
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

    /// Concludes an attempt without a complete answer: connection refused, reset or timeout.
    fn conclude_unanswered<H: Host>(&mut self, balancer: &Balancer<H>) {
        use Until::{Content, ErrorBody, StreamEnd};
        match self.state {
            State::Attempting | State::Deciding(ErrorBody(_) | Content) => {
                self.headers = None;
                self.stream = None;
                self.conclude(Outcome::Unavailable, balancer);
            }
            // The stream's error already has the reason.
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
        // Envoy's timers use another clock, which may be some milliseconds ahead of this one.
        let limit = limit.unwrap_or_default().mul_f64(0.9);
        let now = || balancer.host().now();
        self.router
            .began
            .is_some_and(|began| began + limit <= now())
    }

    /// Edits of the current attempt's headers. They also undo the previous attempt's edits.
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
        // The path may still have the previous attempt's edits.
        if config.backends.iter().any(Backend::renames) {
            let request = &self.request;
            let path = request.path(self.client_path());
            let deployment = &request.operation.deployment;
            let path = path::on_backend(path, request.surface, deployment, backend);
            edits.set(":path", path);
        }
        if let (Some(old), Some(new)) = (&self.previous_authorization, &self.authorization) {
            let surface = self.request.surface;
            let (old, new) = (old.credential().on(surface), new.credential().on(surface));
            if old.name != new.name {
                edits.remove(old.name);
            }
            edits.set(new.name, new.value);
        }
    }

    /// Edits of the body after the listener's filter: the deployment's name and the request for tokens.
    pub fn renaming<H: Host>(&self, balancer: &Balancer<H>) -> Splices {
        let index = self.attempts.backend();
        let backend = balancer.config.backends.get(index);
        let mut splices =
            backend.map_or_else(Splices::default, |backend| self.request.renaming(backend));
        if self.requests_usage(index, balancer) {
            self.request.request_usage(&mut splices);
        }
        splices
    }

    /// Sets the router's number of retries where it differs from the route's: for requests that cannot be retried, and
    /// for clients that set their own.
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

    /// Edits of an answer's headers that make the router retry.
    pub fn marking(&self) -> AnswerEdits<'static> {
        let mut edits = AnswerEdits::default();
        if self.router.rate_limited.is_some() {
            edits.remove(RATE_LIMITED);
        }
        edits.set(RETRY, "1");
        edits
    }

    /// The header of the [mark](Next::Mark). No answer to a client has it.
    pub const MARK: &str = RETRY;

    pub(super) fn note_rate_limit(&mut self, headers: Option<&HeaderMap>) {
        let value = headers.and_then(|headers| headers.get(RATE_LIMITED));
        self.router.rate_limited = value.map(str::to_owned);
    }

    /// Removes the mark from an answer that the client gets after all, and restores the removed header.
    pub(super) fn unmark<'a>(&'a self, edits: &mut AnswerEdits<'a>) {
        if self.router.declined {
            edits.remove(RETRY);
            if let Some(value) = &self.router.rate_limited {
                edits.set(RATE_LIMITED, value);
            }
        }
    }

    /// Ends the attempts with the upstream filter's current answer.
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

    /// Whether [`Input::FinalAnswer`](super::Input::FinalAnswer) needs the final answer's details.
    pub fn wants_final_answer(&self) -> bool {
        !matches!(
            self.state,
            State::New | State::Answered | State::GivenUp | State::Passing | State::Done
        )
    }

    pub(super) fn on_final_answer<H: Host>(
        &mut self,
        answer: Option<FinalAnswer>,
        balancer: &Balancer<H>,
    ) -> Next {
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let details = answer.as_ref().and_then(|answer| answer.details.as_deref());
        match &self.state {
            State::Holding(super::For::Body) if status == 413 => {
                balancer.reduce_hold_limit();
                Next::Continue
            }
            State::New | State::Holding(_) | State::Passing | State::Done => Next::Continue,
            State::Calling => Next::Continue,
            State::Answered => self.pass(self.attempts.backend()),
            State::GivenUp => self.reply_without_answer(),
            State::Marked | State::AttemptHeld(_) => {
                let is_marked = answer.as_ref().is_some_and(|answer| answer.is_marked);
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
                self.reply_without_answer()
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

    /// Handles a missing attempt after a marked answer.
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
        // The router retried, but the chosen cluster has no host.
        balancer.complain(Complaint::RouterDeclined);
        self.no_attempt_made(balancer)
    }

    /// Concludes an attempt that the router could not begin.
    #[inline(never)]
    fn no_attempt_made<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        self.attempt_made(balancer);
        self.headers = None;
        self.conclude(Outcome::Unavailable, balancer);
        balancer.count(Event::NoRetry(NoRetry::RouterDeclined));
        self.reply_without_answer()
    }

    /// Passes a backend's answer that bypassed the upstream filter.
    #[inline(never)]
    fn pass_unobserved<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        balancer.complain(Complaint::UpstreamFilter);
        self.attempts.attempt_made();
        self.pass(self.attempts.backend())
    }

    /// Ends the request after an attempt without an answer and without a retry by the router.
    fn end_unanswered<H: Host>(&mut self, balancer: &Balancer<H>) {
        let replay = self.replay(Outcome::Unavailable, balancer);
        let declined = |_: &_| Err(NoRetry::RouterDeclined);
        let verdict = self.attempts.after(Outcome::Unavailable, replay, declined);
        if let Verdict::GiveUp(reason) = verdict {
            self.give_up(reason, balancer);
        }
    }
}
