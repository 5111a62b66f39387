//! What all streams of one configuration on one worker thread share: the [balancer](Balancer), its clock's ticks, the statistics, the
//! waiting list, and calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::envoy::Envoy;
use super::gauges::Gauges;
use super::host::{self, HostError, Metric};
use super::silences::Silences;
use super::tokens::Tokens;
use crate::core::balancer::{Balancer, Granted, Measured, WaitingList, Wish, POLL};
use crate::core::clients::counter_name;
use crate::core::config::Config;
use crate::core::metrics::{self, Event};
use crate::core::time::Timestamp;

/// The usual tick: statistics are handed over, the token's age is looked at.
const CALM: Duration = Duration::from_secs(1);
/// The tick that comes as good as at once, for what only the root context can do.
const NOW: Duration = Duration::from_millis(1);

/// A stream as its worker sees it. While these run, Envoy's effective context is the stream's.
pub(super) trait Stream {
    /// What the stream waited for is there, or will not come.
    fn granted(&self, granted: Granted);

    /// The answer to a call that the stream made while the root context was running.
    fn call_answered(&self, call: u32);

    /// How many frames of the client's answer have come.
    fn frames(&self) -> u32;

    /// No frame of the client's answer has come for as long as was allowed.
    fn silent(&self);
}

type Caller = (u32, Rc<dyn Stream>);

