//! What both retry engines know of a request, and do for its client.

mod answers;

use std::rc::Rc;

use crate::core::attempt::{Attempt, Edit};
use crate::core::clients::client_name;
use crate::core::config::{Engine, OtherPaths, Policy};
use crate::core::exchange::{Chosen, Exchange, NoRetry, Replay, Verdict};
use crate::core::fleet::{NoChoice, Wait};
use crate::core::health::Finding;
use crate::core::inspection::Inspection;
use crate::core::metrics::Event;
use crate::core::outcome::{Outcome, Trace};
use crate::core::plan::{BackendSet, Plan};
use crate::core::reply::LocalReply;
use crate::core::request::{Place, Request};
use crate::core::retry_after::stated_wait;
use crate::core::splices::Splices;
use crate::core::text::number;
use crate::core::time::Timestamp;
use crate::filter::complaint::Complaint;
use crate::filter::credentials::Identities;
use crate::filter::header_map::HeaderMap;
use crate::filter::host::{self, HostError, Map};
use crate::filter::tagging::Tagging;
use crate::filter::tokens::Authorization;
use crate::filter::worker::Worker;

/// As much of an error's body as is read for its code.
pub(in crate::filter) const ERROR_BODY: usize = 64 * 1024;

/// A backend's answer that may become the client's.
pub(in crate::filter) struct Answer {
    pub(in crate::filter) status: u16,
    pub(in crate::filter) headers: HeaderMap,
    pub(in crate::filter) body: Vec<u8>,
    pub(in crate::filter) backend: usize,
}

/// One request on its way through its plan.
pub(in crate::filter) struct Journey {
    pub(in crate::filter) worker: Rc<Worker>,
    pub(in crate::filter) exchange: Exchange,
    pub(in crate::filter) request: Request,
    /// The headers as the client sent them: every attempt starts from them.
    pub(in crate::filter) original: HeaderMap,
    /// What the current attempt carries.
    carries: Option<Rc<Authorization>>,
    /// The last answer of a backend that was not the client's, because another attempt was due.
    pub(in crate::filter) answer: Option<Answer>,
    /// The last attempt without an answer of a backend ended because of its time limit.
    pub(in crate::filter) timed_out: bool,
    /// What the last attempt that failed may have done.
    pub(in crate::filter) trace: Trace,
    /// Its plan was made: its turn drawn, or the one backend found that it can go to.
    planned: bool,
    /// The tagging of the answer that passes.
    tagging: Option<Tagging>,
    /// The backends that answered 429.
    throttled: BackendSet,
    /// Until when the request may wait for a backend, once it has begun to.
    wait_until: Option<Timestamp>,
}

/// Where another attempt goes.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) enum Next {
    /// To the best backend there is now.
    Best,
    /// To the one that was foreseen, if any was: the router has not asked again.
    Foreseen(Option<usize>),
}

/// Whether a request has a backend to go to.
pub(in crate::filter) enum Departure {
    /// It has, and this is to be shown to it.
    Ready(Rc<Authorization>),
    /// There is none for want of a token.
    NoToken,
    /// One may be free after this time, which the request can wait.
    In(Wait),
    /// The client was answered: there is none.
    Refused,
}

impl Journey {
    pub(in crate::filter) fn new(worker: Rc<Worker>) -> Self {
        Self {
            exchange: Exchange::default(),
            request: Request::default(),
            original: HeaderMap::default(),
            carries: None,
            answer: None,
            timed_out: false,
            trace: Trace::None,
            planned: false,
            tagging: None,
            throttled: BackendSet::default(),
            wait_until: None,
            worker,
        }
    }

    /// Reads the request, in a callback of its headers. `false` if it is none to balance: the client was answered.
    pub(in crate::filter) fn begin(&mut self) -> Result<bool, HostError> {
        self.worker.count(Event::Request);
        self.original = host::headers(Map::RequestHeaders)?;
        self.request = Request::read(self.original.iter(), &self.worker.tags);
        self.meet_client()?;
        let served =
            self.request.surface.is_some() || self.worker.config.other_paths == OtherPaths::Pass;
        if !served {
            self.worker.count(Event::NotServed);
            self.reply(&LocalReply::other_path())?;
        }
        Ok(served)
    }

    /// The reading of the request's body that is needed, where it has one.
    pub(in crate::filter) fn inspection(&self) -> Inspection {
        let worker = &self.worker;
        Inspection::of(
            &self.request,
            &worker.config,
            worker.backends.models_matter(),
        )
    }

