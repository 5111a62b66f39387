//! What all streams of one configuration on one worker thread share: backends, credentials, tally, and the waiting list.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::announce;
use super::backends::Backends;
use super::clients::ClientCounters;
use super::complaint::Complaint;
use super::credentials::Credentials;
use super::host::{self, HostError, Metric};
use super::waiting::{Granted, WaitingList, Wish};
use crate::core::config::Config;
use crate::core::health::{Change, Claim, Finding};
use crate::core::metrics::{self, Event, Tally};
use crate::core::replay::ReplayMemory;
use crate::core::state::ids::Tags;
use crate::core::time::{millis, Timestamp};

/// The usual tick: statistics are handed over, the token's age is looked at.
const CALM: Duration = Duration::from_secs(1);
/// The tick while a token is expected from another worker, or a stream waits.
const BUSY: Duration = Duration::from_millis(20);
/// The tick that comes as good as at once, for what only the root context can do.
const NOW: Duration = Duration::from_millis(1);

/// A stream as its worker sees it. While these run, Envoy's effective context is the stream's.
pub(super) trait Stream {
    /// What the stream waited for is there, or will not come.
    fn granted(&self, granted: Granted);

    /// The answer to a call that the stream made while the root context was running.
    fn call_answered(&self, call: u32);
}

type Caller = (u32, Rc<dyn Stream>);

/// Whether Envoy shows bodies while their headers are held, see `allow_on_headers_stop_iteration`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HeldBodies {
    Untried,
    Shown,
    Hidden,
}

/// What all streams of one configuration on one worker share.
pub(crate) struct Worker {
    root_id: u32,
    pub(crate) config: Config,
    pub(crate) backends: Backends,
    pub(crate) credentials: Credentials,
    /// The tags by which ids name backends.
    pub(crate) tags: Tags,
    /// The router's time limit for each backend, in milliseconds, as it is told.
    timeouts: Vec<String>,
    tally: RefCell<Tally>,
    counters: Vec<u32>,
    pub(super) clients: ClientCounters,
    seconds_to_expiry: u32,
    handed_over_at: Cell<Timestamp>,
    tidied_at: Cell<Timestamp>,
    waiting: WaitingList,
    pub(super) replay_memory: Rc<ReplayMemory>,
    /// Calls made for a stream in the root context's name, with the stream's id.
    calls: RefCell<Vec<(u32, Caller)>>,
    root_is_running: Cell<bool>,
    held_bodies: Cell<HeldBodies>,
    complaints: RefCell<Vec<Complaint>>,
    missed_bodies: Cell<u8>,
}

impl Worker {
    /// Sets the worker to work: its first tick comes as good as at once.
    #[inline(never)]
    pub(super) fn start(root_id: u32, config: Config) -> Result<Self, HostError> {
        let counters = metrics::counter_names(&config.backends)
            .iter()
            .map(|name| host::define_metric(Metric::Counter, name))
            .collect::<Result<_, _>>()?;
        host::set_tick_period(NOW)?;
        Ok(Self {
            root_id,
            backends: Backends::new(&config)?,
            credentials: Credentials::new(&config)?,
            tags: config.tags(),
            timeouts: config
                .backends
                .iter()
                .map(|backend| millis(config.router_timeout(backend)).to_string())
                .collect(),
            tally: RefCell::new(Tally::new(config.backends.len())),
            counters,
            clients: ClientCounters::default(),
            seconds_to_expiry: host::define_metric(Metric::Gauge, metrics::TOKEN_SECONDS_LEFT)?,
            handed_over_at: Cell::default(),
            tidied_at: Cell::default(),
            waiting: WaitingList::default(),
            replay_memory: ReplayMemory::new(config.retry.replay_memory),
            calls: RefCell::default(),
            root_is_running: Cell::default(),
            held_bodies: Cell::new(HeldBodies::Untried),
            complaints: RefCell::default(),
            missed_bodies: Cell::default(),
            config,
        })
    }

