//! The way up: the client's request, edited for its first attempt and copied while it passes.

use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::types::Action;

use super::{Held, Phase, Stream};
use crate::core::exchange::NoRetry;
use crate::core::replay::BodyCopy;
use crate::filter::host::{self, HostError, Map};
use crate::filter::journey::{clean_trailers, Departure};
use crate::filter::shown::ShownBody;
use crate::filter::waiting::Wish;

impl Stream {
    pub(super) fn on_request_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        let Some(inspection) = self.journey.begin(!end_of_stream)? else {
            self.phase = Phase::Replied;
            return Ok(Action::Pause);
        };
        self.inspection = inspection;
        let retry = &self.journey.worker.config.retry;
        let request = &self.journey.request;
        self.body = if request.upgrade {
            BodyCopy::Dropped(NoRetry::Upgrade)
        } else if !request.operation.is_known {
            BodyCopy::Dropped(NoRetry::UnknownOperation)
        } else if retry.max_attempts == 1 {
            BodyCopy::Dropped(NoRetry::AttemptsExhausted)
        } else {
            let memory = &self.journey.worker.replay_memory;
            BodyCopy::new(request.content_length, retry.replay_limit, memory)
        };
        if end_of_stream {
            self.body.finish();
        }
        self.start()
    }

    /// Sends the request on its way as soon as that makes sense: with a token, and complete if it may be needed again.
    fn start(&mut self) -> Result<Action, HostError> {
        let worker = Rc::clone(self.worker());
        if !worker.can_authorize() {
            return self.await_token();
        }
        if self.must_hold() && worker.listener_bodies.may_come() {
            self.phase = Phase::AwaitingBody;
            if self.wait(Wish::RequestBody) {
                return Ok(Action::Pause);
            }
        }
        self.forward()
    }

    /// Whether the request is not to leave before more of its body has come.
    fn must_hold(&self) -> bool {
        let announced = self.journey.request.content_length;
        self.inspection.is_under_way() || self.body.is_worth_holding(announced)
    }

    fn await_token(&mut self) -> Result<Action, HostError> {
        self.phase = Phase::AwaitingToken;
        let identities = self.journey.identities();
        if !self.journey.may_wait_for_token() || !self.wait(Wish::Token(identities)) {
            self.reply_without_token(self.worker().credentials.retry_after(identities))?;
        }
        Ok(Action::Pause)
    }

    /// The same in a callback of the root context, from which the request has to be resumed.
    pub(super) fn start_from_outside(&mut self) -> Result<(), HostError> {
        match self.start()? {
            Action::Continue => self.up.open(),
            _ => Ok(()),
        }
    }

    /// Sends the request on its way to the first backend, if there is one to be had.
    fn forward(&mut self) -> Result<Action, HostError> {
        // What was to be read once it is complete may leave before.
        self.read_body(false)?;
        match self.journey.depart()? {
            Departure::Ready(authorization) => {
                self.journey.edit_request(&authorization)?;
                self.edit_body()?;
                self.journey.attempt_made();
                self.phase = Phase::Forwarded;
                return Ok(Action::Continue);
            }
            Departure::NoToken => return self.await_token(),
            Departure::In(wait) => {
                self.phase = Phase::AwaitingBackend;
                if !self.wait(self.journey.wish_for_backend(wait)) {
                    self.phase = Phase::Replied;
                    self.journey.refuse(wait)?;
                }
            }
            Departure::Refused => self.phase = Phase::Replied,
        }
        Ok(Action::Pause)
    }

    /// Puts into the body that is held what the backend calls things.
    fn edit_body(&mut self) -> Result<(), HostError> {
        let splices = self.journey.splices();
        if splices.is_empty() {
            return Ok(());
        }
        let spliced = match &self.body {
            BodyCopy::Complete { bytes, .. } => splices.apply(bytes),
            _ => splices.apply(&ShownBody::all()?),
        };
        self.shown.replace(&spliced)
    }

    pub(super) fn reply_without_token(&mut self, retry_after: Duration) -> Result<(), HostError> {
        self.phase = Phase::Replied;
        self.journey.reply_without_token(retry_after)
    }

    pub(super) fn on_request_body(
        &mut self,
        size: usize,
        end_of_stream: bool,
    ) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        self.watch_body();
        self.shown.show(size);
        if end_of_stream || !self.reads_once() {
            self.read_body(end_of_stream)?;
        }
        let action = self.pass_request()?;
        if action == Action::Continue {
            self.shown.pass();
        }
        Ok(self.up.body(action))
    }

    /// Whether the body is read in one piece, once it is complete: nothing is done with its parts before.
    fn reads_once(&self) -> bool {
        let is_held = matches!(
            self.phase,
            Phase::AwaitingToken | Phase::AwaitingBody | Phase::AwaitingBackend
        );
        is_held
            && self
                .body
                .is_worth_holding(self.journey.request.content_length)
    }

    /// Reads what there is of the body that was not read yet, where it is needed; `end` where it is the last.
    fn read_body(&mut self, end: bool) -> Result<(), HostError> {
        if !self.body.is_growing() && !self.inspection.is_under_way() {
            return Ok(());
        }
        let chunk = self.shown.read()?;
        if let Some(found) = self.inspection.push(&chunk, end) {
            let journey = &mut self.journey;
            journey.request.learn(found, &journey.worker.tags);
        }
        self.body.push(chunk);
        if end {
            self.body.finish();
        }
        Ok(())
    }

    pub(super) fn on_request_trailers(&mut self) -> Result<Action, HostError> {
        self.up.complete(true);
        clean_trailers()?;
        if self.body.is_growing() {
            self.trailers = host::headers(Map::RequestTrailers)?;
        }
        self.read_body(true)?;
        self.pass_request()
    }

    fn pass_request(&mut self) -> Result<Action, HostError> {
        match self.phase {
            Phase::AwaitingToken | Phase::AwaitingBackend => {
                self.worker().listener_bodies.came();
                Ok(Action::Pause)
            }
            Phase::AwaitingBody => {
                self.worker().listener_bodies.came();
                self.worker().forget(self.id);
                if self.must_hold() {
                    Ok(Action::Pause)
                } else {
                    self.start()
                }
            }
            // An answer came before the request was complete; the next attempt may have waited for this.
            Phase::Held(Held::Request(outcome)) if !self.body.is_growing() => {
                self.proceed_from_outside(outcome)?;
                Ok(Action::Continue)
            }
            _ => Ok(Action::Continue),
        }
    }

    /// No body was shown while the request was held: it goes on its way without being held.
    pub(super) fn forward_unheld(&mut self) -> Result<(), HostError> {
        self.unheld.released(host::now());
        self.inspection.give_up();
        match self.forward()? {
            Action::Continue => self.up.open(),
            _ => Ok(()),
        }
    }
}
