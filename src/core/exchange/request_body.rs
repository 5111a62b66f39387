//! The request's body: for how much of it the request is held, and what is read and copied of it.

use super::{Exchange, For, Next, State, Until};
use crate::balancer::{Balancer, Complaint};
use crate::config::Engine;
use crate::host::Host;
use crate::metrics::Event;
use crate::no_retry::{NoRetry, Replay};
use crate::prelude::*;
use crate::replay::{BodyCopy, HELD_UNTIL_COMPLETE};

impl Exchange {
    /// The copy of the body that further attempts need, or the reason why there are none.
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

    /// Whether the body is held until it is complete although nothing in it decides: reading it holds nothing longer.
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

    /// Whether the request is not to leave before more of its body has come.
    ///
    /// A request that may be retried leaves when it is complete: then no answer comes before its end, and every answer may be
    /// held until it is known what follows.
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
                    // Envoy's default buffer limit is twice that.
                    None => self.shown <= HELD_UNTIL_COMPLETE,
                };
                !self.has_ended && fits && self.body.replay() == Replay::Ready
            }
        }
    }

    /// More of the request has come.
    pub(super) fn request_goes_on<H: Host>(&mut self, end: bool, balancer: &Balancer<H>) -> Next {
        self.has_ended |= end;
        match self.state {
            State::Holding(held) => {
                balancer.listener_bodies.came();
                match held {
                    For::Body if !self.must_hold(balancer) => self.start(balancer),
                    _ => Next::Hold,
                }
            }
            // An answer came before the request was complete; the next attempt may have waited for this.
            State::Deciding(Until::RequestEnd(outcome)) if !self.body.is_growing() => {
                self.proceed(outcome, balancer)
            }
            _ => Next::Continue,
        }
    }

    /// Counts the bytes of the body that the host shows: while the request is held all that have come, else those that are new.
    #[inline(never)]
    pub(super) fn count_body<H: Host>(&mut self, shown: usize, balancer: &Balancer<H>) {
        self.shown = match self.state {
            State::Holding(_) => shown,
            _ => self.shown.saturating_add(shown),
        };
        // The filter engine sees that by its copy.
        if self.may_outgrow_limit() && self.shown > balancer.config.retry.replay_limit {
            self.body.drop_because(NoRetry::BodyTooLarge);
        }
    }

    /// Whether the router keeps a body that may turn out to be longer than is to be sent again.
    fn may_outgrow_limit(&self) -> bool {
        self.request.content_length.is_none() && matches!(self.body, BodyCopy::WithRouter)
    }

    /// Whether the host is to read what is new of the request's body; `end` if that is the last of it.
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

    /// Whether there is something to read of the request's body before a wait ends.
    pub fn wants_rest_of_body(&self) -> bool {
        self.inspection.is_under_way() || self.body.is_growing()
    }

    /// Whether more of the body passes, or is held, where that is plain: bodies come in many pieces. `None` where
    /// [`Input::RequestBody`](super::Input::RequestBody) says more; `end` if it is the last of it.
    pub fn passes_body<H: Host>(&self, end: bool, balancer: &Balancer<H>) -> Option<bool> {
        if end || self.unheld.is_watching() {
            return None;
        }
        match self.state {
            // Nothing of it is read before its end, so nothing changes before its end.
            State::Holding(For::Body) if !self.wants_body(false) => {
                let is_known = balancer.listener_bodies.have_come();
                let has_length = self.request.content_length.is_some();
                (is_known && has_length).then_some(false)
            }
            State::Holding(_) | State::Deciding(Until::RequestEnd(_)) => None,
            _ => (!self.may_outgrow_limit()).then_some(true),
        }
    }

    /// Reads what is new of the body, where [`Self::wants_body`]; `end` where it is the last.
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

    /// No body was shown while the request was held: it goes on its way without being held.
    #[inline(never)]
    pub(super) fn send_unread<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        let is_router = self.engine == Engine::Router;
        if is_router && balancer.listener_bodies.missed() {
            balancer.complain(Complaint::HiddenBodies);
        }
        self.unheld.released(balancer.host().now());
        self.count_unread(balancer);
        self.inspection.give_up();
        self.depart(balancer)
    }

    /// Counts a request that leaves before its body is read.
    pub(super) fn count_unread<H: Host>(&self, balancer: &Balancer<H>) {
        if self.inspection.is_under_way() {
            balancer.count(Event::BodyUnread);
        }
    }
}
