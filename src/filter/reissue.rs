//! The driver of the filter engine: the filter sends a request again itself. Works on every Envoy.
//!
//! The first attempt is the router's: the request is edited in place and goes on its way. The router's answer is held as long as
//! another attempt may be due; further attempts are calls of the filter's own, and the answer to the last one is given to the client as
//! a local reply.

use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::context::Callbacks;
use super::driver::{self, apply, clean_trailers, Place, Replaced};
use super::gate::Gate;
use super::host::{self, Buffer, Half, HostError, Map};
use super::shown::ShownBody;
use super::worker::{self, Worker};
use crate::core::balancer::Granted;
use crate::core::exchange::{Exchange, Input, Next, ERROR_BODY};

/// One request.
pub(super) struct Stream {
    place: Place,
    exchange: Exchange,
    shown: ShownBody,
    up: Gate,
    down: Gate,
    /// The router's answer is held.
    holds_answer: bool,
    has_trailers: bool,
    /// The frames of the router's answer so far.
    frames: u32,
    /// The call that is out.
    call: Option<u32>,
}

impl Stream {
    pub(super) fn new(id: u32, worker: Rc<Worker>, me: Weak<dyn worker::Stream>) -> Self {
        Self {
            exchange: Exchange::new(&worker.balancer),
            place: Place::new(id, worker, me),
            shown: ShownBody::default(),
            up: Gate::new(Half::Request),
            down: Gate::new(Half::Response),
            holds_answer: false,
            has_trailers: false,
            frames: 0,
            call: None,
        }
    }

    /// Hands `input` over, and makes the calls that follow.
    fn advance(&mut self, input: Input) -> Next {
        let mut input = input;
        loop {
            let next = self.place.advance(&mut self.exchange, input);
            if !matches!(next, Next::Call) {
                return next;
            }
            input = match self.call() {
                Ok(()) => return Next::Hold,
                Err(error) => Input::CallRefused {
                    unknown_cluster: error.is_bad_argument(),
                },
            };
        }
    }

    fn call(&mut self) -> Result<(), HostError> {
        let balancer = self.place.balancer();
        let call = self.exchange.call(balancer).ok_or(HostError::NO_BACKEND)?;
        let id = host::call(
            &call.attempt.backend.cluster,
            call.headers(balancer),
            call.body(),
            call.trailers(),
            balancer.config.retry.per_try_timeout,
        )?;
        self.place.call_made(id);
        self.call = Some(id);
        Ok(())
    }

    fn send(&mut self) -> Result<(), HostError> {
        let balancer = self.place.balancer();
        apply(Map::RequestHeaders, &self.exchange.edits(balancer))?;
        let Some(edit) = self.exchange.body_edit(balancer) else {
            return Ok(());
        };
        let spliced = match edit.bytes {
            Some(bytes) => edit.splices.apply(bytes),
            None => edit.splices.apply(&ShownBody::all()?),
        };
        self.shown.replace(&spliced)
    }

    fn reply(&mut self) -> Result<Replaced, HostError> {
        // The stream may be over with the reply.
        driver::end_usage(&mut self.exchange, &self.place.worker)?;
        let (holds_body, is_complete) = (self.down.holds_body(), self.down.is_complete());
        let may_be_placed = is_complete && !self.has_trailers;
        driver::reply(&self.exchange, &self.place.worker, &mut |body| {
            // Envoy might refuse to hold more.
            let fits = (holds_body || body.is_empty()) && body.len() <= ERROR_BODY;
            if may_be_placed && fits && holds_body {
                host::replace_buffer(Buffer::ResponseBody, body)?;
            }
            Ok(may_be_placed && fits)
        })
    }

    fn pass(&mut self) -> Result<(), HostError> {
        if !self.down.is_complete() {
            self.place.watch_silences(&self.exchange);
        }
        driver::sign(&mut self.exchange, &self.place.worker)
    }

    /// A frame of the answer passes to the client; `end` if it is the last.
    fn pass_frame(&mut self, size: usize, end: bool) -> Result<(), HostError> {
        driver::pass_frame(&mut self.exchange, &self.place.worker, size, end)
    }

    /// Carries out `next` in a callback of the request.
    fn act_on_request(&mut self, next: Next) -> Result<Action, HostError> {
        if self.holds_answer {
            self.act_from_outside(next)?;
            return Ok(Action::Continue);
        }
        match next {
            Next::Hold => return Ok(Action::Pause),
            Next::Send => self.send()?,
            Next::Reply => {
                let _ = self.reply()?;
                return Ok(Action::Pause);
            }
            _ => {}
        }
        Ok(Action::Continue)
    }

    /// Carries out `next` in a callback of the router's answer.
    fn act_on_answer(&mut self, next: Next) -> Result<Action, HostError> {
        self.holds_answer = matches!(next, Next::Hold);
        Ok(match next {
            Next::Hold => Action::Pause,
            Next::Pass => {
                self.pass()?;
                Action::Continue
            }
            Next::Reply => match self.reply()? {
                Replaced::ByReply => Action::Pause,
                Replaced::InPlace => Action::Continue,
            },
            _ => Action::Continue,
        })
    }

