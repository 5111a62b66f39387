//! The listener's side: the plan, the first attempt, and the client's answer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::{unreplayable, with, Shared, Step, REQUEST, REQUESTS, RETRY};
use crate::core::exchange::{NoRetry, Replay};
use crate::core::metrics::Event;
use crate::core::outcome::Outcome;
use crate::core::reply::LocalReply;
use crate::filter::complaint::Complaint;
use crate::filter::gate::Gate;
use crate::filter::host::{self, Half, HostError, Map};
use crate::filter::journey::{self, Departure, Journey};
use crate::filter::tokens::Authorization;
use crate::filter::worker::{self, Granted, Wish, Worker};
use crate::filter::{run, Recover};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    New,
    /// The request is held until there is a token, or a backend may be free.
    Waiting,
    /// The request is with the router.
    Forwarded,
    /// The router's answer passes to the client.
    Passing,
    /// The client's answer was made here, or is complete.
    Done,
}

/// One request.
pub(super) struct Downstream {
    id: u32,
    me: Weak<RefCell<Downstream>>,
    worker: Rc<Worker>,
    shared: Rc<RefCell<Shared>>,
    phase: Phase,
    up: Gate,
}

impl Downstream {
    fn on_request_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        with(&self.shared, |shared| {
            shared.journey.begin()?;
            if let Some(reason) = unreplayable(&shared.journey) {
                shared.replay = Replay::Impossible(reason);
            }
            Ok(())
        })?;
        let shared = Rc::clone(&self.shared);
        REQUESTS.with_borrow_mut(|requests| requests.insert(self.id, shared));
        self.start()
    }

    fn start(&mut self) -> Result<Action, HostError> {
        if !self.worker.can_authorize() {
            return self.await_token();
        }
        let departure = with(&self.shared, |shared| shared.journey.depart())?;
        match departure {
            Departure::Ready(authorization) => {
                self.forward(&authorization)?;
                return Ok(Action::Continue);
            }
            Departure::NoToken => return self.await_token(),
            Departure::In(wait) => {
                self.phase = Phase::Waiting;
                let wish = Wish::Backend(wait.left);
                let me = self.me.upgrade();
                if !me.is_some_and(|me| self.worker.wait(self.id, me, wish)) {
                    self.phase = Phase::Done;
                    with(&self.shared, |shared| shared.journey.refuse(wait))?;
                }
            }
            Departure::Refused => self.phase = Phase::Done,
        }
        Ok(Action::Pause)
    }

    fn await_token(&mut self) -> Result<Action, HostError> {
        self.phase = Phase::Waiting;
        let may_wait = with(&self.shared, |shared| {
            Ok(shared.journey.may_wait_for_token())
        })?;
        let me = self.me.upgrade().filter(|_| may_wait);
        if !me.is_some_and(|me| self.worker.wait(self.id, me, Wish::Token)) {
            self.phase = Phase::Done;
            let retry_after = self.worker.retry_after();
            with(&self.shared, |shared| {
                shared.journey.reply_without_token(retry_after)
            })?;
        }
        Ok(Action::Pause)
    }

    /// Sends the request on its way to the first backend.
    fn forward(&mut self, token: &Rc<Authorization>) -> Result<(), HostError> {
        let id = self.id.to_le_bytes();
        with(&self.shared, |shared| {
            let retries = match shared.replay {
                Replay::Impossible(_) => 0,
                _ => self.worker.config.retry.max_attempts.saturating_sub(1),
            };
            shared.journey.edit_request(token)?;
            host::set_header(
                Map::RequestHeaders,
                "x-envoy-max-retries",
                &retries.to_string(),
            )?;
            host::set_property(REQUEST, &id)?;
            shared.point_to(Some(shared.journey.exchange.backend()))
        })?;
        self.phase = Phase::Forwarded;
        Ok(())
    }

    fn on_response_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        if self.phase != Phase::Forwarded {
            return Ok(Action::Continue);
        }
        self.phase = if end_of_stream {
            Phase::Done
        } else {
            Phase::Passing
        };
        let worker = Rc::clone(&self.worker);
        with(&self.shared, |shared| match shared.step {
            Step::Answered => shared.journey.sign(shared.journey.exchange.backend()),
            Step::Marked if host::header(Map::ResponseHeaders, RETRY)?.is_some() => {
                worker.count(Event::NoRetry(NoRetry::RouterDeclined));
                worker.complain(Complaint::RouterDeclined);
                host::remove_header(Map::ResponseHeaders, RETRY)?;
                shared.journey.sign(shared.answered_by)
            }
            Step::Marked if shared.journey.is_from_backend()? => {
                worker.complain(Complaint::UpstreamFilter);
                shared.journey.exchange.attempt_made();
                shared.journey.sign(shared.journey.exchange.backend())
            }
            Step::Marked => {
                // The router followed, but no further than to a cluster without a host.
                shared.journey.attempt_made();
                shared.journey.conclude(Outcome::Unavailable, None);
                worker.count(Event::NoRetry(NoRetry::RouterDeclined));
                worker.complain(Complaint::RouterDeclined);
                self.phase = Phase::Done;
                shared.answer_for_want_of_one()
            }
            Step::Attempting if shared.journey.is_to_slow_client(journey::status()?)? => {
                worker.count(Event::ClientGone);
                self.phase = Phase::Done;
                Ok(())
            }
            Step::Attempting | Step::Held => {
                shared.no_answer();
                shared.journey.end_unanswered(shared.replay);
                shared.journey.timed_out = journey::status()? == 504;
                self.phase = Phase::Done;
                shared.answer_for_want_of_one()
            }
            Step::GivenUp => {
                self.phase = Phase::Done;
                shared.answer_for_want_of_one()
            }
            Step::Before if shared.journey.is_from_backend()? => {
                worker.complain(Complaint::UpstreamFilter);
                shared.journey.exchange.attempt_made();
                shared.journey.sign(shared.journey.exchange.backend())
            }
            Step::Before => {
                shared.journey.attempt_made();
                shared.journey.conclude(Outcome::Unavailable, None);
                worker.count(Event::NoRetry(NoRetry::RouterDeclined));
                self.phase = Phase::Done;
                shared.answer_for_want_of_one()
            }
        })?;
        Ok(Action::Continue)
    }

    fn on_granted(&mut self, granted: Granted) -> Result<(), HostError> {
        match granted {
            Granted::Token(_) | Granted::Backend => match self.start()? {
                Action::Continue => self.up.open(),
                _ => Ok(()),
            },
            Granted::NoToken(wait) => {
                self.phase = Phase::Done;
                with(&self.shared, |shared| {
                    shared.journey.reply_without_token(wait)
                })
            }
            Granted::NoBody => Ok(()),
        }
    }

    fn on_end(&mut self) -> Result<(), HostError> {
        REQUESTS.with_borrow_mut(|requests| requests.remove(&self.id));
        self.worker.forget(self.id);
        match self.phase {
            Phase::New | Phase::Done => Ok(()),
            Phase::Passing => with(&self.shared, |shared| {
                shared.journey.count_break();
                Ok(())
            }),
            Phase::Waiting | Phase::Forwarded => {
                self.worker.count(Event::ClientGone);
                Ok(())
            }
        }
    }
}

