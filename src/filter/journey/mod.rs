//! What both retry engines know of a request, and the way of each of its attempts to a backend.

mod answers;
pub(in crate::filter) use self::answers::Replaced;
pub(in crate::filter) mod outcomes;

use std::rc::Rc;

use crate::core::attempt::{Attempt, Edit};
use crate::core::client_credentials::is_credential_header;
use crate::core::clients::client_name;
use crate::core::config::{Engine, OtherPaths};
use crate::core::exchange::{Chosen, Exchange};
use crate::core::fleet::{NoChoice, Wait};
use crate::core::identity::Authorization;
use crate::core::inspection::{Inspection, Unreadable};
use crate::core::metrics::{event_of_choice, Event};
use crate::core::outcome::{Denial, Trace};
use crate::core::plan::Plan;
use crate::core::reply::LocalReply;
use crate::core::request::{Place, Request};
use crate::core::splices::Splices;
use crate::core::time::Timestamp;
use crate::core::why::Why;
use crate::filter::announce::Detail;
use crate::filter::credentials::Identities;
use crate::filter::header_map::HeaderMap;
use crate::filter::host::{self, HostError, Map};
use crate::filter::tagging::Tagging;
use crate::filter::waiting::{WantedBackend, Wish};
use crate::filter::worker::Worker;

/// A backend's answer that may become the client's.
pub(in crate::filter) struct Answer {
    pub(in crate::filter) status: u16,
    pub(in crate::filter) headers: HeaderMap,
    pub(in crate::filter) body: AnswerBody,
    pub(in crate::filter) backend: usize,
}

/// The body of an [`Answer`].
#[derive(Debug, PartialEq, Eq)]
pub(in crate::filter) enum AnswerBody {
    /// The complete body.
    Whole(Vec<u8>),
    /// The backend stalled before the body was complete. The client gets the status and the headers, with a body made here.
    Stalled,
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
    /// Why the current backend let the attempt in nowhere, if it did not.
    denial: Denial,
    /// Its plan was made: its turn drawn, or the one backend found that it can go to.
    planned: bool,
    /// The tagging of the answer that passes.
    tagging: Option<Tagging>,
    /// Until when the request may wait for a backend, once it has begun to.
    wait_until: Option<Timestamp>,
    /// The explanation of the answer, where the client gets one.
    why: Option<Box<Why>>,
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
            denial: Denial::default(),
            planned: false,
            tagging: None,
            wait_until: None,
            why: worker.config.headers.why.as_ref().map(|_| Box::default()),
            worker,
        }
    }

    /// Reads the request, in a callback of its headers: the reading that its body needs, if it `has_body`. `None` if it is none to
    /// balance: the client was answered.
    pub(in crate::filter) fn begin(
        &mut self,
        has_body: bool,
    ) -> Result<Option<Inspection>, HostError> {
        self.worker.count(Event::Request);
        self.original = host::headers(Map::RequestHeaders)?;
        self.request = Request::read(self.original.iter(), &self.worker.tags);
        self.meet_client()?;
        let served = self.request.surface.is_some()
            || self.request.has_path && self.worker.config.other_paths == OtherPaths::Pass;
        if !served {
            return self.refuse_unread(&LocalReply::other_path());
        }
        if !has_body {
            self.request.has_known_body = true;
            return Ok(Some(Inspection::Done));
        }
        let worker = &self.worker;
        let names_matter = worker.backends.names_matter();
        match Inspection::of(&self.request, &worker.config, names_matter) {
            Ok(inspection) => Ok(Some(inspection)),
            Err(Unreadable) => {
                let encoding = self.request.encoding().unwrap_or_default();
                self.refuse_unread(&LocalReply::encoded_body(encoding))
            }
        }
    }

    #[inline(never)]
    fn refuse_unread(&self, reply: &LocalReply) -> Result<Option<Inspection>, HostError> {
        self.worker.count(Event::NotServed);
        self.reply(reply).map(|()| None)
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
        match worker.backends.choose(plan, || self.request.demand()) {
            Ok(chosen) => match worker.credentials.of(chosen.backend) {
                Some(authorization) => {
                    self.go_to(chosen);
                    Ok(Departure::Ready(authorization))
                }
                None => {
                    self.give_back(chosen);
                    Ok(Departure::NoToken)
                }
            },
            Err(none) => self.stay(none),
        }
    }

    /// The token has expired since it was last looked at: the backend keeps its turn.
    #[inline(never)]
    fn give_back(&self, chosen: Chosen) {
        if let Some(lesson) = Exchange::give_back(chosen, &self.request.demand()) {
            self.worker.learn(&lesson, Detail::default);
        }
    }

    /// There is no backend for the first attempt.
    #[inline(never)]
    fn stay(&mut self, none: NoChoice) -> Result<Departure, HostError> {
        match none {
            NoChoice::NoToken => Ok(Departure::NoToken),
            NoChoice::AllOut(wait) => match self.can_wait(wait) {
                true => Ok(Departure::In(wait)),
                false => self.refuse(wait).map(|()| Departure::Refused),
            },
            NoChoice::NoApi => {
                let reply = LocalReply::no_api(self.request.operation.api);
                self.refuse_all(Event::NotServed, &reply)
            }
            // Before the first attempt there is one that was not tried. Where only one can be, it may lack the deployment.
            NoChoice::NoDeployment | NoChoice::AllTried => {
                self.refuse_all(Event::NotOffered, &LocalReply::no_deployment())
            }
        }
    }

    fn refuse_as(&self, event: Event, reply: &LocalReply) -> Result<Departure, HostError> {
        self.worker.count(event);
        self.reply(reply)?;
        Ok(Departure::Refused)
    }

    /// [`Self::refuse_as`] because no backend can be asked.
    fn refuse_all(&self, event: Event, reply: &LocalReply) -> Result<Departure, HostError> {
        self.worker.count(event);
        self.reply_without_backend(reply)?;
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
        self.count_choice();
    }

    /// Counts why the current backend was chosen, unless it was free.
    fn count_choice(&self) {
        let chosen = self.exchange.chosen();
        if let Some(event) = event_of_choice(chosen.backend, chosen.because) {
            self.worker.count(event);
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

    /// The wish for a backend, of which the first is free after this `wait` at the latest.
    pub(in crate::filter) fn wish_for_backend(&self, wait: Wait) -> Wish {
        Wish::Backend(WantedBackend {
            plan: *self.exchange.plan(),
            demand: self.request.demand(),
            left: wait.left,
        })
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
}

impl Drop for Journey {
    fn drop(&mut self) {
        // The outcome will not be known: the client left, or a host call was refused.
        if let Some(lesson) = self.exchange.abandon(&self.request.demand()) {
            self.worker.learn(&lesson, Detail::default);
        }
    }
}

/// Takes the client's credentials out of the trailers, in their callback: none may reach a backend there either.
pub(in crate::filter) fn clean_trailers() -> Result<(), HostError> {
    let trailers = host::headers(Map::RequestTrailers)?;
    let mut names = trailers.iter().map(|(name, _)| name);
    names.try_for_each(|name| match std::str::from_utf8(name) {
        Ok(text) if is_credential_header(name) => host::remove_header(Map::RequestTrailers, text),
        _ => Ok(()),
    })
}

fn apply(edit: Edit<'_>) -> Result<(), HostError> {
    match edit {
        Edit::Set(name, value) => host::set_header(Map::RequestHeaders, name, value),
        Edit::Remove(name) => host::remove_header(Map::RequestHeaders, name),
    }
}
