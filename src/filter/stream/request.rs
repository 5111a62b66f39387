//! The way up: the client's request, edited for its first attempt and copied while it passes.

use std::rc::Rc;

use proxy_wasm::types::Action;

use super::{Held, Phase, Stream};
use crate::core::attempt::{Attempt, Edit};
use crate::core::exchange::{Exchange, NoRetry};
use crate::core::metrics::Event;
use crate::core::replay::BodyCopy;
use crate::core::reply::LocalReply;
use crate::core::request::Request;
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::tokens::Authorization;
use crate::filter::worker::Wish;

impl Stream {
    pub(super) fn on_request_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        let worker = Rc::clone(&self.worker);
        worker.count(Event::Request);
        let retry = &worker.config.retry;
        self.original = host::headers(Map::RequestHeaders)?;
        self.request = Request::read(self.original.iter());
        self.exchange = Exchange::new(worker.draw_plan(), retry.max_attempts);
        self.body = if self.request.upgrade {
            BodyCopy::Dropped(NoRetry::Upgrade)
        } else if !self.request.headers_are_utf8 {
            BodyCopy::Dropped(NoRetry::HeadersNotReplayable)
        } else if retry.max_attempts == 1 {
            BodyCopy::Dropped(NoRetry::AttemptsExhausted)
        } else {
            BodyCopy::new(self.request.content_length, retry.replay_limit)
        };
        if end_of_stream {
            self.body.finish();
        }
        self.start()
    }

    /// Sends the request on its way as soon as that makes sense: with a token, and complete if it may be needed again.
    fn start(&mut self) -> Result<Action, HostError> {
        let worker = Rc::clone(&self.worker);
        let Some(token) = worker.authorization() else {
            self.phase = Phase::AwaitingToken;
            if !self.wait(Wish::Token) {
                self.reply_without_token(worker.retry_after())?;
            }
            return Ok(Action::Pause);
        };
        if self.body.is_worth_holding(self.request.content_length) && worker.shows_held_bodies() {
            self.phase = Phase::AwaitingBody;
            if self.wait(Wish::Body) {
                return Ok(Action::Pause);
            }
        }
        self.forward(&token).map(|()| Action::Continue)
    }

    /// The same in a callback of the root context, from which the request has to be resumed.
    pub(super) fn start_from_outside(&mut self) -> Result<(), HostError> {
        match self.start()? {
            Action::Continue => host::resume(Half::Request),
            _ => Ok(()),
        }
    }

    /// Sends the request on its way to the first backend.
    fn forward(&mut self, token: &Authorization) -> Result<(), HostError> {
        let config = &self.worker.config;
        let Some(backend) = config.backends.get(self.exchange.backend()) else {
            return Ok(());
        };
        let attempt = Attempt {
            request: &self.request,
            backend,
            authorization: &token.header,
        };
        let mut result = Ok(());
        attempt.edit_in_place(&config.headers, config.retry.per_try_timeout, |edit| {
            if result.is_ok() {
                result = match edit {
                    Edit::Set(name, value) => host::set_header(Map::RequestHeaders, name, value),
                    Edit::Remove(name) => host::remove_header(Map::RequestHeaders, name),
                };
            }
        });
        result?;
        self.token_generation = token.generation;
        self.attempt_made();
        self.phase = Phase::Forwarded;
        self.body_held = 0;
        Ok(())
    }

    pub(super) fn reply_without_token(
        &mut self,
        retry_after: std::time::Duration,
    ) -> Result<(), HostError> {
        self.worker.count(Event::IdentityUnavailable);
        self.reply(&LocalReply::identity_unavailable(retry_after))
    }

    pub(super) fn on_request_body(
        &mut self,
        size: usize,
        end_of_stream: bool,
    ) -> Result<Action, HostError> {
        if self.body.is_growing() {
            // While the request is held, Envoy shows all that it holds; else only what is new.
            let new = size.saturating_sub(self.body_held);
            if new > 0 {
                let chunk = host::buffer(Buffer::RequestBody, self.body_held, new)?;
                self.body.push(&chunk);
            }
            if end_of_stream {
                self.body.finish();
            }
        }
        self.pass_request(size)
    }

    pub(super) fn on_request_trailers(&mut self) -> Result<Action, HostError> {
        if self.body.is_growing() {
            self.trailers = host::headers(Map::RequestTrailers)?;
            self.body.finish();
        }
        self.pass_request(self.body_held)
    }

    fn pass_request(&mut self, size: usize) -> Result<Action, HostError> {
        match self.phase {
            Phase::AwaitingToken => {
                self.worker.showed_held_body();
                self.body_held = size;
                Ok(Action::Pause)
            }
            Phase::AwaitingBody => {
                self.worker.showed_held_body();
                self.worker.forget(self.id);
                self.body_held = size;
                if self.body.is_growing() {
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
        match self.worker.authorization() {
            Some(token) => {
                self.forward(&token)?;
                host::resume(Half::Request)
            }
            None => self.reply_without_token(self.worker.retry_after()),
        }
    }
}
