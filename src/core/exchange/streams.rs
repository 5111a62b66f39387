//! Event streams that begin with an error.
//!
//! An event stream is held until its first content, at most for
//! [`Retry::stream_start`](crate::config::Retry::stream_start). An earlier error is an outcome like that of a status,
//! and is retried. After the first content everything passes.

use core::ops::Range;
use core::time::Duration;

use super::{Answer, AnswerBody, Exchange, Next, State, Until, ERROR_BODY};
use crate::balancer::{Awaited, Balancer, HeldBodies};
use crate::config::{Engine, Policy};
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::metrics::Event;
use crate::outcome::{Outcome, Trace};
use crate::prelude::*;
use crate::stream_start::{is_event_stream, Failure, Start, StreamStart, STREAM_START};
use crate::time::Timestamp;

/// How long a failed stream is held for its end. Most backends end it at once. One that does not loses its connection.
const STREAM_END: Duration = Duration::from_millis(200);

/// The lead over Envoy's router in deciding on a stream whose content is overdue.
const BEFORE_THE_ROUTER: Duration = Duration::from_millis(100);

/// The status of answers whose start is read.
const OK: u16 = 200;

impl Exchange {
    /// Whether the answer may be an event stream whose start matters. If so, [`Input::Answer`](super::Input::Answer)
    /// needs its headers.
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

    /// The bytes of the answer that [`Input::AnswerBody`](super::Input::AnswerBody) needs. `shown` bytes are in the
    /// host's buffer, including earlier ones.
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