    /// Carries out `next` in any other callback, in which what is held has to be resumed.
    fn act_from_outside(&mut self, next: Next) -> Result<(), HostError> {
        match next {
            Next::Send => {
                self.send()?;
                self.up.open()
            }
            Next::Pass => {
                self.pass()?;
                let awaits_frame = self.down.awaits_frame();
                if awaits_frame && !self.exchange.is_late_stream() {
                    let _ = self.advance(Input::NeedsFrame);
                    return Ok(());
                }
                self.holds_answer = false;
                if self.down.holds_body() {
                    // It passes without another callback.
                    self.pass_frame(usize::MAX, !awaits_frame)?;
                }
                match awaits_frame {
                    true => self.down.open_early(),
                    false => self.down.open(),
                }
            }
            Next::Reply => match self.reply()? {
                Replaced::ByReply => Ok(()),
                Replaced::InPlace => {
                    self.holds_answer = false;
                    self.down.open()
                }
            },
            _ => Ok(()),
        }
    }

    fn read_body(&mut self, wanted: bool, end: bool) -> Result<(), HostError> {
        let (exchange, worker) = (&mut self.exchange, &self.place.worker);
        driver::read_body(exchange, &mut self.shown, worker, wanted, end)
    }

    /// More of the answer has come, of which Envoy shows so many bytes.
    fn answer_goes_on(&mut self, shown: usize, end: bool) -> Result<Action, HostError> {
        let bytes = driver::answer_body_if(self.exchange.wants_answer_body(shown, end))?;
        let next = self.advance(Input::AnswerBody { bytes, end });
        self.act_on_answer(next)
    }
}

impl Callbacks for Stream {
    fn request_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        let headers = host::headers(Map::RequestHeaders)?;
        let next = self.advance(Input::Request { headers, end });
        driver::name_client(&self.exchange)?;
        self.act_on_request(next)
    }

    fn request_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        self.shown.show(size);
        self.read_body(self.exchange.wants_body(end), end)?;
        let balancer = self.place.balancer();
        let action = match self.exchange.follows_body(end, balancer) {
            Some(Next::Hold) => Action::Pause,
            Some(_) => Action::Continue,
            None => {
                let next = self.advance(Input::RequestBody { shown: size, end });
                self.act_on_request(next)?
            }
        };
        if action == Action::Continue {
            self.shown.pass();
        }
        Ok(self.up.body(action))
    }

    fn request_trailers(&mut self) -> Result<Action, HostError> {
        self.up.complete(true);
        let trailers = clean_trailers()?;
        self.read_body(self.exchange.wants_body(true), true)?;
        let next = self.advance(Input::RequestTrailers(trailers));
        self.act_on_request(next)
    }

    fn response_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        if !self.exchange.awaits_answer() {
            // Not the answer to an attempt but a local reply, ours or another filter's.
            return Ok(Action::Continue);
        }
        let balancer = self.place.balancer();
        let (status, headers) = driver::head(!end && self.exchange.reads_stream_start(balancer))?;
        let wants = self.exchange.wants(status, balancer);
        let next = self.advance(Input::Answer {
            status,
            details: driver::details_if(wants.details)?,
            headers: match headers {
                Some(headers) => Some(headers),
                None => driver::headers_if(wants.headers)?,
            },
            end,
            may_hold: true,
        });
        self.act_on_answer(next)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        self.frames = self.frames.wrapping_add(1);
        let action = match self.exchange.is_settled() {
            true => Action::Continue,
            false => self.answer_goes_on(size, end)?,
        };
        let action = self.place.end_frame(&mut self.down, action);
        if action == Action::Continue {
            self.pass_frame(size, end)?;
        }
        Ok(action)
    }

    fn response_trailers(&mut self) -> Result<Action, HostError> {
        self.down.complete(true);
        self.has_trailers = true;
        if self.down.holds_frame() {
            self.pass_frame(usize::MAX, true)?;
            self.place.leave();
        }
        self.down.trailers();
        let action = self.answer_goes_on(ERROR_BODY, true)?;
        if action == Action::Continue {
            // What was held of a stream until now was read for its start.
            driver::end_usage(&mut self.exchange, &self.place.worker)?;
        }
        Ok(action)
    }

    fn granted(&mut self, granted: Granted) -> Result<(), HostError> {
        if self.down.holds_frame() {
            self.pass_frame(usize::MAX, self.down.is_complete())?;
            return self.down.let_frame_go();
        }
        self.read_body(self.exchange.wants_rest_of_body(), false)?;
        let stalled = driver::stalled_if(self.exchange.wants_stalled())?;
        let next = self.advance(Input::Granted { granted, stalled });
        self.act_from_outside(next)
    }

    fn call_answered(&mut self, call: u32) -> Result<(), HostError> {
        if self.call != Some(call) {
            return Ok(());
        }
        self.call = None;
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, usize::MAX)?;
        let next = self.advance(Input::CallAnswer { headers, body });
        self.act_from_outside(next)
    }

    fn frames(&self) -> u32 {
        self.frames
    }

    fn silent(&mut self) -> Result<(), HostError> {
        if self.down.is_complete() {
            return Ok(());
        }
        match self.advance(Input::Silent) {
            Next::Cut => host::cut_off(),
            _ => Ok(()),
        }
    }

    fn ended(&mut self) -> Result<(), HostError> {
        self.place.end();
        if let Some(call) = self.call.take() {
            self.place.worker.disown_call(call);
        }
        let complete = self.down.is_complete();
        let details = driver::details_if(!complete && self.exchange.wants_end_details())?;
        let _ = self.advance(Input::End { complete, details });
        Ok(())
    }

    fn recover(&mut self) -> Result<(), HostError> {
        if self.advance(Input::Failed) == Next::Reply {
            let _ = self.reply()?;
        }
        Ok(())
    }
}