    /// Learns from an attempt on `backend`, made with or without the `claim` of its probe, for what it was `wanted` for.
    pub(crate) fn learn(
        &self,
        backend: usize,
        finding: Finding,
        claim: Option<Claim>,
        wanted: impl FnOnce() -> Option<String>,
    ) {
        if let Some(change) = self.backends.learn(&self.config, backend, finding, claim) {
            self.announce(backend, change, wanted().as_deref());
        }
    }

    fn announce(&self, backend: usize, change: Change, wanted: Option<&str>) {
        if let Some(event) = announce::event(backend, change) {
            self.count(event);
        }
        if let Some(backend) = self.config.backends.get(backend) {
            announce::report(&backend.name, change, wanted);
        }
    }

    /// The router's time limit for an attempt on `backend`, in milliseconds.
    pub(crate) fn timeout_ms(&self, backend: usize) -> &str {
        self.timeouts.get(backend).map_or("", String::as_str)
    }

    /// Whether there is anything to show to any backend. Those that could be asked are told apart from those that could not.
    pub(crate) fn can_authorize(&self) -> bool {
        let tokenless = self.credentials.tokenless();
        if let Some(tokenless) = tokenless {
            self.backends.set_tokenless(tokenless);
        }
        tokenless.is_some()
    }

    /// Counts `event`.
    pub(crate) fn count(&self, event: Event) {
        if let Ok(mut tally) = self.tally.try_borrow_mut() {
            tally.add(event);
        }
    }

    /// Whether a body may be waited for while its headers are held.
    ///
    /// Without `allow_on_headers_stop_iteration: true` in Envoy's configuration it would never come. The module cannot read
    /// that setting, so the first wait is watched, and from then on it is known.
    pub(crate) fn shows_held_bodies(&self) -> bool {
        self.held_bodies.get() != HeldBodies::Hidden
    }

    /// A body came while its headers were held.
    pub(crate) fn showed_held_body(&self) {
        self.held_bodies.set(HeldBodies::Shown);
    }

    /// A body that was waited for did not come in time, and it cannot be found out why. One may be slow; not several in a row.
    pub(crate) fn missed_held_body(&self) {
        const SLOW_ONES: u8 = 2;
        let missed = self.missed_bodies.get().saturating_add(1);
        self.missed_bodies.set(missed);
        if missed > SLOW_ONES {
            self.hid_held_body();
        }
    }

    /// A body came as soon as its headers, held in vain, were let go: it had been there all the time.
    pub(crate) fn hid_held_body(&self) {
        if self.held_bodies.get() == HeldBodies::Untried {
            self.held_bodies.set(HeldBodies::Hidden);
            self.complain(Complaint::HiddenBodies);
        }
    }

    /// Puts the stream on the waiting list. `false` if it need not or cannot wait.
    pub(super) fn wait(&self, id: u32, stream: Rc<dyn Stream>, wish: Wish) -> bool {
        // Once a body was shown, they all are, and its callback resumes the stream.
        if matches!(wish, Wish::Body) && self.held_bodies.get() == HeldBodies::Shown {
            return true;
        }
        if !self.waiting.add(id, stream, wish, &self.credentials) {
            return false;
        }
        // The timer is the effective root context's, and behind the router that is another one.
        if let Err(error) = host::in_context(self.root_id, id, || self.tick_after(NOW)) {
            log::error!("{error}");
        }
        true
    }

    /// The stream waits no longer, or has ended.
    pub(crate) fn forget(&self, id: u32) {
        self.waiting.remove(id);
    }

    /// Says what is wrong around the filter, once.
    #[inline(never)]
    pub(crate) fn complain(&self, complaint: Complaint) {
        let Ok(mut known) = self.complaints.try_borrow_mut() else {
            return;
        };
        if !known.contains(&complaint) {
            known.push(complaint);
            log::error!("{}", complaint.text(&self.config));
        }
    }

