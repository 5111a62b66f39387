//! What all streams of one configuration on one worker thread share: backends, credentials, tally, and the waiting list.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::announce::{self, Detail};
use super::backends::Backends;
use super::clients::ClientCounters;
use super::complaint::Complaint;
use super::credentials::Credentials;
use super::held_bodies::HeldBodies;
use super::host::{self, HostError, Metric};
use super::waiting::{Granted, WaitingList, Wish};
use crate::core::config::Config;
use crate::core::exchange::Lesson;
use crate::core::health::{Change, Finding};
use crate::core::metrics::{self, Event, Tally};
use crate::core::replay::{ReplayMemory, HELD_UNTIL_COMPLETE};
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
    /// The bodies that the listener's filter holds.
    pub(super) listener_bodies: HeldBodies,
    /// The bodies that the clusters' filters hold.
    pub(super) cluster_bodies: HeldBodies,
    complaints: RefCell<Vec<Complaint>>,
    hold_limit: Cell<usize>,
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
            listener_bodies: HeldBodies::default(),
            cluster_bodies: HeldBodies::default(),
            complaints: RefCell::default(),
            hold_limit: Cell::new(config.retry.replay_limit),
            config,
        })
    }

    /// Learns from the end of an attempt; `detail` is for the log, see [`announce::report`].
    pub(crate) fn learn(&self, lesson: &Lesson, detail: impl FnOnce() -> Detail) {
        if let Some(change) = self.backends.learn(&self.config, lesson) {
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
            self.backends.learn_name(name);
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

    /// The longest request body, in bytes, that the router engine holds until it is complete.
    ///
    /// `retry.replay_limit`, as long as Envoy's buffer is that large.
    pub(crate) fn hold_limit(&self) -> usize {
        self.hold_limit.get()
    }

    /// Envoy answered 413 to a request that was held: its buffer is smaller than the documentation asks for.
    pub(crate) fn hold_less(&self) {
        self.hold_limit
            .set(self.hold_limit.get().min(HELD_UNTIL_COMPLETE));
        self.complain(Complaint::BufferLimit);
    }

    /// Puts the stream on the waiting list. `false` if it need not or cannot wait.
    pub(super) fn wait(&self, id: u32, stream: Rc<dyn Stream>, wish: Wish) -> bool {
        // Once a body was shown, they all are, and its callback resumes the stream.
        if matches!(wish, Wish::RequestBody) && self.listener_bodies.have_come() {
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
            self.backends.on_tick(&self.config, now);
            self.admit_tokens(now);
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

    /// Backends that refused an older token are asked again.
    fn admit_tokens(&self, now: Timestamp) {
        let generation = |backend| self.credentials.generation(backend);
        self.backends.admit_tokens(&generation, now);
    }

    fn grant_wishes(&self, now: Timestamp) {
        let granted = self
            .waiting
            .take_granted(&self.credentials, &self.backends, now);
        for (id, stream, granted) in granted {
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
        self.admit_tokens(now);
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
