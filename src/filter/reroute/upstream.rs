//! The clusters' side: every attempt passes here on its way to a backend, and its answer on the way back.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

use super::readdress::Departing;
use super::{id_of, with, Shared, Step, NEXT, RATE_LIMITED, REQUESTS, RETRY};
use crate::core::exchange::Verdict;
use crate::core::identity::Renewal;
use crate::core::outcome::{Outcome, Trace};
use crate::core::reply::LocalReply;
use crate::core::splices::Splices;
use crate::filter::complaint::Complaint;
use crate::filter::gate::Gate;
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::journey::outcomes::{self, Next, ERROR_BODY};
use crate::filter::journey::{Answer, AnswerBody};
use crate::filter::waiting::{Granted, Wish};
use crate::filter::worker;
use crate::filter::{run, Recover};

thread_local! {
    /// An attempt without its request was seen in this VM, and said.
    static ORPHAN_SEEN: Cell<bool> = const { Cell::new(false) };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Whatever comes passes.
    Passing,
    /// An answer is held until its body, an error's, is complete.
    AwaitingBody { status: u16 },
    /// An answer is held until there is a newer token.
    AwaitingToken,
    /// The attempt is held until there is a newer token: the answer to the one before could not be held.
    Departing,
}

/// One attempt.
pub(super) struct Upstream {
    id: u32,
    me: Weak<RefCell<Upstream>>,
    shared: Option<Rc<RefCell<Shared>>>,
    phase: Phase,
    /// What is to be changed in the body on its way to this attempt's backend.
    splices: Splices,
    /// How much of the body has passed.
    passed: usize,
    up: Gate,
    down: Gate,
}