    /// The stream made a call. If that was in a callback of the root context, the SDK will bring the answer there, and it is
    /// passed on.
    pub(super) fn call_made(&self, call: u32, id: u32, stream: Rc<dyn Stream>) {
        if !self.root_is_running.get() {
            return;
        }
        if let Ok(mut calls) = self.calls.try_borrow_mut() {
            calls.push((call, (id, stream)));
        }
    }

    /// The stream has ended; the call's answer is no one's. (Envoy has no way to cancel it; its time limit ends it.)
    pub(crate) fn disown_call(&self, call: u32) {
        if let Ok(mut calls) = self.calls.try_borrow_mut() {
            take_call(&mut calls, call);
        }
    }

    fn tick_after(&self, period: Duration) {
        if let Err(error) = host::set_tick_period(period) {
            log::error!("{error}");
        }
    }

    /// Does what is to be done from time to time. Whether it looked at the backends anew, as it does once a second.
    #[inline(never)]
    pub(super) fn on_tick(&self) -> bool {
        let now = host::now();
        self.credentials.on_tick(now, &|event| self.count(event));
        self.grant_wishes(now);
        let looks = (self.tidied_at.get() + CALM).has_passed(now, CALM);
        if looks {
            self.tidied_at.set(now);
            self.backends
                .on_tick(now, |backend, change| self.announce(backend, change, None));
        }
        if (self.handed_over_at.get() + CALM).has_passed(now, CALM) {
            self.hand_over(now);
        }
        // Without a token a worker looks often while one may come: another worker may be the one that gets it.
        let token_may_come = self.credentials.may_come(now, CALM);
        self.tick_after(if token_may_come || !self.waiting.is_empty() {
            BUSY
        } else {
            CALM
        });
        looks
    }

    fn grant_wishes(&self, now: Timestamp) {
        for (id, stream, granted) in self.waiting.take_granted(&self.credentials, now) {
            self.as_stream(id, || stream.granted(granted));
        }
    }

    /// Runs `act` for the stream `id` from a callback of the root context.
    pub(super) fn as_stream(&self, id: u32, act: impl FnOnce()) {
        self.root_is_running.set(true);
        if let Err(error) = host::in_context(id, self.root_id, act) {
            log::error!("{error}");
        }
        self.root_is_running.set(false);
    }

    /// The answer to a call that was made in a callback of the root context: the token's, or one of a stream's.
    pub(super) fn on_call_response(&self, call: u32) {
        let owner = self
            .calls
            .try_borrow_mut()
            .ok()
            .and_then(|mut calls| take_call(&mut calls, call));
        if let Some((id, stream)) = owner {
            self.as_stream(id, || stream.call_answered(call));
            return;
        }
        let now = host::now();
        self.credentials
            .on_call_response(call, now, &|event| self.count(event));
        self.grant_wishes(now);
    }

    /// Hands the counts over to Envoy.
    pub(super) fn hand_over(&self, now: Timestamp) {
        self.handed_over_at.set(now);
        let Ok(mut tally) = self.tally.try_borrow_mut() else {
            return;
        };
        tally.drain(|index, count| {
            let id = self.counters.get(index);
            if let Some(Err(error)) = id.map(|id| host::increment_metric(*id, count)) {
                log::error!("{error}");
            }
        });
        self.clients.hand_over();
        let left = self.credentials.seconds_to_expiry(now);
        if let Err(error) = host::record_metric(self.seconds_to_expiry, left) {
            log::error!("{error}");
        }
    }
}

/// Takes a call off the list. The oldest come first, and are mostly the first to be answered.
fn take_call(calls: &mut Vec<(u32, Caller)>, call: u32) -> Option<Caller> {
    let at = calls.iter().position(|(known, _)| *known == call)?;
    Some(calls.remove(at).1)
}
