//! What an answer, or the want of one, says of its backend, and what follows from it.

use alloc::rc::Rc;

use super::{Answer, AnswerBody, Exchange, Next, NoRetry, Replay, Stalled, State, Until, Verdict};
use crate::balancer::{Balancer, Complaint, Detail, Wish};
use crate::config::{Engine, Policy};
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::identity::{Authorization, Renewal};
use crate::metrics::Event;
use crate::outcome::{Diagnosis, Origin, Outcome, Trace};
use crate::pace::Pace;
use crate::plan::Plan;
use crate::prelude::*;
use crate::text::number;

/// What is to be read of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// Envoy's `response.code_details`.
    pub details: bool,
    /// The headers.
    pub headers: bool,
}

/// Where another attempt goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// To the best backend there is now.
    Best,
    /// To the one that was foreseen, if any was: the router has not asked again.
    Foreseen(Option<usize>),
}

impl Exchange {
    /// Whether an answer is awaited: another one is not an attempt's.
    pub fn awaits_answer(&self) -> bool {
        matches!(self.state, State::Attempting)
    }

    /// What [`Input::Answer`](super::Input::Answer) needs to know of an answer with this `status`.
    pub fn wants<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> Wants {
        let (is_error, is_router) = (status >= 400, self.engine == Engine::Router);
        let is_chosen_by_news = balancer.config.policy == Policy::LeastThrottled;
        Wants {
            // The router engine's attempts are answered by backends only.
            details: is_error && !is_router,
            headers: is_chosen_by_news || is_error && self.keeps(status, balancer),
        }
    }

    /// Whether the headers of an error say something to learn, or are kept.
    #[inline(never)]
    fn keeps<H: Host>(&self, status: u16, balancer: &Balancer<H>) -> bool {
        match Outcome::from_status(status, &balancer.config.retry) {
            Some(Outcome::Throttled) => true,
            Some(Outcome::Success | Outcome::ClientError) => false,
            _ => self.engine == Engine::Router,
        }
    }