impl Shared {
    /// The router gave up without an answer: the client gets the last one a backend gave, if there was any.
    fn answer_for_want_of_one(&mut self) -> Result<(), HostError> {
        match self.journey.answer.take() {
            Some(answer) => self.journey.replace(&answer),
            None => self.journey.reply_without_answer(),
        }
    }
}

impl Recover for Downstream {
    fn recover(&mut self) -> Result<(), HostError> {
        if matches!(self.phase, Phase::Passing | Phase::Done) {
            return Ok(());
        }
        self.phase = Phase::Done;
        with(&self.shared, |shared| {
            shared.journey.reply(&LocalReply::internal_error())
        })
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
        let shared = Shared::new(Journey::new(Rc::clone(&worker)));
        Self(Rc::new_cyclic(|me| {
            RefCell::new(Downstream {
                id,
                me: Weak::clone(me),
                worker,
                shared: Rc::new(RefCell::new(shared)),
                phase: Phase::New,
                up: Gate::new(Half::Request),
            })
        }))
    }

    /// A part of the request that is not its headers: held if they are.
    fn request_goes_on(&self, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.up.complete(end_of_stream);
            Ok(stream.up.body(match stream.phase {
                Phase::Waiting => Action::Pause,
                _ => Action::Continue,
            }))
        })
    }

    fn answer_ends(&self, end_of_stream: bool) -> Action {
        if end_of_stream {
            run(&self.0, (), |stream| {
                stream.phase = Phase::Done;
                Ok(())
            });
        }
        Action::Continue
    }
}

impl Context for DownstreamHandle {}

impl HttpContext for DownstreamHandle {
    fn on_http_request_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.on_request_headers(end_of_stream)
        })
    }

    fn on_http_request_body(&mut self, _: usize, end_of_stream: bool) -> Action {
        self.request_goes_on(end_of_stream)
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        self.request_goes_on(true)
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.on_response_headers(end_of_stream)
        })
    }

    fn on_http_response_body(&mut self, _: usize, end_of_stream: bool) -> Action {
        self.answer_ends(end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.answer_ends(true)
    }

    fn on_log(&mut self) {
        run(&self.0, (), Downstream::on_end);
    }
}
