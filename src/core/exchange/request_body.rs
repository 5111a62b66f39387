//! The request's body: how much of it the request is held for, and what is read and copied.

use super::{Exchange, For, Next, State, Until};
use crate::balancer::{Balancer, Complaint};
use crate::config::Engine;
use crate::host::Host;
use crate::metrics::Event;
use crate::no_retry::{NoRetry, Replay};
use crate::prelude::*;
use crate::replay::{BodyCopy, HELD_UNTIL_COMPLETE};

impl Exchange {
    /// The copy of the body for further attempts, or the reason against them.
    pub(super) fn copy<H: Host>(&self, balancer: &Balancer<H>) -> BodyCopy {
        let (request, retry) = (&self.request, &balancer.config.retry);
        let is_router = self.engine == Engine::Router;
        if request.upgrade {
            BodyCopy::Dropped(NoRetry::Upgrade)
        } else if !request.operation.is_known {
            BodyCopy::Dropped(NoRetry::UnknownOperation)
        } else if is_router {
            BodyCopy::with_router(request.content_length, retry.replay_limit)
        } else if retry.max_attempts == 1 {
            BodyCopy::Dropped(NoRetry::AttemptsExhausted)
        } else {
            let memory = &balancer.replay_memory;
            BodyCopy::new(request.content_length, retry.replay_limit, memory)
        }
    }

    /// Whether the request is held until its body is complete in any case. Reading the body then adds no delay.
    pub(super) fn is_held_whole<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        let announced = self.request.content_length;
        match self.engine {
            Engine::Filter => self.body.is_worth_holding(announced),
            Engine::Router => {
                let limit = balancer.hold_limit() as u64;
                self.body.replay() == Replay::Ready && announced.is_some_and(|it| it <= limit)
            }
        }
    }

    /// Whether the request must wait for more of its body.
    ///
    /// A request that may be retried leaves when it is complete. Then no answer arrives before its end, and every
    /// answer can be held until the next step is known.
    pub(super) fn must_hold<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        if self.inspection.is_under_way() {
            return true;
        }
        let announced = self.request.content_length;
        match self.engine {
            Engine::Filter => self.body.is_worth_holding(announced),
            Engine::Router => {
                let fits = match announced {
                    Some(length) => length <= balancer.hold_limit() as u64,
                    // Envoy's default buffer limit is twice this size.
                    None => self.shown <= HELD_UNTIL_COMPLETE,
                };
                !self.has_ended && fits && self.body.replay() == Replay::Ready
            }
        }
    }

    /// Handles more of the request, or its end.
    pub(super) fn continue_request<H: Host>(&mut self, end: bool, balancer: &Balancer<H>) -> Next {
        self.has_ended |= end;
        match self.state {
            State::Holding(held) => {
                balancer.listener_bodies.came();
                match held {
                    For::Body if !self.must_hold(balancer) => self.start(balancer),
                    _ => Next::Hold,
                }
            }
            // An answer arrived before the request was complete, and the next attempt may have waited for the request.
            State::Deciding(Until::RequestEnd(outcome)) if !self.body.is_growing() => {
                self.proceed(outcome, balancer)
            }
            _ => Next::Continue,
        }
    }

    /// Counts the bytes of the body. The host's buffer has all bytes while the request is held, otherwise only the new
    /// ones.
    #[inline(never)]
    pub(super) fn count_body<H: Host>(&mut self, shown: usize, balancer: &Balancer<H>) {
        self.shown = match self.state {
            State::Holding(_) => shown,
            _ => self.shown.saturating_add(shown),
        };
        // The filter engine checks the length of its copy instead.
        if self.may_outgrow_limit() && self.shown > balancer.config.retry.replay_limit {
            self.body.drop_because(NoRetry::BodyTooLarge);
        }
    }

    /// Whether the router keeps a body that may become longer than `retry.replay_limit`.
    fn may_outgrow_limit(&self) -> bool {
        self.request.content_length.is_none() && matches!(self.body, BodyCopy::WithRouter)
    }

    /// Whether the driver must read the new part of the request's body. `end` marks the last part.
    ///
    /// A body that is held until it is complete is read in one piece.
    pub fn wants_body(&self, end: bool) -> bool {
        let is_held = matches!(self.state, State::Holding(_));
        if !self.inspection.is_under_way() && !self.body.is_growing() {
            return false;
        }
        match self.engine {
            Engine::Router => is_held,
            Engine::Filter => {
                let announced = self.request.content_length;
                end || !(is_held && self.body.is_worth_holding(announced))
            }
        }
    }

    /// Whether the driver must read the rest of the request's body before a wait ends.
    pub fn wants_rest_of_body(&self) -> bool {
        self.inspection.is_under_way() || self.body.is_growing()
    }

    /// Whether more of the body passes or is held. `None` if this needs
    /// [`Input::RequestBody`](super::Input::RequestBody). Bodies come in many pieces, and most of them are decided
    /// here. `end` marks the last piece.
    pub fn passes_body<H: Host>(&self, end: bool, balancer: &Balancer<H>) -> Option<bool> {
        if end || self.hidden_body.is_watching() {
            return None;
        }
        match self.state {
            // Nothing is read before the body's end, so the state cannot change earlier.
            State::Holding(For::Body) if !self.wants_body(false) => {
                let is_known = balancer.listener_bodies.have_come();
                let has_length = self.request.content_length.is_some();
                (is_known && has_length).then_some(false)
            }
            State::Holding(_) | State::Deciding(Until::RequestEnd(_)) => None,
            _ => (!self.may_outgrow_limit()).then_some(true),
        }
    }

    /// Reads the new part of the body, if [`Self::wants_body`]. `end` marks the last part.
    pub fn read<H: Host>(&mut self, chunk: Vec<u8>, end: bool, balancer: &Balancer<H>) {
        if self.inspection.is_under_way() {
            if let Some(found) = self.inspection.push(&chunk, end) {
                self.request.learn(found, &balancer.tags);
            }
        }
        self.body.push(chunk);
        if end {
            self.body.finish();
        }
    }

    /// Sends the request because no body arrived while it was held.
    #[inline(never)]
    pub(super) fn send_unread<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        let is_router = self.engine == Engine::Router;
        if is_router && balancer.listener_bodies.missed() {
            balancer.complain(Complaint::HiddenBodies);
        }
        self.hidden_body.released(balancer.host().now());
        self.count_unread(balancer);
        self.inspection.give_up();
        self.begin_first_attempt(balancer)
    }

    /// Counts a request that leaves before its body is read.
    pub(super) fn count_unread<H: Host>(&self, balancer: &Balancer<H>) {
        if self.inspection.is_under_way() {
            balancer.count(Event::BodyUnread);
        }
    }
}
