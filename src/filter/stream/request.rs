//! The way up: the client's request, edited for its first attempt and copied while it passes.

use std::rc::Rc;

use proxy_wasm::types::Action;

use super::{Held, Phase, Stream};
use crate::core::attempt::{Attempt, Edit};
use crate::core::exchange::{Exchange, NoRetry, Replay};
use crate::core::metrics::Event;
use crate::core::replay::BodyCopy;
use crate::core::reply::LocalReply;
use crate::core::request::Request;
use crate::filter::host::{self, Buffer, HostError, Map};
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
        if let Some(token) = worker.authorization() {
            return self.forward(&token).map(|()| Action::Continue);
        }
        self.phase = Phase::AwaitingToken;
        if !self.wait(Wish::Token) {
            self.reply_without_token(worker.retry_after())?;
        }
        Ok(Action::Pause)
    }

    /// Sends the request on its way to the first backend.
    pub(super) fn forward(&mut self, token: &Authorization) -> Result<(), HostError> {
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
                self.body_held = size;
                return Ok(Action::Pause);
            }
            // An answer came before the request was complete; the next attempt may have waited for this.
            Phase::Held(Held::Request(outcome)) if self.body.replay() != Replay::Incomplete => {
                self.proceed_from_outside(outcome)?;
            }
            _ => {}
        }
        Ok(Action::Continue)
    }
}