    /// Begins to hold an answer that is an event stream. `None` if it is not held.
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
        // If Envoy may hide bodies, the content may be there already. Then the wait is short, and the backend is not
        // blamed.
        let are_visible = self.held_bodies(balancer).have_come();
        let longest = match self.content_due.filter(|_| are_visible) {
            Some(due) => due.since(balancer.host().now()),
            None => balancer.config.retry.stream_start,
        };
        Next::Wait(Awaited::StreamStart(longest))
    }

    /// The deadline of the first content for an attempt that begins now, if its backend has its own limit.
    pub(super) fn content_due<H: Host>(&self, balancer: &Balancer<H>) -> Option<Timestamp> {
        let config = &balancer.config;
        let backend = config.backends.get(self.attempts.backend())?;
        backend.first_byte_timeout?;
        let limit = backend.attempt_timeout(&config.retry);
        // Envoy's router has a limit too, and ends a held answer's attempt without asking the filter.
        let before = match self.engine {
            Engine::Filter => Duration::ZERO,
            Engine::Router => BEFORE_THE_ROUTER.min(limit.mul_f64(0.1)),
        };
        Some(balancer.host().now() + limit.saturating_sub(before))
    }

    /// Drops the headers of an answer if no lesson needs them.
    pub(super) fn forget_headers<H: Host>(&mut self, balancer: &Balancer<H>) {
        if balancer.config.policy != Policy::LeastThrottled {
            self.headers = None;
        }
    }

    /// Handles more bytes of a stream that is held for its first content.
    #[inline(never)]
    pub(super) fn on_stream_start<H: Host>(
        &mut self,
        bytes: &[u8],
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        let bodies = self.held_bodies(balancer);
        let is_first_visible = !bodies.have_come();
        bodies.came();
        let start = match &mut self.stream {
            Some(stream) => stream.push(bytes, end),
            None => Start::Content,
        };
        match start {
            Start::Undecided if !end && is_first_visible => self.await_content(balancer),
            Start::Undecided if !end => Next::Hold,
            Start::Undecided | Start::Content => self.pass_stream(Outcome::Success, balancer),
            Start::Failed(failure) => match outcome_of(failure, balancer) {
                Outcome::ClientError => self.pass_stream(Outcome::ClientError, balancer),
                _ if end => self.settle_stream(failure.status, true, balancer),
                // A complete stream can be delivered to the client later, and its connection stays usable.
                _ => {
                    self.state = State::Deciding(Until::StreamEnd(failure.status));
                    Next::Wait(Awaited::StreamStart(STREAM_END))
                }
            },
        }
    }

    /// Handles more bytes of a failed stream.
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

    /// Handles a stream with neither content nor an error within the limit.
    #[inline(never)]
    pub(super) fn on_slow_stream<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        let bodies = self.held_bodies(balancer);
        let may_be_hidden = !bodies.have_come();
        if may_be_hidden && self.engine == Engine::Filter && bodies.came_late() {
            // Envoy may have hidden the stream's start until the answer passes.
            self.hidden_body.released(balancer.host().now());
        }
        if may_be_hidden || self.content_due.is_none() {
            return self.pass_stream(Outcome::Success, balancer);
        }
        // Headers without content are no answer. Without another backend the client gets the rest of this stream.
        if let Some(stream) = &mut self.stream {
            stream.take_seen();
        }
        self.headers = None;
        self.trace = Trace::Possible;
        self.conclude(Outcome::Unavailable, balancer);
        self.proceed(Outcome::Unavailable, balancer)
    }

    /// Whether the passing answer was a stream held for its first content. Its next frame may take long to arrive.
    pub fn is_late_stream(&self) -> bool {
        self.stream.is_some() && matches!(self.state, State::Passing | State::Answered)
    }

    /// Passes the held stream to the client.
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
        // A stream may take minutes, and thousands may pass at once. It needs no further attempt, so most headers are
        // dropped.
        self.original = self.original.only(":path");
        match self.on_last_answer() {
            // The upstream filter held the stream, so it must release it.
            Next::Continue => Next::Pass,
            next => next,
        }
    }

    /// Decides the step after a stream that began with an error equivalent to `status`. `whole` if the stream is
    /// complete.
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
        // The host still holds the stream for the filter engine, so no copy is needed.
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

    /// Learns from the error at the end of the client's event stream, if the error is the backend's.
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

    /// The silence limit of the passing answer, if one is configured.
    pub fn silence_limit<H: Host>(&self, balancer: &Balancer<H>) -> Option<Duration> {
        let config = &balancer.config;
        let backend = config.backends.get(self.answered_by)?;
        let limit = backend.stream_idle_timeout;
        let limit = limit.or(config.retry.stream_idle_timeout)?;
        let may_be_stream = self.status == OK && self.is_passing() && self.request.may_stream();
        may_be_stream.then_some(limit)
    }

    /// Resets the passing answer after too long a silence.
    #[inline(never)]
    pub(super) fn on_silence<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !self.is_passing() {
            return Next::Continue;
        }
        balancer.count(Event::StreamIdle(self.answered_by));
        self.learn_late(Outcome::Unavailable, None, balancer);
        self.state = State::Done;
        Next::Reset
    }

    /// The rest of an already settled failed stream arrived. The host holds all of it, so no copy is needed.
    pub(super) fn stream_is_whole(&mut self) {
        let is_begun = |answer: &Answer| matches!(answer.body, AnswerBody::Begun(_));
        if self.engine == Engine::Filter && self.kept.as_deref().is_some_and(is_begun) {
            self.kept = None;
        }
    }

    /// The error at the start of a complete answer, if the answer is an event stream.
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

    /// The error of the current answer, if the answer is a failed stream.
    pub(super) fn failed_stream(&self) -> Option<Failure> {
        self.stream.as_deref()?.failure()
    }
}

fn outcome_of<H: Host>(failure: Failure, balancer: &Balancer<H>) -> Outcome {
    outcome_of_status(failure.status, balancer)
}

/// The outcome of an error equivalent to this status. An error whose code would decide is the client's.
fn outcome_of_status<H: Host>(status: u16, balancer: &Balancer<H>) -> Outcome {
    match Outcome::from_status(status, &balancer.config.retry) {
        Some(outcome @ (Outcome::Throttled | Outcome::Unavailable)) => outcome,
        _ => Outcome::ClientError,
    }
}
