//! The listener's side: the client's request, and its answer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::{Request, REQUESTS};
use crate::core::balancer::Granted;
use crate::core::exchange::{Exchange, Input, LastWord, Next};
use crate::filter::context::Callbacks;
use crate::filter::driver::{self, apply, clean_trailers, Place, Replaced};
use crate::filter::gate::Gate;
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::shown::ShownBody;
use crate::filter::worker::{self, Worker};

/// One request.
pub(in crate::filter) struct Downstream {
    place: Place,
    request: Rc<Request>,
    shown: ShownBody,
    up: Gate,
    down: Gate,
    /// The frames of the answer have to be read.
    reads_answer: bool,
    /// The frames of the answer so far.
    frames: u32,
    /// What is to take the place of the rest of the answer's body.
    body: Option<Vec<u8>>,
}

impl Downstream {
    pub(in crate::filter) fn new(
        id: u32,
        worker: Rc<Worker>,
        me: Weak<dyn worker::Stream>,
    ) -> Self {
        Self {
            request: Rc::new(Request {
                id,
                exchange: RefCell::new(Exchange::new(&worker.balancer)),
                worker: Rc::clone(&worker),
            }),
            place: Place::new(id, worker, me),
            shown: ShownBody::default(),
            up: Gate::new(Half::Request),
            down: Gate::new(Half::Response),
            reads_answer: false,
            frames: 0,
            body: None,
        }
    }

    fn advance(&mut self, input: Input) -> Next {
        let exchange = &mut self.request.exchange.borrow_mut();
        self.place.advance(exchange, input)
    }

    /// Carries out `next` in a callback of the request.
    fn act_on_request(&mut self, next: Next) -> Result<Action, HostError> {
        match next {
            Next::Hold => return Ok(Action::Pause),
            Next::Send => self.send()?,
            Next::Reply => {
                self.reply(true)?;
                return Ok(Action::Pause);
            }
            _ => {}
        }
        Ok(Action::Continue)
    }

    fn send(&mut self) -> Result<(), HostError> {
        let (exchange, balancer) = (&self.request.exchange.borrow(), self.place.balancer());
        apply(Map::RequestHeaders, &exchange.edits(balancer))?;
        if let Some(edit) = exchange.body_edit(balancer) {
            self.shown
                .replace(&edit.splices.apply(&ShownBody::all()?))?;
        }
        self.request.point(exchange)
    }

    /// Answers the client. In a callback of the answer's headers, what takes the place of its body waits for the callbacks of that.
    fn reply(&mut self, end: bool) -> Result<(), HostError> {
        let mut kept = None;
        let exchange = self.request.exchange.borrow();
        let replaced = driver::reply(&exchange, &self.place.worker, &mut |body| {
            kept = (!end).then(|| body.to_vec());
            Ok(!end || body.is_empty())
        })?;
        if replaced == Replaced::InPlace {
            self.body = kept;
        }
        Ok(())
    }

    fn read_body(&mut self, wanted: bool, end: bool) -> Result<(), HostError> {
        let (exchange, worker) = (&mut self.request.exchange.borrow_mut(), &self.place.worker);
        driver::read_body(exchange, &mut self.shown, worker, wanted, end)
    }
}

impl Callbacks for Downstream {
    fn request_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        let headers = host::headers(Map::RequestHeaders)?;
        let next = self.advance(Input::Request { headers, end });
        driver::name_client(&self.request.exchange.borrow())?;
        if !matches!(next, Next::Reply) {
            let request = Rc::clone(&self.request);
            REQUESTS.with_borrow_mut(|requests| requests.insert(self.place.id, request));
        }
        self.act_on_request(next)
    }

    fn request_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        self.shown.show(size);
        let exchange = self.request.exchange.borrow();
        let is_wanted = exchange.wants_body(end);
        let next = exchange.follows_body(end, self.place.balancer());
        drop(exchange);
        self.read_body(is_wanted, end)?;
        if let Some(next) = next {
            let is_held = matches!(next, Next::Hold);
            return Ok(self.up.body(if is_held {
                Action::Pause
            } else {
                Action::Continue
            }));
        }
        let next = self.advance(Input::RequestBody { shown: size, end });
        let action = self.act_on_request(next)?;
        Ok(self.up.body(action))
    }

    fn request_trailers(&mut self) -> Result<Action, HostError> {
        self.up.complete(true);
        let trailers = clean_trailers()?;
        let is_wanted = self.request.exchange.borrow().wants_body(true);
        self.read_body(is_wanted, true)?;
        let next = self.advance(Input::RequestTrailers(trailers));
        let action = self.act_on_request(next)?;
        Ok(self.up.body(action))
    }

    fn response_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        let wants_word = self.request.exchange.borrow().wants_last_word();
        let word = match wants_word {
            true => Some(LastWord {
                status: driver::status()?,
                details: driver::details_if(true)?,
                is_marked: host::header(Map::ResponseHeaders, Exchange::MARK)?.is_some(),
            }),
            false => None,
        };
        match self.advance(Input::LastWord(word)) {
            Next::Pass => {
                let exchange = &mut self.request.exchange.borrow_mut();
                driver::sign(exchange, &self.place.worker)?;
                self.reads_answer = exchange.reads_answer();
                if !end {
                    self.place.watch_silences(exchange);
                }
            }
            Next::Reply => self.reply(end)?,
            _ => {}
        }
        Ok(Action::Continue)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        self.frames = self.frames.wrapping_add(1);
        if self.reads_answer {
            let exchange = &mut self.request.exchange.borrow_mut();
            driver::pass_frame(exchange, &self.place.worker, size, end)?;
        }
        if let Some(body) = &mut self.body {
            // All of it with the first frame.
            host::replace_buffer(Buffer::ResponseBody, &std::mem::take(body))?;
        }
        Ok(Action::Continue)
    }

    fn response_trailers(&mut self) -> Result<Action, HostError> {
        self.down.complete(true);
        if self.reads_answer {
            let exchange = &mut self.request.exchange.borrow_mut();
            driver::end_usage(exchange, &self.place.worker)?;
        }
        Ok(Action::Continue)
    }

    fn granted(&mut self, granted: Granted) -> Result<(), HostError> {
        let is_wanted = self.request.exchange.borrow().wants_rest_of_body();
        self.read_body(is_wanted, false)?;
        let stalled = None;
        let next = self.advance(Input::Granted { granted, stalled });
        match self.act_on_request(next)? {
            Action::Continue => self.up.open(),
            _ => Ok(()),
        }
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
        // Natively, a context may outlive its thread's variables.
        let _ = REQUESTS.try_with(|requests| requests.borrow_mut().remove(&self.place.id));
        self.place.end();
        let complete = self.down.is_complete();
        let wants_details = !complete && self.request.exchange.borrow().wants_end_details();
        let details = driver::details_if(wants_details)?;
        let _ = self.advance(Input::End { complete, details });
        Ok(())
    }

    fn recover(&mut self) -> Result<(), HostError> {
        match self.advance(Input::Failed) {
            Next::Reply => self.reply(true),
            _ => Ok(()),
        }
    }
}
