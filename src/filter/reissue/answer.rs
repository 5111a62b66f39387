//! The way down: the router's answer, let through or held.

use proxy_wasm::types::Action;

use super::walk::Settled;
use super::{Held, Phase, Stream};
use crate::core::exchange::NoRetry;
use crate::core::metrics::Event;
use crate::core::outcome::{Origin, Outcome, Trace};
use crate::filter::host::{self, Buffer, HostError};
use crate::filter::journey::outcomes::{self, ERROR_BODY};
use crate::filter::waiting::Wish;

impl Stream {
    pub(super) fn on_response_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.answer_ends(end_of_stream);
        if self.phase != Phase::Forwarded {
            // Not the answer to our attempt but a local reply, ours or another filter's.
            return Ok(Action::Continue);
        }
        let status = outcomes::status()?;
        self.router_answer.backend = self.journey.exchange.backend();
        self.journey.trace = Trace::of_status(status);
        let origin = match status {
            ..400 => Origin::Backend,
            _ => self.journey.origin()?,
        };
        if origin == Origin::Other {
            if origin.is_to_slow_client(status) {
                self.worker().count(Event::ClientGone);
            }
            self.phase = Phase::Replied;
            return Ok(Action::Continue);
        }
        self.router_answer.is_real = origin == Origin::Backend;
        self.journey.timed_out = !self.router_answer.is_real && status == 504;
        match Outcome::from_status(status, &self.worker().config.retry) {
            Some(outcome) => self.settle(outcome),
            None if end_of_stream || !self.worker().listener_bodies.may_come() => {
                let outcome = self.journey.error_outcome(status, &[]);
                self.settle(outcome)
            }
            None => {
                self.phase = Phase::Held(Held::ErrorBody { status });
                if self.wait(Wish::ErrorBody) {
                    Ok(Action::Pause)
                } else {
                    let outcome = self.journey.error_outcome(status, &[]);
                    self.settle(outcome)
                }
            }
        }
    }

    pub(super) fn on_response_body(
        &mut self,
        size: usize,
        end_of_stream: bool,
    ) -> Result<Action, HostError> {
        self.answer_ends(end_of_stream);
        if self.phase == Phase::Passing {
            self.watch_body();
        }
        let action = match self.phase {
            Phase::Held(Held::ErrorBody { status }) => {
                self.worker().listener_bodies.came();
                if end_of_stream || size > ERROR_BODY {
                    self.inspect(status, size)?
                } else {
                    Action::Pause
                }
            }
            Phase::Held(Held::Request(outcome)) if end_of_stream => self.act(outcome)?,
            Phase::Held(Held::Frame) => self.pass_frame(size)?,
            Phase::Held(_) => Action::Pause,
            Phase::Passing => {
                self.journey.pass_answer(size)?;
                Action::Continue
            }
            _ => Action::Continue,
        };
        Ok(self.down.body(action))
    }

    pub(super) fn on_response_trailers(&mut self) -> Result<Action, HostError> {
        self.answer_ends(true);
        self.router_answer.has_trailers = true;
        match self.phase {
            Phase::Held(Held::ErrorBody { status }) => self.inspect(status, ERROR_BODY),
            Phase::Held(Held::Request(outcome)) => self.act(outcome),
            Phase::Held(Held::Frame) => self.pass_frame(0),
            Phase::Held(_) => Ok(Action::Pause),
            _ => Ok(Action::Continue),
        }
    }

    /// The router's answer, which was only held for its next frame, goes to the client.
    fn pass_frame(&mut self, size: usize) -> Result<Action, HostError> {
        self.worker().forget(self.id);
        self.phase = Phase::Passing;
        self.journey.pass_answer(size)?;
        Ok(Action::Continue)
    }

    fn inspect(&mut self, status: u16, size: usize) -> Result<Action, HostError> {
        self.worker().forget(self.id);
        let body = host::buffer(Buffer::ResponseBody, 0, size.min(ERROR_BODY))?;
        let outcome = self.journey.error_outcome(status, &body);
        self.settle(outcome)
    }

    fn answer_ends(&mut self, end_of_stream: bool) {
        self.down.complete(end_of_stream);
        if end_of_stream && self.body.is_growing() {
            self.body.drop_because(NoRetry::RequestIncomplete);
        }
    }

    fn settle(&mut self, outcome: Outcome) -> Result<Action, HostError> {
        self.journey.conclude_answer(outcome)?;
        self.act(outcome)
    }

    fn act(&mut self, outcome: Outcome) -> Result<Action, HostError> {
        Ok(match self.proceed(outcome)? {
            Settled::Released => Action::Continue,
            Settled::Held | Settled::Replaced => Action::Pause,
        })
    }
}
