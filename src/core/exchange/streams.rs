//! Event streams that begin with their backend's error.
//!
//! An event stream is held until its first content, and for [`Retry::stream_start`](crate::config::Retry::stream_start) at most. An error
//! that comes before is an outcome like that of a status, and the next backend may answer. After content everything passes.

use core::ops::Range;
use core::time::Duration;

use super::{Answer, AnswerBody, Exchange, Next, State, Until, ERROR_BODY};
use crate::balancer::{Balancer, HeldBodies, Wish};
use crate::config::{Engine, Policy};
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::metrics::Event;
use crate::outcome::{Outcome, Trace};
use crate::prelude::*;
use crate::stream_start::{is_event_stream, Failure, Start, StreamStart, STREAM_START};
use crate::time::Timestamp;

/// How long a failed stream is held for its end. Backends end it at once; one that does not costs its connection.
const STREAM_END: Duration = Duration::from_millis(200);

/// So much earlier than Envoy's router is decided on a stream whose content is overdue.
const BEFORE_THE_ROUTER: Duration = Duration::from_millis(100);

/// The status of the answers that are looked into.
const OK: u16 = 200;

impl Exchange {
    /// Whether the answer may be an event stream whose start matters. Then [`Input::Answer`](super::Input::Answer) needs its headers.
    pub fn reads_stream_start<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        !balancer.config.retry.stream_start.is_zero()
            && self.request.may_stream()
            && self.held_bodies(balancer).may_come()
    }

    pub(super) fn held_bodies<'a, H: Host>(&self, balancer: &'a Balancer<H>) -> &'a HeldBodies {
        match self.engine {
            Engine::Filter => &balancer.listener_bodies,
            Engine::Router => &balancer.cluster_bodies,
        }
    }

    /// Which bytes of the answer [`Input::AnswerBody`](super::Input::AnswerBody) needs, if any, where the host shows so many, those that
    /// came before included.
    pub fn wants_answer_body(&self, shown: usize, end: bool) -> Option<Range<usize>> {
        match (&self.state, &self.stream) {
            (State::Deciding(Until::ErrorBody(_)), _) => {
                (end || shown > ERROR_BODY).then(|| 0..shown.min(ERROR_BODY))
            }
            (State::Deciding(Until::Content | Until::StreamEnd(_)), Some(stream)) => {
                let seen = stream.seen();
                let until = shown.min(STREAM_START);
                (until > seen).then_some(seen..until)
            }
            _ => None,
        }
    }

    /// Begins to hold an answer that is an event stream; `None` if there is nothing to hold.
    pub(super) fn hold_stream<H: Host>(
        &mut self,
        status: u16,
        balancer: &Balancer<H>,
    ) -> Option<Next> {
        let is_stream = status == OK
            && self.may_hold
            && self.reads_stream_start(balancer)
            && self.headers.as_ref().is_some_and(is_event_stream);
        if !is_stream {
            return None;
        }
        self.stream = Some(Box::default());
        self.state = State::Deciding(Until::Content);
        Some(self.await_content(balancer))
    }

    fn await_content<H: Host>(&self, balancer: &Balancer<H>) -> Next {
        // Where Envoy may hide bodies, the content may be there: nothing is held for long, and no backend blamed.
        let are_shown = self.held_bodies(balancer).have_come();
        let longest = match self.content_due.filter(|_| are_shown) {
            Some(due) => due.since(balancer.host().now()),
            None => balancer.config.retry.stream_start,
        };
        Next::Wait(Wish::StreamStart(longest))
    }

    /// Until when the first content of an attempt that begins now has to come, where its backend has a limit of its own.
    pub(super) fn content_due<H: Host>(&self, balancer: &Balancer<H>) -> Option<Timestamp> {
        let config = &balancer.config;
        let backend = config.backends.get(self.attempts.backend())?;
        backend.first_byte_timeout?;
        let limit = backend.attempt_timeout(&config.retry);
        // Envoy's router has a limit as well, while the answer is held, and ends the attempt without asking.
        let before = match self.engine {
            Engine::Filter => Duration::ZERO,
            Engine::Router => BEFORE_THE_ROUTER.min(limit.mul_f64(0.1)),
        };
        Some(balancer.host().now() + limit.saturating_sub(before))
    }

    /// Forgets the headers of an answer from which nothing is to be learnt.
    pub(super) fn forget_headers<H: Host>(&mut self, balancer: &Balancer<H>) {
        if balancer.config.policy != Policy::LeastThrottled {
            self.headers = None;
        }
    }

    /// The next bytes of a stream that is held for its first content.
    #[inline(never)]
    pub(super) fn on_stream_start<H: Host>(
        &mut self,
        bytes: &[u8],
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        let bodies = self.held_bodies(balancer);
        let is_first_shown = !bodies.have_come();
        bodies.came();
        let start = match &mut self.stream {
            Some(stream) => stream.push(bytes, end),
            None => Start::Content,
        };
        match start {
            Start::Undecided if !end && is_first_shown => self.await_content(balancer),
            Start::Undecided if !end => Next::Hold,
            Start::Undecided | Start::Content => self.pass_stream(Outcome::Success, balancer),
            Start::Failed(failure) => match outcome_of(failure, balancer) {
                Outcome::ClientError => self.pass_stream(Outcome::ClientError, balancer),
                _ if end => self.settle_stream(failure.status, true, balancer),
                // Complete, it can be given to the client later, and its connection is used again.
                _ => {
                    self.state = State::Deciding(Until::StreamEnd(failure.status));
                    Next::Wait(Wish::StreamStart(STREAM_END))
                }
            },
        }
    }

    /// The next bytes of a stream that has failed.
    pub(super) fn on_failed_stream<H: Host>(
        &mut self,
        status: u16,
        bytes: &[u8],
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        let is_full = self.stream.as_mut().is_none_or(|stream| {
            let _ = stream.push(bytes, end);
            stream.is_full()
        });
        match end || is_full {
            true => self.settle_stream(status, end && !is_full, balancer),
            false => Next::Hold,
        }
    }

    /// Neither content nor an error has come in time.
    #[inline(never)]
    pub(super) fn on_slow_stream<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        let bodies = self.held_bodies(balancer);
        let may_be_hidden = !bodies.have_come();
        if may_be_hidden && self.engine == Engine::Filter && bodies.came_late() {
            // Its begin may be there: Envoy hides it until the answer passes.
            self.unheld.released(balancer.host().now());
        }
        if may_be_hidden || self.content_due.is_none() {
            return self.pass_stream(Outcome::Success, balancer);
        }
        // Headers alone are no answer. Without another backend the client gets what this one has yet to say.
        if let Some(stream) = &mut self.stream {
            stream.take_seen();
        }
        self.headers = None;
        self.trace = Trace::Possible;
        self.conclude(Outcome::Unavailable, balancer);
        self.proceed(Outcome::Unavailable, balancer)
    }

    /// Whether the answer that passes is a stream that was held for its first content. Its next frame may be long in coming.
    pub fn is_late_stream(&self) -> bool {
        self.stream.is_some() && matches!(self.state, State::Passing | State::Answered)
    }

    /// The stream that is held is the client's.
    pub(super) fn pass_stream<H: Host>(
        &mut self,
        outcome: Outcome,
        balancer: &Balancer<H>,
    ) -> Next {
        if let Some(begin) = self.stream.as_mut().map(|stream| stream.take_seen()) {
            self.begin_usage_after(begin, balancer);
            self.begin_pace(balancer);
        }
        self.forget_headers(balancer);
        self.conclude(outcome, balancer);
        // It may take minutes, thousands may pass at the same time, and there will be no other attempt.
        self.original = self.original.only(":path");
        match self.on_last_answer() {
            // The upstream filter that held it has to let it go.
            Next::Continue => Next::Pass,
            next => next,
        }
    }

    /// Decides what follows a stream that began with an error like an answer of this `status`; `whole` if all of it has come.
    #[inline(never)]
    pub(super) fn settle_stream<H: Host>(
        &mut self,
        status: u16,
        whole: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        let headers = self.headers.take();
        let body = self.stream.as_mut().map(|stream| stream.take_seen());
        let outcome = self.conclude_failed_stream(status, balancer);
        // The filter engine needs no copy of what the host holds.
        let is_copied = self.engine == Engine::Router || !whole;
        let kept = headers.zip(body).filter(|_| is_copied);
        self.kept = kept.map(|(headers, body)| {
            Box::new(Answer {
                status: OK,
                headers,
                body: match whole {
                    true => AnswerBody::Whole(body),
                    false => AnswerBody::Begun(body),
                },
                backend: self.answered_by,
            })
        });
        self.proceed(outcome, balancer)
    }

    /// Learns from a stream that began with an error.
    pub(super) fn conclude_failed_stream<H: Host>(
        &mut self,
        status: u16,
        balancer: &Balancer<H>,
    ) -> Outcome {
        balancer.count(Event::StreamFailed);
        self.trace = Trace::of_status(status);
        self.headers = None;
        self.note_rate_limit(None);
        let outcome = outcome_of_status(status, balancer);
        self.conclude(outcome, balancer);
        outcome
    }

    /// The client's answer is over: learns from the error that it ended with, if it is an event stream and the error is its backend's.
    pub(super) fn learn_from_stream_end<H: Host>(&mut self, balancer: &Balancer<H>) {
        let Some(failure) = self.usage.as_mut().and_then(|usage| usage.failure()) else {
            return;
        };
        let outcome = outcome_of(failure, balancer);
        if outcome != Outcome::ClientError {
            balancer.count(Event::StreamError(self.attempts.backend()));
            self.learn_late(outcome, failure.wait, balancer);
        }
    }

    /// How long the answer that begins to pass may be silent, if there is a limit.
    pub fn silence_limit<H: Host>(&self, balancer: &Balancer<H>) -> Option<Duration> {
        let config = &balancer.config;
        let backend = config.backends.get(self.answered_by)?;
        let limit = backend.stream_idle_timeout;
        let limit = limit.or(config.retry.stream_idle_timeout)?;
        let may_be_stream = self.status == OK && self.is_passing() && self.request.may_stream();
        may_be_stream.then_some(limit)
    }

    /// The answer that passes has been silent for too long.
    #[inline(never)]
    pub(super) fn on_silence<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !self.is_passing() {
            return Next::Continue;
        }
        balancer.count(Event::StreamIdle(self.answered_by));
        self.learn_late(Outcome::Unavailable, None, balancer);
        self.state = State::Done;
        Next::Cut
    }

    /// The end of the stream has come whose failure was settled without it: the host holds all of it.
    pub(super) fn stream_is_whole(&mut self) {
        let is_begun = |answer: &Answer| matches!(answer.body, AnswerBody::Begun(_));
        if self.engine == Engine::Filter && self.kept.as_deref().is_some_and(is_begun) {
            self.kept = None;
        }
    }

    /// The failure that an answer began with which has come whole, where it is an event stream.
    #[inline(never)]
    pub(super) fn failure_in<H: Host>(
        &mut self,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        balancer: &Balancer<H>,
    ) -> Option<u16> {
        self.stream = None;
        let is_read = status == OK
            && !balancer.config.retry.stream_start.is_zero()
            && self.request.may_stream()
            && is_event_stream(headers);
        let stream = is_read.then(|| StreamStart::of_whole(body))?;
        let failure = stream.failure()?;
        self.stream = Some(Box::new(stream));
        (outcome_of(failure, balancer) != Outcome::ClientError).then_some(failure.status)
    }

    /// The wait that the failure of the answer at hand asks for, where that is a stream that failed.
    pub(super) fn failed_stream(&self) -> Option<Failure> {
        self.stream.as_deref()?.failure()
    }
}

fn outcome_of<H: Host>(failure: Failure, balancer: &Balancer<H>) -> Outcome {
    outcome_of_status(failure.status, balancer)
}

/// The outcome of an error like an answer of this status. One whose code would decide is the client's.
fn outcome_of_status<H: Host>(status: u16, balancer: &Balancer<H>) -> Outcome {
    match Outcome::from_status(status, &balancer.config.retry) {
        Some(outcome @ (Outcome::Throttled | Outcome::Unavailable)) => outcome,
        _ => Outcome::ClientError,
    }
}
