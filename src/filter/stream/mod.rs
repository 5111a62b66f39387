//! One request: walks its plan, from the client's headers to the last byte of an answer.
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

use self::walk::Answer;
use super::header_map::HeaderMap;
use super::host::{self, HostError};
use super::worker::{Granted, Wish, Worker};
use crate::core::config::Backend;
use crate::core::exchange::{Exchange, NoRetry};
use crate::core::metrics::Event;
use crate::core::outcome::Outcome;
use crate::core::plan::Plan;
use crate::core::replay::BodyCopy;
use crate::core::reply::LocalReply;
use crate::core::request::Request;

/// Where the stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    New,
    /// The request is held until there is a token.
    AwaitingToken,
    /// The request is held until it is complete.
    AwaitingBody,
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
}

/// One request.
pub(crate) struct Stream {
    id: u32,
    me: Weak<RefCell<Stream>>,
    worker: Rc<Worker>,
    phase: Phase,
    exchange: Exchange,
    request: Request,
    original: HeaderMap,
    body: BodyCopy,
    trailers: HeaderMap,
    /// Bytes of Envoy's body buffer that were copied but not passed on, because the request is held.
    body_held: usize,
    token_generation: u32,
    router_answer: RouterAnswer,
    /// The last answer of a backend to a call.
    answer: Option<Answer>,
    /// The last attempt without an answer of a backend ended because of its time limit.
    timed_out: bool,
}

/// What is known of the router's answer.
#[derive(Default)]
struct RouterAnswer {
    backend: usize,
    /// A backend's own, not one that Envoy made for want of it.
    is_real: bool,
    is_complete: bool,
}

impl Stream {
    fn new(id: u32, worker: Rc<Worker>, me: Weak<RefCell<Self>>) -> Self {
        Self {
            id,
            me,
            phase: Phase::New,
            exchange: Exchange::new(Plan::round_robin(0, 1, 1), 1),
            request: Request::default(),
            original: HeaderMap::default(),
            body: BodyCopy::Dropped(NoRetry::AttemptsExhausted),
            trailers: HeaderMap::default(),
            body_held: 0,
            token_generation: 0,
            router_answer: RouterAnswer::default(),
            answer: None,
            timed_out: false,
            worker,
        }
    }

    fn backend_name(&self, index: usize) -> &str {
        let backend = self.worker.config.backends.get(index);
        backend.map_or("", |backend: &Backend| &backend.name)
    }

    fn attempt_made(&mut self) {
        let backend = self.exchange.backend();
        self.exchange.attempt_made();
        self.worker.count(Event::Attempt(backend));
        if self.exchange.attempts() > 1 {
            self.worker.count(Event::Retry(backend));
        }
    }

    fn count_outcome(&self, outcome: Outcome) {
        let backend = self.exchange.backend();
        self.worker.count(Event::Outcome(backend, outcome));
    }

    /// Puts this stream on the worker's waiting list; `false` if there is no point in waiting.
    fn wait(&self, wish: Wish) -> bool {
        self.me
            .upgrade()
            .is_some_and(|me| self.worker.wait(self.id, &me, wish))
    }

    /// Answers the client with a reply of the filter's own.
    fn reply(&mut self, reply: &LocalReply) -> Result<(), HostError> {
        self.phase = Phase::Replied;
        let attempts = self.exchange.attempts().to_string();
        let headers = reply.headers();
        let mut headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        if let Some(name) = &self.worker.config.headers.attempts {
            headers.push((name, &attempts));
        }
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_bytes()))
            .collect();
        host::send_local_response(reply.status, reply.code, &headers, &reply.body())
    }

    /// The stream has ended, well or not.
    fn on_end(&mut self) {
        self.worker.forget(self.id);
        match self.phase {
            Phase::Passing if self.router_answer.is_complete => {}
            Phase::New | Phase::Replied => {}
            Phase::Passing => {
                let details = host::property("response\0code_details").ok().flatten();
                // Envoy's own words: `upstream_reset_after_response_started{...}`.
                let by_upstream = details.is_some_and(|details| details.starts_with(b"upstream"));
                self.worker.count(if by_upstream {
                    Event::StreamBroken
                } else {
                    Event::ClientGone
                });
            }
            phase => {
                if let Phase::Held(Held::Call(call)) = phase {
                    self.worker.disown_call(call);
                }
                self.worker.count(Event::ClientGone);
            }
        }
        // Breaks the circle between the stream and what may still refer to it.
        self.phase = Phase::Replied;
    }
}

/// Tells the stream how its wait ended. Envoy's effective context must be the stream's.
pub(crate) fn granted(stream: &Rc<RefCell<Stream>>, granted: Granted) {
    run(stream, (), |stream| stream.on_granted(granted));
}

/// Gives the stream the answer to a call it made while the root context was running. Envoy's effective context must be the
/// stream's.
pub(crate) fn call_answered(stream: &Rc<RefCell<Stream>>, call: u32) {
    run(stream, (), |stream| stream.on_call_response(call));
}

/// Runs one callback. An error is logged and answered: a stream never hangs because a host call was refused, and a request
/// that could not be edited never leaves.
fn run<T>(
    stream: &Rc<RefCell<Stream>>,
    otherwise: T,
    act: impl FnOnce(&mut Stream) -> Result<T, HostError>,
) -> T {
    let Ok(mut stream) = stream.try_borrow_mut() else {
        log::error!("a callback came while another one of the same stream was running");
        return otherwise;
    };
    act(&mut stream).unwrap_or_else(|error| {
        log::error!("{error}");
        if stream.phase != Phase::Passing && stream.phase != Phase::Replied {
            if let Err(error) = stream.reply(&LocalReply::internal_error()) {
                log::error!("{error}");
            }
        }
        otherwise
    })
}

/// The HTTP context as the SDK sees it.
pub(crate) struct StreamHandle(Rc<RefCell<Stream>>);

impl StreamHandle {
    pub(crate) fn new(id: u32, worker: Rc<Worker>) -> Self {
        Self(Rc::new_cyclic(|me| {
            RefCell::new(Stream::new(id, worker, Weak::clone(me)))
        }))
    }
}

impl Context for StreamHandle {
    fn on_http_call_response(&mut self, call: u32, _: usize, _: usize, _: usize) {
        call_answered(&self.0, call);
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
        run(&self.0, Action::Pause, |stream| {
            stream.on_response_headers(end_of_stream)
        })
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.on_response_body(size, end_of_stream)
        })
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Pause, Stream::on_response_trailers)
    }

    fn on_log(&mut self) {
        run(&self.0, (), |stream| {
            stream.on_end();
            Ok(())
        });
    }
}
