//! The filter among the listener's filters: the client's request and its answer.

use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::{point, REQUESTS};
use crate::core::balancer::WaitResult;
use crate::core::exchange::{Exchange, FinalAnswer, Input, Next};
use crate::filter::context::Callbacks;
use crate::filter::driver::{self, action_of, details_if, open, Replaced};
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::listener::Listener;
use crate::filter::worker::{self, Worker};

/// One request.
pub(in crate::filter) struct Downstream {
    side: Listener,
    /// Whether the machine reads the frames of the answer.
    reads_answer: bool,
    /// The new body of the answer, if the filter replaces it.
    body: Option<Vec<u8>>,
}

impl Downstream {
    pub(in crate::filter) fn new(
        id: u32,
        worker: Rc<Worker>,
        me: Weak<dyn worker::Stream>,
    ) -> Self {
        Self {
            side: Listener::new(id, worker, me),
            reads_answer: false,
            body: None,
        }
    }

    /// Carries out `next` in a callback of the request. `true` lets the request pass.
    fn act_on_request(&mut self, next: Next) -> Result<bool, HostError> {
        match next {
            Next::Hold => return Ok(false),
            Next::Send => {
                self.side.send()?;
                point(&self.side.place.request)?;
            }
            Next::Reply => {
                self.reply(true)?;
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    /// Answers the client. In the headers callback of an answer with a body, a new body waits for the body's callback.
    fn reply(&mut self, end: bool) -> Result<(), HostError> {
        let mut kept = None;
        let replaced = driver::reply(&self.side.place.request, &mut |body| {
            kept = (!end).then(|| body.to_vec());
            Ok(!end || body.is_empty())
        })?;
        if replaced == Replaced::InPlace {
            self.body = kept;
        }
        Ok(())
    }
}

impl Callbacks for Downstream {
    fn request_headers(&mut self, end: bool) -> Result<Action, HostError> {
        let next = self.side.request_headers(end)?;
        if !matches!(next, Next::Reply) {
            let request = Rc::clone(&self.side.place.request);
            REQUESTS.with_borrow_mut(|requests| requests.insert(request.id, request));
        }
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
        let wants_answer = self.side.place.exchange().wants_final_answer();
        let answer = match wants_answer {
            true => Some(FinalAnswer {
                status: driver::status()?.unwrap_or(0),
                details: details_if(true)?,
                is_marked: host::header(Map::ResponseHeaders, Exchange::MARK)?.is_some(),
            }),
            false => None,
        };
        match self.side.place.advance(Input::FinalAnswer(answer)) {
            Next::Pass => {
                self.side.pass()?;
                self.reads_answer = self.side.place.exchange().reads_answer();
            }
            Next::Reply => self.reply(end)?,
            _ => {}
        }
        Ok(Action::Continue)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.side.begin_frame(end);
        if self.reads_answer {
            self.side.pass_frame(size, end)?;
        }
        if let Some(body) = &mut self.body {
            // The first frame gets all of the new body.
            host::replace_buffer(Buffer::ResponseBody, &std::mem::take(body))?;
        }
        Ok(Action::Continue)
    }

    fn response_trailers(&mut self) -> Result<Action, HostError> {
        self.side.begin_frame(true);
        if self.reads_answer {
            self.side.end_usage()?;
        }
        Ok(Action::Continue)
    }

    fn wait_ended(&mut self, result: WaitResult) -> Result<(), HostError> {
        let next = self.side.wait_ended(result)?;
        match self.act_on_request(next)? {
            true => open(&self.side.up, Half::Request),
            false => Ok(()),
        }
    }

    fn ended(&mut self) -> Result<(), HostError> {
        // In native tests, a context may outlive its thread's variables.
        let id = self.side.place.request.id;
        let _ = REQUESTS.try_with(|requests| requests.borrow_mut().remove(&id));
        self.side.end()
    }

    fn recover(&mut self) -> Result<(), HostError> {
        match self.side.place.advance(Input::Failed) {
            Next::Reply => self.reply(true),
            _ => Ok(()),
        }
    }
}
