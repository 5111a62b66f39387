//! The way down: the router's answer, let through or held.

use proxy_wasm::types::Action;

use super::walk::Settled;
use super::{Held, Phase, Stream};
use crate::core::exchange::NoRetry;
use crate::core::outcome::Outcome;
use crate::filter::host::{self, Buffer, HostError, Map};
use crate::filter::worker::Wish;

/// As much of an error's body as is read for its code.
const ERROR_BODY: usize = 64 * 1024;

impl Stream {
    pub(super) fn on_response_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.answer_ends(end_of_stream);
        if self.phase != Phase::Forwarded {
            // Not the answer to our attempt but a local reply, ours or another filter's.
            return Ok(Action::Continue);
        }
        let status = host::header(Map::ResponseHeaders, ":status")?;
        let status = status.as_deref().and_then(parse_status).unwrap_or(0);
        self.router_answer.backend = self.exchange.backend();
        self.router_answer.is_real = status < 500 || self.is_from_backend()?;
        self.timed_out = !self.router_answer.is_real && status == 504;
        match Outcome::from_status(status, &self.worker.config.retry) {
            Some(outcome) => self.settle(outcome),
            None if end_of_stream || !self.worker.shows_held_bodies() => {
                self.settle(Outcome::from_error(status, &[]))
            }
            None => {
                self.phase = Phase::Held(Held::ErrorBody { status });
                if self.wait(Wish::Body) {
                    Ok(Action::Pause)
                } else {
                    self.settle(Outcome::from_error(status, &[]))
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
        match self.phase {
            Phase::Held(Held::ErrorBody { status }) => {
                self.worker.showed_held_body();
                if end_of_stream || size > ERROR_BODY {
                    self.inspect(status, size)
                } else {
                    Ok(Action::Pause)
                }
            }
            Phase::Held(Held::Request(outcome)) if end_of_stream => self.act(outcome),
            Phase::Held(_) => Ok(Action::Pause),
            _ => Ok(Action::Continue),
        }
    }

    pub(super) fn on_response_trailers(&mut self) -> Result<Action, HostError> {
        self.answer_ends(true);
        match self.phase {
            Phase::Held(Held::ErrorBody { status }) => self.inspect(status, ERROR_BODY),
            Phase::Held(Held::Request(outcome)) => self.act(outcome),
            Phase::Held(_) => Ok(Action::Pause),
            _ => Ok(Action::Continue),
        }
    }

    fn inspect(&mut self, status: u16, size: usize) -> Result<Action, HostError> {
        self.worker.forget(self.id);
        let body = host::buffer(Buffer::ResponseBody, 0, size.min(ERROR_BODY))?;
        self.settle(Outcome::from_error(status, &body))
    }

    /// Whether an error that came through the router is a backend's, not Envoy's own for want of an answer.
    fn is_from_backend(&self) -> Result<bool, HostError> {
        let details = host::property("response\0code_details")?;
        if details.as_deref() == Some(b"cluster_not_found") {
            self.worker.complain_of_cluster(self.exchange.backend());
        }
        Ok(details.is_none_or(|details| details == b"via_upstream"))
    }

    fn answer_ends(&mut self, end_of_stream: bool) {
        self.router_answer.is_complete |= end_of_stream;
        if end_of_stream && self.body.is_growing() {
            self.body.drop_because(NoRetry::RequestIncomplete);
        }
    }

    fn settle(&mut self, outcome: Outcome) -> Result<Action, HostError> {
        self.count_outcome(outcome);
        self.act(outcome)
    }

    fn act(&mut self, outcome: Outcome) -> Result<Action, HostError> {
        Ok(match self.proceed(outcome)? {
            Settled::Released => Action::Continue,
            Settled::Held | Settled::Replaced => Action::Pause,
        })
    }
}

fn parse_status(bytes: &[u8]) -> Option<u16> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}
