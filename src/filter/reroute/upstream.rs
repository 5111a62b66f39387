//! The clusters' side: every attempt passes here on its way to a backend, and its answer on the way back.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::{id_of, Request, NEXT, REQUESTS};
use crate::core::balancer::Granted;
use crate::core::exchange::{Exchange, Input, Next, ERROR_BODY};
use crate::core::reply::LocalReply;
use crate::core::splices::Splices;
use crate::filter::context::Callbacks;
use crate::filter::driver::{self, apply, Place};
use crate::filter::gate::Gate;
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::worker;

thread_local! {
    /// An attempt without its request was seen in this VM, and said.
    static ORPHAN_SEEN: Cell<bool> = const { Cell::new(false) };
}

/// One attempt.
pub(in crate::filter) struct Upstream {
    id: u32,
    me: Weak<dyn worker::Stream>,
    request: Option<(Place, Rc<Request>)>,
    /// The half that is held.
    held: Option<Half>,
    /// What is to be changed in the body on its way to this attempt's backend.
    splices: Splices,
    /// How much of the body has passed.
    passed: usize,
    up: Gate,
    down: Gate,
}

impl Upstream {
    pub(in crate::filter) fn new(id: u32, me: Weak<dyn worker::Stream>) -> Self {
        Self {
            id,
            me,
            request: None,
            held: None,
            splices: Splices::default(),
            passed: 0,
            up: Gate::new(Half::Request),
            down: Gate::new(Half::Response),
        }
    }

    fn advance(&mut self, input: Input) -> Next {
        match &mut self.request {
            Some((place, request)) => place.advance(&mut request.exchange.borrow_mut(), input),
            None => Next::Continue,
        }
    }

    /// Carries out `next` in a callback of the attempt's request.
    fn act_on_request(&mut self, next: Next) -> Result<Action, HostError> {
        self.held = matches!(next, Next::Hold).then_some(Half::Request);
        match next {
            Next::Depart => self.depart()?,
            // The router takes this for the answer to the request, and asks no further.
            Next::Refuse(details) => refuse(503, details)?,
            _ => {}
        }
        Ok(match next {
            Next::Hold | Next::Refuse(_) => Action::Pause,
            _ => Action::Continue,
        })
    }

    fn is_late_stream(&self) -> bool {
        let request = self.request.as_ref();
        request.is_some_and(|(_, request)| request.exchange.borrow().is_late_stream())
    }

    /// Sends the attempt on its way.
    fn depart(&mut self) -> Result<(), HostError> {
        let Some((place, request)) = &self.request else {
            return Ok(());
        };
        let (exchange, balancer) = (&request.exchange.borrow(), place.balancer());
        apply(Map::RequestHeaders, &exchange.attempt_edits(balancer))?;
        self.splices = exchange.renaming(balancer);
        request.point(exchange)
    }

    /// More of the answer's body has come, of which Envoy shows so many bytes, or its trailers.
    fn answer_goes_on(&mut self, shown: usize, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        let Some((_, request)) = self.request.as_ref().filter(|_| self.held.is_some()) else {
            return Ok(match &mut self.request {
                Some((place, _)) => place.end_frame(&mut self.down, Action::Continue),
                None => Action::Continue,
            });
        };
        let wanted = request.exchange.borrow().wants_answer_body(shown, end);
        let bytes = driver::answer_body_if(wanted)?;
        let next = self.advance(Input::AnswerBody { bytes, end });
        let action = self.act_on_answer(next)?;
        Ok(self.down.body(action))
    }

    /// Carries out `next` in a callback of the answer.
    fn act_on_answer(&mut self, next: Next) -> Result<Action, HostError> {
        self.held = matches!(next, Next::Hold).then_some(Half::Response);
        match next {
            Next::Hold => return Ok(Action::Pause),
            Next::Mark => self.mark()?,
            Next::Pass | Next::Yield => {
                host::remove_header(Map::ResponseHeaders, Exchange::MARK)?;
            }
            _ => {}
        }
        Ok(Action::Continue)
    }

    /// Tells the router to make another attempt.
    fn mark(&self) -> Result<(), HostError> {
        let Some((_, request)) = &self.request else {
            return Ok(());
        };
        let exchange = &request.exchange.borrow();
        request.point(exchange)?;
        apply(Map::ResponseHeaders, &exchange.marking())
    }
}