/// What all streams of one configuration on one worker share.
pub(crate) struct Worker {
    root_id: u32,
    pub(crate) balancer: Balancer<Envoy>,
    tokens: Vec<Tokens>,
    gauges: Vec<Gauges>,
    counters: Vec<u32>,
    client_counters: RefCell<NamedMetrics>,
    /// For each backend, those of its deployments.
    deployment_counters: RefCell<Vec<NamedMetrics>>,
    /// Those of each backend's streams, in the order of [`Measure::ALL`].
    histograms: RefCell<Vec<NamedMetrics>>,
    seconds_to_expiry: u32,
    /// The gauges of the identities' tokens, in the order of the configuration.
    token_gauges: Vec<u32>,
    handed_over_at: Cell<Timestamp>,
    tidied_at: Cell<Timestamp>,
    /// When the next tick is due, as it was set in the last one.
    ticks_at: Cell<Timestamp>,
    waiting: RefCell<WaitingList<Rc<dyn Stream>>>,
    /// Calls made for a stream in the root context's name, with the stream's id.
    calls: RefCell<Vec<(u32, Caller)>>,
    silences: RefCell<Silences>,
    root_is_running: Cell<bool>,
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
        let balancer = Balancer::new(Envoy, config, host::entropy())?;
        let identities = balancer.config.identities.iter();
        let token_gauges = identities
            .map(|identity| {
                let name = metrics::token_gauge_name(identity.name.as_deref());
                host::define_metric(Metric::Gauge, &name)
            })
            .collect::<Result<_, _>>()?;
        let identities = balancer.config.identities.iter().cloned();
        let tokens = identities.zip(balancer.credentials.stores());
        let backends = balancer.config.backends.iter();
        Ok(Self {
            root_id,
            tokens: tokens
                .map(|(identity, store)| Tokens::new(identity, store))
                .collect(),
            gauges: backends.map(Gauges::of).collect::<Result<_, _>>()?,
            counters,
            client_counters: RefCell::default(),
            deployment_counters: RefCell::new(vec![
                NamedMetrics::default();
                balancer.config.backends.len()
            ]),
            histograms: RefCell::new(vec![
                NamedMetrics::default();
                balancer.config.backends.len()
            ]),
            seconds_to_expiry: host::define_metric(Metric::Gauge, metrics::TOKEN_SECONDS_LEFT)?,
            token_gauges,
            handed_over_at: Cell::default(),
            tidied_at: Cell::default(),
            ticks_at: Cell::default(),
            waiting: RefCell::default(),
            calls: RefCell::default(),
            silences: RefCell::default(),
            root_is_running: Cell::default(),
            balancer,
        })
    }

    /// Puts the stream on the waiting list. `false` if it cannot wait.
    pub(super) fn wait(&self, id: u32, stream: Rc<dyn Stream>, wish: Wish) -> bool {
        let credentials = &self.balancer.credentials;
        let now = host::now();
        // Nearly every stream of events waits so, and few to the end of it: the next tick is mostly early enough.
        let is_early_enough = match &wish {
            Wish::StreamStart(longest) => self.ticks_at.get() <= now + *longest,
            _ => false,
        };
        let waits = (self.waiting.borrow_mut()).add(id, stream, wish, credentials, now);
        if waits && !is_early_enough {
            // The timer is the effective root context's, and behind the router that is another one.
            report(host::in_context(self.root_id, id, || self.tick_after(NOW)));
        }
        waits
    }

    /// The stream waits no longer, or has ended.
    pub(crate) fn forget(&self, id: u32) {
        self.waiting.borrow_mut().remove(id);
    }

    /// Watches that the stream's answer, which has begun, is not silent for longer than this.
    pub(super) fn watch(&self, id: u32, stream: Rc<dyn Stream>, longest: Duration) {
        (self.silences.borrow_mut()).watch(id, stream, longest, host::now());
    }

    /// The stream has ended that was watched.
    pub(super) fn unwatch(&self, id: u32) {
        self.silences.borrow_mut().forget(id);
    }

    fn end_silences(&self, now: Timestamp) {
        // The list is free again before streams are told.
        let silent = self.silences.borrow_mut().take_silent(now);
        for (id, stream) in silent {
            self.as_stream(id, || stream.silent());
        }
    }

    /// The stream made a call. If that was in a callback of the root context, the SDK will bring the answer there, and it is
    /// passed on.
    pub(super) fn call_made(&self, call: u32, id: u32, stream: Rc<dyn Stream>) {
        if self.root_is_running.get() {
            self.calls.borrow_mut().push((call, (id, stream)));
        }
    }

    /// The stream has ended; the call's answer is no one's. (Envoy has no way to cancel it; its time limit ends it.)
    pub(crate) fn disown_call(&self, call: u32) {
        let _ = self.take_call(call);
    }

    /// Takes a call off the list. The oldest come first, and are mostly the first to be answered.
    fn take_call(&self, call: u32) -> Option<Caller> {
        let mut calls = self.calls.borrow_mut();
        let at = calls.iter().position(|(known, _)| *known == call)?;
        Some(calls.remove(at).1)
    }

    fn tick_after(&self, period: Duration) {
        report(host::set_tick_period(period));
    }

    fn count(&self, event: Event) {
        self.balancer.count(event);
    }

    /// Does what is to be done from time to time. Whether it looked at the backends anew, as it does once a second.
    #[inline(never)]
    pub(super) fn on_tick(&self) -> bool {
        let now = host::now();
        self.balancer.credentials.look(now);
        for tokens in &self.tokens {
            if let Err(error) = tokens.keep_fresh(now, &|event| self.count(event)) {
                log::error!("identity: {error}");
            }
        }
        self.grant_wishes(now);
        let looks = (self.tidied_at.get() + CALM).has_passed(now, CALM);
        if looks {
            self.tidied_at.set(now);
            self.balancer.fleet.on_tick(now);
            self.show_health(now);
            self.balancer.admit_tokens(now);
            self.end_silences(now);
        }
        if (self.handed_over_at.get() + CALM).has_passed(now, CALM) {
            self.hand_over(now);
        }
        let next_tick = self.next_tick(now);
        self.ticks_at.set(now + next_tick);
        self.tick_after(next_tick);
        looks
    }

    fn next_tick(&self, now: Timestamp) -> Duration {
        // Without a token a worker looks often while one may come: another worker may be the one that gets it.
        if self.balancer.credentials.may_come(now, CALM) {
            return POLL;
        }
        let wait = self.waiting.borrow().next_timeout(now);
        wait.map_or(CALM, |wait| wait.clamp(NOW, CALM))
    }

    fn show_health(&self, now: Timestamp) {
        let balancer = &self.balancer;
        let backends = balancer.config.backends.iter().zip(&self.gauges);
        for (index, (backend, gauges)) in backends.enumerate() {
            if let Some(health) = balancer.fleet.health(index) {
                gauges.show(backend, &health, &balancer.names, now);
            }
        }
    }

    fn grant_wishes(&self, now: Timestamp) {
        // The list is free again before streams are told: they may come back with another wish.
        let granted = self.waiting.borrow_mut().take_granted(&self.balancer, now);
        for (id, stream, granted) in granted {
            self.as_stream(id, || stream.granted(granted));
        }
    }

    /// Runs `act` for the stream `id` from a callback of the root context.
    pub(super) fn as_stream(&self, id: u32, act: impl FnOnce()) {
        self.root_is_running.set(true);
        report(host::in_context(id, self.root_id, act));
        self.root_is_running.set(false);
    }

    /// The answer to a call that was made in a callback of the root context: the token's, or one of a stream's.
    pub(super) fn on_call_response(&self, call: u32) {
        if let Some((id, stream)) = self.take_call(call) {
            self.as_stream(id, || stream.call_answered(call));
            return;
        }
        let now = host::now();
        self.balancer.credentials.look(now);
        for tokens in &self.tokens {
            if let Err(error) = tokens.on_call_response(call, now, &|event| self.count(event)) {
                log::error!("identity: {error}");
            }
        }
        self.balancer.admit_tokens(now);
        self.grant_wishes(now);
    }

    /// Hands the counts over to Envoy.
    pub(super) fn hand_over(&self, now: Timestamp) {
        self.handed_over_at.set(now);
        self.balancer.drain_counts(|index, count| {
            if let Some(id) = self.counters.get(index) {
                report(host::increment_metric(*id, count));
            }
        });
        let mut clients = self.client_counters.borrow_mut();
        let balancer = &self.balancer;
        balancer.drain_clients(&mut |place, client, kind, count| {
            report(clients.count(place, &|| counter_name(client, kind), count));
        });
        let mut deployments = self.deployment_counters.borrow_mut();
        balancer.drain_deployments(&mut |backend, place, deployment, kind, count| {
            let counters = deployments.get_mut(backend);
            let backend = balancer.config.backends.get(backend);
            if let (Some(counters), Some(backend)) = (counters, backend) {
                let name = || metrics::deployment_counter_name(backend, deployment, kind);
                report(counters.count(place, &name, count));
            }
        });
        let mut histograms = self.histograms.borrow_mut();
        for Measured {
            backend: index,
            measure,
            value,
        } in balancer.take_measured()
        {
            let backend = balancer.config.backends.get(index);
            if let (Some(metrics), Some(backend)) = (histograms.get_mut(index), backend) {
                let name = || measure.histogram_name(backend);
                let id = metrics.id(measure as usize, Metric::Histogram, &name);
                report(id.and_then(|id| host::record_metric(id, value)));
            }
        }
        self.show_tokens(now);
    }

    /// Shows how long the identities' tokens last, and the one that expires first.
    #[inline(never)]
    fn show_tokens(&self, now: Timestamp) {
        let mut first = None;
        let left = self.balancer.credentials.seconds_left(now);
        for (gauge, left) in self.token_gauges.iter().zip(left) {
            report(host::record_metric(*gauge, left));
            first = Some(first.map_or(left, |first: u64| first.min(left)));
        }
        let first = first.unwrap_or(0);
        report(host::record_metric(self.seconds_to_expiry, first));
    }
}

/// Envoy's numbers of statistics that are defined when there is something to hand over, by their places.
#[derive(Clone, Default)]
struct NamedMetrics(Vec<Option<u32>>);

impl NamedMetrics {
    /// The number of the statistic at this place, whose `name` is asked for once.
    #[inline(never)]
    fn id(
        &mut self,
        place: usize,
        kind: Metric,
        name: &dyn Fn() -> String,
    ) -> Result<u32, HostError> {
        if let Some(Some(id)) = self.0.get(place) {
            return Ok(*id);
        }
        let id = host::define_metric(kind, &name())?;
        if self.0.len() <= place {
            self.0.resize(place.saturating_add(1), None);
        }
        if let Some(slot) = self.0.get_mut(place) {
            *slot = Some(id);
        }
        Ok(id)
    }

    /// Adds to the counter at this place.
    fn count(
        &mut self,
        place: usize,
        name: &dyn Fn() -> String,
        count: u64,
    ) -> Result<(), HostError> {
        host::increment_metric(self.id(place, Metric::Counter, name)?, count)
    }
}

/// Logs what the host refused, where the work goes on without.
fn report(result: Result<(), HostError>) {
    if let Err(error) = result {
        log::error!("{error}");
    }
}