    /// Makes the plan, as late as possible: a request that can go to one backend only takes no one's turn, and what it says in
    /// its body may be why. `false` if there is no backend for it at all.
    fn plan(&mut self) -> bool {
        if self.planned {
            return true;
        }
        let (worker, backends) = (&self.worker, &self.worker.backends);
        let plan = match self.request.place(&worker.config) {
            Place::Anywhere => Plan::new(backends.draw()),
            Place::Only(backend) => {
                backends.look_around();
                Plan::only(backend, worker.config.backends.len())
            }
            Place::Nowhere => return false,
        };
        self.exchange = Exchange::new(plan, worker.config.retry.max_attempts);
        self.planned = true;
        true
    }

    /// Counts the request as its client's, and keeps the client's name for the access log, where it knows it as
    /// `%FILTER_STATE(wasm.aoai_client:PLAIN)%`.
    fn meet_client(&self) -> Result<(), HostError> {
        let Some(header) = &self.worker.config.headers.client else {
            return Ok(());
        };
        let Some(client) = self.original.get(header).and_then(client_name) else {
            return Ok(());
        };
        self.worker.clients.count(&client);
        host::set_property("aoai_client", client.as_bytes())
    }

    /// Chooses the backend of the first attempt; answers the client if there is none to be had in time.
    pub(in crate::filter) fn depart(&mut self) -> Result<Departure, HostError> {
        if !self.plan() {
            return self.refuse_as(Event::NotServed, &LocalReply::objects_apart());
        }
        let worker = &self.worker;
        let plan = self.exchange.plan();
        match worker
            .backends
            .choose(&worker.config, plan, self.request.demand())
        {
            Ok(chosen) => match worker.credentials.of(chosen.backend) {
                Some(authorization) => {
                    self.go_to(chosen);
                    Ok(Departure::Ready(authorization))
                }
                // The token has expired since it was last looked at: the backend keeps its turn.
                None => {
                    worker.learn(chosen.backend, Finding::Nothing, chosen.probe, || None);
                    Ok(Departure::NoToken)
                }
            },
            Err(NoChoice::NoToken) => Ok(Departure::NoToken),
            Err(NoChoice::AllOut(wait)) => match self.can_wait(wait) {
                true => Ok(Departure::In(wait)),
                false => self.refuse(wait).map(|()| Departure::Refused),
            },
            Err(NoChoice::NoApi) => {
                let reply = LocalReply::no_api(self.request.operation.api);
                self.refuse_as(Event::NotServed, &reply)
            }
            // Before the first attempt there is one that was not tried. Where only one can be, it may lack the deployment.
            Err(NoChoice::NoDeployment | NoChoice::AllTried) => {
                self.refuse_as(Event::NotOffered, &LocalReply::no_deployment())
            }
        }
    }

    fn refuse_as(&self, event: Event, reply: &LocalReply) -> Result<Departure, HostError> {
        self.worker.count(event);
        self.reply(reply)?;
        Ok(Departure::Refused)
    }

    /// The identities that would have to have a token for this request to go on.
    pub(in crate::filter) fn identities(&self) -> Identities {
        let only = match self.request.place(&self.worker.config) {
            Place::Only(backend) => Some(backend),
            Place::Anywhere | Place::Nowhere => None,
        };
        let credentials = &self.worker.credentials;
        credentials.wanted(|backend| only.is_none_or(|only| only == backend))
    }

    fn go_to(&mut self, chosen: Chosen) {
        self.exchange.go_to(chosen);
        if chosen.probe.is_some() {
            self.worker.count(Event::Probe(chosen.backend));
        }
    }

    fn can_wait(&mut self, wait: Wait) -> bool {
        let longest = self.worker.config.cooldown.wait_timeout;
        // One for another protocol cannot be resumed in time, see `may_wait_for_token`.
        if longest.is_zero() || self.request.upgrade {
            return false;
        }
        let now = host::now();
        let until = *self.wait_until.get_or_insert(now + longest);
        now + wait.left <= until
    }

    /// Decides what follows the `outcome` of the current attempt, and where another one goes.
    pub(in crate::filter) fn after(
        &mut self,
        outcome: Outcome,
        replay: Replay,
        next: Next,
    ) -> Verdict {
        let (worker, demand) = (Rc::clone(&self.worker), self.request.demand());
        let replay = self.replay_after(outcome, replay);
        worker.can_authorize();
        let (backend, claim) = (self.exchange.backend(), self.exchange.take_probe());
        let (backends, config) = (&worker.backends, &worker.config);
        let verdict = self.exchange.after(outcome, replay, |plan| match next {
            Next::Best => backends.choose_next(config, plan, demand, outcome),
            Next::Foreseen(foreseen) => {
                backends.choose_foreseen(config, plan, demand, foreseen, outcome)
            }
        });
        if claim.is_some() {
            match verdict {
                Verdict::RenewToken | Verdict::AwaitRequest => self.exchange.keep_probe(claim),
                // A bad token said nothing about the backend, and it will not be asked again.
                _ => worker.learn(backend, Finding::Nothing, claim, || None),
            }
        }
        match &verdict {
            Verdict::TryNext if self.exchange.is_probe() => {
                worker.count(Event::Probe(self.exchange.backend()));
            }
            Verdict::GiveUp(reason) => worker.count(Event::NoRetry(*reason)),
            _ => {}
        }
        verdict
    }

