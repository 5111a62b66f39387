//! What all streams of one configuration on one worker thread share: the [balancer](Balancer), its ticks, the statistics, and calls.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::envoy::Envoy;
use super::host::{self, Buffer, HostError, Map};
use super::place::Request;
use crate::core::balancer::{Agenda, Balancer, Began, Granted, Silences, Wish, NOW};
use crate::core::config::Config;
use crate::core::identity::{Answer, Call, Keeper};
use crate::core::metrics::Event;
use crate::core::statistics::{Change, Statistics};
use crate::core::swap::SwapError;
use crate::core::text::number;
use crate::core::time::Timestamp;

/// A stream as its worker sees it. While these run, Envoy's effective context is the stream's.
pub(super) trait Stream {
    /// What the stream waited for is there, or will not come.
    fn granted(&self, granted: Granted);

    /// The answer to a call that the stream made while the root context was running.
    fn call_answered(&self, call: u32);
}

/// What all streams of one configuration on one worker share.
pub(crate) struct Worker {
    root_id: u32,
    pub(crate) balancer: Balancer<Envoy>,
    /// Borrowed for one step at a time: no stream is told anything meanwhile, since it may come back here.
    mutable: RefCell<Mutable>,
}

/// What changes of a [`Worker`], beside its balancer.
struct Mutable {
    agenda: Agenda<Rc<dyn Stream>>,
    silences: Silences<Request>,
    /// For each identity.
    keepers: Vec<Keeper<Envoy>>,
    statistics: Statistics,
    metrics: Metrics,
}

impl Worker {
    /// Sets the worker to work: its first tick comes as good as at once.
    #[inline(never)]
    pub(super) fn start(root_id: u32, config: Config) -> Result<Self, HostError> {
        let (statistics, definitions) = Statistics::new(&config);
        let mut metrics = Metrics::default();
        for definition in definitions {
            metrics.change(definition)?;
        }
        host::set_tick_period(NOW)?;
        let balancer = Balancer::new(Envoy, config, host::entropy())?;
        let identities = balancer.config.identities.iter().cloned();
        let keepers = identities.zip(balancer.credentials.stores());
        let mutable = Mutable {
            agenda: Agenda::default(),
            silences: Silences::default(),
            keepers: keepers.map(|(it, store)| Keeper::new(it, store)).collect(),
            statistics,
            metrics,
        };
        Ok(Self {
            root_id,
            balancer,
            mutable: RefCell::new(mutable),
        })
    }

    /// Puts the stream on the waiting list. `false` if it cannot wait.
    pub(super) fn wait(&self, id: u32, stream: Rc<dyn Stream>, wish: Wish) -> bool {
        let now = host::now();
        let mut mutable = self.mutable.borrow_mut();
        let began = (mutable.agenda).wait(id, stream, wish, &self.balancer, now);
        drop(mutable);
        if began == Began::NeedsTick {
            // The timer is the effective root context's, and behind the router that is another one.
            report(host::in_context(self.root_id, id, || tick_after(NOW)));
        }
        began != Began::Refused
    }

    /// The stream waits no longer, or has ended.
    pub(super) fn forget(&self, id: u32) {
        self.mutable.borrow_mut().agenda.forget(id);
    }

    /// Watches that the request's answer, which has begun, is not silent for longer than this.
    pub(super) fn watch(&self, request: Rc<Request>, longest: Duration) {
        let (id, now) = (request.id, host::now());
        (self.mutable.borrow_mut().silences).watch(id, request, longest, now);
    }

    /// Watches the request's answer no longer.
    pub(super) fn unwatch(&self, id: u32) {
        self.mutable.borrow_mut().silences.forget(id);
    }

    fn end_silences(&self, now: Timestamp) {
        let silent = self.mutable.borrow_mut().silences.take_silent(now);
        for request in silent {
            self.as_stream(request.id, || request.silent());
        }
    }

    /// The stream made a call. If that was in a callback of the root context, the SDK will bring the answer there, and it is
    /// passed on.
    pub(super) fn call_made(&self, call: u32, id: u32, stream: Rc<dyn Stream>) {
        (self.mutable.borrow_mut().agenda).call_made(call, id, stream);
    }

    /// The stream has ended; the call's answer is no one's. (Envoy has no way to cancel it; its time limit ends it.)
    pub(super) fn disown_call(&self, call: u32) {
        self.mutable.borrow_mut().agenda.take_call(call);
    }

    /// Does what is to be done from time to time. Whether it looked at the backends again, as it does once a second.
    #[inline(never)]
    pub(super) fn on_tick(&self) -> bool {
        let now = host::now();
        self.balancer.credentials.look(now);
        for index in 0..self.balancer.config.identities.len() {
            let call = self.keeper(index, |keeper, count| keeper.keep_fresh(now, count));
            self.fetch(index, call.flatten(), now);
        }
        self.grant_wishes(now);
        let looks = self.mutable.borrow_mut().agenda.looks(now);
        if looks {
            self.balancer.fleet.on_tick(now);
            self.balancer.admit_tokens(now);
            self.end_silences(now);
            self.hand_over(now);
        }
        let mut mutable = self.mutable.borrow_mut();
        tick_after(mutable.agenda.next_tick(&self.balancer, now));
        looks
    }

