//! The driver of the filter engine: the filter retries a request itself. It works on every Envoy version.
//!
//! Envoy's router makes the first attempt: the filter edits the request in place and lets it pass. The filter holds the
//! router's answer as long as another attempt may follow. Further attempts are the filter's own calls. The client gets
//! the answer to the last one as a local reply.

use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::context::Callbacks;
use super::driver::{action_of, open, reply, Replaced};
use super::host::{self, Buffer, Half, HostError, Map};
use super::listener::Listener;
use super::worker::{self, Worker};
use crate::core::balancer::WaitResult;
use crate::core::exchange::{Input, Next, ERROR_BODY};

/// One request.
pub(super) struct Stream {
    side: Listener,
    /// The router's answer is held.
    holds_answer: bool,
    has_trailers: bool,
    /// The call in flight.
    call: Option<u32>,
}

impl Stream {
    pub(super) fn new(id: u32, worker: Rc<Worker>, me: Weak<dyn worker::Stream>) -> Self {
        Self {
            side: Listener::new(id, worker, me),
            holds_answer: false,
            has_trailers: false,
            call: None,
        }
    }

    /// Makes the calls that the machine requests, and returns its next result.
    fn call_if(&mut self, mut next: Next) -> Next {
        while matches!(next, Next::Call) {
            next = match self.call() {
                Ok(()) => Next::Hold,
                Err(error) => self.side.place.advance(Input::CallRefused {
                    unknown_cluster: error.is_bad_argument(),
                }),
            };
        }
        next
    }

    #[inline(never)]
    fn call(&mut self) -> Result<(), HostError> {
        let (exchange, balancer) = (self.side.place.exchange(), self.side.place.balancer());
        let call = exchange.call(balancer).ok_or(HostError::NO_BACKEND)?;
        let id = host::call(
            &call.attempt.backend.cluster,
            call.headers(balancer),
            call.body(),
            call.trailers(),
            balancer.config.retry.per_try_timeout,
        )?;
        self.side.place.call_made(id);
        self.call = Some(id);
        Ok(())
    }

    fn reply(&mut self) -> Result<Replaced, HostError> {
        // A local reply may end the stream.
        self.side.end_usage()?;
        let down = &self.side.down;
        let holds_body = down.holds_body();
        let may_be_placed = down.is_complete() && !self.has_trailers;
        reply(&self.side.place.request, &mut |body| {
            // Envoy may refuse to buffer more.
            let fits = (holds_body || body.is_empty()) && body.len() <= ERROR_BODY;
            if may_be_placed && fits && holds_body {
                host::replace_buffer(Buffer::ResponseBody, body)?;
            }
            Ok(may_be_placed && fits)
        })
    }

