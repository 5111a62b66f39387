//! The state that all requests of one configuration share on one worker.

mod agenda;
mod announce;
mod choice;
mod complaint;
mod held_bodies;
mod silences;
mod waiting;

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

pub use agenda::{Agenda, Began, NOW};
pub use announce::Detail;
pub use complaint::Complaint;
pub use held_bodies::{HeldBodies, Watch};
pub use silences::{Silences, Watchable};
pub use waiting::{Awaited, WaitResult, WaitingList, WantedBackend, POLL};

use super::attempts::Lesson;
use super::clients::MAX_CLIENTS;
use super::config::Config;
use super::demand::QuotaKey;
use super::fleet::{deployment_label, Fleet, Names, UNREAD};
use super::health::{Change, Finding};
use super::host::Host;
use super::identity::Credentials;
use super::ledger::{Counts, Kind, Ledger};
use super::limits::Limiter;
use super::metrics::{Event, Tally, MOST_DEPLOYMENTS};
use super::pace::Measure;
use super::plan::{BackendSet, Plan};
use super::prices::Cost;
use super::replay::{ReplayMemory, HELD_UNTIL_COMPLETE};
use super::request::{Place, Request};
use super::state::ids::Tags;
use super::swap::SwapError;
use super::time::{millis, Timestamp};
use super::usage::{Tokens, Usage};
use super::usage_refusals::UsageRefusals;
use crate::prelude::*;

/// The state that all requests of one configuration share on one worker. `H` is the host.
pub struct Balancer<H> {
    host: H,
    /// The configuration.
    pub config: Config,
    /// The backends.
    pub fleet: Fleet<H>,
    /// The names of quotas.
    pub names: Names<H>,
    /// The credentials for backends.
    pub credentials: Credentials<H>,
    /// The limits of clients, if any are configured.
    pub limiter: Option<Limiter<H>>,
    /// The tags by which ids name resources.
    pub tags: Tags,
    /// Whether Envoy shows the bodies that the listener's filter holds.
    pub listener_bodies: HeldBodies,
    /// Whether Envoy shows the bodies that the clusters' filters hold.
    pub cluster_bodies: HeldBodies,
    /// The memory for copies of request bodies.
    pub replay_memory: Rc<ReplayMemory>,
    /// The deployments that refused to report the tokens of a stream.
    pub usage_refusals: UsageRefusals,
    /// The router's time limit for each backend, in milliseconds, as text for a header.
    timeouts: Vec<String>,
    tally: RefCell<Tally>,
    clients: RefCell<Ledger>,
    /// One ledger for each backend.
    deployments: RefCell<Vec<Ledger>>,
    measured: RefCell<Vec<Measured>>,
    complaints: RefCell<Vec<Complaint>>,
    hold_limit: Cell<usize>,
}

/// A measurement of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// The backend of the stream.
    pub backend: usize,
    /// The measured quantity.
    pub measure: Measure,
    /// The value.
    pub value: u64,
}

/// The most measurements between two reports. Further ones are dropped.
const MOST_MEASURED: usize = 4096;

/// The owners of an answer's tokens.
#[derive(Clone, Copy, Debug)]
pub struct UsageOwners<'a> {
    /// The backend that answered.
    pub backend: usize,
    /// The quota of the request's deployment.
    pub quota: QuotaKey,
    /// The name of the deployment, if it was read.
    pub deployment: Option<&'a str>,
    /// The client's name.
    pub client: Option<&'a str>,
}