    fn grant_wishes(&self, now: Timestamp) {
        let mut mutable = self.mutable.borrow_mut();
        let granted = mutable.agenda.take_granted(&self.balancer, now);
        drop(mutable);
        for (id, stream, granted) in granted {
            self.as_stream(id, || {
                stream.granted(granted);
                Ok(())
            });
        }
    }

    /// Runs `act` for the stream `id` from a callback of the root context.
    pub(super) fn as_stream(&self, id: u32, act: impl FnOnce() -> Result<(), HostError>) {
        let set_running = |runs| self.mutable.borrow_mut().agenda.set_root_running(runs);
        set_running(true);
        report(host::in_context(id, self.root_id, || report(act())));
        set_running(false);
    }

    /// The answer to a call that was made in a callback of the root context: a token's, or one of a stream's.
    pub(super) fn on_call_response(&self, call: u32) {
        let taken = self.mutable.borrow_mut().agenda.take_call(call);
        if let Some((id, stream)) = taken {
            return self.as_stream(id, || {
                stream.call_answered(call);
                Ok(())
            });
        }
        let now = host::now();
        self.balancer.credentials.look(now);
        if let Err(error) = self.token_answered(call, now) {
            log::error!("identity: {error}");
        }
        self.balancer.admit_tokens(now);
        self.grant_wishes(now);
    }

    fn token_answered(&self, call: u32, now: Timestamp) -> Result<(), HostError> {
        const LARGEST_ANSWER: usize = 64 * 1024;
        let mut keepers = 0..self.balancer.config.identities.len();
        let Some(index) = keepers.find(|index| {
            let keepers = &self.mutable.borrow().keepers;
            keepers.get(*index).is_some_and(|it| it.awaits(call))
        }) else {
            return Ok(());
        };
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, LARGEST_ANSWER)?;
        let status = headers.get(":status").map(str::as_bytes);
        let answer = Answer {
            status: status.and_then(number),
            retry_after: headers.get("retry-after"),
            body: &body,
        };
        let next = self.keeper(index, |keeper, count| keeper.on_answer(answer, now, count));
        self.fetch(index, next.flatten(), now);
        Ok(())
    }

    /// Makes a call that a token of the identity takes, if there is one to make.
    #[inline(never)]
    fn fetch(&self, identity: usize, call: Option<Call>, now: Timestamp) {
        let Some(call) = call else {
            return;
        };
        let headers = call.headers.iter();
        let headers = headers.map(|(name, value)| (*name, value.as_str()));
        let made = host::call(
            &call.cluster,
            headers.collect(),
            call.body.reveal().as_bytes(),
            Vec::new(),
            call.timeout,
        );
        let made = made.map_err(|error| error.to_string());
        self.keeper(identity, |keeper, count| {
            keeper.called(&call.cluster, made, now, count)
        });
    }

    /// Lets the keeper of an identity's token `act`, and logs what the host refused; the next tick tries again.
    fn keeper<T>(
        &self,
        identity: usize,
        act: impl FnOnce(&mut Keeper<Envoy>, &dyn Fn(Event)) -> Result<T, SwapError<HostError>>,
    ) -> Option<T> {
        let mut mutable = self.mutable.borrow_mut();
        let count = |event| self.balancer.count(event);
        let result = act(mutable.keepers.get_mut(identity)?, &count);
        let logged = result.map_err(|error| log::error!("identity: {error}"));
        logged.ok()
    }

    /// Hands the statistics over to Envoy.
    pub(super) fn hand_over(&self, now: Timestamp) {
        let mutable = &mut *self.mutable.borrow_mut();
        for change in mutable.statistics.changes(&self.balancer, now) {
            report(mutable.metrics.change(change));
        }
    }
}

/// Envoy's numbers of the statistics, by theirs in the [`Statistics`]. One has none if Envoy refused to define it.
#[derive(Default)]
struct Metrics(Vec<Option<u32>>);

impl Metrics {
    #[inline(never)]
    fn change(&mut self, change: Change) -> Result<(), HostError> {
        let id = |number: usize| self.0.get(number).copied().flatten();
        match change {
            Change::Define(kind, name) => {
                let id = host::define_metric(kind, &name);
                self.0.push(id.ok());
                id.map(drop)
            }
            Change::Add(number, count) => {
                id(number).map_or(Ok(()), |id| host::increment_metric(id, count))
            }
            Change::Record(number, value) => {
                id(number).map_or(Ok(()), |id| host::record_metric(id, value))
            }
        }
    }
}

fn tick_after(period: Duration) {
    report(host::set_tick_period(period));
}

/// Logs what the host refused, where the work goes on without.
fn report(result: Result<(), HostError>) {
    if let Err(error) = result {
        log::error!("{error}");
    }
}