    /// Carries out `next` in a callback of the request. `true` lets the request pass.
    fn act_on_request(&mut self, next: Next) -> Result<bool, HostError> {
        let next = self.call_if(next);
        if self.holds_answer {
            self.act_from_outside(next)?;
            return Ok(true);
        }
        match next {
            Next::Hold => return Ok(false),
            Next::Send => self.side.send()?,
            Next::Reply => {
                let _ = self.reply()?;
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Carries out `next` in a callback of the router's answer. `true` lets the answer pass.
    fn act_on_answer(&mut self, next: Next) -> Result<bool, HostError> {
        let next = self.call_if(next);
        self.holds_answer = matches!(next, Next::Hold);
        Ok(match next {
            Next::Hold => false,
            Next::Pass => {
                self.side.pass()?;
                true
            }
            Next::Reply => self.reply()? == Replaced::InPlace,
            _ => true,
        })
    }

    /// Carries out `next` in any other callback. A held half needs a resume there.
    fn act_from_outside(&mut self, next: Next) -> Result<(), HostError> {
        match self.call_if(next) {
            Next::Send => {
                self.side.send()?;
                open(&self.side.up, Half::Request)
            }
            Next::Pass => self.pass_from_outside(),
            Next::Reply => match self.reply()? {
                Replaced::ByReply => Ok(()),
                Replaced::InPlace => {
                    self.holds_answer = false;
                    open(&self.side.down, Half::Response)
                }
            },
            _ => Ok(()),
        }
    }

    fn pass_from_outside(&mut self) -> Result<(), HostError> {
        self.side.pass()?;
        let awaits_frame = self.side.down.awaits_frame();
        if awaits_frame && !self.side.place.exchange().is_late_stream() {
            let next = self.side.place.needs_frame()?;
            return self.act_from_outside(next);
        }
        self.holds_answer = false;
        if self.side.down.holds_body() {
            // The held body passes without another callback.
            self.side.pass_frame(usize::MAX, !awaits_frame)?;
        }
        if awaits_frame {
            self.side.down.open_early();
        }
        host::resume(Half::Response)
    }
}

impl Callbacks for Stream {
    fn request_headers(&mut self, end: bool) -> Result<Action, HostError> {
        let next = self.side.request_headers(end)?;
        self.act_on_request(next).map(action_of)
    }

    fn request_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        if let Some(action) = self.side.request_body(size, end)? {
            return Ok(action);
        }
        let next = self.side.continue_body(size, end);
        let passes = self.act_on_request(next)?;
        Ok(self.side.end_body(passes))
    }

    fn request_trailers(&mut self) -> Result<Action, HostError> {
        let next = self.side.request_trailers()?;
        self.act_on_request(next).map(action_of)
    }

    fn response_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.side.down.complete(end);
        if !self.side.place.exchange().awaits_answer() {
            // A local reply, ours or another filter's, not an attempt's answer.
            return Ok(Action::Continue);
        }
        let next = self.side.place.begin_answer(end, true)?;
        self.act_on_answer(next).map(action_of)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.side.begin_frame(end);
        if self.side.pass_settled_frame(size, end)? {
            return Ok(Action::Continue);
        }
        let next = self.side.place.continue_answer(size, end)?;
        let passes = self.act_on_answer(next)?;
        let passes = self.side.place.end_frame(&mut self.side.down, passes);
        if passes {
            self.side.pass_frame(size, end)?;
        }
        Ok(action_of(passes))
    }

    fn response_trailers(&mut self) -> Result<Action, HostError> {
        self.side.begin_frame(true);
        self.has_trailers = true;
        if self.side.down.holds_frame() {
            self.side.pass_frame(usize::MAX, true)?;
            self.side.place.leave();
        }
        self.side.down.trailers();
        let next = self.side.place.continue_answer(ERROR_BODY, true)?;
        let passes = self.act_on_answer(next)?;
        if passes {
            // The held frames of a stream were already read to classify its start.
            self.side.end_usage()?;
        }
        Ok(action_of(passes))
    }

    fn wait_ended(&mut self, result: WaitResult) -> Result<(), HostError> {
        if self.side.down.holds_frame() {
            let is_last = self.side.down.is_complete();
            self.side.pass_frame(usize::MAX, is_last)?;
            self.side.down.let_frame_go();
            return host::resume(Half::Response);
        }
        let next = self.side.wait_ended(result)?;
        self.act_from_outside(next)
    }

    fn call_answered(&mut self, call: u32) -> Result<(), HostError> {
        if self.call != Some(call) {
            return Ok(());
        }
        self.call = None;
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, usize::MAX)?;
        let next = (self.side.place).advance(Input::CallAnswer { headers, body });
        self.act_from_outside(next)
    }

    fn ended(&mut self) -> Result<(), HostError> {
        if let Some(call) = self.call.take() {
            self.side.place.request.worker.disown_call(call);
        }
        self.side.end()
    }

    fn recover(&mut self) -> Result<(), HostError> {
        if self.side.place.advance(Input::Failed) == Next::Reply {
            let _ = self.reply()?;
        }
        Ok(())
    }
}