impl<H: Host> Balancer<H> {
    /// Creates the shared state. `seed` should differ between Envoys, so that their cooldowns end at different times.
    ///
    /// # Errors
    /// The host refused access to its shared data.
    #[inline(never)]
    pub fn new(host: H, config: Config, seed: u64) -> Result<Self, SwapError<H::Error>> {
        let timeouts = config.backends.iter();
        Ok(Self {
            fleet: Fleet::new(host.clone(), &config, seed, host.now())?,
            names: Names::new(host.clone(), &config)?,
            credentials: Credentials::new(&host, &config)?,
            limiter: match config.limits.clone() {
                Some(rules) => Some(Limiter::new(host.clone(), rules)?),
                None => None,
            },
            tags: config.tags(),
            listener_bodies: HeldBodies::default(),
            cluster_bodies: HeldBodies::default(),
            replay_memory: ReplayMemory::new(config.retry.replay_memory),
            usage_refusals: UsageRefusals::default(),
            timeouts: timeouts
                .map(|backend| millis(config.router_timeout(backend)).to_string())
                .collect(),
            tally: RefCell::new(Tally::new(config.backends.len())),
            clients: RefCell::new(Ledger::new(MAX_CLIENTS)),
            deployments: RefCell::new(vec![Ledger::new(MOST_DEPLOYMENTS); config.backends.len()]),
            measured: RefCell::default(),
            complaints: RefCell::default(),
            hold_limit: Cell::new(config.retry.replay_limit),
            host,
            config,
        })
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// Counts `event`.
    pub fn count(&self, event: Event) {
        self.tally.borrow_mut().add(event);
    }

    /// Counts a request of `client`.
    pub fn count_client(&self, client: &str) {
        if let Some(counts) = self.clients.borrow_mut().entry(client) {
            counts.add(Kind::Requests, 1);
        }
    }

    /// Counts an answer's tokens and their cost for the backend, the deployment and the client.
    pub fn count_usage(&self, usage: &Usage, cost: Option<Cost>, owners: &UsageOwners<'_>) {
        let backend = owners.backend;
        let mut tally = self.tally.borrow_mut();
        for kind in Tokens::ALL {
            tally.add_many(Event::Token(backend, kind), u64::from(usage.of(kind)));
        }
        tally.add_many(Event::Cost(backend), cost.unwrap_or_default());
        let add = |counts: &mut Counts| {
            counts.add_usage(usage);
            counts.add(Kind::Cost, cost.unwrap_or_default());
        };
        let mut deployments = self.deployments.borrow_mut();
        let of_backend = deployments.get_mut(backend);
        let label = || {
            let label = owners.deployment.and_then(deployment_label);
            label.unwrap_or_else(|| UNREAD.to_owned())
        };
        let number = owners.quota.number();
        if let Some(counts) = of_backend.and_then(|it| it.entry_of(number, label)) {
            add(counts);
        }
        let mut clients = self.clients.borrow_mut();
        if let Some(counts) = owners.client.and_then(|client| clients.entry(client)) {
            add(counts);
        }
    }

    /// Records a measurement of a stream.
    pub fn measure(&self, measured: Measured) {
        let mut all = self.measured.borrow_mut();
        if all.len() < MOST_MEASURED {
            all.push(measured);
        }
    }

    /// Takes the measurements since the last call.
    pub fn take_measured(&self) -> Vec<Measured> {
        self.measured.take()
    }

    /// Counts a request of `client` that exceeded a limit.
    pub fn count_limited_client(&self, client: &str, limited: Kind) {
        if let Some(counts) = self.clients.borrow_mut().entry(client) {
            counts.add(limited, 1);
        }
    }

    /// Passes each count since the last call to `report`, with its place among the statistics.
    pub fn drain_counts(&self, report: impl FnMut(usize, u64)) {
        self.tally.borrow_mut().drain(report);
    }

    /// Passes each client's counts since the last call to `report`: the count's place, the client's name and the
    /// kind.
    pub fn drain_clients(&self, report: &mut dyn FnMut(usize, &str, Kind, u64)) {
        self.clients.borrow_mut().drain(report);
    }

    /// Passes the deployments' counts since the last call to `report`: the backend, the count's place, the
    /// deployment's name and the kind.
    pub fn drain_deployments(&self, report: &mut dyn FnMut(usize, usize, &str, Kind, u64)) {
        for (backend, ledger) in self.deployments.borrow_mut().iter_mut().enumerate() {
            ledger.drain(&mut |place, name, kind, count| report(backend, place, name, kind, count));
        }
    }

    /// Logs a mistake in Envoy's configuration, once.
    #[inline(never)]
    pub fn complain(&self, complaint: Complaint) {
        let mut known = self.complaints.borrow_mut();
        if !known.contains(&complaint) {
            known.push(complaint);
            log::error!("{}", complaint.text(&self.config));
        }
    }

    /// The router's time limit for an attempt on `backend`, in milliseconds.
    pub fn timeout_ms(&self, backend: usize) -> &str {
        self.timeouts.get(backend).map_or("", String::as_str)
    }

    /// The longest request body that the router engine holds until it is complete, in bytes. It is
    /// `retry.replay_limit`, unless Envoy's buffer has turned out to be smaller.
    pub fn hold_limit(&self) -> usize {
        self.hold_limit.get()
    }

    /// Reduces the hold limit after Envoy answered 413 to a held request: its buffer is smaller than documented.
    pub fn reduce_hold_limit(&self) {
        self.hold_limit
            .set(self.hold_limit.get().min(HELD_UNTIL_COMPLETE));
        self.complain(Complaint::BufferLimit);
    }

    /// Whether any backend can be authenticated with. Also updates which backends have no token.
    pub fn can_authorize(&self) -> bool {
        let tokenless = self.credentials.tokenless();
        if let Some(tokenless) = tokenless {
            self.fleet.set_tokenless(tokenless);
        }
        tokenless.is_some()
    }

    /// Learns from the end of an attempt. `detail` is for the log.
    pub fn learn(&self, lesson: &Lesson, detail: impl FnOnce() -> Detail) {
        let now = || self.host.now();
        if let Some(change) = self.fleet.take(&self.config.cooldown, lesson, &now) {
            self.announce(lesson, change, &detail());
        }
    }

    #[inline(never)]
    fn announce(&self, lesson: &Lesson, change: Change, detail: &Detail) {
        if let Some(event) = announce::event(lesson.backend, change) {
            self.count(event);
        }
        if let Some(backend) = self.config.backends.get(lesson.backend) {
            announce::report(&backend.name, change, lesson, &detail.text);
        }
        if let (Finding::Throttled(..), Some(name)) = (lesson.finding, &detail.deployment) {
            self.names.learn(name);
        }
    }

    /// Ends the cooldown of backends that refused an older access token than the current one.
    pub fn admit_tokens(&self, now: Timestamp) {
        let generation = |backend| self.credentials.generation(backend);
        self.fleet.admit_tokens(&generation, now);
    }

    /// The plan of a request without a turn.
    pub(super) fn unplanned(&self, request: &Request) -> Plan {
        match request.place(&self.config) {
            Place::Only(backends) => Plan::only(backends, self.config.backends.len(), 0),
            Place::Anywhere | Place::Nowhere => Plan::default(),
        }
    }

    /// Every backend except this one.
    fn all_but(&self, backend: usize) -> BackendSet {
        BackendSet::all_but(backend, self.config.backends.len())
    }
}