    /// Whether the request may be sent once more after this `outcome`: not if it may have been done, and must not be done twice.
    fn replay_after(&self, outcome: Outcome, replay: Replay) -> Replay {
        let once = outcome == Outcome::Unavailable
            && self.trace == Trace::Possible
            && !self.request.is_repeatable(&self.worker.config);
        match once {
            true => Replay::Impossible(NoRetry::NotRepeatable),
            false => replay,
        }
    }

    /// Ends the exchange after an attempt without an answer that the router did not follow with another one.
    pub(in crate::filter) fn end_unanswered(&mut self, replay: Replay) {
        let replay = self.replay_after(Outcome::Unavailable, replay);
        let declined = |_: &Plan| Err(NoRetry::RouterDeclined);
        if let Verdict::GiveUp(reason) = self.exchange.after(Outcome::Unavailable, replay, declined)
        {
            self.worker.count(Event::NoRetry(reason));
        }
    }

    /// Whether the request may be held for a token. Not one for another protocol: its client says nothing more before it is
    /// answered, so the frame that would resume it without loss (see `Gate`) may never come.
    pub(in crate::filter) fn may_wait_for_token(&self) -> bool {
        !self.request.upgrade
    }

    /// The generation of the token that the current attempt carries.
    pub(in crate::filter) fn token_generation(&self) -> u32 {
        self.carries
            .as_ref()
            .map_or(0, |carried| carried.generation)
    }

    /// The current attempt carries this from now on; what was carried before, if it is something else.
    pub(in crate::filter) fn carry(
        &mut self,
        authorization: &Rc<Authorization>,
    ) -> Option<Rc<Authorization>> {
        let before = self.carries.replace(Rc::clone(authorization))?;
        (!Rc::ptr_eq(&before, authorization)).then_some(before)
    }

    /// The outcome of an answer whose error code decides.
    pub(in crate::filter) fn error_outcome(&self, status: u16, body: &[u8]) -> Outcome {
        match Outcome::from_error(status, body) {
            // There is no other key to try.
            Outcome::BadToken if self.worker.credentials.is_keyed(self.exchange.backend()) => {
                Outcome::PermissionDenied
            }
            outcome => outcome,
        }
    }

    /// What is to be changed in the body for the current backend.
    pub(in crate::filter) fn splices(&self) -> Splices {
        let backend = self.worker.config.backends.get(self.exchange.backend());
        backend.map_or_else(Splices::default, |backend| self.request.splices(backend))
    }