impl Upstream {
    fn on_request_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        let id = host::property(NEXT)?.as_deref().and_then(id_of);
        self.shared = id.and_then(|id| REQUESTS.with_borrow(|requests| requests.get(&id).cloned()));
        let Some(shared) = &self.shared else {
            if !ORPHAN_SEEN.replace(true) {
                log::error!(
                    "an attempt came through the upstream filter without its request: the listener's filter is missing, or \
                     its vm_config (vm_id, code, environment) is not the same as the upstream filter's"
                );
            }
            host::send_local_response(
                500,
                "aoai_no_request",
                &[],
                &LocalReply::internal_error().body(),
            )?;
            return Ok(Action::Pause);
        };
        if self.awaits_token(shared)? {
            self.phase = Phase::Departing;
            return Ok(Action::Pause);
        }
        self.depart()
    }

    /// Puts the attempt on the waiting list if the token that it would carry is being replaced.
    fn awaits_token(&self, shared: &RefCell<Shared>) -> Result<bool, HostError> {
        with(shared, |shared| {
            let Some(generation) = shared.outdated.take() else {
                return Ok(false);
            };
            let (worker, backend) = (&shared.journey.worker, shared.journey.exchange.backend());
            let carried = worker.credentials.of(backend);
            let is_old = carried.is_some_and(|token| token.generation == generation);
            // A body that is to be changed has to pass while it comes.
            let passes_as_it_is = shared.renaming().is_empty();
            let me = self.me.upgrade().filter(|_| is_old && passes_as_it_is);
            let wish = Wish::NewerToken(backend, generation);
            Ok(me.is_some_and(|me| worker.wait(self.id, me, wish)))
        })
    }

    /// Sends the attempt on its way.
    fn depart(&mut self) -> Result<Action, HostError> {
        let Some(shared) = &self.shared else {
            return Ok(Action::Continue);
        };
        match with(shared, Shared::readdress)? {
            Departing::With(splices) => {
                self.splices = splices;
                Ok(Action::Continue)
            }
            // The router takes this for the answer to the request, and asks no further.
            Departing::Refused(details) => {
                let body = LocalReply::internal_error().body();
                host::send_local_response(503, details, &[], &body)?;
                Ok(Action::Pause)
            }
        }
    }

    /// The request's body passes.
    fn on_request_body(&mut self, size: usize, end_of_stream: bool) -> Result<Action, HostError> {
        self.up.complete(end_of_stream);
        if self.phase == Phase::Departing {
            return Ok(self.up.body(Action::Pause));
        }
        let end = self.passed.saturating_add(size);
        if self.splices.touch(self.passed..end) {
            let chunk = host::buffer(Buffer::RequestBody, 0, size)?;
            let mut spliced = Vec::with_capacity(chunk.len());
            self.splices.apply_chunk(self.passed, &chunk, &mut spliced);
            host::replace_buffer(Buffer::RequestBody, &spliced)?;
        }
        self.passed = end;
        Ok(self.up.body(Action::Continue))
    }

    /// Whether this attempt's answer may be held. Every place that holds an answer asks here.
    ///
    /// An answer is never held across the end of its stream. Envoy ends the stream of an answer that is complete before its
    /// request is, and then crashes when the filter resumes that answer (`docs/envoy-crash.md`). Such an answer is decided in its
    /// own callback, by its status and headers.
    fn may_hold(&self) -> bool {
        self.up.is_complete()
    }

    /// Puts this attempt on the worker's waiting list; `false` if there is no point in waiting.
    fn wait(&self, wish: Wish) -> bool {
        let (Some(me), Some(shared)) = (self.me.upgrade(), &self.shared) else {
            return false;
        };
        let worker = with(shared, |shared| Ok(Rc::clone(&shared.journey.worker)));
        worker.is_ok_and(|worker| worker.wait(self.id, me, wish))
    }

    fn on_response_headers(&mut self, end_of_stream: bool) -> Result<Action, HostError> {
        self.down.complete(end_of_stream);
        let Some(shared) = self.shared.clone() else {
            return Ok(Action::Continue);
        };
        let status = outcomes::status()?;
        let worker = with(&shared, |shared| Ok(Rc::clone(&shared.journey.worker)))?;
        let outcome = Outcome::from_status(status, &worker.config.retry);
        match outcome {
            Some(outcome @ (Outcome::Success | Outcome::ClientError)) => with(&shared, |shared| {
                shared.journey.conclude_answer(outcome)?;
                shared.step = Step::Answered;
                Ok(Action::Continue)
            }),
            // An error's body is awaited: it may decide what follows, and it may be the last real answer there is.
            _ if !end_of_stream && self.may_hold() && worker.cluster_bodies.may_come() => {
                self.phase = Phase::AwaitingBody { status };
                if self.wait(Wish::ErrorBody) {
                    return Ok(Action::Pause);
                }
                self.settle_without_body(status)
            }
            _ => self.settle_without_body(status),
        }
    }

    fn on_response_body(&mut self, size: usize, end_of_stream: bool) -> Result<Action, HostError> {
        self.down.complete(end_of_stream);
        let action = match self.phase {
            Phase::Passing | Phase::Departing => Action::Continue,
            Phase::AwaitingToken => Action::Pause,
            Phase::AwaitingBody { status } => {
                if let Some(shared) = &self.shared {
                    with(shared, |shared| {
                        shared.journey.worker.cluster_bodies.came();
                        Ok(())
                    })?;
                }
                if end_of_stream || size > ERROR_BODY {
                    self.inspect(status)?
                } else {
                    Action::Pause
                }
            }
        };
        Ok(self.down.body(action))
    }

    fn on_response_trailers(&mut self) -> Result<Action, HostError> {
        self.down.complete(true);
        match self.phase {
            Phase::Passing | Phase::Departing => Ok(Action::Continue),
            Phase::AwaitingToken => Ok(Action::Pause),
            Phase::AwaitingBody { status } => self.inspect(status),
        }
    }

    /// Decides what follows an error whose body is complete, or longer than an error's.
    fn inspect(&mut self, status: u16) -> Result<Action, HostError> {
        if let Some(shared) = &self.shared {
            with(shared, |shared| {
                shared.journey.worker.forget(self.id);
                Ok(())
            })?;
        }
        let body = host::buffer(Buffer::ResponseBody, 0, ERROR_BODY)?;
        // A body larger than an error's is not kept: what is delivered is whole.
        let kept = self.down.is_complete();
        let kept = kept.then(|| AnswerBody::Whole(body.clone()));
        self.settle(status, &body, kept)
    }

    /// Decides what follows an error by its status and headers.
    fn settle_without_body(&mut self, status: u16) -> Result<Action, HostError> {
        let kept = self.down.is_complete();
        self.settle(status, &[], kept.then(|| AnswerBody::Whole(Vec::new())))
    }

    /// Decides what follows an error with this `body`. The client may get the answer later, if a body is `kept` for that.
    fn settle(
        &mut self,
        status: u16,
        body: &[u8],
        kept: Option<AnswerBody>,
    ) -> Result<Action, HostError> {
        let Some(shared) = self.shared.clone() else {
            return Ok(Action::Continue);
        };
        let headers = host::headers(Map::ResponseHeaders)?;
        let outcome = with(&shared, |shared| {
            let journey = &mut shared.journey;
            let outcome = Outcome::from_status(status, &journey.worker.config.retry)
                .unwrap_or_else(|| journey.error_outcome(status, body));
            journey.trace = Trace::of_status(status);
            journey.conclude(outcome, Some(&headers));
            shared.step = Step::Held;
            let backend = journey.exchange.backend();
            shared.answered_by = backend;
            shared.rate_limited = headers.get(RATE_LIMITED).map(str::to_owned);
            journey.answer = kept.map(|body| Answer {
                status,
                headers,
                body,
                backend,
            });
            Ok(outcome)
        })?;
        self.proceed(&shared, outcome)
    }

    fn proceed(&mut self, shared: &RefCell<Shared>, outcome: Outcome) -> Result<Action, HostError> {
        let (id, me) = (self.id, self.me.upgrade());
        let may_hold = self.may_hold();
        let phase = with(shared, |shared| {
            let worker = Rc::clone(&shared.journey.worker);
            // At most twice: the second time a bad token counts like any other failure.
            loop {
                match shared.journey.after(outcome, shared.replay, Next::Best) {
                    Verdict::TryNext => {
                        shared.mark()?;
                        return Ok(Phase::Passing);
                    }
                    Verdict::RenewToken => {
                        let generation = shared.journey.token_generation();
                        let backend = shared.journey.exchange.backend();
                        match worker.credentials.renew(backend, generation)? {
                            Renewal::Done(_) => {
                                shared.mark()?;
                                return Ok(Phase::Passing);
                            }
                            Renewal::Pending if !may_hold => {
                                shared.outdated = Some(generation);
                                shared.mark()?;
                                return Ok(Phase::Passing);
                            }
                            Renewal::Pending => {
                                let wish = Wish::NewerToken(backend, generation);
                                if me.clone().is_some_and(|me| worker.wait(id, me, wish)) {
                                    return Ok(Phase::AwaitingToken);
                                }
                            }
                            Renewal::IsNew => shared.journey.conclude_new_token(),
                            Renewal::Failed => {}
                        }
                    }
                    _ => {
                        host::remove_header(Map::ResponseHeaders, RETRY)?;
                        shared.step = match &shared.journey.answer {
                            Some(answer) if answer.body == AnswerBody::Stalled => Step::Stalled,
                            _ => Step::Answered,
                        };
                        if shared.step == Step::Answered {
                            shared.journey.answer = None;
                        }
                        return Ok(Phase::Passing);
                    }
                }
            }
        })?;
        self.phase = phase;
        Ok(match phase {
            Phase::AwaitingToken => Action::Pause,
            _ => Action::Continue,
        })
    }

    fn on_granted(&mut self, granted: Granted) -> Result<(), HostError> {
        let Some(shared) = self.shared.clone() else {
            return Ok(());
        };
        let action = match (self.phase, granted) {
            // Without a newer token the backend refuses the attempt, and what follows is decided then.
            (Phase::Departing, _) => {
                self.phase = Phase::Passing;
                return match self.depart()? {
                    Action::Continue => self.up.open(),
                    _ => Ok(()),
                };
            }
            (Phase::AwaitingToken, Granted::Token(_)) => {
                self.phase = Phase::Passing;
                with(&shared, |shared| shared.mark())?;
                Action::Continue
            }
            (Phase::AwaitingToken, _) => self.proceed(&shared, Outcome::BadToken)?,
            (Phase::AwaitingBody { status }, Granted::NoBody) => {
                self.phase = Phase::Passing;
                with(&shared, |shared| {
                    let worker = &shared.journey.worker;
                    if !worker.cluster_bodies.have_come() && worker.cluster_bodies.missed() {
                        worker.complain(Complaint::HiddenBodies);
                    }
                    Ok(())
                })?;
                // Either the backend has stalled or Envoy hides the body, which cannot be told apart at first. The client gets a
                // complete answer in both cases.
                let body = host::buffer(Buffer::ResponseBody, 0, ERROR_BODY)?;
                self.settle(status, &body, Some(AnswerBody::Stalled))?
            }
            _ => return Ok(()),
        };
        if action != Action::Continue {
            return Ok(());
        }
        match with(&shared, |shared| Ok(shared.step))? {
            // The client gets another answer, and a backend that has stalled may send no frame to resume this one.
            Step::Marked | Step::Stalled => host::resume(Half::Response),
            _ => self.down.open(),
        }
    }

    fn on_end(&mut self) -> Result<(), HostError> {
        match &self.shared {
            Some(shared) => with(shared, |shared| {
                shared.journey.worker.forget(self.id);
                Ok(())
            }),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Tells the router to make another attempt, on the exchange's current backend.
    fn mark(&mut self) -> Result<(), HostError> {
        self.step = Step::Marked;
        self.point_to(Some(self.journey.exchange.backend()))?;
        if self.rate_limited.is_some() {
            host::remove_header(Map::ResponseHeaders, RATE_LIMITED)?;
        }
        host::set_header(Map::ResponseHeaders, RETRY, "1")
    }
}

impl Recover for Upstream {
    fn recover(&mut self) -> Result<(), HostError> {
        self.phase = Phase::Passing;
        host::send_local_response(500, "aoai_error", &[], &LocalReply::internal_error().body())
    }
}

impl worker::Stream for RefCell<Upstream> {
    fn granted(&self, granted: Granted) {
        run(self, (), |stream| stream.on_granted(granted));
    }

    fn call_answered(&self, _call: u32) {}
}

/// The HTTP context as the SDK sees it.
pub(crate) struct UpstreamHandle(Rc<RefCell<Upstream>>);

impl UpstreamHandle {
    pub(crate) fn new(id: u32) -> Self {
        Self(Rc::new_cyclic(|me| {
            RefCell::new(Upstream {
                id,
                me: Weak::clone(me),
                shared: None,
                phase: Phase::Passing,
                splices: Splices::default(),
                passed: 0,
                up: Gate::new(Half::Request),
                down: Gate::new(Half::Response),
            })
        }))
    }
}

impl Context for UpstreamHandle {}

impl Drop for UpstreamHandle {
    fn drop(&mut self) {
        run(&self.0, (), Upstream::on_end);
    }
}

impl HttpContext for UpstreamHandle {
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
        run(&self.0, Action::Continue, |stream| {
            stream.up.complete(true);
            Ok(match stream.phase {
                Phase::Departing => Action::Pause,
                _ => Action::Continue,
            })
        })
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
        run(&self.0, Action::Continue, Upstream::on_response_trailers)
    }
}
