//! The filter engine: the filter sends a request again itself. Works on every Envoy.
//!
//! The first attempt is the router's: the request is edited in place and goes on its way while its body is copied. The
//! router's answer is held as long as another attempt may be due; further attempts are calls of the filter's own, and the
//! answer to the last one is given to the client as a local reply.

mod answer;
mod request;
mod walk;

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::complaint::Complaint;
use super::gate::Gate;
use super::header_map::HeaderMap;
use super::held_bodies::Watch;
use super::host::{Half, HostError};
use super::journey::Journey;
use super::shown::ShownBody;
use super::waiting::{Granted, Wish};
use super::worker::{self, Worker};
use super::{run, Recover};
use crate::core::exchange::NoRetry;
use crate::core::inspection::Inspection;
use crate::core::metrics::Event;
use crate::core::outcome::Outcome;
use crate::core::replay::BodyCopy;
use crate::core::reply::LocalReply;

/// Where the stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    New,
    /// The request is held until there is a token.
    AwaitingToken,
    /// The request is held until it is complete, or has said where it goes.
    AwaitingBody,
    /// The request is held until a backend may be free.
    AwaitingBackend,
    /// The request is with the router, whose answer is the first attempt's.
    Forwarded,
    /// The router's answer is held.
    Held(Held),
    /// An answer of the router passes to the client.
    Passing,
    /// The client's answer was made here.
    Replied,
}

/// What the router's answer is held for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Its body, whose error code decides.
    ErrorBody { status: u16 },
    /// The rest of the request, without which there can be no other attempt.
    Request(Outcome),
    /// A newer token.
    Token,
    /// The answer to a call, which is another attempt.
    Call(u32),
    /// Its next frame, with which it goes to the client.
    Frame,
}

/// One request.
pub(crate) struct Stream {
    id: u32,
    me: Weak<RefCell<Stream>>,
    phase: Phase,
    journey: Journey,
    body: BodyCopy,
    inspection: Inspection,
    trailers: HeaderMap,
    shown: ShownBody,
    up: Gate,
    down: Gate,
    unheld: Watch,
    router_answer: RouterAnswer,
}

/// What is known of the router's answer.
#[derive(Default)]
struct RouterAnswer {
    backend: usize,
    /// A backend's own, not one that Envoy made for want of it.
    is_real: bool,
    /// It ends with trailers.
    has_trailers: bool,
}

impl Stream {
    fn worker(&self) -> &Rc<Worker> {
        &self.journey.worker
    }

    /// Puts this stream on the worker's waiting list; `false` if there is no point in waiting.
    fn wait(&self, wish: Wish) -> bool {
        let me = self.me.upgrade();
        me.is_some_and(|me| self.worker().wait(self.id, me, wish))
    }

    /// A frame of a body comes.
    fn watch_body(&mut self) {
        if self.unheld.body_comes(&self.journey.worker.listener_bodies) {
            self.worker().complain(Complaint::HiddenBodies);
        }
    }

    /// The stream has ended, well or not.
    fn on_end(&mut self) {
        self.worker().forget(self.id);
        match self.phase {
            Phase::New | Phase::Replied => {}
            Phase::Passing if self.down.is_complete() => {}
            Phase::Passing => self.journey.count_break(),
            phase => {
                if let Phase::Held(Held::Call(call)) = phase {
                    self.worker().disown_call(call);
                }
                self.worker().count(Event::ClientGone);
            }
        }
        self.phase = Phase::Replied;
    }
}

impl Recover for Stream {
    fn recover(&mut self) -> Result<(), HostError> {
        if matches!(self.phase, Phase::Passing | Phase::Replied) {
            return Ok(());
        }
        self.phase = Phase::Replied;
        self.journey.reply(&LocalReply::internal_error())
    }
}

impl worker::Stream for RefCell<Stream> {
    fn granted(&self, granted: Granted) {
        run(self, (), |stream| stream.on_granted(granted));
    }

    fn call_answered(&self, call: u32) {
        run(self, (), |stream| stream.on_call_response(call));
    }
}

/// The HTTP context as the SDK sees it.
pub(crate) struct StreamHandle(Rc<RefCell<Stream>>);

impl StreamHandle {
    pub(crate) fn new(id: u32, worker: Rc<Worker>) -> Self {
        Self(Rc::new_cyclic(|me| {
            RefCell::new(Stream {
                id,
                me: Weak::clone(me),
                phase: Phase::New,
                journey: Journey::new(worker),
                body: BodyCopy::Dropped(NoRetry::AttemptsExhausted),
                inspection: Inspection::Done,
                trailers: HeaderMap::default(),
                shown: ShownBody::default(),
                up: Gate::new(Half::Request),
                down: Gate::new(Half::Response),
                unheld: Watch::default(),
                router_answer: RouterAnswer::default(),
            })
        }))
    }
}

impl Context for StreamHandle {
    fn on_http_call_response(&mut self, call: u32, _: usize, _: usize, _: usize) {
        worker::Stream::call_answered(&*self.0, call);
    }
}

impl HttpContext for StreamHandle {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.on_request_headers(end_of_stream)
        })
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.on_request_body(size, end_of_stream)
        })
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Pause, Stream::on_request_trailers)
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Continue, |stream| {
            stream.on_response_headers(end_of_stream)
        })
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Continue, |stream| {
            stream.on_response_body(size, end_of_stream)
        })
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Continue, Stream::on_response_trailers)
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        run(&self.0, (), |stream| {
            stream.on_end();
            Ok(())
        });
    }
}