/// Answers the attempt in the place of its backend.
fn refuse(status: u16, details: &str) -> Result<(), HostError> {
    let body = LocalReply::internal_error().body(None);
    host::send_local_response(status, details, &[], &body)
}

impl Callbacks for Upstream {
    fn request_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        let id = host::property(NEXT)?.as_deref().and_then(id_of);
        let request = id.and_then(|id| REQUESTS.with_borrow(|requests| requests.get(&id).cloned()));
        let Some(request) = request else {
            if !ORPHAN_SEEN.replace(true) {
                log::error!(
                    "an attempt came through the upstream filter without its request: the listener's filter is missing, or \
                     its vm_config (vm_id, code, environment) is not the same as the upstream filter's"
                );
            }
            refuse(500, "aoai_no_request")?;
            return Ok(Action::Pause);
        };
        let cluster = match request.exchange.borrow().is_retrying() {
            true => host::property("xds\0cluster_name")?,
            false => None,
        };
        let place = Place::new(self.id, Rc::clone(&request.worker), Weak::clone(&self.me));
        self.request = Some((place, request));
        let next = self.advance(Input::Attempt { cluster });
        self.act_on_request(next)
    }

    fn request_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        if let Some(Half::Request) = self.held {
            return Ok(self.up.body(Action::Pause));
        }
        let until = self.passed.saturating_add(size);
        if self.splices.touch(self.passed..until) {
            let chunk = host::buffer(Buffer::RequestBody, 0, size)?;
            let mut spliced = Vec::with_capacity(chunk.len());
            self.splices.apply_chunk(self.passed, &chunk, &mut spliced);
            host::replace_buffer(Buffer::RequestBody, &spliced)?;
        }
        self.passed = until;
        Ok(self.up.body(Action::Continue))
    }

    fn request_trailers(&mut self) -> Result<Action, HostError> {
        self.up.complete(true);
        Ok(match self.held {
            Some(Half::Request) => Action::Pause,
            _ => Action::Continue,
        })
    }

    fn response_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        let Some((place, request)) = &self.request else {
            return Ok(Action::Continue);
        };
        let (exchange, balancer) = (request.exchange.borrow(), place.balancer());
        let may_hold = self.up.is_complete();
        let reads_start = may_hold && !end && exchange.reads_stream_start(balancer);
        let (status, headers) = driver::head(reads_start)?;
        let wants = exchange.wants(status, balancer);
        drop(exchange);
        let next = self.advance(Input::Answer {
            status,
            details: driver::details_if(wants.details)?,
            headers: match headers {
                Some(headers) => Some(headers),
                None => driver::headers_if(wants.headers)?,
            },
            end,
            // An answer is never held across the end of its stream. Envoy ends the stream of an answer that is complete before its
            // request is, and then crashes when the filter resumes that answer (`docs/envoy-crash.md`).
            may_hold,
        });
        self.act_on_answer(next)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.answer_goes_on(size, end)
    }

    fn response_trailers(&mut self) -> Result<Action, HostError> {
        if let (Some((place, _)), true) = (&mut self.request, self.down.holds_frame()) {
            place.leave();
        }
        self.down.trailers();
        self.answer_goes_on(ERROR_BODY, true)
    }

    fn granted(&mut self, granted: Granted) -> Result<(), HostError> {
        if self.down.holds_frame() {
            return self.down.let_frame_go();
        }
        let Some((_, request)) = &self.request else {
            return Ok(());
        };
        let wants_stalled = request.exchange.borrow().wants_stalled();
        let stalled = driver::stalled_if(wants_stalled)?;
        let next = self.advance(Input::Granted { granted, stalled });
        if let Some(Half::Request) = self.held {
            return match self.act_on_request(next)? {
                Action::Continue => self.up.open(),
                _ => Ok(()),
            };
        }
        let passes = matches!(next, Next::Pass);
        let is_late = passes && self.down.awaits_frame() && self.is_late_stream();
        match self.act_on_answer(next)? {
            Action::Continue if is_late => self.down.open_early(),
            Action::Continue if passes => self.down.open(),
            // The client gets another answer, and a backend that has stalled may send no frame to resume this one.
            Action::Continue => host::resume(Half::Response),
            _ => Ok(()),
        }
    }

    fn ended(&mut self) -> Result<(), HostError> {
        if let Some((place, _)) = &mut self.request {
            place.leave();
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<(), HostError> {
        self.held = None;
        refuse(500, "aoai_error")
    }
}
