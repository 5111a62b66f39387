//! The way up: the client's request, until it leaves for its first backend.

use alloc::rc::Rc;
use core::time::Duration;

use super::{Exchange, For, Next, State, Until};
use crate::affinity::Key;
use crate::attempts::{Attempts, Chosen};
use crate::balancer::{Balancer, Complaint, WantedBackend, Wish};
use crate::clients::client_name;
use crate::config::{AffinityKey, Config, Engine};
use crate::demand::Client;
use crate::fleet::{NoChoice, Wait};
use crate::header_map::HeaderMap;
use crate::host::Host;
use crate::identity::{Authorization, Identities};
use crate::inspection::{Inspection, Unreadable};
use crate::metrics::{event_of_choice, Event};
use crate::no_retry::{NoRetry, Replay};
use crate::operation::Api;
use crate::plan::Plan;
use crate::prelude::*;
use crate::replay::{BodyCopy, HELD_UNTIL_COMPLETE};
use crate::reply::LocalReply;
use crate::request::{Place, Request};

impl Exchange {
    #[inline(never)]
    pub(super) fn begin<H: Host>(
        &mut self,
        headers: HeaderMap,
        end: bool,
        balancer: &Balancer<H>,
    ) -> Next {
        let config = &balancer.config;
        balancer.count(Event::Request);
        self.has_ended = end;
        self.original = headers;
        self.request = Request::read(self.original.iter(), &balancer.tags);
        self.meet_client(balancer);
        if let Some(reply) = self.refusal(config) {
            return self.refuse_unread(reply, balancer);
        }
        self.body = self.copy(balancer);
        if end {
            self.request.has_known_body = true;
        } else {
            let names_matter = balancer.fleet.names_matter()
                || (config.usage.names_deployments() || config.usage.asks())
                    && self.is_held_whole(balancer);
            match Inspection::of(&self.request, config, names_matter) {
                Ok(inspection) => self.inspection = inspection,
                Err(Unreadable) => {
                    let encoding = self.request.encoding().unwrap_or_default();
                    let reply = LocalReply::encoded_body(encoding);
                    return self.refuse_unread(reply, balancer);
                }
            }
        }
        if let Some(answered) = self.charge(balancer) {
            return answered;
        }
        if end {
            self.body.finish();
        }
        self.start(balancer)
    }

