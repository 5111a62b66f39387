//! The listener's side: the client's request, and its answer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::{Request, REQUESTS};
use crate::core::balancer::Granted;
use crate::core::exchange::{Exchange, Input, LastWord, Next};
use crate::filter::driver::{self, apply, clean_trailers, Place, Replaced};
use crate::filter::gate::Gate;
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::shown::ShownBody;
use crate::filter::worker::{self, Worker};
use crate::filter::{run, Recover};

/// One request.
pub(super) struct Downstream {
    place: Place,
    me: Weak<RefCell<Downstream>>,
    request: Rc<Request>,
    shown: ShownBody,
    up: Gate,
    down: Gate,
    /// The frames of the answer have to be read.
    reads_answer: bool,
    /// What is to take the place of the rest of the answer's body.
    body: Option<Vec<u8>>,
}

impl Downstream {
    fn advance(&mut self, input: Input) -> Next {
        let me = || self.me.upgrade().map(|me| me as Rc<dyn worker::Stream>);
        let exchange = &mut self.request.exchange.borrow_mut();
        self.place.advance(exchange, input, me)
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

    fn on_request_headers(&mut self, end: bool) -> Result<Action, HostError> {
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

    fn on_request_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
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

    fn on_request_trailers(&mut self) -> Result<Action, HostError> {
        self.up.complete(true);
        let trailers = clean_trailers()?;
        let is_wanted = self.request.exchange.borrow().wants_body(true);
        self.read_body(is_wanted, true)?;
        let next = self.advance(Input::RequestTrailers(trailers));
        let action = self.act_on_request(next)?;
        Ok(self.up.body(action))
    }

    fn read_body(&mut self, wanted: bool, end: bool) -> Result<(), HostError> {
        let (exchange, worker) = (&mut self.request.exchange.borrow_mut(), &self.place.worker);
        driver::read_body(exchange, &mut self.shown, worker, wanted, end)
    }

    fn on_response_headers(&mut self, end: bool) -> Result<Action, HostError> {
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
            }
            Next::Reply => self.reply(end)?,
            _ => {}
        }
        Ok(Action::Continue)
    }

    fn on_granted(&mut self, granted: Granted) -> Result<(), HostError> {
        let is_wanted = self.request.exchange.borrow().wants_rest_of_body();
        self.read_body(is_wanted, false)?;
        let stalled = None;
        let next = self.advance(Input::Granted { granted, stalled });
        match self.act_on_request(next)? {
            Action::Continue => self.up.open(),
            _ => Ok(()),
        }
    }

    /// A frame of the answer's body passes.
    fn on_response_body(&mut self, size: usize, end: bool) -> Result<(), HostError> {
        self.down.complete(end);
        if self.reads_answer {
            driver::tag_frame(&mut self.request.exchange.borrow_mut(), size)?;
        }
        match &mut self.body {
            // All of it with the first frame.
            Some(body) => host::replace_buffer(Buffer::ResponseBody, &std::mem::take(body)),
            None => Ok(()),
        }
    }

    fn on_end(&mut self) -> Result<(), HostError> {
        // Natively, a context may outlive its thread's variables.
        let _ = REQUESTS.try_with(|requests| requests.borrow_mut().remove(&self.place.id));
        self.place.leave();
        let complete = self.down.is_complete();
        let wants_details = !complete && self.request.exchange.borrow().wants_end_details();
        let details = driver::details_if(wants_details)?;
        let _ = self.advance(Input::End { complete, details });
        Ok(())
    }
}

impl Recover for Downstream {
    fn recover(&mut self) -> Result<(), HostError> {
        match self.advance(Input::Failed) {
            Next::Reply => self.reply(true),
            _ => Ok(()),
        }
    }
}

impl worker::Stream for RefCell<Downstream> {
    fn granted(&self, granted: Granted) {
        run(self, (), |stream| stream.on_granted(granted));
    }

    fn call_answered(&self, _call: u32) {}
}

/// The HTTP context as the SDK sees it.
pub(crate) struct DownstreamHandle(Rc<RefCell<Downstream>>);

impl DownstreamHandle {
    pub(crate) fn new(id: u32, worker: Rc<Worker>) -> Self {
        let request = Rc::new(Request {
            id,
            exchange: RefCell::new(Exchange::new(&worker.balancer)),
            worker: Rc::clone(&worker),
        });
        Self(Rc::new_cyclic(|me| {
            RefCell::new(Downstream {
                place: Place::new(id, worker),
                me: Weak::clone(me),
                request,
                shown: ShownBody::default(),
                up: Gate::new(Half::Request),
                down: Gate::new(Half::Response),
                reads_answer: false,
                body: None,
            })
        }))
    }
}

impl Context for DownstreamHandle {}

impl HttpContext for DownstreamHandle {
    fn on_http_request_headers(&mut self, _: usize, end: bool) -> Action {
        run(&self.0, Action::Pause, |s| s.on_request_headers(end))
    }

    fn on_http_request_body(&mut self, size: usize, end: bool) -> Action {
        run(&self.0, Action::Pause, |s| s.on_request_body(size, end))
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Pause, Downstream::on_request_trailers)
    }

    fn on_http_response_headers(&mut self, _: usize, end: bool) -> Action {
        run(&self.0, Action::Continue, |s| s.on_response_headers(end))
    }

    fn on_http_response_body(&mut self, size: usize, end: bool) -> Action {
        run(&self.0, (), |s| s.on_response_body(size, end));
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        run(&self.0, (), |s| {
            s.down.complete(true);
            Ok(())
        });
        Action::Continue
    }
}

impl Drop for DownstreamHandle {
    fn drop(&mut self) {
        run(&self.0, (), Downstream::on_end);
    }
}
