//! The listener's side: the plan, the first attempt, and the client's answer.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::{unreplayable, with, Shared, Step, RATE_LIMITED, REQUESTS, RETRY};
use crate::core::exchange::{digit, NoRetry, Replay};
use crate::core::identity::Authorization;
use crate::core::inspection::Inspection;
use crate::core::metrics::Event;
use crate::core::outcome::{Origin, Outcome};
use crate::core::replay::HELD_UNTIL_COMPLETE;
use crate::core::reply::LocalReply;
use crate::filter::complaint::Complaint;
use crate::filter::gate::Gate;
use crate::filter::held_bodies::Watch;
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::journey::{clean_trailers, outcomes, Departure, Journey, Replaced};
use crate::filter::shown::ShownBody;
use crate::filter::waiting::{Granted, Wish};
use crate::filter::worker::{self, Worker};
use crate::filter::{run, Recover};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing came yet.
    New,
    /// The request is held until its body has said where it goes.
    AwaitingBody,
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
    inspection: Inspection,
    shown: ShownBody,
    unheld: Watch,
    up: Gate,
    /// What is to take the place of the rest of the answer's body.
    body: Option<Vec<u8>>,
}

impl Downstream {
    fn on_request_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        let inspection = with(&self.shared, |shared| {
            let inspection = shared.journey.begin(!end_of_stream)?;
            if let Some(reason) = unreplayable(&shared.journey) {
                shared.replay = Replay::Impossible(reason);
            }
            Ok(inspection)
        })?;
        let Some(inspection) = inspection else {
            self.phase = Phase::Done;
            return Ok(Action::Pause);
        };
        self.inspection = inspection;
        let shared = Rc::clone(&self.shared);
        REQUESTS.with_borrow_mut(|requests| requests.insert(self.id, shared));
        self.start()
    }

    /// Whether the request is not to leave before more of its body has come.
    ///
    /// A request that may be retried leaves when it is complete: then no answer comes before its end, and every answer may be
    /// held until it is known what follows.
    fn must_hold(&self) -> Result<bool, HostError> {
        if self.inspection.is_under_way() {
            return Ok(true);
        }
        if self.up.is_complete() {
            return Ok(false);
        }
        with(&self.shared, |shared| {
            let fits = match shared.journey.request.content_length {
                Some(length) => length <= self.worker.hold_limit() as u64,
                // Envoy's default buffer limit is twice that.
                None => self.shown.size() <= HELD_UNTIL_COMPLETE,
            };
            Ok(fits && shared.replay == Replay::Ready)
        })
    }

    /// A part of the request that is not its headers.
    fn on_request_body(&mut self, size: usize, end_of_stream: bool) -> Result<Action, HostError> {
        self.shown.show(size);
        if self.unheld.body_comes(&self.worker.listener_bodies) {
            self.worker.complain(Complaint::HiddenBodies);
        }
        self.request_goes_on(end_of_stream)
    }

    fn request_goes_on(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        let is_held = matches!(self.phase, Phase::AwaitingBody | Phase::Waiting);
        if is_held {
            self.worker.listener_bodies.came();
            self.read_body(end_of_stream)?;
        }
        let action = match self.phase {
            Phase::AwaitingBody if self.must_hold()? => Action::Pause,
            Phase::AwaitingBody => {
                self.worker.forget(self.id);
                self.start()?
            }
            Phase::Waiting => Action::Pause,
            _ => Action::Continue,
        };
        Ok(self.up.body(action))
    }

    /// Reads the new part of the body, where the body decides on the backend; `end` where it is the last.
    fn read_body(&mut self, end: bool) -> Result<(), HostError> {
        if !self.inspection.is_under_way() {
            return Ok(());
        }
        let chunk = self.shown.read()?;
        if let Some(found) = self.inspection.push(&chunk, end) {
            with(&self.shared, |shared| {
                shared.journey.request.learn(found, &self.worker.tags);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<Action, HostError> {
        if !self.worker.can_authorize() {
            return self.await_token();
        }
        if self.worker.listener_bodies.may_come() && self.must_hold()? {
            self.phase = Phase::AwaitingBody;
            let me = self.me.upgrade();
            if me.is_some_and(|me| self.worker.wait(self.id, me, Wish::RequestBody)) {
                return Ok(Action::Pause);
            }
        }
        self.depart()
    }

    /// Sends the request to the first backend, if there is one.
    fn depart(&mut self) -> Result<Action, HostError> {
        let departure = with(&self.shared, |shared| shared.journey.depart())?;
        match departure {
            Departure::Ready(authorization) => {
                self.forward(&authorization)?;
                return Ok(Action::Continue);
            }
            Departure::NoToken => return self.await_token(),
            Departure::In(wait) => {
                self.phase = Phase::Waiting;
                let wish = with(&self.shared, |shared| {
                    Ok(shared.journey.wish_for_backend(wait))
                })?;
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
        let (may_wait, identities) = with(&self.shared, |shared| {
            let journey = &shared.journey;
            Ok((journey.may_wait_for_token(), journey.identities()))
        })?;
        let me = self.me.upgrade().filter(|_| may_wait);
        let wish = Wish::Token(identities);
        if !me.is_some_and(|me| self.worker.wait(self.id, me, wish)) {
            self.phase = Phase::Done;
            let retry_after = self.worker.credentials.retry_after(identities);
            with(&self.shared, |shared| {
                shared.journey.reply_without_token(retry_after)
            })?;
        }
        Ok(Action::Pause)
    }

    /// Sends the request on its way to the first backend.
    fn forward(&mut self, token: &Rc<Authorization>) -> Result<(), HostError> {
        with(&self.shared, |shared| {
            // How often it may is said by the route, unless that is never, or the client had a mind of its own.
            let most = self.worker.config.retry.max_attempts.saturating_sub(1);
            let retries = match shared.replay {
                Replay::Impossible(_) => Some(0),
                _ => shared.journey.request.instructs_router.then_some(most),
            };
            shared.journey.edit_request(token)?;
            let cuts = &shared.journey.request.cuts;
            if !cuts.is_empty() {
                self.shown.replace(&cuts.apply(&ShownBody::all()?))?;
            }
            if let Some(retries) = retries {
                host::set_header(Map::RequestHeaders, "x-envoy-max-retries", digit(retries))?;
            }
            if let Some(failures) = shared
                .journey
                .request
                .router_retries_on(&self.worker.config)
            {
                host::set_header(Map::RequestHeaders, "x-envoy-retry-on", failures)?;
            }
            shared.point_to(Some(shared.journey.exchange.backend()))
        })?;
        self.phase = Phase::Forwarded;
        Ok(())
    }

    fn on_response_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        if self.phase == Phase::AwaitingBody && outcomes::status()? == 413 {
            self.worker.hold_less();
        }
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
            Step::Answered => {
                shared.journey.open_answer()?;
                shared.journey.sign(shared.journey.exchange.backend())
            }
            Step::Stalled => {
                self.phase = Phase::Done;
                shared.answer_for_want_of_one(end_of_stream, &mut self.body)
            }
            Step::Marked if host::header(Map::ResponseHeaders, RETRY)?.is_some() => {
                worker.count(Event::NoRetry(NoRetry::RouterDeclined));
                worker.complain(Complaint::RouterDeclined);
                host::remove_header(Map::ResponseHeaders, RETRY)?;
                if let Some(value) = &shared.rate_limited {
                    host::set_header(Map::ResponseHeaders, RATE_LIMITED, value)?;
                }
                shared.journey.sign(shared.answered_by)
            }
            Step::Marked if shared.journey.is_from_backend()? => shared.pass_unobserved(),
            Step::Marked => {
                // The router followed, but no further than to a cluster without a host.
                shared.journey.attempt_made();
                shared.journey.conclude(Outcome::Unavailable, None);
                worker.count(Event::NoRetry(NoRetry::RouterDeclined));
                worker.complain(Complaint::RouterDeclined);
                self.phase = Phase::Done;
                shared.answer_for_want_of_one(end_of_stream, &mut self.body)
            }
            step @ (Step::Attempting | Step::Held) => {
                self.phase = Phase::Done;
                let (origin, status) = (shared.journey.origin()?, outcomes::status()?);
                if step == Step::Attempting && origin.is_to_slow_client(status) {
                    worker.count(Event::ClientGone);
                    return Ok(());
                }
                shared.no_answer();
                shared.journey.end_unanswered(shared.replay);
                shared.journey.timed_out = status == 504;
                shared.answer_for_want_of_one(end_of_stream, &mut self.body)
            }
            Step::GivenUp => {
                self.phase = Phase::Done;
                shared.answer_for_want_of_one(end_of_stream, &mut self.body)
            }
            Step::Before => match shared.journey.origin()? {
                Origin::Backend => shared.pass_unobserved(),
                Origin::Router => {
                    shared.journey.attempt_made();
                    shared.journey.conclude(Outcome::Unavailable, None);
                    worker.count(Event::NoRetry(NoRetry::RouterDeclined));
                    self.phase = Phase::Done;
                    shared.answer_for_want_of_one(end_of_stream, &mut self.body)
                }
                Origin::Other => {
                    self.phase = Phase::Done;
                    Ok(())
                }
            },
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
            // It cannot be told what the body says: the request goes on without that.
            Granted::NoBody => {
                if self.worker.listener_bodies.missed() {
                    self.worker.complain(Complaint::HiddenBodies);
                }
                self.unheld.released(host::now());
                self.inspection.give_up();
                match self.depart()? {
                    Action::Continue => self.up.open(),
                    _ => Ok(()),
                }
            }
        }
    }

    fn on_end(&mut self) -> Result<(), HostError> {
        // Natively, a context may outlive its thread's variables.
        let _ = REQUESTS.try_with(|requests| requests.borrow_mut().remove(&self.id));
        self.worker.forget(self.id);
        match self.phase {
            Phase::New | Phase::Done => Ok(()),
            Phase::Passing => with(&self.shared, |shared| {
                shared.journey.count_break();
                Ok(())
            }),
            Phase::AwaitingBody | Phase::Waiting | Phase::Forwarded => {
                self.worker.count(Event::ClientGone);
                Ok(())
            }
        }
    }
}

impl Shared {
    /// Lets a backend's answer pass that no upstream filter saw.
    fn pass_unobserved(&mut self) -> Result<(), HostError> {
        self.journey.worker.complain(Complaint::UpstreamFilter);
        self.journey.exchange.attempt_made();
        self.journey.sign(self.journey.exchange.backend())
    }

    /// The router gave up without an answer: the client gets the last one a backend gave, if there was any.
    ///
    /// In a callback of the headers of what the router says instead. If the client's answer takes the place of that, its body goes to
    /// `body`, for the callbacks of the body.
    fn answer_for_want_of_one(
        &mut self,
        end_of_stream: bool,
        body: &mut Option<Vec<u8>>,
    ) -> Result<(), HostError> {
        let Some(answer) = self.journey.answer.take() else {
            return self.journey.reply_without_answer();
        };
        let mut kept = None;
        let mut put_body = |body: &[u8]| {
            kept = (!end_of_stream).then(|| body.to_vec());
            Ok(!end_of_stream || body.is_empty())
        };
        if self.journey.replace(&answer, &mut put_body)? == Replaced::InPlace {
            *body = kept;
        }
        Ok(())
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
        let shared = Shared::new(id, Journey::new(Rc::clone(&worker)));
        Self(Rc::new_cyclic(|me| {
            RefCell::new(Downstream {
                id,
                me: Weak::clone(me),
                worker,
                shared: Rc::new(RefCell::new(shared)),
                phase: Phase::New,
                inspection: Inspection::Done,
                shown: ShownBody::default(),
                unheld: Watch::default(),
                up: Gate::new(Half::Request),
                body: None,
            })
        }))
    }

    /// A frame of the answer's body of this size passes, or its trailers do.
    fn answer_goes_on(&self, frame: Option<usize>, end_of_stream: bool) -> Action {
        run(&self.0, (), |stream| {
            if stream.phase == Phase::Passing {
                let size = frame.unwrap_or_default();
                with(&stream.shared, |shared| shared.journey.pass_answer(size))?;
            } else if let (Some(_), Some(body)) = (frame, &mut stream.body) {
                // All of it with the first frame.
                host::replace_buffer(Buffer::ResponseBody, &std::mem::take(body))?;
            }
            if end_of_stream {
                stream.phase = Phase::Done;
            }
            Ok(())
        });
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

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Pause, |stream| {
            stream.on_request_body(size, end_of_stream)
        })
    }

    fn on_http_request_trailers(&mut self, _: usize) -> Action {
        run(&self.0, Action::Pause, |stream| {
            clean_trailers()?;
            stream.request_goes_on(true)
        })
    }

    fn on_http_response_headers(&mut self, _: usize, end_of_stream: bool) -> Action {
        run(&self.0, Action::Continue, |stream| {
            stream.on_response_headers(end_of_stream)
        })
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.answer_goes_on(Some(size), end_of_stream)
    }

    fn on_http_response_trailers(&mut self, _: usize) -> Action {
        self.answer_goes_on(None, true)
    }
}

impl Drop for DownstreamHandle {
    fn drop(&mut self) {
        run(&self.0, (), Downstream::on_end);
    }
}
