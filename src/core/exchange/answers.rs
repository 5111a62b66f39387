//! Answers to attempts: their outcome, the lesson for their backend, and the next step.

use super::{Answer, AnswerBody, Exchange, Next, NoRetry, Stalled, State, Until};
use crate::balancer::{Awaited, Balancer, Complaint};
use crate::config::{Engine, Policy};
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::metrics::Event;
use crate::outcome::{Diagnosis, Origin, Outcome, Trace};
use crate::pace::Pace;
use crate::prelude::*;
use crate::text::number;

/// The parts of an answer that the driver must read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Envoy's `response.code_details`.
    pub details: bool,
    /// The headers.
    pub headers: bool,
}

impl Exchange {
    /// Whether an attempt awaits an answer. Any other answer is a local reply.
    pub fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Attempting)
    }

    /// The parts of an answer with this `status` that [`Input::Answer`](super::Input::Answer) needs.
    pub fn wants<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> Wants {
        let (is_error, is_router) = (status >= 400, self.engine == Engine::Router);
        let is_chosen_by_news = balancer.config.policy == Policy::LeastThrottled;
        Wants {
            // With the router engine, only backends answer attempts.
            details: is_error && !is_router,
            headers: is_chosen_by_news || is_error && self.keeps(status, balancer),
        }
    }

    /// Whether the headers of an error are needed, for a lesson or for the client.
    #[inline(never)]
    fn keeps<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> bool {
        match Outcome::from_status(status, &balancer.config.retry) {
            Some(Outcome::Throttled) => true,
            Some(Outcome::Success | Outcome::ClientError) => false,
            _ => self.engine == Engine::Router,
        }
    }

    /// Whether the end of a wait needs the answer as far as it arrived.
    pub fn wants_stalled(&self) -> bool {
        use Until::{ErrorBody, Frame};
        matches!(self.state, State::Deciding(ErrorBody(_) | Frame))
    }

    pub(super) fn on_answer<H: Host>(
        &mut self,
        status: u16,
        details: Option<&[u8]>,
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        self.note_end_of_answer(end);
        if !self.awaits_answer() {
            return Next::Continue;
        }
        self.answered_by = self.attempts.backend();
        self.status = status;
        self.trace = Trace::of_status(status);
        let origin = self.origin(details, balancer);
        if origin == Origin::Other {
            if origin.is_to_slow_client(status) {
                balancer.count(Event::ClientGone);
            }
            self.state = State::Done;
            return Next::Continue;
        }
        self.is_real = origin == Origin::Backend;
        self.timed_out = !self.is_real && status == 504;
        let outcome = match status {
            0..=399 => Some(Outcome::Success),
            _ => self.outcome_of_error(status, balancer),
        };
        let is_router = self.engine == Engine::Router;
        self.stream = None;
        self.usage = None;
        self.pace = Pace::Unknown;
        if outcome == Some(Outcome::Success) && !end {
            if let Some(next) = self.hold_stream(status, balancer) {
                return next;
            }
        }
        if let Some(outcome @ (Outcome::Success | Outcome::ClientError)) = outcome {
            self.forget_headers(balancer);
            self.conclude(outcome, balancer);
            return self.on_last_answer();
        }
        // An error's body is awaited if it may decide the next step. The router engine always awaits it: the router
        // discards the body on a retry, and the answer may be the last real one.
        let bodies = self.held_bodies(balancer);
        let is_awaited = is_router || outcome.is_none();
        if is_awaited && !end && self.may_hold && bodies.may_come() {
            self.state = State::Deciding(Until::ErrorBody(status));
            return Next::Wait(Awaited::ErrorBody);
        }
        let kept = end.then(|| AnswerBody::Whole(Vec::new()));
        self.settle(status, &[], kept, balancer)
    }

    /// The outcome that follows from an error's `status` alone. `None` if the body decides.
    #[inline(never)]
    fn outcome_of_error<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> Option<Outcome> {
        match self.may_refuse_option(status, balancer) {
            true => None,
            false => Outcome::from_status(status, &balancer.config.retry),
        }
    }

    pub(super) fn on_answer_body<H: Host>(
        &mut self,
        bytes: Option<Vec<u8>>,
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        self.note_end_of_answer(end);
        match self.state {
            State::Deciding(Until::ErrorBody(status)) => {
                self.held_bodies(balancer).came();
                let Some(body) = bytes else {
                    return Next::Hold;
                };
                // A body longer than `ERROR_BODY` is not kept: the client must get complete bodies.
                let is_router = self.engine == Engine::Router;
                let kept = (is_router && end).then(|| AnswerBody::Whole(body.clone()));
                self.settle(status, &body, kept, balancer)
            }
            State::Deciding(Until::Content) => {
                self.on_stream_start(&bytes.unwrap_or_default(), end, balancer)
            }
            State::Deciding(Until::StreamEnd(status)) => {
                self.on_failed_stream(status, &bytes.unwrap_or_default(), end, balancer)
            }
            State::Deciding(Until::RequestEnd(outcome)) if end => {
                self.stream_is_whole();
                self.proceed(outcome, balancer)
            }
            State::Deciding(Until::Frame) => {
                self.state = State::Passing;
                Next::Continue
            }
            State::Deciding(_) | State::Calling => {
                if end {
                    self.stream_is_whole();
                }
                Next::Hold
            }
            State::Passing => {
                self.watch(balancer);
                Next::Continue
            }
            _ => Next::Continue,
        }
    }

    fn note_end_of_answer(&mut self, end: bool) {
        if end && self.body.is_growing() {
            self.body.drop_because(NoRetry::RequestIncomplete);
        }
    }

    /// The backend answered with an error whose body did not arrive in time.
    #[inline(never)]
    pub(super) fn on_stalled<H: Host>(
        &mut self,
        status: u16,
        stalled: Option<Box<Stalled>>,
        balancer: &Balancer<H>,
    ) -> Next {
        let is_filter = self.engine == Engine::Filter;
        if is_filter && !balancer.listener_bodies.have_come() {
            // Envoy may have hidden the body. Then the whole body passes together with the answer.
            self.hidden_body.released(balancer.host().now());
            return self.settle(status, &[], None, balancer);
        }
        let bodies = &balancer.cluster_bodies;
        if !is_filter && !bodies.have_come() && bodies.missed() {
            balancer.complain(Complaint::HiddenBodies);
        }
        // Either the backend has stalled or Envoy hides the body. At first these look alike. In both cases the client
        // gets a complete answer.
        let Stalled { headers, body } = stalled.map_or_else(Stalled::nothing, |it| *it);
        self.headers = Some(headers);
        self.settle(status, &body, Some(AnswerBody::Stalled), balancer)
    }

    /// Decides the next step after an error with this `body`. If a body is `kept`, the client may get the answer later.
    #[inline(never)]
    pub(super) fn settle<H: Host>(
        &mut self,
        status: u16,
        body: &[u8],
        kept: Option<AnswerBody>,
        balancer: &Balancer<H>,
    ) -> Next {
        let outcome = Outcome::from_status(status, &balancer.config.retry)
            .unwrap_or_else(|| self.error_outcome(status, body, balancer));
        self.conclude(outcome, balancer);
        if let Some(next) = self.retry_without_option(status, body, balancer) {
            return next;
        }
        let headers = self.headers.take();
        if self.engine == Engine::Router {
            self.note_rate_limit(headers.as_ref());
        }
        // The host still holds the answer for the filter engine, so no copy is needed.
        let is_copied = match (self.engine, &kept) {
            (Engine::Router, _) | (_, Some(AnswerBody::Stalled)) => true,
            (Engine::Filter, _) => false,
        };
        let answer = headers.zip(kept).filter(|_| is_copied);
        self.kept = answer.map(|(headers, body)| {
            Box::new(Answer {
                status,
                headers,
                body,
                backend: self.answered_by,
            })
        });
        self.proceed(outcome, balancer)
    }

    /// Delivers the router's answer although its backend has stalled.
    #[inline(never)]
    pub(super) fn deliver_stalled(&mut self, stalled: Option<Box<Stalled>>) -> Next {
        let Stalled { headers, .. } = stalled.map_or_else(Stalled::nothing, |it| *it);
        let status = headers.get(":status").map(str::as_bytes);
        self.kept = Some(Box::new(Answer {
            status: status.and_then(number).unwrap_or(0),
            headers,
            body: AnswerBody::Stalled,
            backend: self.answered_by,
        }));
        self.deliver()
    }

    /// Delivers the current answer to the client.
    pub(super) fn on_last_answer(&mut self) -> Next {
        match self.engine {
            Engine::Router => {
                self.state = State::Answered;
                Next::Continue
            }
            Engine::Filter => self.deliver(),
        }
    }

    /// Delivers the last answer of a backend. This is a kept answer or the current one. Without either, the client gets
    /// a reply that no backend answered.
    pub(super) fn deliver(&mut self) -> Next {
        if self.engine == Engine::Router {
            return self.yield_or_pass();
        }
        // The answer may take a minute to pass, and no further attempt needs the request.
        self.body.drop_because(NoRetry::AttemptsExhausted);
        if let Some(answer) = self.kept.take() {
            return self.answer_with(answer);
        }
        if !self.is_real {
            return self.reply_without_answer();
        }
        self.state = State::Passing;
        Next::Pass
    }

    /// The origin of the current answer, by Envoy's details. Most answers need no details.
    pub(super) fn origin<H: Host>(
        &mut self,
        details: Option<&[u8]>,
        balancer: &Balancer<H>,
    ) -> Origin {
        let Some(details) = details else {
            return Origin::Backend;
        };
        let origin = Origin::of(details);
        if origin != Origin::Backend {
            self.trace = Trace::of_no_answer(details);
        }
        if details == b"cluster_not_found" {
            balancer.complain(Complaint::Cluster(self.attempts.backend()));
        }
        origin
    }

    /// The outcome of an error whose code decides.
    #[inline(never)]
    pub(super) fn error_outcome<H: Host>(
        &mut self,
        status: u16,
        body: &[u8],
        balancer: &Balancer<H>,
    ) -> Outcome {
        let diagnosis = Diagnosis::of(status, body);
        self.denial = diagnosis.denial;
        match diagnosis.outcome {
            // The backend refused the client's own key, so the error is the client's.
            Outcome::BadToken | Outcome::PermissionDenied
                if self.request.session_key().is_some() =>
            {
                Outcome::ClientError
            }
            // A backend with a key has no other credential to try.
            Outcome::BadToken if balancer.credentials.is_keyed(self.attempts.backend()) => {
                Outcome::PermissionDenied
            }
            outcome => outcome,
        }
    }
}

impl Stalled {
    fn nothing() -> Self {
        Self {
            headers: HeaderMap::default(),
            body: Vec::new(),
        }
    }
}
