//! The first attempt: its plan, its backend, and the reply if no backend is available.

use alloc::rc::Rc;
use core::time::Duration;

use super::{Exchange, For, Next, State};
use crate::affinity::Key;
use crate::attempts::{Attempts, Chosen};
use crate::balancer::{Awaited, Balancer, WantedBackend};
use crate::config::{AffinityKey, Engine};
use crate::fleet::{NoChoice, Wait};
use crate::host::Host;
use crate::identity::Authorization;
use crate::metrics::{event_of_choice, Event};
use crate::operation::Api;
use crate::plan::Plan;
use crate::prelude::*;
use crate::reply::LocalReply;
use crate::request::Place;

impl Exchange {
    /// Chooses the backend of the first attempt and sends the request. Answers the client if no backend becomes
    /// available in time.
    pub(super) fn begin_first_attempt<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !self.plan(balancer) {
            balancer.count(Event::NotServed);
            return self.answer(LocalReply::objects_on_different_backends());
        }
        match balancer.choose(self.attempts.plan(), || self.request.demand()) {
            Ok(chosen) => match balancer.credentials.of(chosen.backend) {
                Some(authorization) => self.send(chosen, authorization, balancer),
                None => {
                    self.give_back(chosen, balancer);
                    self.await_token(balancer)
                }
            },
            Err(none) => self.wait_or_refuse(none, balancer),
        }
    }

    fn send<H: Host>(
        &mut self,
        chosen: Chosen,
        authorization: Rc<Authorization>,
        balancer: &Balancer<H>,
    ) -> Next {
        self.attempts.go_to(chosen);
        self.count_choice(balancer);
        self.authorize_with(authorization);
        self.state = match self.engine {
            Engine::Filter => {
                self.attempt_made(balancer);
                State::Attempting
            }
            Engine::Router => State::Sent,
        };
        Next::Send
    }

    /// Makes the plan as late as possible, because the request's body may restrict it to one backend. Such a request
    /// draws no turn. `false` if no backend can serve the request.
    fn plan<H: Host>(&mut self, balancer: &Balancer<H>) -> bool {
        if self.planned {
            return true;
        }
        let config = &balancer.config;
        let plan = match self.request.place(config) {
            Place::Anywhere => {
                let key = self.affinity_key(balancer);
                if key.is_some() {
                    balancer.count(Event::Keyed);
                }
                Plan::keyed(balancer.fleet.draw(), key)
            }
            Place::Only(backends) => {
                let turn = match backends.len() {
                    // A request with one possible backend draws no turn.
                    0 | 1 => {
                        balancer.fleet.refresh();
                        0
                    }
                    _ => balancer.fleet.draw(),
                };
                Plan::only(backends, config.backends.len(), turn)
            }
            Place::Nowhere => return false,
        };
        self.attempts = Attempts::new(plan, config.retry.max_attempts);
        self.recall_refusals(balancer);
        self.planned = true;
        true
    }

    /// The request's affinity key. `None` if affinity is not configured or the request has no key.
    fn affinity_key<H: Host>(&self, balancer: &Balancer<H>) -> Option<Key> {
        match &balancer.config.affinity.as_ref()?.by {
            AffinityKey::PromptCacheKey => self.request.cache_key,
            AffinityKey::Header(name) => Key::of(self.original.get(name)?.as_bytes()),
            AffinityKey::Client => Key::of(self.client.as_ref()?.as_bytes()),
        }
    }

    /// Returns the turn of a backend whose token has just expired.
    #[inline(never)]
    fn give_back<H: Host>(&self, chosen: Chosen, balancer: &Balancer<H>) {
        if let Some(lesson) = Attempts::give_back(chosen, &self.request.demand()) {
            balancer.learn(&lesson, Default::default);
        }
    }

    /// Handles the lack of a backend for the first attempt.
    #[inline(never)]
    fn wait_or_refuse<H: Host>(&mut self, none: NoChoice, balancer: &Balancer<H>) -> Next {
        match none {
            NoChoice::NoToken => self.await_token(balancer),
            NoChoice::AllInCooldown(wait) if self.can_wait(wait, balancer) => {
                self.state = State::Holding(For::Backend(wait));
                Next::Wait(Awaited::Backend(Box::new(WantedBackend {
                    plan: *self.attempts.plan(),
                    demand: self.request.demand(),
                    left: wait.left,
                })))
            }
            NoChoice::AllInCooldown(wait) => self.refuse_all_in_cooldown(wait, balancer),
            NoChoice::NoApi => {
                balancer.count(Event::NotServed);
                let reply = LocalReply::no_api(self.request.operation.api);
                self.answer_without_backend(reply, balancer)
            }
            // Before the first attempt no backend was tried. If only one backend is possible, it may lack the
            // deployment.
            NoChoice::NoDeployment | NoChoice::AllTried => {
                balancer.count(Event::NotOffered);
                self.answer_without_backend(LocalReply::no_deployment(), balancer)
            }
        }
    }

    fn can_wait<H: Host>(&mut self, wait: Wait, balancer: &Balancer<H>) -> bool {
        let longest = balancer.config.cooldown.wait_timeout;
        // An upgrade request is not held, see `await_token`.
        if longest.is_zero() || self.request.upgrade {
            return false;
        }
        let now = balancer.host().now();
        let until = *self.wait_until.get_or_insert(now + longest);
        now + wait.left <= until
    }

    #[inline(never)]
    pub(super) fn refuse_all_in_cooldown<H: Host>(
        &mut self,
        wait: Wait,
        balancer: &Balancer<H>,
    ) -> Next {
        balancer.count(match wait.throttled {
            true => Event::AllThrottled,
            false => Event::AllUnavailable,
        });
        let reply = match self.request.place(&balancer.config) {
            Place::Only(_)
                if balancer.config.backends.len() > 1
                    && self.request.operation.api != Some(Api::Messages) =>
            {
                LocalReply::home_in_cooldown(wait)
            }
            _ => LocalReply::all_in_cooldown(wait),
        };
        self.answer_without_backend(reply, balancer)
    }

    #[inline(never)]
    pub(super) fn reply_without_token<H: Host>(
        &mut self,
        retry_after: Duration,
        balancer: &Balancer<H>,
    ) -> Next {
        balancer.count(Event::IdentityUnavailable);
        let reply = LocalReply::identity_unavailable(retry_after);
        self.answer_without_backend(reply, balancer)
    }

    /// Counts the reason for the choice of the current backend, unless it was simply free.
    pub(super) fn count_choice<H: Host>(&self, balancer: &Balancer<H>) {
        let chosen = self.attempts.chosen();
        if let Some(event) = event_of_choice(chosen.backend, chosen.because) {
            balancer.count(event);
        }
    }

    /// Sets the credential of the current attempt.
    pub(super) fn authorize_with(&mut self, authorization: Rc<Authorization>) {
        let authorization = match self.request.session_key() {
            Some(key) => Rc::new(Authorization::with_session_key(key)),
            None => authorization,
        };
        let before = self.authorization.replace(Rc::clone(&authorization));
        self.previous_authorization = before.filter(|before| !Rc::ptr_eq(before, &authorization));
    }

    pub(super) fn attempt_made<H: Host>(&mut self, balancer: &Balancer<H>) {
        let backend = self.attempts.backend();
        self.attempts.attempt_made();
        self.content_due = self.content_due(balancer);
        balancer.count(Event::Attempt(backend));
        if self.attempts.made() > 1 {
            balancer.count(Event::Retry(backend));
        }
    }
}