    /// Whether the body is held until it is complete although nothing in it decides: reading it holds nothing longer.
    fn is_held_whole<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        let announced = self.request.content_length;
        match self.engine {
            Engine::Filter => self.body.is_worth_holding(announced),
            Engine::Router => {
                let limit = balancer.hold_limit() as u64;
                self.body.replay() == Replay::Ready && announced.is_some_and(|it| it <= limit)
            }
        }
    }

    /// Counts the request as its client's, and keeps who that is.
    fn meet_client<H: Host>(&mut self, balancer: &Balancer<H>) {
        let header = balancer.config.headers.client.as_deref();
        self.client = header.and_then(|header| client_name(self.original.get(header)?));
        if let Some(client) = &self.client {
            balancer.count_client(client);
            self.request.client = Client::named(client);
        }
    }

    /// Why no backend is to be asked, whatever the body says.
    #[inline(never)]
    fn refusal(&self, config: &Config) -> Option<LocalReply> {
        let request = &self.request;
        let path = || self.original.get(":path").unwrap_or_default();
        let is_served =
            request.surface.is_some() || request.has_path && config.other_paths.pass(path());
        let is_for_claude = request.operation.api == Some(Api::Messages);
        if !is_served {
            Some(LocalReply::other_path())
        } else if is_for_claude && config.backends_with(Api::Messages).is_empty() {
            Some(LocalReply::no_api(Some(Api::Messages)))
        } else {
            request.hides_ids(config).then(LocalReply::no_websocket)
        }
    }

    #[inline(never)]
    fn refuse_unread<H: Host>(&mut self, reply: LocalReply, balancer: &Balancer<H>) -> Next {
        balancer.count(Event::NotServed);
        self.answer(reply)
    }

    /// The copy of the body that further attempts need, or the reason why there are none.
    fn copy<H: Host>(&self, balancer: &Balancer<H>) -> BodyCopy {
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

    /// Sends the request on its way as soon as that makes sense: with a token, and complete if it may be needed again.
    pub(super) fn start<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !balancer.can_authorize() {
            return self.await_token(balancer);
        }
        let bodies = &balancer.listener_bodies;
        if bodies.may_come() && self.must_hold(balancer) {
            self.state = State::Holding(For::Body);
            // Once a body was shown, they all are, and its callback lets the request go on.
            return match bodies.have_come() {
                true => Next::Hold,
                false => Next::Wait(Wish::RequestBody),
            };
        }
        self.count_unread(balancer);
        self.depart(balancer)
    }

    /// Counts a request that leaves before its body is read.
    fn count_unread<H: Host>(&self, balancer: &Balancer<H>) {
        if self.inspection.is_under_way() {
            balancer.count(Event::BodyUnread);
        }
    }

    /// Whether the request is not to leave before more of its body has come.
    ///
    /// A request that may be retried leaves when it is complete: then no answer comes before its end, and every answer may be
    /// held until it is known what follows.
    fn must_hold<H: Host>(&self, balancer: &Balancer<H>) -> bool {
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

    fn await_token<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        self.state = State::Holding(For::Token);
        // A request for another protocol is not held: its client says nothing more before it is answered, so the frame that would
        // let it go on without loss may never come.
        match self.request.upgrade {
            true => self.on_refused_wait(balancer),
            false => Next::Wait(Wish::Token(self.identities(balancer))),
        }
    }

    /// The identities that would have to have a token for this request to go on.
    pub(super) fn identities<H: Host>(&self, balancer: &Balancer<H>) -> Identities {
        let only = match self.request.place(&balancer.config) {
            Place::Only(backends) => Some(backends),
            Place::Anywhere | Place::Nowhere => None,
        };
        let wanted = |backend| only.is_none_or(|only| only.contains(backend));
        balancer.credentials.wanted(wanted)
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

    /// What follows more of the body, beyond what is [read](Self::read) of it, where that is plain: bodies come in many pieces.
    /// `None` where [`Input::RequestBody`](super::Input::RequestBody) says more; `end` if it is the last of it.
    pub fn follows_body<H: Host>(&self, end: bool, balancer: &Balancer<H>) -> Option<Next> {
        if end || self.unheld.is_watching() {
            return None;
        }
        match self.state {
            // Nothing of it is read before its end, so nothing changes before its end.
            State::Holding(For::Body) if !self.wants_body(false) => {
                let is_known = balancer.listener_bodies.have_come();
                let has_length = self.request.content_length.is_some();
                (is_known && has_length).then_some(Next::Hold)
            }
            State::Holding(_) | State::Deciding(Until::RequestEnd(_)) => None,
            _ => Some(Next::Continue),
        }
    }

    /// Reads what is new of the body, where [`Self::wants_body`]; `end` where it is the last.
    pub fn read<H: Host>(&mut self, chunk: Vec<u8>, end: bool, balancer: &Balancer<H>) {
        if let Some(found) = self.inspection.push(&chunk, end) {
            self.request.learn(found, &balancer.tags);
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

    /// Chooses the backend of the first attempt, and sends the request there; answers the client if there is none to be had in time.
    pub(super) fn depart<H: Host>(&mut self, balancer: &Balancer<H>) -> Next {
        if !self.plan(balancer) {
            balancer.count(Event::NotServed);
            return self.answer(LocalReply::objects_apart());
        }
        match balancer.choose(self.attempts.plan(), || self.request.demand()) {
            Ok(chosen) => match balancer.credentials.of(chosen.backend) {
                Some(authorization) => self.send(chosen, authorization, balancer),
                None => {
                    self.give_back(chosen, balancer);
                    self.await_token(balancer)
                }
            },
            Err(none) => self.stay(none, balancer),
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
        self.carry(authorization);
        self.state = match self.engine {
            Engine::Filter => {
                self.attempt_made(balancer);
                State::Attempting
            }
            Engine::Router => State::Sent,
        };
        Next::Send
    }

    /// Makes the plan, as late as possible: a request that can go to one backend only takes no one's turn, and what it says in
    /// its body may be why. `false` if there is no backend for it at all.
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
                    // It takes no one's turn.
                    0 | 1 => {
                        balancer.fleet.look_around();
                        0
                    }
                    _ => balancer.fleet.draw(),
                };
                Plan::only(backends, config.backends.len(), turn)
            }
            Place::Nowhere => return false,
        };
        self.attempts = Attempts::new(plan, config.retry.max_attempts);
        self.planned = true;
        true
    }

    /// The affinity key of the request, if the configuration has affinity and the request a key.
    fn affinity_key<H: Host>(&self, balancer: &Balancer<H>) -> Option<Key> {
        match &balancer.config.affinity.as_ref()?.by {
            AffinityKey::PromptCacheKey => self.request.cache_key,
            AffinityKey::Header(name) => Key::of(self.original.get(name)?.as_bytes()),
            AffinityKey::Client => Key::of(self.client.as_ref()?.as_bytes()),
        }
    }

    /// The token has expired since it was last looked at: the backend keeps its turn.
    #[inline(never)]
    fn give_back<H: Host>(&self, chosen: Chosen, balancer: &Balancer<H>) {
        if let Some(lesson) = Attempts::give_back(chosen, &self.request.demand()) {
            balancer.learn(&lesson, Default::default);
        }
    }

    /// There is no backend for the first attempt.
    #[inline(never)]
    fn stay<H: Host>(&mut self, none: NoChoice, balancer: &Balancer<H>) -> Next {
        match none {
            NoChoice::NoToken => self.await_token(balancer),
            NoChoice::AllOut(wait) if self.can_wait(wait, balancer) => {
                self.state = State::Holding(For::Backend(wait));
                Next::Wait(Wish::Backend(Box::new(WantedBackend {
                    plan: *self.attempts.plan(),
                    demand: self.request.demand(),
                    left: wait.left,
                })))
            }
            NoChoice::AllOut(wait) => self.refuse_all_out(wait, balancer),
            NoChoice::NoApi => {
                balancer.count(Event::NotServed);
                let reply = LocalReply::no_api(self.request.operation.api);
                self.answer_without_backend(reply, balancer)
            }
            // Before the first attempt there is one that was not tried. Where only one can be, it may lack the deployment.
            NoChoice::NoDeployment | NoChoice::AllTried => {
                balancer.count(Event::NotOffered);
                self.answer_without_backend(LocalReply::no_deployment(), balancer)
            }
        }
    }

    fn can_wait<H: Host>(&mut self, wait: Wait, balancer: &Balancer<H>) -> bool {
        let longest = balancer.config.cooldown.wait_timeout;
        // One for another protocol cannot be let go on in time, see `await_token`.
        if longest.is_zero() || self.request.upgrade {
            return false;
        }
        let now = balancer.host().now();
        let until = *self.wait_until.get_or_insert(now + longest);
        now + wait.left <= until
    }

    #[inline(never)]
    pub(super) fn refuse_all_out<H: Host>(&mut self, wait: Wait, balancer: &Balancer<H>) -> Next {
        balancer.count(match wait.throttled {
            true => Event::AllThrottled,
            false => Event::AllUnavailable,
        });
        let reply = match self.request.place(&balancer.config) {
            Place::Only(_)
                if balancer.config.backends.len() > 1
                    && self.request.operation.api != Some(Api::Messages) =>
            {
                LocalReply::home_out(wait)
            }
            _ => LocalReply::all_out(wait),
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

    /// Counts why the current backend was chosen, unless it was free.
    pub(super) fn count_choice<H: Host>(&self, balancer: &Balancer<H>) {
        let chosen = self.attempts.chosen();
        if let Some(event) = event_of_choice(chosen.backend, chosen.because) {
            balancer.count(event);
        }
    }

    /// The current attempt carries this from now on.
    pub(super) fn carry(&mut self, authorization: Rc<Authorization>) {
        let authorization = match self.request.session_key() {
            Some(key) => Rc::new(Authorization::with_session_key(key)),
            None => authorization,
        };
        let before = self.carries.replace(Rc::clone(&authorization));
        self.carried = before.filter(|before| !Rc::ptr_eq(before, &authorization));
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