    /// Whether the end of a wait needs what has come of the answer.
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
        self.answer_ends(end);
        if !self.awaits_answer() {
            return Next::Continue;
        }
        let retry = &balancer.config.retry;
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
        let outcome = Outcome::from_status(status, retry);
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
        // An error's body is awaited where it may decide what follows, and where the router throws it away although it may be the
        // last real answer there is.
        let bodies = self.held_bodies(balancer);
        let is_awaited = is_router || outcome.is_none();
        if is_awaited && !end && self.may_hold && bodies.may_come() {
            self.state = State::Deciding(Until::ErrorBody(status));
            return Next::Wait(Wish::ErrorBody);
        }
        let kept = end.then(|| AnswerBody::Whole(Vec::new()));
        self.settle(status, &[], kept, balancer)
    }

    pub(super) fn on_answer_body<H: Host>(
        &mut self,
        bytes: Option<Vec<u8>>,
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        self.answer_ends(end);
        match self.state {
            State::Deciding(Until::ErrorBody(status)) => {
                self.held_bodies(balancer).came();
                let Some(body) = bytes else {
                    return Next::Hold;
                };
                // A body larger than an error's is not kept: what is delivered is whole.
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

    fn answer_ends(&mut self, end: bool) {
        if end && self.body.is_growing() {
            self.body.drop_because(NoRetry::RequestIncomplete);
        }
    }

    /// The backend answered with an error, and its body has not come in time.
    #[inline(never)]
    pub(super) fn on_stalled<H: Host>(
        &mut self,
        status: u16,
        stalled: Option<Box<Stalled>>,
        balancer: &Balancer<H>,
    ) -> Next {
        let is_filter = self.engine == Engine::Filter;
        if is_filter && !balancer.listener_bodies.have_come() {
            // It may be there: Envoy hides it until the answer passes, whole.
            self.unheld.released(balancer.host().now());
            return self.settle(status, &[], None, balancer);
        }
        let bodies = &balancer.cluster_bodies;
        if !is_filter && !bodies.have_come() && bodies.missed() {
            balancer.complain(Complaint::HiddenBodies);
        }
        // Either the backend has stalled or Envoy hides the body, which cannot be told apart at first. The client gets a complete
        // answer in both cases.
        let Stalled { headers, body } = stalled.map_or_else(Stalled::nothing, |it| *it);
        self.headers = Some(headers);
        self.settle(status, &body, Some(AnswerBody::Stalled), balancer)
    }

    /// Decides what follows an error with this `body`. The client may get the answer later, if a body is `kept` for that.
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
        let headers = self.headers.take();
        if self.engine == Engine::Router {
            self.note_rate_limit(headers.as_ref());
        }
        // The filter engine needs no copy of what the host holds.
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

    /// Does what follows the current attempt's `outcome`.
    #[inline(never)]
    pub(super) fn proceed<H: Host>(&mut self, outcome: Outcome, balancer: &Balancer<H>) -> Next {
        // At most twice: the second time a bad token counts like any other failure.
        loop {
            match self.after(outcome, Destination::Best, balancer) {
                Verdict::Deliver | Verdict::GiveUp(_) => return self.deliver(),
                Verdict::AwaitRequest => {
                    self.state = State::Deciding(Until::RequestEnd(outcome));
                    return Next::Hold;
                }
                Verdict::TryNext => {
                    if self.engine == Engine::Router {
                        return self.mark();
                    }
                    // Without a token there is no attempt, and the others would fare no better.
                    return match balancer.credentials.of(self.attempts.backend()) {
                        Some(token) => self.renewed(token, balancer),
                        None => self.deliver(),
                    };
                }
                Verdict::RenewToken => {
                    let backend = self.attempts.backend();
                    let generation = self.token_generation();
                    let now = balancer.host().now();
                    match balancer.credentials.renew(backend, generation, now) {
                        Renewal::Done(token) => return self.renewed(token, balancer),
                        Renewal::Pending if !self.may_hold => {
                            self.router.outdated = Some(generation);
                            return self.mark();
                        }
                        Renewal::Pending => {
                            self.state = State::Deciding(Until::Token);
                            return Next::Wait(Wish::NewerToken(backend, generation));
                        }
                        // Asked once more, the attempts go on to the next backend.
                        Renewal::IsNew => self.conclude_new_token(balancer),
                        Renewal::Failed => {}
                    }
                }
            }
        }
    }

    /// The next attempt goes to the current backend with this token.
    pub(super) fn renewed<H: Host>(
        &mut self,
        token: Rc<Authorization>,
        balancer: &Balancer<H>,
    ) -> Next {
        match self.engine {
            Engine::Filter => {
                self.carry(token);
                self.attempt_made(balancer);
                self.state = State::Calling;
                Next::Call
            }
            // The attempt takes it when it begins.
            Engine::Router => self.mark(),
        }
    }

    fn mark(&mut self) -> Next {
        self.state = State::Marked;
        Next::Mark
    }

    #[inline(never)]
    pub(super) fn on_refused_call<H: Host>(
        &mut self,
        unknown_cluster: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        // Otherwise the cluster has no healthy host, or a circuit breaker is open.
        if unknown_cluster {
            balancer.complain(Complaint::Cluster(self.attempts.backend()));
        }
        self.trace = Trace::None;
        self.headers = None;
        self.conclude(Outcome::Unavailable, balancer);
        self.timed_out = false;
        self.proceed(Outcome::Unavailable, balancer)
    }

    #[inline(never)]
    pub(super) fn on_call_answer<H: Host>(
        &mut self,
        headers: HeaderMap,
        body: Vec<u8>,
        balancer: &Balancer<H>,
    ) -> Next {
        if !matches!(self.state, State::Calling) {
            return Next::Hold;
        }
        let status = headers.get(":status").map(str::as_bytes);
        let status = status.and_then(number).unwrap_or(0);
        let failure = self.failure_in(status, &headers, &body, balancer);
        let outcome = match status {
            // No answer at all.
            0 => Outcome::Unavailable,
            status => Outcome::from_status(status, &balancer.config.retry)
                .unwrap_or_else(|| self.error_outcome(status, &body, balancer)),
        };
        let is_real = is_from_backend(status, &headers);
        self.trace = match is_real {
            true => Trace::of_status(status),
            false => Trace::of_no_answer(&body),
        };
        let (headers, outcome) = match failure {
            Some(status) => (Some(headers), self.conclude_failed_stream(status, balancer)),
            None => {
                self.headers = Some(headers);
                self.conclude(outcome, balancer);
                (self.headers.take(), outcome)
            }
        };
        if let (true, Some(headers)) = (is_real, headers) {
            self.begin_usage_of(status, &body, balancer);
            self.kept = Some(Box::new(Answer {
                status,
                headers,
                body: AnswerBody::Whole(body),
                backend: self.attempts.backend(),
            }));
        } else {
            self.timed_out = status == 504;
        }
        self.proceed(outcome, balancer)
    }

    /// The router's answer is the client's, and its backend has stalled.
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

    /// The answer at hand is the client's.
    pub(super) fn on_last_answer(&mut self) -> Next {
        match self.engine {
            Engine::Router => {
                self.state = State::Answered;
                Next::Continue
            }
            Engine::Filter => self.deliver(),
        }
    }

    /// Gives the client the last answer of a backend there is: one that was kept, or else the one at hand, or else a reply that says
    /// there was none.
    fn deliver(&mut self) -> Next {
        if self.engine == Engine::Router {
            return self.yield_or_pass();
        }
        // An answer may take a minute to pass, and its request is not needed any more.
        self.body.drop_because(NoRetry::AttemptsExhausted);
        if let Some(answer) = self.kept.take() {
            return self.answer_with(answer);
        }
        if !self.is_real {
            return self.answer_for_want_of_one();
        }
        self.state = State::Passing;
        Next::Pass
    }

    /// Where the answer at hand is from, by what Envoy says of it. It says nothing of most.
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

    /// The outcome of an answer whose error code decides.
    #[inline(never)]
    fn error_outcome<H: Host>(
        &mut self,
        status: u16,
        body: &[u8],
        balancer: &Balancer<H>,
    ) -> Outcome {
        let diagnosis = Diagnosis::of(status, body);
        self.denial = diagnosis.denial;
        match diagnosis.outcome {
            // It is the client's key that was refused, and no backend's fault.
            Outcome::BadToken | Outcome::PermissionDenied
                if self.request.session_key().is_some() =>
            {
                Outcome::ClientError
            }
            // There is no other key to try.
            Outcome::BadToken if balancer.credentials.is_keyed(self.attempts.backend()) => {
                Outcome::PermissionDenied
            }
            outcome => outcome,
        }
    }

    /// Decides what follows the `outcome` of the current attempt, and where another one goes.
    pub(super) fn after<H: Host>(
        &mut self,
        outcome: Outcome,
        to: Destination,
        balancer: &Balancer<H>,
    ) -> Verdict {
        // No backend is chosen, and the current one knows of the attempt's end.
        if matches!(outcome, Outcome::Success | Outcome::ClientError) {
            return Verdict::Deliver;
        }
        self.after_failure(outcome, to, balancer)
    }

    #[inline(never)]
    fn after_failure<H: Host>(
        &mut self,
        outcome: Outcome,
        to: Destination,
        balancer: &Balancer<H>,
    ) -> Verdict {
        let (demand, replay) = (self.request.demand(), self.replay(outcome, balancer));
        balancer.can_authorize();
        let choose = |plan: &Plan| match to {
            Destination::Best => balancer.choose_next(plan, &demand, outcome),
            Destination::Foreseen(foreseen) => {
                balancer.choose_foreseen(plan, &demand, foreseen, outcome)
            }
        };
        let (verdict, lesson) = self.attempts.move_on(outcome, replay, &demand, choose);
        if let Some(lesson) = lesson {
            balancer.learn(&lesson, Detail::default);
        }
        match &verdict {
            Verdict::TryNext => self.count_choice(balancer),
            Verdict::GiveUp(reason) => self.give_up(*reason, balancer),
            _ => {}
        }
        verdict
    }

    /// Whether the request can be sent once more after this `outcome`: not if it may have been done, and must not be done twice.
    pub(super) fn replay<H: Host>(&self, outcome: Outcome, balancer: &Balancer<H>) -> Replay {
        let once = outcome == Outcome::Unavailable
            && self.trace == Trace::Possible
            && !self.request.is_repeatable(&balancer.config);
        if once {
            return Replay::Impossible(NoRetry::NotRepeatable);
        }
        let is_filter = self.engine == Engine::Filter;
        match self.body.replay() {
            // Looked at only now: most requests are sent once.
            Replay::Ready | Replay::Incomplete if is_filter && !self.original.is_utf8() => {
                Replay::Impossible(NoRetry::HeadersNotReplayable)
            }
            replay => replay,
        }
    }

    /// Counts and explains why there is no further attempt.
    #[inline(never)]
    pub(super) fn give_up<H: Host>(&mut self, reason: NoRetry, balancer: &Balancer<H>) {
        balancer.count(Event::NoRetry(reason));
        if let Some(mut why) = self.why.take() {
            why.not_retried(reason);
            if reason == NoRetry::BackendsOut {
                self.explain_others(&mut why, balancer);
            }
            self.why = Some(why);
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

/// Whether the answer to a call is a backend's, not Envoy's own for want of one.
fn is_from_backend(status: u16, headers: &HeaderMap) -> bool {
    status != 0 && (status < 500 || headers.get("x-envoy-upstream-service-time").is_some())
}
