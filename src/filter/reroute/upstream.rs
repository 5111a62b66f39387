//! The filter among a cluster's filters. Every attempt passes it on its way to a backend, and every answer on its way
//! back.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use proxy_wasm::types::Action;

use super::{point, NEXT, REQUESTS};
use crate::core::balancer::WaitResult;
use crate::core::exchange::{request_of, Exchange, Input, Next, ERROR_BODY};
use crate::core::gate::Gate;
use crate::core::reply::LocalReply;
use crate::core::splices::Splices;
use crate::filter::context::Callbacks;
use crate::filter::driver::{action_of, apply, open};
use crate::filter::host::{self, Buffer, Half, HostError, Map};
use crate::filter::place::{Place, Request};
use crate::filter::worker;

thread_local! {
    /// Whether this VM has logged an attempt without its request.
    static ORPHAN_SEEN: Cell<bool> = const { Cell::new(false) };
}

/// One attempt.
pub(in crate::filter) struct Upstream {
    id: u32,
    me: Weak<dyn worker::Stream>,
    /// The attempt's place, once its request is known.
    place: Option<Place>,
    /// The half that is held, if any.
    held: Option<Half>,
    /// The edits of the body for this attempt's backend.
    splices: Splices,
    /// The number of bytes of the body that have passed.
    passed: usize,
    up: Gate,
    down: Gate,
}

impl Upstream {
    pub(in crate::filter) fn new(id: u32, me: Weak<dyn worker::Stream>) -> Self {
        Self {
            id,
            me,
            place: None,
            held: None,
            splices: Splices::default(),
            passed: 0,
            up: Gate::default(),
            down: Gate::default(),
        }
    }

    /// Carries out `next` in a callback of the attempt's request. `true` lets the request pass.
    fn act_on_request(&mut self, next: Next) -> Result<bool, HostError> {
        self.held = matches!(next, Next::Hold).then_some(Half::Request);
        match next {
            Next::PassAttempt => self.pass_attempt()?,
            // The router takes the local reply for the answer to the request, and makes no further attempt.
            Next::Refuse(details) => refuse(503, details)?,
            _ => {}
        }
        Ok(!matches!(next, Next::Hold | Next::Refuse(_)))
    }

    /// Edits the attempt's request for its backend.
    fn pass_attempt(&mut self) -> Result<(), HostError> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let (exchange, balancer) = (place.exchange(), place.balancer());
        apply(Map::RequestHeaders, &exchange.attempt_edits(balancer))?;
        self.splices = exchange.renaming(balancer);
        point(&place.request)
    }

    /// Handles `shown` more bytes of the answer's body, or its trailers. `true` lets them pass.
    fn continue_answer(&mut self, shown: usize, end: bool) -> Result<bool, HostError> {
        self.down.complete(end);
        let Some(place) = &mut self.place else {
            return Ok(true);
        };
        if self.held.is_none() {
            return Ok(place.end_frame(&mut self.down, true));
        }
        let next = place.continue_answer(shown, end)?;
        let passes = self.act_on_answer(next)?;
        Ok(self.down.body(passes))
    }

    /// Carries out `next` in a callback of the answer. `true` lets the answer pass.
    fn act_on_answer(&mut self, next: Next) -> Result<bool, HostError> {
        self.held = matches!(next, Next::Hold).then_some(Half::Response);
        match next {
            Next::Hold => return Ok(false),
            Next::Mark => self.mark()?,
            Next::Pass | Next::Yield => {
                host::remove_header(Map::ResponseHeaders, Exchange::MARK)?;
            }
            _ => {}
        }
        Ok(true)
    }

    /// Marks the answer, so that the router retries.
    fn mark(&self) -> Result<(), HostError> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        point(&place.request)?;
        apply(Map::ResponseHeaders, &place.exchange().marking())
    }

    /// The attempt's request. Logs once if the request is not found.
    fn request(&self) -> Result<Option<Rc<Request>>, HostError> {
        let id = host::property(NEXT)?.as_deref().and_then(request_of);
        let request = id.and_then(|id| REQUESTS.with_borrow(|requests| requests.get(&id).cloned()));
        if request.is_none() && !ORPHAN_SEEN.replace(true) {
            log::error!(
                "an attempt came through the upstream filter without its request: the listener's filter is missing, or \
                 its vm_config (vm_id, code, environment) is not the same as the upstream filter's"
            );
        }
        Ok(request)
    }
}