    /// The current attempt, with this token.
    pub(in crate::filter) fn attempt<'a>(
        &'a self,
        token: &'a Authorization,
    ) -> Option<Attempt<'a>> {
        let backend = self.worker.config.backends.get(self.exchange.backend())?;
        Some(Attempt {
            request: &self.request,
            backend,
            credential: token.credential(),
            timeout_ms: self.worker.timeout_ms(self.exchange.backend()),
            growth: match self.worker.config.retry.engine {
                Engine::Filter => self.splices().delta(),
                // The deployment's name is put in upstream, attempt by attempt.
                Engine::Router => self.request.cuts.delta(),
            },
            reads_answer: self.reads_answer(),
        })
    }

    /// Whether the answer will be read, for the ids in it.
    fn reads_answer(&self) -> bool {
        self.request.accepts_encodings && self.request.tags_answer(&self.worker.config)
    }

    /// The path as the client sent it.
    pub(in crate::filter) fn client_path(&self) -> &str {
        self.original.get(":path").unwrap_or_default()
    }

    /// Turns the client's request into the current attempt, in place. A request for which that fails must not leave: it may
    /// still carry the client's credentials.
    pub(in crate::filter) fn edit_request(
        &mut self,
        token: &Rc<Authorization>,
    ) -> Result<(), HostError> {
        let mut result = Ok(());
        if let Some(attempt) = self.attempt(token) {
            let client_path = || self.client_path();
            attempt.edit_in_place(&self.worker.config, client_path, |edit| {
                if result.is_ok() {
                    result = apply(edit);
                }
            });
        }
        self.carry(token);
        result
    }

    pub(in crate::filter) fn attempt_made(&mut self) {
        let backend = self.exchange.backend();
        self.exchange.attempt_made();
        self.worker.count(Event::Attempt(backend));
        if self.exchange.attempts() > 1 {
            self.worker.count(Event::Retry(backend));
        }
    }

    /// The current attempt ended: counts its `outcome`, and learns from it. `headers` are the answer's, where there was one and
    /// [`Self::wants_headers`].
    pub(in crate::filter) fn conclude(&mut self, outcome: Outcome, headers: Option<&HeaderMap>) {
        let backend = self.exchange.backend();
        self.worker.count(Event::Outcome(backend, outcome));
        let stated = |name: &str| headers.and_then(|headers| headers.get(name));
        let wait = match outcome {
            Outcome::Throttled => {
                self.throttled.add(backend);
                stated_wait(stated, host::now())
            }
            _ => None,
        };
        if self.worker.config.policy == Policy::LeastThrottled {
            let remaining = stated("x-ratelimit-remaining-tokens");
            if let Some(remaining) = remaining.and_then(|text| text.trim().parse().ok()) {
                self.worker.backends.note_capacity(backend, remaining);
            }
        }
        if outcome == Outcome::DeploymentNotFound && self.request.names_unread_deployment() {
            self.worker
                .backends
                .note_unread_deployment(&self.worker.config);
        }
        let finding = Finding::of(outcome, wait, self.request.demand());
        // A bad token says nothing about the backend yet: it will be asked once more.
        let claim = match finding {
            Finding::Nothing => None,
            _ => self.exchange.take_probe(),
        };
        self.worker.learn(backend, finding, claim, || {
            Some(self.request.wanted(self.client_path(), outcome))
        });
    }

    /// Whether the headers of an answer with this outcome say something to learn.
    pub(in crate::filter) fn wants_headers(&self, outcome: Outcome) -> bool {
        outcome == Outcome::Throttled || self.worker.config.policy == Policy::LeastThrottled
    }

    /// [`Self::conclude`] in a callback of the answer.
    pub(in crate::filter) fn conclude_answer(&mut self, outcome: Outcome) -> Result<(), HostError> {
        let headers = match self.wants_headers(outcome) {
            true => Some(host::headers(Map::ResponseHeaders)?),
            false => None,
        };
        self.conclude(outcome, headers.as_ref());
        Ok(())
    }

    /// Counts an answer that ended before it was complete.
    pub(in crate::filter) fn count_break(&self) {
        let details = host::property("response\0code_details").ok().flatten();
        // Envoy's own words: `upstream_reset_after_response_started{...}`.
        let by_upstream = details.is_some_and(|details| details.starts_with(b"upstream"));
        self.worker.count(if by_upstream {
            Event::StreamBroken
        } else {
            Event::ClientGone
        });
    }

    /// Whether the error that came through the router is a backend's, not Envoy's own for want of an answer.
    pub(in crate::filter) fn is_from_backend(&mut self) -> Result<bool, HostError> {
        let details = host::property("response\0code_details")?;
        let details = details.filter(|details| details != b"via_upstream");
        if let Some(details) = &details {
            self.trace = Trace::of_no_answer(details);
        }
        if details.as_deref() == Some(b"cluster_not_found") {
            self.worker
                .complain(Complaint::Cluster(self.exchange.backend()));
        }
        Ok(details.is_none())
    }

    /// Whether the answer is Envoy's own to a client that took too long over its request (`stream_idle_timeout`,
    /// `request_timeout`). It says nothing of the backend, and the rest of the request will not come.
    pub(in crate::filter) fn is_to_slow_client(&mut self, status: u16) -> Result<bool, HostError> {
        Ok(status == 408 && !self.is_from_backend()?)
    }
}

impl Drop for Journey {
    fn drop(&mut self) {
        // A probe whose outcome no one will tell: the client left, or a host call was refused.
        let claim = self.exchange.take_probe();
        if claim.is_some() {
            let backend = self.exchange.backend();
            self.worker.learn(backend, Finding::Nothing, claim, || None);
        }
    }
}

fn apply(edit: Edit<'_>) -> Result<(), HostError> {
    match edit {
        Edit::Set(name, value) => host::set_header(Map::RequestHeaders, name, value),
        Edit::Remove(name) => host::remove_header(Map::RequestHeaders, name),
    }
}

/// The status of an answer whose headers are there.
pub(in crate::filter) fn status() -> Result<u16, HostError> {
    let status = host::header(Map::ResponseHeaders, ":status")?;
    Ok(status.as_deref().and_then(number).unwrap_or(0))
}