/// Answers the attempt instead of its backend.
fn refuse(status: u16, details: &str) -> Result<(), HostError> {
    let body = LocalReply::internal_error().body(None);
    host::send_local_response(status, details, &[], &body)
}

impl Callbacks for Upstream {
    fn request_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        let Some(request) = self.request()? else {
            refuse(500, "aoai_no_request")?;
            return Ok(Action::Pause);
        };
        let cluster = match request.exchange().is_retrying() {
            true => host::property("xds\0cluster_name")?,
            false => None,
        };
        let place = Place::new(self.id, Weak::clone(&self.me), request);
        let next = self.place.insert(place).advance(Input::Attempt { cluster });
        self.act_on_request(next).map(action_of)
    }

    fn request_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.up.complete(end);
        if let Some(Half::Request) = self.held {
            return Ok(action_of(self.up.body(false)));
        }
        let until = self.passed.saturating_add(size);
        if self.splices.touch(self.passed..until) {
            let chunk = host::buffer(Buffer::RequestBody, 0, size)?;
            let mut spliced = Vec::with_capacity(chunk.len());
            self.splices.apply_chunk(self.passed, &chunk, &mut spliced);
            host::replace_buffer(Buffer::RequestBody, &spliced)?;
        }
        self.passed = until;
        Ok(action_of(self.up.body(true)))
    }

    fn request_trailers(&mut self) -> Result<Action, HostError> {
        self.up.complete(true);
        Ok(action_of(!matches!(self.held, Some(Half::Request))))
    }

    fn response_headers(&mut self, end: bool) -> Result<Action, HostError> {
        self.down.complete(end);
        let Some(place) = &mut self.place else {
            return Ok(Action::Continue);
        };
        // An answer that arrives before its request is complete is never held. Envoy ends such a stream with its
        // answer, and crashes when the filter then resumes the answer (`docs/envoy-crash.md`).
        let may_hold = self.up.is_complete();
        let next = place.begin_answer(end, may_hold)?;
        self.act_on_answer(next).map(action_of)
    }

    fn response_body(&mut self, size: usize, end: bool) -> Result<Action, HostError> {
        self.continue_answer(size, end).map(action_of)
    }

    fn response_trailers(&mut self) -> Result<Action, HostError> {
        if let (Some(place), true) = (&mut self.place, self.down.holds_frame()) {
            place.leave();
        }
        self.down.trailers();
        self.continue_answer(ERROR_BODY, true).map(action_of)
    }

    fn wait_ended(&mut self, result: WaitResult) -> Result<(), HostError> {
        if self.down.holds_frame() {
            self.down.let_frame_go();
            return host::resume(Half::Response);
        }
        let Some(place) = &mut self.place else {
            return Ok(());
        };
        let next = place.wait_ended(result)?;
        if let Some(Half::Request) = self.held {
            return match self.act_on_request(next)? {
                true => open(&self.up, Half::Request),
                false => Ok(()),
            };
        }
        let awaits_frame = self.down.awaits_frame();
        let (passes, is_late) = (
            matches!(next, Next::Pass),
            place.exchange().is_late_stream(),
        );
        match self.act_on_answer(next)? {
            false => Ok(()),
            // The stream's next frame lets the answer pass.
            true if passes && awaits_frame && !is_late => Ok(()),
            true => {
                // A stalled backend may send no further frame that would resume this answer.
                if passes {
                    self.down.open_early();
                }
                host::resume(Half::Response)
            }
        }
    }

    fn ended(&mut self) -> Result<(), HostError> {
        if let Some(place) = &mut self.place {
            place.leave();
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<(), HostError> {
        self.held = None;
        if let Some(place) = &mut self.place {
            // The listener's filter passes the local reply to the client.
            let _ = place.advance(Input::Failed);
        }
        refuse(500, "aoai_error")
    }
}
